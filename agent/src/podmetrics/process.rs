//! What the processes of a container hold open, from procfs.

use std::{fs, path::Path};

/// Descriptors of one container that are looked at; who has more has at least so many.
const MOST_DESCRIPTORS: u64 = 100_000;

/// Descriptors of all processes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) descriptors: u64,
    /// Of them those that are sockets.
    pub(super) sockets: u64,
}

impl Open {
    /// Counts those of `processes`. Who ends meanwhile is not counted.
    pub(super) fn of(processes: &[i32]) -> Self {
        let mut open = Self::default();
        for pid in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            for entry in entries.flatten() {
                if open.descriptors >= MOST_DESCRIPTORS {
                    return open;
                }
                open.descriptors += 1;
                let socket = fs::read_link(entry.path()).is_ok_and(|target| is_socket(&target));
                open.sockets += u64::from(socket);
            }
        }
        open
    }
}

fn is_socket(target: &Path) -> bool {
    target
        .to_str()
        .is_some_and(|target| target.starts_with("socket:["))
}

/// The soft limit of open files of a process; none if it is gone or without limit.
pub(super) fn open_files_limit(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted() {
        let own = [i32::try_from(std::process::id()).unwrap()];
        let before = Open::of(&own);
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let with = Open::of(&own);
        assert!(with.descriptors >= before.descriptors.min(3) && with.sockets >= 2);
        assert_eq!(Open::of(&[i32::MAX]), Open::default());
        assert!(open_files_limit(own[0]).unwrap() > 0);
        assert_eq!(open_files_limit(i32::MAX), None);
    }
}
