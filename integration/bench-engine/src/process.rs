//! Processes that others have started and that end as ours.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{self, Signal},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

/// Until a program that was started has been executed.
const EXECUTED: Duration = Duration::from_secs(10);

/// Waits for a process whose parent has left it to this subreaper.
pub(crate) fn wait(pid: i32) -> Result<()> {
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).with_context(|| format!("wait for process {pid}")),
        }
    }
}

pub(crate) fn kill(pid: i32) -> Result<()> {
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}

/// The child of `parent` once it runs the program `name`.
pub(crate) fn child_that_executes(parent: u32, name: &str) -> Result<i32> {
    let end = Instant::now() + EXECUTED;
    let path = format!("/proc/{parent}/task/{parent}/children");
    while Instant::now() < end {
        let children = fs::read_to_string(&path).unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next() {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == name {
                return Ok(pid.parse()?);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    bail!("{parent} has not executed {name} within {EXECUTED:?}")
}
