//! Copies between the user and a container until one of them is done.

use std::{
    io::{self, Read as _},
    task::Poll,
};

use berth_streaming::{
    Verdict,
    client::{Remote, resize_message},
    spdy::{StreamReader, StreamWriter},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{
    detach::{DetachKeys, Watch},
    raw::{self, RawMode},
};
use crate::failure::{Failure, Outcome};

/// What is read of standard input at once, as other clients do.
const READ: usize = 32 * 1024;
/// Reads that may wait for the network.
const READS_AHEAD: usize = 8;

/// What the session is made of.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Whether standard input goes to the container.
    pub(crate) stdin: bool,
    /// Whether both sides are terminals.
    pub(crate) tty: bool,
    /// What leaves the container alone; only on a terminal.
    pub(crate) detach: DetachKeys,
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The user left.
    Detached,
    /// The other side says how it was.
    Told(Verdict),
    /// The connection ended without a word.
    Lost,
    /// A signal ended it: its number.
    Signal(i32),
}

/// Connects the user with `remote`.
///
/// # Errors
/// If the terminal cannot be set up, or standard output is gone.
pub(crate) async fn talk(mut remote: Remote, streams: &Streams) -> Outcome<End> {
    let cannot = |error: io::Error| Failure::new("cannot use the terminal", error.to_string());
    // Signals first: they must not find a raw terminal and nobody who repairs it.
    let kinds = [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
    ];
    // The keys for the last two are the container's; without a terminal they end this
    // program at once, as any other.
    let meant = if streams.tty { 4 } else { 2 };
    let mut ends = Vec::new();
    for kind in kinds.into_iter().take(meant) {
        ends.push((kind, signal(kind).map_err(cannot)?));
    }
    let mut resized = signal(SignalKind::window_change()).map_err(cannot)?;
    let _raw = if streams.tty {
        Some(RawMode::enter().map_err(cannot)?)
    } else {
        None
    };
    let stdin = remote.stdin.take();
    let typed = async {
        match stdin {
            Some(writer) if streams.stdin => typing(writer, streams).await,
            _ => std::future::pending().await,
        }
    };
    let (stdout, stderr) = (remote.stdout.take(), remote.stderr.take());
    let mut sizes_to = remote.resize.take();
    let sizes = async {
        loop {
            if resized.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            tell(&mut sizes_to).await;
        }
    };
    let heard = async {
        let (out, err) = tokio::join!(
            copy(stdout, || io::stdout().lock()),
            copy(stderr, || io::stderr().lock())
        );
        out.and(err)?;
        let verdict = remote.ending.verdict().await;
        Ok::<_, Failure>(verdict.map_or(End::Lost, End::Told))
    };
    tokio::select! {
        end = heard => end,
        () = typed => Ok(End::Detached),
        never = sizes => never,
        signal = first(&mut ends) => Ok(End::Signal(signal)),
    }
}

/// The number of the first of these signals that comes.
async fn first(signals: &mut [(SignalKind, Signal)]) -> i32 {
    std::future::poll_fn(|cx| {
        for (kind, signal) in &mut *signals {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(kind.as_raw_value());
            }
        }
        Poll::Pending
    })
    .await
}

/// Tells the other side how large the user's terminal is, before anything runs there.
pub(crate) async fn tell_size(remote: &mut Remote) {
    tell(&mut remote.resize).await;
}

async fn tell(resize: &mut Option<StreamWriter>) {
    if let (Some(stream), Some((width, height))) = (resize, raw::size()) {
        // A session that has ended has no size.
        stream.write(&resize_message(width, height)).await.ok();
    }
}

/// Sends what is typed; returns when the user leaves.
async fn typing(mut writer: StreamWriter, streams: &Streams) {
    let (sender, mut typed) = mpsc::channel::<Vec<u8>>(READS_AHEAD);
    // A thread: a read of standard input cannot be called off.
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; READ];
        while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut watch = Watch::new(&streams.detach);
    while let Some(bytes) = typed.recv().await {
        let (bytes, left) = if streams.tty {
            watch.pass(&bytes)
        } else {
            (bytes, false)
        };
        // A process that does not read may still write.
        if writer.write(&bytes).await.is_err() {
            break;
        }
        if left {
            return;
        }
    }
    writer.finish().await.ok();
    // The end of what is typed is not the end of the session.
    std::future::pending::<()>().await;
}

async fn copy<W: io::Write>(reader: Option<StreamReader>, output: impl Fn() -> W) -> Outcome<()> {
    let Some(mut reader) = reader else {
        return Ok(());
    };
    while let Some(bytes) = reader.next().await {
        let mut output = output();
        output.write_all(&bytes)?;
        output.flush()?;
    }
    Ok(())
}
