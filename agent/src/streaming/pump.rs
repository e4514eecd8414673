//! Copies between a session's streams and pipes or terminals.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use berth_streaming::{Input, Output};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::ioctl_fionread,
    pipe::fcntl_setpipe_size,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::{Instant, timeout_at},
};

/// What an idle stream costs.
const SMALL: usize = 16 * 1024;
/// What a busy one reads at once.
const LARGE: usize = 256 * 1024;
/// How long output is awaited from children that outlive a command and hold its
/// streams open.
const DRAIN: Duration = Duration::from_millis(500);

/// A descriptor that is read and written without blocking.
#[derive(Debug)]
pub(super) struct Pollable(AsyncFd<OwnedFd>);

impl Pollable {
    /// Takes `fd` for the runtime. The flag belongs to the open file: whoever
    /// shares it does not block either.
    pub(super) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "an OwnedFd keeps its number while it lives")]
        AsyncFd::with_interest(fd, interest).map(Self)
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| rustix::io::read(fd, &mut *buffer).map_err(io::Error::from);
        self.0.async_io(Interest::READABLE, read).await
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |fd: &OwnedFd| rustix::io::write(fd, bytes).map_err(io::Error::from);
            let count = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = bytes.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}

/// Copies `from` until it ends or the client wants no more. When `ended` says
/// that the writer is no more, what is there is still copied, and what follows for
/// a moment: a child may hold the stream open for ever.
pub(super) async fn outward(
    from: Pollable,
    mut to: Output,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; SMALL];
    // Since the writer's end: what must still be read, and until when more is read.
    let mut last: Option<(u64, Instant)> = None;
    let copied = loop {
        let read = match last {
            None => tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = ended.wait_for(|ended| *ended) => {
                    let owed = ioctl_fionread(from.fd()).unwrap_or(0);
                    last = Some((owed, Instant::now() + DRAIN));
                    continue;
                }
            },
            Some((0, until)) if Instant::now() >= until => break Ok(()),
            Some((_, until)) => match timeout_at(until, from.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_elapsed) => break Ok(()),
            },
        };
        match read {
            // EIO is how a terminal says that its last user has gone.
            Ok(0) => break Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EIO) => break Ok(()),
            Err(error) => break Err(error),
            Ok(count) => {
                if let Some((owed, _)) = &mut last {
                    *owed = owed.saturating_sub(count as u64);
                }
                if let Err(error) = to.write(&buffer[..count]).await {
                    break Err(error);
                }
                if count == buffer.len() && count < LARGE {
                    buffer.resize(LARGE, 0);
                    // Only a wish: pages of pipes are limited per user, and terminals have none.
                    fcntl_setpipe_size(from.fd().as_fd(), LARGE).ok();
                }
            }
        }
    };
    copied.and(to.finish().await)
}

/// Copies `from` until the client has sent its last.
pub(super) async fn inward(mut from: Input, to: &Pollable) -> io::Result<()> {
    while let Some(bytes) = from.next().await {
        to.write(&bytes).await?;
    }
    Ok(())
}
