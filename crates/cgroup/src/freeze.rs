//! Stopping and resuming every process of a group.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use crate::{Dir, Error, Group, file, group::failed, tree};

/// How often a freezing group is looked at: tasks freeze within microseconds
/// unless they sleep uninterruptibly.
const POLL: Duration = Duration::from_micros(500);

/// Longest wait of [`Group::set_frozen`]: as long as a person waits for a pause.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

impl Group {
    /// Freezes or thaws every process in it.
    ///
    /// # Errors
    /// As [`Group::freeze`] and [`Group::thaw`].
    pub fn set_frozen(&self, frozen: bool) -> Result<(), Error> {
        if frozen {
            self.freeze(FREEZE_LIMIT)
        } else {
            self.thaw()
        }
    }

    /// Freezes all processes and waits until they are frozen.
    ///
    /// With a v2 directory, also of a hybrid layout, the v2 freezer is used: it
    /// leaves processes killable.
    ///
    /// # Errors
    /// [`Error::Busy`] if a process does not freeze within `limit` (it sleeps
    /// uninterruptibly); the group is thawed again. [`Error::NoController`]
    /// without a freezer.
    pub fn freeze(&self, limit: Duration) -> Result<(), Error> {
        let dir = self.freezer()?;
        let (name, value) = switch(dir, true);
        file::write(&dir.fd, name, value).map_err(failed("writing", name))?;
        let end = Instant::now() + limit;
        loop {
            if is_frozen(dir).map_err(failed("reading", name))? {
                return Ok(());
            }
            if Instant::now() >= end {
                self.thaw()?;
                return Err(Error::Busy {
                    what: format!("a process of the cgroup does not freeze within {limit:?}"),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Lets all processes go on, also those of groups below.
    ///
    /// # Errors
    /// The errno of writing; a group that is not frozen is not an error.
    pub fn thaw(&self) -> Result<(), Error> {
        self.thaw_below().map_err(Error::system("thawing a cgroup"))
    }

    pub(crate) fn thaw_below(&self) -> io::Result<()> {
        for dir in &self.dirs {
            if dir.v2 || dir.has("freezer") {
                let (name, value) = switch(dir, false);
                tree::walk(dir.fd.as_fd(), |below| release(below, name, value))?;
            }
        }
        Ok(())
    }

    /// Whether the group is frozen or on its way to it.
    ///
    /// # Errors
    /// The errno of reading.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        for dir in &self.dirs {
            let frozen = if dir.v2 {
                file::read_optional(&dir.fd, "cgroup.freeze")
                    .map(|text| text.is_some_and(|text| text.trim() == "1"))
            } else if dir.has("freezer") {
                file::read(&dir.fd, "freezer.state").map(|text| text.trim() != "THAWED")
            } else {
                Ok(false)
            };
            if frozen.map_err(failed("reading", "the freezer's state"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn freezer(&self) -> Result<&Dir, Error> {
        let v2 = self.v2().filter(|dir| {
            // Since Linux 5.2.
            matches!(file::read_optional(&dir.fd, "cgroup.freeze"), Ok(Some(_)))
        });
        v2.or_else(|| self.v1("freezer"))
            .ok_or(Error::NoController {
                field: "pause",
                controller: "freezer".into(),
            })
    }

    /// Starts freezing by the v1 freezer, so that processes stop forking while
    /// they are killed. They die only once thawed.
    pub(crate) fn freeze_v1(&self, limit: Duration) -> io::Result<()> {
        let Some(dir) = self.v1("freezer") else {
            return Ok(());
        };
        let end = Instant::now() + limit;
        // Writing again makes the kernel look again at tasks that were missed.
        while {
            file::write(&dir.fd, "freezer.state", "FROZEN")?;
            !is_frozen(dir)? && Instant::now() < end
        } {
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn switch(dir: &Dir, frozen: bool) -> (&'static str, &'static str) {
    match (dir.v2, frozen) {
        (true, true) => ("cgroup.freeze", "1"),
        (true, false) => ("cgroup.freeze", "0"),
        (false, true) => ("freezer.state", "FROZEN"),
        (false, false) => ("freezer.state", "THAWED"),
    }
}

fn release(dir: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    match file::write(dir, name, value) {
        Err(error) if tree::is_gone(&error) => Ok(()),
        other => other,
    }
}

fn is_frozen(dir: &Dir) -> io::Result<bool> {
    if dir.v2 {
        let events = file::read(&dir.fd, "cgroup.events")?;
        Ok(file::keyed(&events, "frozen") == Some(1))
    } else {
        Ok(file::read(&dir.fd, "freezer.state")?.trim() == "FROZEN")
    }
}
