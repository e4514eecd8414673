//! Exec and attach over SPDY (`remotecommand` v1 to v4).

use tokio::time::timeout;

use crate::{
    Attach, Backend, CREATION_MAX, Exec, Outcome, Session, SizeReader, Verdict,
    session::{Input, Output},
    spdy::{Connection, Reset, Stream, header},
};

/// The protocols of exec and attach over SPDY. A client that offers v5 offers v4 too,
/// and over SPDY they are the same.
pub(crate) const PROTOCOLS: &[&str] = &[
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];

/// Error, stdin, stdout, stderr and resize, and room for a client that opens one too many.
pub(crate) const STREAMS_MAX: usize = 16;

/// What a client was promised by gRPC.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Exec(Exec),
    Attach(Attach),
}

/// Which streams a session has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Command {
    pub(crate) fn shape(&self) -> Shape {
        match self {
            Self::Exec(exec) => Shape {
                tty: exec.tty,
                stdin: exec.stdin,
                stdout: exec.stdout,
                stderr: exec.stderr && !exec.tty,
            },
            Self::Attach(attach) => Shape {
                tty: attach.tty,
                stdin: attach.stdin,
                stdout: attach.stdout,
                stderr: attach.stderr && !attach.tty,
            },
        }
    }

    pub(crate) async fn run<B: Backend>(self, backend: &B, session: Session) -> Outcome {
        match self {
            Self::Exec(exec) => backend.exec(exec, session).await,
            Self::Attach(attach) => backend.attach(attach, session).await,
        }
    }
}

/// The streams that a client has opened.
#[derive(Debug, Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Serves one exec or attach on `connection` to its end.
pub(crate) async fn serve<B: Backend>(
    mut connection: Connection,
    protocol: &str,
    command: Command,
    backend: &B,
) {
    let shape = command.shape();
    // The first two have no resize stream, the first no way to say that stdin has ended.
    let sized = shape.tty && !matches!(protocol, "channel.k8s.io" | "v2.channel.k8s.io");
    let Ok(Some(streams)) = timeout(CREATION_MAX, collect(&mut connection, shape, sized)).await
    else {
        tracing::debug!("a client did not open the streams that it announced");
        return connection.close().await;
    };
    let reading = |stream: Stream| stream.split().0;
    let session = Session {
        stdin: streams.stdin.map(|stream| Input::from(reading(stream))),
        stdout: streams.stdout.map(|stream| Output::from(stream.split().1)),
        stderr: streams.stderr.map(|stream| Output::from(stream.split().1)),
        resize: streams
            .resize
            .map(|stream| SizeReader::new(reading(stream).into())),
        gone: connection.gone(),
    };
    let running = command.run(backend, session);
    let outcome = {
        tokio::pin!(running);
        loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                Some((_, stream)) = connection.accept() => stream.reset(Reset::RefusedStream),
            }
        }
    };
    if let Some(mut error) = streams.error {
        let verdict = Verdict::from(outcome);
        let words = match protocol {
            "v4.channel.k8s.io" => verdict.to_json(),
            _ => verdict.to_text().into_bytes(),
        };
        let told = async {
            if !words.is_empty() {
                error.write(&words).await?;
            }
            error.finish().await
        };
        if let Err(gone) = told.await {
            tracing::debug!(error = %gone, "the end of a session could not be told");
        }
    }
    connection.close().await;
}

async fn collect(connection: &mut Connection, shape: Shape, sized: bool) -> Option<Streams> {
    let expected = [true, shape.stdin, shape.stdout, shape.stderr, sized];
    let expected = expected.into_iter().filter(|wanted| *wanted).count();
    let mut streams = Streams::default();
    let mut received = 0;
    while received < expected {
        let (headers, stream) = connection.accept().await?;
        let slot = match header(&headers, "streamtype") {
            Some("error") => &mut streams.error,
            Some("stdin") if shape.stdin => &mut streams.stdin,
            Some("stdout") if shape.stdout => &mut streams.stdout,
            Some("stderr") if shape.stderr => &mut streams.stderr,
            Some("resize") if sized => &mut streams.resize,
            other => {
                tracing::debug!(kind = other, "a client opens a stream that nobody expects");
                stream.reset(Reset::RefusedStream);
                continue;
            }
        };
        if slot.is_some() {
            stream.reset(Reset::RefusedStream);
            continue;
        }
        // Clients send nothing before they have this, one stream after the other.
        stream.reply().await.ok()?;
        *slot = Some(stream);
        received += 1;
    }
    Some(streams)
}
