//! Processes killed for lack of memory, and the peak of memory use.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use nix::{
    fcntl::OFlag,
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify},
    },
};

use crate::{Dir, Group, file, tree};

impl Group {
    /// A descriptor that becomes readable when processes may have been killed for
    /// lack of memory; none without a memory controller. Read it, then ask
    /// [`Group::oom_kill_count`].
    ///
    /// v2: inotify on `memory.events`. v1: an eventfd registered through
    /// `cgroup.event_control`; it also wakes when the group is removed.
    ///
    /// # Errors
    /// The errno of setting it up.
    pub fn oom_watch(&self) -> io::Result<Option<OwnedFd>> {
        match self.with("memory") {
            Some(dir) if dir.v2 => watch_v2(dir).map(Some),
            Some(dir) => watch_v1(dir).map(Some),
            None => Ok(None),
        }
    }

    /// How many of its processes the kernel has killed for lack of memory, in it
    /// or below it. None without a memory controller.
    #[must_use]
    pub fn oom_kill_count(&self) -> Option<u64> {
        let dir = self.with("memory")?;
        if dir.v2 {
            // Counts what is below, too.
            return file::keyed(&file::read(&dir.fd, "memory.events").ok()?, "oom_kill");
        }
        // v1 counts in the victim's own group only.
        let mut count = 0;
        tree::walk(dir.fd.as_fd(), |below| {
            let control = file::read(below, "memory.oom_control")?;
            count += file::keyed(&control, "oom_kill").unwrap_or(0);
            Ok(())
        })
        .ok()?;
        Some(count)
    }

    /// The most memory it used at one time, in bytes. None where the kernel does
    /// not say (v2 before Linux 5.19).
    #[must_use]
    pub fn memory_peak(&self) -> Option<u64> {
        let dir = self.with("memory")?;
        let name = if dir.v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        file::number(&dir.fd, name)
    }
}

fn watch_v2(dir: &Dir) -> io::Result<OwnedFd> {
    let events = file::open(&dir.fd, "memory.events", OFlag::O_RDONLY)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // inotify takes paths only; this one leads to the very file that was opened.
    let path = format!("/proc/self/fd/{}", events.as_raw_fd());
    inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
    Ok(inotify.into())
}

fn watch_v1(dir: &Dir) -> io::Result<OwnedFd> {
    let control = file::open(&dir.fd, "memory.oom_control", OFlag::O_RDONLY)?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let registration = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    file::write(&dir.fd, "cgroup.event_control", &registration)?;
    Ok(event.into())
}
