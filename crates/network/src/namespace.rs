//! Working inside another network namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    panic, thread,
};

use nix::sched::{CloneFlags, setns};

use crate::error::Error;

/// The calling thread's network namespace.
pub(crate) fn current() -> Result<OwnedFd, Error> {
    File::open("/proc/thread-self/ns/net")
        .map(OwnedFd::from)
        .map_err(|source| Error::Namespace {
            operation: "open own",
            source,
        })
}

/// Moves the calling thread, which must be one that [`on_own_thread`] made.
pub(crate) fn enter(namespace: impl AsFd) -> Result<(), Error> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Namespace {
        operation: "enter",
        source: io::Error::from(errno),
    })
}

/// Runs `work` on a thread that ends with it, so that no thread of a pool is
/// left in a foreign namespace whatever happens. Spans and log records keep
/// their place.
pub(crate) fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let span = tracing::Span::current();
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, move || span.in_scope(work))
            .map_err(|source| Error::Namespace {
                operation: "start a thread for",
                source,
            })?;
        match thread.join() {
            Ok(result) => result,
            Err(payload) => panic::resume_unwind(payload),
        }
    })
}
