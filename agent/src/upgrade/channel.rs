//! Words and descriptors between two agents.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use berth_sys::message;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::{Interest, unix::AsyncFd};

use super::Word;

/// One end of a pair of sockets.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&socket)?;
        fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "an OwnedFd keeps its number while it lives")]
        AsyncFd::with_interest(socket, Interest::READABLE | Interest::WRITABLE).map(Self)
    }

    pub(super) async fn send(&self, word: &Word, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(word)?;
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let send = |socket: &OwnedFd| message::send(socket, &bytes, &raw);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// The next word; `None` when the other agent has ended.
    pub(super) async fn receive(&self) -> io::Result<Option<(Word, Vec<OwnedFd>)>> {
        let receive = |socket: &OwnedFd| message::receive(socket);
        let datagram = self.0.async_io(Interest::READABLE, receive).await?;
        datagram
            .map(|datagram| Ok((serde_json::from_slice(&datagram.bytes)?, datagram.fds)))
            .transpose()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
