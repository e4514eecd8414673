//! Port-forward: many connections over one, each a pair of streams.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    Backend, CREATION_MAX, IDLE_MAX, PortForward,
    session::{Input, Output},
    spdy::{Connection, Headers, Reset, Stream, StreamReader, StreamWriter, header},
};

/// The protocol's name in the upgrade.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// Two for each connection; a thousand connections at once are more than any tool opens.
pub(crate) const STREAMS_MAX: usize = 2048;
/// Bytes that are read from the pod at once.
const READ: usize = 64 * 1024;
/// How often pairs are looked through for those that never became one.
const TIDY: Duration = Duration::from_secs(5);

/// A pair of which one stream has come.
#[derive(Debug)]
struct Half {
    error: Option<Stream>,
    data: Option<Stream>,
    port: u16,
    since: Instant,
}

/// Serves the connections of one client to its end.
pub(crate) async fn serve<B: Backend>(
    mut connection: Connection,
    request: PortForward,
    backend: Arc<B>,
) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut tidy = interval(TIDY);
    tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let gone = connection.gone();
    loop {
        let (headers, stream) = tokio::select! {
            next = connection.accept() => match next {
                Some(next) => next,
                None => break,
            },
            Some(_) = tasks.join_next() => continue,
            _ = tidy.tick() => {
                expire(&mut halves, &mut tasks);
                continue;
            }
            () = gone.cancelled() => break,
        };
        let Some((key, port, is_error)) = describe(&headers, stream.id()) else {
            stream.reset(Reset::ProtocolError);
            continue;
        };
        if stream.reply().await.is_err() {
            break;
        }
        let half = halves.entry(key.clone()).or_insert_with(|| Half {
            error: None,
            data: None,
            port,
            since: Instant::now(),
        });
        let slot = if is_error {
            &mut half.error
        } else {
            &mut half.data
        };
        if slot.is_some() {
            let text = format!("request {key} has two streams of one kind");
            stream.reset(Reset::ProtocolError);
            if let Some(half) = halves.remove(&key) {
                tasks.spawn(complain(half.error, text));
            }
            continue;
        }
        *slot = Some(stream);
        if half.error.is_some()
            && half.data.is_some()
            && let Some(half) = halves.remove(&key)
            && let (Some(error), Some(data)) = (half.error, half.data)
        {
            let (backend, pod) = (Arc::clone(&backend), request.pod.clone());
            tasks.spawn(async move { forward(&*backend, &pod, half.port, error, data).await });
        }
    }
    // The connection is no more: nothing that still runs can reach anybody.
    tasks.shutdown().await;
    connection.close().await;
}

/// Which pair a stream belongs to, its port, and whether it is the pair's error stream.
fn describe(headers: &Headers, id: u32) -> Option<(String, u16, bool)> {
    let is_error = match header(headers, "streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let port = header(headers, "port")?
        .parse()
        .ok()
        .filter(|port| *port != 0)?;
    let key = match header(headers, "requestid") {
        Some(key) => key.to_owned(),
        // Old clients open the data stream right after the error stream.
        None if is_error => format!("#{id}"),
        None => format!("#{}", id.checked_sub(2)?),
    };
    Some((key, port, is_error))
}

fn expire(halves: &mut HashMap<String, Half>, tasks: &mut JoinSet<()>) {
    let old = |_: &String, half: &mut Half| half.since.elapsed() >= CREATION_MAX;
    for (key, half) in halves.extract_if(old) {
        let text = format!("request {key} has only one of its two streams");
        tasks.spawn(complain(half.error, text));
    }
}

async fn complain(error: Option<Stream>, text: String) {
    if let Some(mut error) = error {
        // Whoever cannot be told has gone.
        drop(error.write(text.as_bytes()).await);
        drop(error.finish().await);
    }
}

async fn forward<B: Backend>(backend: &B, pod: &str, port: u16, mut error: Stream, data: Stream) {
    match backend.connect(pod, port).await {
        Ok(connected) => {
            let (reader, writer) = data.split();
            splice(connected, reader, writer).await;
            // Clients wait for the end of this one even when all went well.
            drop(error.finish().await);
        }
        Err(why) => {
            complain(Some(error), refusal(pod, port, &why)).await;
            data.reset(Reset::Cancel);
        }
    }
}

fn refusal(pod: &str, port: u16, why: &str) -> String {
    format!("error forwarding port {port} to pod {pod}, uid : {why}")
}

/// Copies both ways until both have ended; each way ends by itself.
async fn splice(connected: TcpStream, reader: StreamReader, writer: StreamWriter) {
    let reset = writer.reset();
    let (from_pod, to_pod) = connected.into_split();
    let both = async { tokio::join!(upward(reader.into(), to_pod), downward(from_pod, writer)) };
    tokio::select! {
        _ = both => {}
        // The client closes its side like this; what it has not read it does not want.
        () = reset.cancelled() => {}
    }
}

async fn upward(mut input: Input, mut to_pod: OwnedWriteHalf) {
    while let Some(bytes) = input.next().await {
        match timeout(IDLE_MAX, to_pod.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            // Its other direction may still have something to say.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    drop(to_pod.shutdown().await);
}

/// An output that is dropped without its end is a reset for the client.
async fn downward(mut from_pod: OwnedReadHalf, mut writer: StreamWriter) {
    let mut buffer = vec![0; READ];
    loop {
        match from_pod.read(&mut buffer).await {
            Ok(0) => break drop(writer.finish().await),
            Ok(count) => {
                if writer.write(&buffer[..count]).await.is_err() {
                    break;
                }
            }
            // A reset of the pod's side is one for the client too.
            Err(_) => break,
        }
    }
}

/// One connection of a client that has a socket per request: its port's two channels.
pub(crate) async fn serve_channels<B: Backend>(
    backend: &B,
    pod: &str,
    port: u16,
    input: Input,
    mut data: Output,
    mut error: Output,
) {
    let greeting = async {
        data.write(&port.to_le_bytes()).await?;
        error.write(&port.to_le_bytes()).await
    };
    if greeting.await.is_err() {
        return;
    }
    match backend.connect(pod, port).await {
        Ok(connected) => {
            let (from_pod, to_pod) = connected.into_split();
            let ended: io::Result<()> = async {
                let mut from_pod = from_pod;
                let mut buffer = vec![0; READ];
                let up = upward(input, to_pod);
                let down = async {
                    loop {
                        match from_pod.read(&mut buffer).await {
                            Ok(0) | Err(_) => return Ok(()),
                            Ok(count) => data.write(&buffer[..count]).await?,
                        }
                    }
                };
                tokio::join!(up, down).1
            }
            .await;
            drop(ended);
        }
        Err(why) => drop(error.write(refusal(pod, port, &why).as_bytes()).await),
    }
}
