//! Processes of a group: listing, signalling, killing all of them.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use berth_sys::process;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{Dir, Error, Group, file, tree};

/// Longest wait for v1's freezer before killing: a task that sleeps
/// uninterruptibly would hold it up for ever, the others are killed anyway.
const FREEZE_LIMIT: Duration = Duration::from_millis(100);
/// Pause between looks at a group that is emptying; doubles up to the second.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// How long one round of killing may show no effect before the next begins.
const ROUND: Duration = Duration::from_millis(100);
/// Processes that are signalled at once, each holding a descriptor.
const BATCH: usize = 128;
/// Deepest tree of descendants that is followed; what is stopped makes no more.
const GENERATIONS: usize = 256;
/// Processes that an error names.
const PIDS_SHOWN: usize = 8;

impl Group {
    /// Pids of all processes in the group and below it, in the caller's PID
    /// namespace (0 for one that has no pid there).
    ///
    /// # Errors
    /// The errno of reading. A group that is gone is empty.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = BTreeSet::new();
        for dir in &self.dirs {
            pids.extend(pids_below(dir)?);
        }
        Ok(pids.into_iter().collect())
    }

    /// Whether no process is left in the group and below it, in any hierarchy.
    ///
    /// # Errors
    /// As [`Group::processes`].
    pub fn is_empty(&self) -> io::Result<bool> {
        for dir in &self.dirs {
            if is_populated(dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until no process is left.
    ///
    /// # Errors
    /// [`Error::Busy`] with the processes that are left after `limit`.
    pub fn wait_empty(&self, limit: Duration) -> Result<(), Error> {
        let empty = self.empty_by(Instant::now() + limit);
        if empty.map_err(Error::system("waiting for the end of a cgroup"))? {
            Ok(())
        } else {
            Err(self.still_there(limit))
        }
    }

    fn still_there(&self, limit: Duration) -> Error {
        let pids = self.processes().unwrap_or_default();
        let some: Vec<_> = pids.iter().take(PIDS_SHOWN).map(i32::to_string).collect();
        let count = pids.len();
        let some = some.join(", ");
        Error::Busy {
            what: format!("{count} processes are still there after {limit:?}, among them {some}"),
        }
    }

    /// Kills every process in the group and below it, and waits until they are gone.
    ///
    /// With a v2 directory (Linux 5.14) one write kills them all, forks included.
    /// On v1 the group is frozen, killed and thawed until it is empty. A frozen
    /// group is thawed first: v1's frozen processes do not die.
    ///
    /// # Errors
    /// [`Error::Busy`] if a process is left after `limit`, such as one that hangs in
    /// the kernel.
    pub fn kill_all(&self, limit: Duration) -> Result<(), Error> {
        let killed = self.kill_until(Instant::now() + limit);
        if killed.map_err(Error::system("killing the processes of a cgroup"))? {
            Ok(())
        } else {
            Err(self.still_there(limit))
        }
    }

    fn kill_until(&self, end: Instant) -> io::Result<bool> {
        if self.is_empty()? {
            return Ok(true);
        }
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        if self.processes()?.contains(&me) {
            // A wrong path, such as that of the service the agent runs in.
            return Err(io::Error::other("the caller itself is in that group"));
        }
        self.thaw_below()?;
        loop {
            self.kill_round()?;
            if self.empty_by(end.min(Instant::now() + ROUND))? {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
        }
    }

    fn kill_round(&self) -> io::Result<()> {
        let at_once = self.v2().map(|dir| kill_dir(dir.fd.as_fd()));
        if at_once.transpose()? == Some(true) {
            // What is still in a v1 group is not in the v2 one: killed one by one.
            let mut left = false;
            for dir in self.dirs.iter().filter(|dir| !dir.v2) {
                left |= is_populated(dir)?;
            }
            if !left {
                return Ok(());
            }
        }
        self.freeze_v1(FREEZE_LIMIT)?;
        let killed = self.signal_each(libc::SIGKILL);
        self.thaw_v1()?;
        killed
    }

    fn thaw_v1(&self) -> io::Result<()> {
        match self.v1("freezer") {
            Some(dir) => file::write(&dir.fd, "freezer.state", "THAWED"),
            None => Ok(()),
        }
    }

    /// Sends `signal` to every process in the group and below it, without waiting.
    /// A process that is forked meanwhile may miss it, SIGKILL on v2 excepted.
    ///
    /// # Errors
    /// The errno of reading the group or of signalling, ESRCH excepted.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL
            && let Some(dir) = self.v2()
            && kill_dir(dir.fd.as_fd())?
        {
            return Ok(());
        }
        self.signal_each(signal)
    }

    fn signal_each(&self, signal: i32) -> io::Result<()> {
        for dir in &self.dirs {
            signal_below(dir.fd.as_fd(), signal)?;
        }
        Ok(())
    }

    /// Kills `pid`, a process of this group, and its descendants within the group.
    ///
    /// What has been reparented is not found; with a v2 directory exec groups
    /// ([`Group::exec_group`]) do it properly. The caller holds `pid` unreaped.
    pub(crate) fn kill_descendants(&self, pid: i32) -> io::Result<()> {
        let mut doomed = BTreeSet::from([pid]);
        // Stopped first, so that they do not fork meanwhile.
        for _ in 0..GENERATIONS {
            for &pid in &doomed {
                send(pid, libc::SIGSTOP)?;
            }
            let all = self.processes()?;
            let before = doomed.len();
            for &candidate in &all {
                if parent_of(candidate).is_some_and(|parent| doomed.contains(&parent)) {
                    doomed.insert(candidate);
                }
            }
            if doomed.len() == before {
                break;
            }
        }
        for &pid in &doomed {
            send(pid, libc::SIGKILL)?;
        }
        Ok(())
    }

    /// Whether the group is empty by `end`.
    fn empty_by(&self, end: Instant) -> io::Result<bool> {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.is_empty()? {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.await_change(pause.min(left))?;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Sleeps, on v2 only until the group is populated no more.
    fn await_change(&self, pause: Duration) -> io::Result<()> {
        if let Some(dir) = self.v2()
            && await_unpopulated(dir, pause)?
        {
            return Ok(());
        }
        thread::sleep(pause);
        Ok(())
    }
}

/// Kills all processes of a v2 group and below; `false` before Linux 5.14.
pub(crate) fn kill_dir(dir: BorrowedFd<'_>) -> io::Result<bool> {
    match file::write(dir, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // No such file, or (EOPNOTSUPP) a threaded group.
            Some(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(false),
            Some(Errno::ENODEV) => Ok(true),
            _ => Err(error),
        },
    }
}

/// Signals every process of the group at `dir` and below, one by one.
pub(crate) fn signal_below(dir: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    tree::walk(dir, |dir| {
        let me = i32::try_from(std::process::id()).unwrap_or(0);
        let mut pids = direct_pids(dir)?;
        pids.retain(|&pid| pid > 0 && pid != me);
        for batch in pids.chunks(BATCH) {
            signal_batch(dir, batch, signal)?;
        }
        Ok(())
    })
}

/// A pid may be another process's by the time it is used. What is still listed
/// after its descriptor was opened was meant.
fn signal_batch(dir: BorrowedFd<'_>, batch: &[i32], signal: i32) -> io::Result<()> {
    let mut held: Vec<(i32, OwnedFd)> = Vec::with_capacity(batch.len());
    for &pid in batch {
        match process::pidfd_open(pid) {
            Ok(pidfd) => held.push((pid, pidfd)),
            // EINVAL: a thread whose leader is in another group (v1).
            Err(error) if is_ended(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let still = direct_pids(dir)?;
    for (pid, pidfd) in held {
        if still.contains(&pid) {
            match process::pidfd_send_signal(&pidfd, signal) {
                Err(error) if !is_ended(&error) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_ended(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ESRCH | Errno::EINVAL)
    )
}

fn send(pid: i32, signal: i32) -> io::Result<()> {
    let sent =
        process::pidfd_open(pid).and_then(|pidfd| process::pidfd_send_signal(&pidfd, signal));
    match sent {
        Err(error) if !is_ended(&error) => Err(error),
        _ => Ok(()),
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything: fields count from the last ')'.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Pids of the group itself, without those below.
pub(crate) fn direct_pids(dir: BorrowedFd<'_>) -> io::Result<Vec<i32>> {
    let text = match file::read(dir, "cgroup.procs") {
        // A threaded v2 group does not say its processes, only its threads.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            file::read(dir, "cgroup.threads")
        }
        other => other,
    };
    match text {
        Ok(text) => Ok(text.lines().filter_map(|pid| pid.parse().ok()).collect()),
        Err(error) if tree::is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn pids_below(dir: &Dir) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    let walked = tree::walk(dir.fd.as_fd(), |below| {
        pids.extend(direct_pids(below)?);
        Ok(())
    });
    match walked {
        Err(error) if !tree::is_gone(&error) => Err(error),
        _ => Ok(pids),
    }
}

fn is_populated(dir: &Dir) -> io::Result<bool> {
    if dir.v2 {
        // One file tells for everything below.
        let events = match file::read(&dir.fd, "cgroup.events") {
            Err(error) if tree::is_gone(&error) => return Ok(false),
            other => other?,
        };
        return Ok(file::keyed(&events, "populated") != Some(0));
    }
    Ok(!pids_below(dir)?.is_empty())
}

/// Whether it could wait for the group to become unpopulated, `pause` at most.
fn await_unpopulated(dir: &Dir, pause: Duration) -> io::Result<bool> {
    let events = match file::open(&dir.fd, "cgroup.events", OFlag::O_RDONLY) {
        Err(error) if tree::is_gone(&error) => return Ok(false),
        other => other?,
    };
    // kernfs reports a change only against what this descriptor has read.
    let mut text = [0_u8; 128];
    let count = match nix::unistd::read(&events, &mut text) {
        Err(Errno::ENODEV) => return Ok(false),
        other => other?,
    };
    let text = String::from_utf8_lossy(&text[..count]);
    if file::keyed(&text, "populated") != Some(1) {
        return Ok(false);
    }
    // poll(2) counts whole milliseconds; the first pauses are shorter than one.
    let timeout = u16::try_from(pause.as_millis()).unwrap_or(u16::MAX).max(1);
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
    match poll(&mut fds, PollTimeout::from(timeout)) {
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
