//! Deaths for lack of memory.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    libc,
    sys::{
        eventfd::{EfdFlags, EventFd},
        inotify::{AddWatchFlags, InitFlags, Inotify},
    },
};

use crate::{Group, file};

impl Group {
    /// A descriptor that becomes readable when processes may have been killed for
    /// lack of memory; none without a memory controller. Read it, then ask
    /// [`Group::oom_kill_count`].
    ///
    /// # Errors
    /// The errno of setting it up.
    pub fn oom_watch(&self) -> io::Result<Option<OwnedFd>> {
        let Some(dir) = self.with("memory") else {
            return Ok(None);
        };
        if dir.v2 {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let path = format!("/proc/self/fd/{}/memory.events", dir.fd.as_raw_fd());
            inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
            return Ok(Some(OwnedFd::from(inotify)));
        }
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let control = file::open(&dir.fd, "memory.oom_control", libc::O_RDONLY)?;
        let registration = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        file::write(&dir.fd, "cgroup.event_control", &registration)?;
        Ok(Some(OwnedFd::from(event)))
    }

    /// How many of its processes the kernel has killed for lack of memory, in it
    /// or below it.
    #[must_use]
    pub fn oom_kill_count(&self) -> Option<u64> {
        let dir = self.with("memory")?;
        let name = if dir.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        file::keyed(&file::read(&dir.fd, name).ok()?, "oom_kill")
    }

    /// The most memory it used at one time, in bytes.
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
