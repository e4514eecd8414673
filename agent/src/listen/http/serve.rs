//! The HTTP server: few connections, small requests, short lives.

use std::{convert::Infallible, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use super::Pages;
use crate::listen::file::SocketFile;

/// Connections at the same time on one listener: a few scrapers and probes.
const MAX_CONNECTIONS: usize = 32;

/// From the first byte of a request to the end of its headers. A scraper on
/// the same node sends them at once.
const HEADERS: Duration = Duration::from_secs(5);

/// The life of a connection. Scrapers keep theirs from one scrape to the next,
/// commonly 15 to 60 s apart; one that trickles or does not read is cut off.
const LIFE: Duration = Duration::from_secs(150);

/// Bytes of request line and headers. Everything that is asked for is short.
const BUFFER: usize = 16 << 10;

/// After an accept that failed for want of a resource.
const RETRY: Duration = Duration::from_millis(200);

pub(super) async fn unix(
    listener: Arc<UnixListener>,
    file: Arc<SocketFile>,
    pages: Arc<Pages>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => connection(stream, true, &pages, &places, &stop),
            Err(error) => pause("unix socket", &error).await,
        }
    }
    // Removed with the last who holds it.
    drop(file);
}

pub(super) async fn tcp(listener: Arc<TcpListener>, pages: Arc<Pages>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => connection(stream, false, &pages, &places, &stop),
            Err(error) => pause("TCP", &error).await,
        }
    }
}

async fn pause(what: &str, error: &std::io::Error) {
    tracing::debug!(what, %error, "cannot accept for metrics; trying on");
    tokio::time::sleep(RETRY).await;
}

fn connection<S>(
    stream: S,
    for_root: bool,
    pages: &Arc<Pages>,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Beyond the limit the connection is closed; the client sees it and comes again.
    let Ok(place) = places.clone().try_acquire_owned() else {
        return;
    };
    let (pages, stop) = (pages.clone(), stop.clone());
    tokio::spawn(async move {
        let service = service_fn(|request| {
            let pages = pages.clone();
            async move { Ok::<_, Infallible>(pages.answer(&request, for_root).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service);
        let limited = tokio::time::timeout(LIFE, serving);
        // A peer that breaks off concerns nobody here.
        if let Some(Ok(Err(error))) = stop.run_until_cancelled(limited).await {
            tracing::trace!(%error, "metrics connection ended early");
        }
        drop(place);
    });
}
