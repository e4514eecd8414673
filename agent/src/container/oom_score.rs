//! The OOM killer's preference for the processes of a container that runs.
//!
//! A process inherits it when it is born, and may have made it worse for itself since:
//! only who still has the container's own is changed.

use std::{fs, io};

use crate::error::{Error, Result};

/// Looks at a group: who is born while one is taken appears in the next.
const LOOKS: usize = 4;

/// What was changed.
#[derive(Debug, Default)]
pub(super) struct Scores {
    processes: Vec<i32>,
    from: i32,
}

impl Scores {
    /// Gives every process of `list` that has the score `from` the score `to`; false
    /// where the kernel does not allow it, which changes nothing.
    ///
    /// # Errors
    /// Internal if processes cannot be listed or written to.
    pub(super) fn change(
        &mut self,
        from: i32,
        to: i32,
        list: impl Fn() -> Result<Vec<i32>>,
    ) -> Result<bool> {
        self.from = from;
        for _ in 0..LOOKS {
            let mut found = false;
            for pid in list()? {
                if self.processes.contains(&pid) || read(pid) != Some(from) {
                    continue;
                }
                match write(pid, to) {
                    Ok(()) => self.processes.push(pid),
                    // Less than it was born with needs CAP_SYS_RESOURCE.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        self.restore();
                        return Ok(false);
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(Error::io("set oom_score_adj", error)),
                }
                found = true;
            }
            if !found {
                break;
            }
        }
        Ok(true)
    }

    /// Sets the scores back.
    pub(super) fn restore(&mut self) {
        for pid in self.processes.drain(..) {
            if let Err(error) = write(pid, self.from)
                && !is_gone(&error)
            {
                tracing::warn!(pid, %error, "oom_score_adj could not be set back");
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn read(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?;
    text.trim().parse().ok()
}

fn write(pid: i32, score: i32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper(score: i32) -> Child {
        let child = Command::new("sleep")
            .arg("100")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        write(child.id().try_into().unwrap(), score).unwrap();
        child
    }

    #[test]
    fn only_who_has_the_containers_own_score_is_changed_and_set_back() {
        let base = read(std::process::id().try_into().unwrap()).unwrap();
        let (own, worse) = (base + 10, base + 20);
        let mut children = [sleeper(own), sleeper(worse)];
        let pids = children.each_ref().map(|c| i32::try_from(c.id()).unwrap());
        let scores = |pids: [i32; 2]| pids.map(|pid| read(pid).unwrap());
        let mut changed = Scores::default();
        assert!(
            changed
                .change(own, own + 5, || Ok([&pids[..], &[i32::MAX]].concat()))
                .unwrap()
        );
        assert_eq!(scores(pids), [own + 5, worse]);
        changed.restore();
        assert_eq!(scores(pids), [own, worse]);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
