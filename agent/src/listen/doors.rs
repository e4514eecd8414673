//! All sockets that clients come in by, but for those of streams.

use std::{io, os::fd::OwnedFd};

use berth_streaming::HandedOver;

use super::{ListenError, Sockets, adopt, http, open};
use crate::{config::Config, upgrade::Inventory};

/// The sockets for gRPC, and those for metrics and health.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) grpc: Sockets,
    pub(crate) metrics: http::Listeners,
}

impl Doors {
    /// Opens them.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub(crate) async fn open(config: &Config) -> Result<Self, ListenError> {
        let address = config.telemetry.listen;
        Ok(Self {
            metrics: http::Listeners::open(&config.metrics_socket(), address).await?,
            grpc: open(&config.listen())?,
        })
    }

    /// Takes those of the agent before, and opens what it did not have. Returns what it
    /// hands over for streams, too.
    ///
    /// # Errors
    /// As [`Doors::open`].
    pub(crate) async fn adopt(
        config: &Config,
        from: Inventory,
    ) -> Result<(Self, HandedOver), ListenError> {
        let (socket, address) = (config.metrics_socket(), config.telemetry.listen);
        let metrics =
            http::Listeners::adopt(&socket, address, Some(from.metrics), from.metrics_tcp).await?;
        let doors = Self {
            metrics,
            grpc: adopt(&config.listen(), from.grpc)?,
        };
        Ok((doors, from.streaming))
    }

    /// Handles of them for the agent that takes this one's place, with what it gets
    /// beside them.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn give(
        &self,
        before: &[OwnedFd],
    ) -> io::Result<impl FnOnce(HandedOver) -> Inventory + use<>> {
        let grpc = self.grpc.give()?;
        let (metrics, metrics_tcp) = self.metrics.give()?;
        let before: Vec<_> = before
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<Result<_, _>>()?;
        Ok(|streaming| Inventory {
            grpc,
            metrics,
            metrics_tcp,
            streaming,
            before,
        })
    }

    /// This agent serves for good.
    pub(crate) fn keep(&mut self) {
        self.grpc.keep();
        self.metrics.keep();
    }

    /// Another agent serves for good.
    pub(crate) fn leave(&self) {
        self.grpc.leave();
        self.metrics.leave();
    }
}
