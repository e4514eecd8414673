//! Stopping and resuming every process of a group.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Group, Result, file, group::Member, tree};

/// How often a freezing group is looked at: tasks freeze within microseconds
/// unless they sleep uninterruptibly.
const POLL: Duration = Duration::from_micros(500);

impl Group {
    /// Freezes all processes and waits until they are frozen.
    ///
    /// With a v2 directory, also of a hybrid layout, the v2 freezer is used: it
    /// leaves processes killable.
    ///
    /// # Errors
    /// [`Error::Timeout`] if a process does not freeze within `limit` (it sleeps
    /// uninterruptibly); the group is thawed again. [`Error::Unsupported`] without
    /// a freezer.
    pub fn freeze(&self, limit: Duration) -> Result<()> {
        let member = self.freezer()?;
        let (name, value) = switch(member, true);
        file::write(&member.dir, name, value).map_err(|error| self.error("write", name, error))?;
        let end = Instant::now() + limit;
        loop {
            if is_frozen(member).map_err(|error| self.error("read", name, error))? {
                return Ok(());
            }
            if Instant::now() >= end {
                self.thaw()?;
                return Err(Error::Timeout {
                    op: "freeze",
                    group: self.label(""),
                    limit,
                    pids: Vec::new(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Lets all processes go on, also those of groups below.
    ///
    /// # Errors
    /// The errno of writing; a group that is not frozen is not an error.
    pub fn thaw(&self) -> Result<()> {
        for member in &self.members {
            if member.v2 || member.has("freezer") {
                let (name, value) = switch(member, false);
                tree::walk(member.dir.as_fd(), |dir| release(dir, name, value))
                    .map_err(|error| self.error("write", name, error))?;
            }
        }
        Ok(())
    }

    /// Whether the group is frozen or on its way to it.
    ///
    /// # Errors
    /// The errno of reading.
    pub fn is_frozen(&self) -> Result<bool> {
        for member in &self.members {
            let frozen = if member.v2 {
                file::read_optional(&member.dir, "cgroup.freeze")
                    .map(|text| text.is_some_and(|text| text.trim() == "1"))
            } else if member.has("freezer") {
                file::read(&member.dir, "freezer.state").map(|text| text.trim() != "THAWED")
            } else {
                Ok(false)
            };
            if frozen.map_err(|error| self.error("read", "the freezer's state", error))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn freezer(&self) -> Result<&Member> {
        let v2 = self.v2().filter(|member| {
            // Since Linux 5.2.
            matches!(
                file::read_optional(&member.dir, "cgroup.freeze"),
                Ok(Some(_))
            )
        });
        v2.or_else(|| self.v1("freezer"))
            .ok_or_else(|| Error::Unsupported {
                what: "freezing".to_owned(),
                reason: "there is neither a v2 group nor the freezer controller".to_owned(),
            })
    }

    /// Starts freezing by the v1 freezer, so that processes stop forking while
    /// they are killed. They die only once thawed.
    pub(crate) fn freeze_v1(&self, limit: Duration) -> io::Result<()> {
        let Some(member) = self.v1("freezer") else {
            return Ok(());
        };
        let end = Instant::now() + limit;
        // Writing again makes the kernel look again at tasks that were missed.
        while {
            file::write(&member.dir, "freezer.state", "FROZEN")?;
            !is_frozen(member)? && Instant::now() < end
        } {
            thread::sleep(POLL);
        }
        Ok(())
    }
}

fn switch(member: &Member, frozen: bool) -> (&'static str, &'static str) {
    match (member.v2, frozen) {
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

fn is_frozen(member: &Member) -> io::Result<bool> {
    if member.v2 {
        let events = file::read(&member.dir, "cgroup.events")?;
        Ok(file::keyed(&events, "frozen") == Some(1))
    } else {
        Ok(file::read(&member.dir, "freezer.state")?.trim() == "FROZEN")
    }
}
