//! Datagrams with descriptors over SOCK_SEQPACKET unix sockets.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    cmsg_space,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr, accept4, bind, connect, listen, recv, recvmsg, sendmsg, socket, socketpair,
    },
};

/// Largest datagram that is received.
pub const MAX_DATAGRAM: usize = 64 * 1024;
/// The kernel's SCM_MAX_FD.
pub const MAX_DESCRIPTORS: usize = 253;

/// One received datagram.
#[derive(Debug)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A pair of connected sockets, both close-on-exec.
///
/// # Errors
/// The errno of socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// A listening socket at `path`, which must be free. Non-blocking.
///
/// # Errors
/// EADDRINUSE if something is there; ENAMETOOLONG beyond 107 bytes.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket()?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    // A handful of clients at most: the agent, doctor, a debugger.
    listen(&fd, Backlog::new(16)?)?;
    Ok(fd)
}

/// Connects to a socket at `path`. The connection is non-blocking.
///
/// # Errors
/// ECONNREFUSED or ENOENT if nobody listens; EAGAIN if its queue is full.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?)
}

/// Accepts one connection, non-blocking and close-on-exec.
///
/// # Errors
/// EAGAIN if there is none.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let fd = accept4(
        listener.as_fd().as_raw_fd(),
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends one datagram whole.
///
/// # Errors
/// EAGAIN if the receiver's queue is full and the socket is non-blocking;
/// EPIPE if it is gone (no signal is raised); EMSGSIZE if it is too large.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let control = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &control };
    loop {
        match sendmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one datagram; `None` when the other side has closed.
///
/// # Errors
/// EAGAIN if there is none and the socket is non-blocking; InvalidData for a
/// datagram or descriptor list that was cut.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Datagram>> {
    // Its own length and no more: a buffer for the largest would stay on the heap of
    // a shim that waits.
    let mut bytes = vec![0; next_length(socket.as_fd())?.min(MAX_DATAGRAM)];
    let (length, fds) = receive_into(socket, &mut bytes)?;
    if length == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some(Datagram { bytes, fds }))
}

/// The length of the next datagram; 0 at the end.
fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    loop {
        // With MSG_TRUNC it is the whole length that is told (recv(2)).
        match recv(
            socket.as_raw_fd(),
            &mut [],
            MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC,
        ) {
            Ok(length) => return Ok(length),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn receive_into(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(
            socket.as_fd().as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => break message,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: SCM_RIGHTS made fresh descriptors that only this list names.
            fds.extend(
                received
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    if message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message was cut: larger than the protocol allows, or out of descriptors",
        ));
    }
    Ok((message.bytes, fds))
}

/// Process id, user id of the other side at the time it connected (SO_PEERCRED).
///
/// # Errors
/// The errno of getsockopt(2).
pub fn peer(socket: &impl AsFd) -> io::Result<(i32, u32)> {
    let credentials =
        nix::sys::socket::getsockopt(&socket.as_fd(), nix::sys::socket::sockopt::PeerCredentials)?;
    Ok((credentials.pid(), credentials.uid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_descriptors_arrive_together_and_the_end_is_seen() {
        let (a, b) = pair().unwrap();
        send(&a, b"hello", &[a.as_raw_fd(), b.as_raw_fd()]).unwrap();
        let got = receive(&b).unwrap().unwrap();
        assert_eq!(got.bytes, b"hello");
        assert_eq!(got.fds.len(), 2);
        drop((a, got));
        assert!(receive(&b).unwrap().is_none());
    }
}
