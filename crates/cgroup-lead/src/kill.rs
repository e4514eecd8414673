//! Who is in a group, and ending all of them.

use std::{
    io,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use nix::{errno::Errno, libc, sys::signal, unistd::Pid};

use crate::{Dir, Error, Group, file};

/// First pause between two looks; doubled up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Groups inside a group that are looked at; a container could make any number.
const MOST_GROUPS: usize = 4096;

impl Group {
    /// Pids of every process in it and in groups below it, each once.
    ///
    /// # Errors
    /// The errno of reading a group that is still there.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for dir in &self.dirs {
            collect(&dir.fd, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether nobody is in it.
    ///
    /// # Errors
    /// As [`Group::processes`].
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.processes()?.is_empty())
    }

    /// Sends `signal` to every process in it.
    ///
    /// # Errors
    /// As [`Group::processes`].
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        for pid in self.processes()? {
            send(pid, signal)?;
        }
        Ok(())
    }

    /// Kills every process in it, those that are born meanwhile too, and waits
    /// until nobody is left, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Busy`] if somebody is left, such as a process that hangs in the kernel.
    pub fn kill_all(&self, limit: Duration) -> Result<(), Error> {
        let failed = "killing the processes of a cgroup";
        let until = Instant::now() + limit;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let pids = self.processes().map_err(Error::system(failed))?;
            if pids.is_empty() {
                return Ok(());
            }
            self.kill_once(&pids).map_err(Error::system(failed))?;
            if Instant::now() >= until {
                return Err(Error::Busy {
                    what: format!(
                        "{} processes do not die, among them pid {}",
                        pids.len(),
                        pids[0]
                    ),
                });
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn kill_once(&self, pids: &[i32]) -> io::Result<()> {
        // All at once and without a race, since Linux 5.14.
        for dir in self.dirs.iter().filter(|dir| dir.v2) {
            match file::write(&dir.fd, "cgroup.kill", "1") {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Frozen, nobody can be born between the list and the signals. A process
        // that is killed while frozen dies when it thaws.
        let freezer = self.freezer();
        if let Some(dir) = freezer {
            file::write(&dir.fd, "freezer.state", "FROZEN").ok();
        }
        let killed = pids.iter().try_for_each(|&pid| send(pid, libc::SIGKILL));
        // Also after a crash that had left it frozen.
        if let Some(dir) = freezer {
            file::write(&dir.fd, "freezer.state", "THAWED")?;
        }
        killed
    }

    fn freezer(&self) -> Option<&Dir> {
        self.dirs
            .iter()
            .find(|dir| !dir.v2 && crate::layout::has(&dir.controllers, "freezer"))
    }

    /// Freezes or thaws every process in it.
    ///
    /// # Errors
    /// [`Error::NoController`] without a freezer; what the kernel refused.
    pub fn set_frozen(&self, frozen: bool) -> Result<(), Error> {
        let what = "freezing a cgroup";
        if let Some(dir) = self.freezer() {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            return file::write(&dir.fd, "freezer.state", state).map_err(Error::system(what));
        }
        let dir = self
            .dirs
            .iter()
            .find(|dir| dir.v2)
            .ok_or(Error::NoController {
                field: "pause",
                controller: "freezer",
            })?;
        file::write(&dir.fd, "cgroup.freeze", if frozen { "1" } else { "0" })
            .map_err(Error::system(what))
    }
}

/// A process that has ended between the list and the signal is what is wanted.
/// Its pid cannot have been given to another of the node's: pids are reused only
/// when their numbers have wrapped around, and the list is microseconds old.
fn send(pid: i32, signal: i32) -> io::Result<()> {
    let signal = signal::Signal::try_from(signal).map_err(io::Error::from)?;
    match signal::kill(Pid::from_raw(pid), signal) {
        Err(errno) if errno != Errno::ESRCH => Err(errno.into()),
        _ => Ok(()),
    }
}

fn collect(dir: &OwnedFd, pids: &mut Vec<i32>) -> io::Result<()> {
    let mut pending = vec![dir.try_clone()?];
    let mut seen = 0;
    while let Some(dir) = pending.pop() {
        seen += 1;
        match file::read(&dir, "cgroup.procs") {
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    // 0 is a process of another PID namespace, which cannot be named here.
                    .filter(|&pid| pid > 0),
            ),
            // ENODEV, ENOENT: the group is gone. EOPNOTSUPP: a threaded v2 group,
            // whose processes are listed above it.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENODEV | libc::ENOENT | libc::EOPNOTSUPP)
                ) => {}
            Err(error) => return Err(error),
        }
        if seen < MOST_GROUPS {
            for name in file::children(&dir).unwrap_or_default() {
                if let Ok(child) = file::open_dir(&dir, &name) {
                    pending.push(child);
                }
            }
        }
    }
    Ok(())
}
