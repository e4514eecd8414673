//! A netlink socket that asks and waits for the answers.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
            sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

use super::{
    message::Request,
    parse::{Messages, Reply},
};

/// The kernel carries requests out within sendmsg and queues the answers before
/// that returns, so this only bounds a wait for an answer that was lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The kernel fills a dump's datagrams up to the size of the reader's buffer,
/// at most 32 KiB.
const BUFFER: usize = 32 * 1024;

/// A dump that changed under the kernel's hands is marked so and asked for
/// again, after pauses that double from one millisecond: when a node is
/// drained, hundreds of links go within a second.
const DUMP_ATTEMPTS: u32 = 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    Route,
    Netfilter,
}

/// Which request of a batch failed, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    /// Position in the batch.
    pub(crate) request: usize,
    pub(crate) errno: Errno,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { request: 0, errno }
    }
}

/// Belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: Protocol) -> Result<Self, Errno> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let limit = TimeVal::new(ANSWER_LIMIT.as_secs().cast_signed(), 0);
        socket::setsockopt(&fd, ReceiveTimeout, &limit)?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Sends the requests as one datagram, which the kernel carries out in
    /// order, and returns what was answered beyond acknowledgements.
    ///
    /// # Errors
    /// The first failure. In routing the kernel has then still tried the
    /// requests after it; a netfilter batch is undone as a whole.
    pub(crate) fn call(&mut self, requests: &mut [Request]) -> Result<Vec<Reply>, Failure> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(512);
        let mut pending = 0_usize;
        for request in requests.iter_mut() {
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(request.encode(self.sequence));
            pending += usize::from(request.wants_reply());
        }
        self.send(&datagram)?;
        let mut replies = Vec::new();
        let mut torn = None;
        while pending > 0 {
            let length = self.receive()?;
            for raw in Messages(&self.buffer[..length]) {
                // Answers to an earlier batch that was given up at its failure.
                let position = usize::try_from(raw.sequence.wrapping_sub(first));
                let Some(request) = position.ok().filter(|&at| at < requests.len()) else {
                    continue;
                };
                // Read on to the end all the same: a socket has one dump at a
                // time, and the next would fail with EBUSY.
                if raw.flags & FLAG_DUMP_INTERRUPTED != 0 {
                    torn = Some(Failure {
                        request,
                        errno: Errno::EAGAIN,
                    });
                }
                match raw.kind {
                    ERROR | DONE => match outcome(raw.kind, raw.payload) {
                        Ok(()) => pending -= 1,
                        Err(errno) => return Err(Failure { request, errno }),
                    },
                    kind => replies.push(Reply {
                        kind,
                        payload: raw.payload.to_vec(),
                    }),
                }
            }
        }
        torn.map_or(Ok(replies), Err)
    }

    /// All objects that one request lists.
    pub(crate) fn dump(&mut self, request: &Request) -> Result<Vec<Reply>, Failure> {
        let mut last = Failure::from(Errno::EAGAIN);
        for attempt in 0..DUMP_ATTEMPTS {
            match self.call(&mut [request.clone()]) {
                Err(failure) if failure.errno == Errno::EAGAIN => last = failure,
                result => return result,
            }
            thread::sleep(Duration::from_millis(1 << attempt));
        }
        Err(last)
    }

    fn send(&self, datagram: &[u8]) -> Result<(), Errno> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match socket::sendto(self.fd.as_raw_fd(), datagram, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// One datagram of the kernel. A process in a pod's namespace may address
    /// this socket too where it has CAP_NET_ADMIN there; it is not listened to.
    fn receive(&mut self) -> Result<usize, Errno> {
        self.buffer.resize(BUFFER, 0);
        loop {
            match socket::recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                Ok((length, Some(sender))) if sender.pid() == 0 => return Ok(length),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// An acknowledgement or an end of a dump carries a negated errno, 0 for success.
fn outcome(kind: u16, payload: &[u8]) -> Result<(), Errno> {
    let code = payload
        .get(0..4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        // The end of a dump may carry a count in older kernels.
        Some(count) if kind == DONE && count > 0 => Ok(()),
        Some(code) => Err(Errno::from_raw(code.wrapping_neg())),
        None if kind == DONE => Ok(()),
        None => Err(Errno::EBADMSG),
    }
}
