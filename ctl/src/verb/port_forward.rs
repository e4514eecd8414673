//! `port-forward`: ports of this machine that lead into a pod.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use berth_proto::cri;
use berth_streaming::{
    client::Forwarder,
    spdy::{StreamReader, StreamWriter},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Context, streams};
use crate::{
    failure::{Failure, Outcome},
    lookup, output,
};

/// What is read of a connection at once.
const READ: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each port is LOCAL:REMOTE, or one number for both; a LOCAL of 0, or none before the colon, takes
any. Ends with Ctrl-C.

Examples:
  berthctl port-forward web 8080:80
  berthctl port-forward db 5432 :9187")]
pub(crate) struct Args {
    /// Listen on this address of this machine
    #[arg(long, value_name = "ADDRESS")]
    address: Option<std::net::IpAddr>,
    #[command(flatten)]
    tls: streams::TlsFlags,
    /// The pod
    pod: String,
    /// Ports
    #[arg(required = true, value_name = "[LOCAL:]REMOTE")]
    ports: Vec<Ports>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    local: u16,
    remote: u16,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.parse()
                .map_err(|error| format!("{part:?} is no port: {error}"))
        };
        let (local, remote) = match text.split_once(':') {
            None => (number(text)?, number(text)?),
            Some(("", remote)) => (0, number(remote)?),
            Some((local, remote)) => (number(local)?, number(remote)?),
        };
        match remote {
            0 => Err("port 0 of a pod leads nowhere".to_owned()),
            remote => Ok(Self { local, remote }),
        }
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let what = format!("cannot forward ports of pod {}", args.pod);
    let connection = context.connect().await?;
    let pod = lookup::pod(&connection, &args.pod).await?;
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id,
        port: args.ports.iter().map(|ports| ports.remote.into()).collect(),
    };
    let url = connection
        .runtime()
        .port_forward(connection.read(request))
        .await
        .map_err(|status| Failure::refused(&*what, &status))?
        .into_inner()
        .url;
    // Listened on before the URL is used up, so that a taken port costs nothing.
    let mut listeners = Vec::new();
    for ports in &args.ports {
        listeners.extend(listen(args.address, *ports).await?);
    }
    let trust = args.tls.trust(&what, &url)?;
    let forwarder = Forwarder::open_trusting(&trust, &url)
        .await
        .map_err(|error| streams::unopened(&what, &error))?;
    let forwarder = Arc::new(forwarder);
    let mut tasks = JoinSet::new();
    for (listener, remote) in listeners {
        output::line(&format!(
            "Forwarding from {} -> {remote}",
            listener.local_addr()?
        ))?;
        tasks.spawn(accept(listener, remote, Arc::clone(&forwarder)));
    }
    let gone = forwarder.gone();
    tokio::select! {
        () = gone.cancelled() => {
            Err(Failure::new(what, "the connection to the runtime was lost"))
        }
        _ = tasks.join_next() => Err(Failure::new(what, "no more connections can be accepted")),
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| 0).map_err(Failure::from),
    }
}

/// Listens on an address, or on both loopback addresses.
async fn listen(
    address: Option<std::net::IpAddr>,
    ports: Ports,
) -> Outcome<Vec<(TcpListener, u16)>> {
    let failure = |at: SocketAddr, error: &io::Error| {
        Failure::new(format!("cannot listen on {at}"), error.to_string())
    };
    let first = SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), ports.local);
    let listener = TcpListener::bind(first)
        .await
        .map_err(|error| failure(first, &error))?;
    let taken = listener.local_addr()?.port();
    let mut listeners = vec![(listener, ports.remote)];
    if address.is_none() {
        let second = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), taken);
        // A machine without IPv6 has none to listen on.
        listeners.extend(
            TcpListener::bind(second)
                .await
                .ok()
                .map(|listener| (listener, ports.remote)),
        );
    }
    Ok(listeners)
}

async fn accept(listener: TcpListener, remote: u16, forwarder: Arc<Forwarder>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(forward(stream, remote, Arc::clone(&forwarder)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(stream: TcpStream, port: u16, forwarder: Arc<Forwarder>) {
    let opened = async {
        stream.set_nodelay(true)?;
        forwarder.connect(port).await
    };
    let (from_pod, to_pod, mut error) = match opened.await {
        Ok(streams) => streams,
        Err(error) => return output::note(&format!("port {port}: {error}")),
    };
    let (reader, writer) = stream.into_split();
    let said = async {
        let mut all = Vec::new();
        while let Some(bytes) = error.next().await {
            all.extend_from_slice(&bytes);
        }
        all
    };
    let (said, _, _) = tokio::join!(said, up(reader, to_pod), down(from_pod, writer));
    if !said.is_empty() {
        output::note(String::from_utf8_lossy(&said).trim());
    }
}

async fn up(mut from: tokio::net::tcp::OwnedReadHalf, mut to: StreamWriter) {
    let mut buffer = vec![0; READ];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write(&buffer[..count]).await.is_err() {
            return;
        }
    }
    to.finish().await.ok();
}

async fn down(mut from: StreamReader, mut to: tokio::net::tcp::OwnedWriteHalf) {
    while let Some(bytes) = from.next().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_in_three_forms() {
        let ports = |text: &str| {
            text.parse::<Ports>()
                .map(|ports| (ports.local, ports.remote))
        };
        assert_eq!(ports("8080:80"), Ok((8080, 80)));
        assert_eq!(ports("80"), Ok((80, 80)));
        assert_eq!(ports(":80"), Ok((0, 80)));
        for wrong in ["", "x", "1:0", "70000", "1:2:3", "80:"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
