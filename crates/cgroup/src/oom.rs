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

use crate::{Group, Result, file, group::Member, tree};

impl Group {
    /// A descriptor that becomes readable when a process of the group was killed
    /// for lack of memory, or may have been: reading it empties it, and
    /// [`Group::oom_kill_count`] tells. `None` without memory accounting.
    ///
    /// v2: inotify on `memory.events`. v1: an eventfd registered through
    /// `cgroup.event_control`; it also wakes when the group is removed.
    ///
    /// # Errors
    /// The errno of the registration.
    pub fn oom_watch(&self) -> Result<Option<OwnedFd>> {
        let Some(member) = self.home_of("memory") else {
            return Ok(None);
        };
        let (name, watched) = if member.v2 {
            ("memory.events", watch_v2(member))
        } else {
            ("memory.oom_control", watch_v1(member))
        };
        watched.map_err(|error| self.error("watch", name, error))
    }

    /// How many processes of the group and below it were killed for lack of memory.
    ///
    /// # Errors
    /// The errno of reading; 0 without memory accounting.
    pub fn oom_kill_count(&self) -> Result<u64> {
        let Some(member) = self.home_of("memory") else {
            return Ok(0);
        };
        if member.v2 {
            // Counts what is below, too.
            let events = file::read_optional(&member.dir, "memory.events")
                .map_err(|error| self.error("read", "memory.events", error))?;
            return Ok(events
                .and_then(|events| file::keyed(&events, "oom_kill"))
                .unwrap_or(0));
        }
        let mut count = 0;
        tree::walk(member.dir.as_fd(), |dir| {
            // v1 counts in the victim's own group only.
            let control = file::read(dir, "memory.oom_control")?;
            count += file::keyed(&control, "oom_kill").unwrap_or(0);
            Ok(())
        })
        .map_err(|error| self.error("read", "memory.oom_control", error))?;
        Ok(count)
    }

    /// Most memory in use at one time, in bytes; 0 where the kernel does not say
    /// (v2 before Linux 5.19).
    ///
    /// # Errors
    /// The errno of reading.
    pub fn memory_peak(&self) -> Result<u64> {
        let Some(member) = self.home_of("memory") else {
            return Ok(0);
        };
        let name = if member.v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let text = file::read_optional(&member.dir, name)
            .map_err(|error| self.error("read", name, error))?;
        Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
    }
}

fn watch_v2(member: &Member) -> io::Result<Option<OwnedFd>> {
    let events = match file::open(&member.dir, "memory.events", OFlag::O_RDONLY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // inotify takes paths only; this one leads to the very file that was opened.
    let path = format!("/proc/self/fd/{}", events.as_raw_fd());
    inotify.add_watch(path.as_str(), AddWatchFlags::IN_MODIFY)?;
    Ok(Some(inotify.into()))
}

fn watch_v1(member: &Member) -> io::Result<Option<OwnedFd>> {
    let control = file::open(&member.dir, "memory.oom_control", OFlag::O_RDONLY)?;
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let registration = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    file::write(&member.dir, "cgroup.event_control", &registration)?;
    Ok(Some(event.into()))
}
