//! What goes from one agent to the next.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use berth_streaming::{HandedOver, Waiting};
use berth_sys::{memfd, message::MAX_DESCRIPTORS};
use serde::{Deserialize, Serialize};

use crate::listen::Given;

/// Most bytes of the list; the commands of a thousand URLs are in it.
const LIST_MAX: u64 = 256 << 20;

/// Everything that goes over.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// The sockets for gRPC.
    pub(crate) grpc: Vec<Given>,
    /// The sockets for metrics and health.
    pub(crate) metrics: Given,
    /// See `metrics`.
    pub(crate) metrics_tcp: Option<OwnedFd>,
    /// The socket for streams and the URLs that were not opened.
    pub(crate) streaming: HandedOver,
    /// Channels to agents that still serve streams of their own.
    pub(crate) before: Vec<OwnedFd>,
}

/// What a descriptor is, in the order of the descriptors.
#[derive(Debug, Serialize, Deserialize)]
enum Item {
    Grpc(PathBuf, Option<(u64, u64)>),
    Metrics(PathBuf, Option<(u64, u64)>),
    MetricsTcp,
    Streaming,
    Before,
}

/// In a sealed memory: tokens are secrets, and too large for a datagram.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    items: Vec<Item>,
    waiting: Vec<Waiting>,
}

impl Inventory {
    /// The list as a memory; what it lists follows it in [`Inventory::descriptors`].
    pub(super) fn list(&self) -> io::Result<OwnedFd> {
        let metrics = &self.metrics;
        let grpc = self.grpc.iter();
        let mut items: Vec<_> = grpc
            .map(|given| Item::Grpc(given.path.clone(), given.file))
            .collect();
        items.push(Item::Metrics(metrics.path.clone(), metrics.file));
        items.extend(self.metrics_tcp.iter().map(|_| Item::MetricsTcp));
        items.push(Item::Streaming);
        items.extend(self.before.iter().map(|_| Item::Before));
        if items.len() >= MAX_DESCRIPTORS {
            return Err(io::Error::other("too many sockets for one message"));
        }
        let mut list = List {
            items,
            waiting: self.streaming.waiting.clone(),
        };
        let mut bytes = serde_json::to_vec(&list)?;
        if bytes.len() as u64 > LIST_MAX {
            // Their clients ask again; the sockets matter more.
            list.waiting.clear();
            bytes = serde_json::to_vec(&list)?;
        }
        memfd::sealed_message(&bytes)
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let grpc = self.grpc.iter().map(|given| &given.listener);
        grpc.chain([&self.metrics.listener])
            .chain(&self.metrics_tcp)
            .chain([&self.streaming.listener])
            .chain(&self.before)
            .map(OwnedFd::as_fd)
            .collect()
    }

    /// From a message: the list, and what it lists.
    pub(super) fn receive(fds: Vec<OwnedFd>) -> io::Result<Self> {
        let mut fds = fds.into_iter();
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing");
        let memory = fds.next().ok_or_else(missing)?;
        let List { items, waiting } =
            serde_json::from_slice(&memfd::read_sealed_message(memory, LIST_MAX)?)?;
        let (mut grpc, mut before) = (Vec::new(), Vec::new());
        let (mut metrics, mut metrics_tcp, mut streaming) = (None, None, None);
        for item in items {
            let listener = fds.next().ok_or_else(missing)?;
            let given = |path, file, listener| Given {
                listener,
                path,
                file,
            };
            match item {
                Item::Grpc(path, file) => grpc.push(given(path, file, listener)),
                Item::Metrics(path, file) => metrics = Some(given(path, file, listener)),
                Item::MetricsTcp => metrics_tcp = Some(listener),
                Item::Streaming => streaming = Some(listener),
                Item::Before => before.push(listener),
            }
        }
        Ok(Self {
            grpc,
            metrics: metrics.ok_or_else(missing)?,
            metrics_tcp,
            streaming: HandedOver {
                listener: streaming.ok_or_else(missing)?,
                waiting,
            },
            before,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn socket() -> (OwnedFd, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener.into(), port)
    }

    fn port(fd: OwnedFd) -> u16 {
        TcpListener::from(fd).local_addr().unwrap().port()
    }

    #[test]
    fn everything_arrives_as_what_it_was() {
        let sockets: Vec<_> = (0..5).map(|_| socket()).collect();
        let ports: Vec<_> = sockets.iter().map(|(_, port)| *port).collect();
        let mut sockets = sockets.into_iter().map(|(fd, _)| fd);
        let mut next = || sockets.next().unwrap();
        let given = |listener, path: &str, file| Given {
            listener,
            path: path.into(),
            file,
        };
        let inventory = Inventory {
            grpc: vec![
                given(next(), "/run/a", Some((1, 2))),
                given(next(), "/run/b", None),
            ],
            metrics: given(next(), "/run/m", Some((3, 4))),
            metrics_tcp: None,
            streaming: HandedOver {
                listener: next(),
                waiting: Vec::new(),
            },
            before: vec![next()],
        };
        let mut fds = vec![inventory.list().unwrap()];
        let cloned = inventory.descriptors().into_iter();
        fds.extend(cloned.map(|fd| fd.try_clone_to_owned().unwrap()));
        let mut there = Inventory::receive(fds).unwrap();
        let second = there.grpc.pop().unwrap();
        assert_eq!((second.path, second.file), ("/run/b".into(), None));
        assert_eq!(port(second.listener), ports[1]);
        assert_eq!(there.grpc[0].file, Some((1, 2)));
        assert_eq!(port(there.metrics.listener), ports[2]);
        assert!(there.metrics_tcp.is_none());
        assert_eq!(port(there.streaming.listener), ports[3]);
        assert_eq!(port(there.before.remove(0)), ports[4]);
    }

    #[test]
    fn a_list_without_its_descriptors_is_refused() {
        let list = List {
            items: vec![Item::Streaming],
            waiting: Vec::new(),
        };
        let memory = memfd::sealed_message(&serde_json::to_vec(&list).unwrap()).unwrap();
        assert!(Inventory::receive(vec![memory]).is_err());
        assert!(Inventory::receive(Vec::new()).is_err());
    }
}
