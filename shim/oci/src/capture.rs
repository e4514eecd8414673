//! What the caller passes by descriptor number.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use berth_sys::process;

/// Descriptors that are captured at most: callers pass a handful.
const MOST: i32 = 64;

/// Duplicates of what was open from 3 on when the program began, by number.
#[derive(Debug)]
pub(crate) struct Inherited(Vec<Option<OwnedFd>>);

impl Inherited {
    /// Duplicates them above their own numbers, close-on-exec.
    pub(crate) fn capture() -> Self {
        let fds = (3..3 + MOST).map(|number| process::duplicate(number, 3 + MOST).ok());
        let mut fds: Vec<_> = fds.collect();
        // They are for the container, not for hooks. Without close_range(2) a hook sees more.
        process::cloexec_from(3).ok();
        while fds.last().is_some_and(Option::is_none) {
            fds.pop();
        }
        Self(fds)
    }

    /// The first `count` of them.
    pub(crate) fn take(&self, count: u32) -> Result<Vec<BorrowedFd<'_>>> {
        use std::os::fd::AsFd as _;
        (0..count)
            .map(|number| {
                let fd = usize::try_from(number).ok().and_then(|at| self.0.get(at));
                fd.and_then(Option::as_ref)
                    .map(OwnedFd::as_fd)
                    .ok_or_else(|| io::Error::from(nix::errno::Errno::EBADF))
                    .with_context(|| format!("descriptor {} to be preserved", number + 3))
            })
            .collect()
    }
}
