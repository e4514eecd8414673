//! What can be found out about an exit that nobody asked for, while the container's
//! group is still there: who killed it, which limit it met, how it fared before.

use std::{
    fmt,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    sync::Arc,
    time::Duration,
};

use nix::libc;
use serde::{Deserialize, Serialize};

use super::{
    Container,
    state::{Exit, Reason},
};
use crate::node::{Node, blocking};

/// The kernel's log is read record by record; one is at most this long (dev-kmsg).
const RECORD: usize = 8 << 10;
/// Records that are looked at. The default log has fewer.
const RECORDS: usize = 20_000;

/// Who asked a container to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// When, in Unix nanoseconds.
    pub(crate) at: i64,
    /// How long it was given before it was killed, in nanoseconds.
    pub(crate) grace: i64,
}

impl Asked {
    pub(crate) fn now(grace: Duration) -> Self {
        Self {
            at: crate::node::now(),
            grace: i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX),
        }
    }
}

/// The circumstances of an exit. What is not known is 0, empty or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Circumstances {
    /// The call that asked for it.
    pub(crate) asked: Option<Asked>,
    /// Bytes.
    pub(crate) memory_limit: Option<u64>,
    /// Periods with a CPU quota.
    pub(crate) cpu_periods: u64,
    /// Of them those in which the quota was used up.
    pub(crate) throttled_periods: u64,
    /// How long it was held back for that, in nanoseconds.
    pub(crate) throttled: u64,
    /// Share of the last ten seconds in which some of its tasks waited, in
    /// hundredths of a percent; none where the kernel does not measure it.
    pub(crate) cpu_pressure: Option<u32>,
    /// Likewise, for memory.
    pub(crate) memory_pressure: Option<u32>,
    /// Likewise, for input and output.
    pub(crate) io_pressure: Option<u32>,
    /// What the kernel's log says of memory that ran out.
    pub(crate) oom: Option<OutOfMemory>,
}

/// The kernel's decision to kill for lack of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OutOfMemory {
    /// The control group whose limit was met; empty if the node itself ran out.
    pub(crate) group: String,
    /// Name of the process that was killed.
    pub(crate) process: String,
    /// Its pid on the node.
    pub(crate) pid: i32,
}

impl OutOfMemory {
    /// Whose limit it was, seen from the group of a container.
    pub(crate) fn level(&self, container_group: &str) -> Level {
        if self.group.is_empty() {
            Level::Node
        } else if is_within(&self.group, container_group) {
            Level::Container
        } else {
            Level::Above
        }
    }
}

/// Where memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// At the container's own limit.
    Container,
    /// At the limit of a group above, such as the pod's.
    Above,
    /// The node had no more.
    Node,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "the container's limit",
            Self::Above => "a limit above the container, such as its pod's",
            Self::Node => "the whole node",
        })
    }
}

/// Adds the circumstances to an exit, and a sentence for CRI callers where the
/// exit has none. An exit that was asked for, or a good one, is not looked into:
/// whoever waits for it should not wait for that.
pub(super) async fn examine(node: &Arc<Node>, container: &Container, mut exit: Exit) -> Exit {
    let record = container.record();
    let asked = container.asked();
    exit.circumstances.asked = asked;
    let odd = matches!(exit.reason, Reason::Error | Reason::OomKilled);
    if odd && (asked.is_none() || exit.reason == Reason::OomKilled) {
        let layout = node.layout.clone();
        let group = record.cgroup.clone();
        let killed = exit.reason == Reason::OomKilled;
        let found = blocking("examine an exit", move || {
            let mut found = Circumstances::default();
            if let Some(stats) = crate::cgroup::stats(&layout, &group) {
                found.memory_limit = stats.memory_limit;
                found.cpu_periods = stats.cpu_periods;
                found.throttled_periods = stats.cpu_throttled_periods;
                found.throttled = stats.cpu_throttled_ns;
                found.cpu_pressure = stats.cpu_pressure.map(|p| hundredths(p.some.avg10));
                found.memory_pressure = stats.memory_pressure.map(|p| hundredths(p.some.avg10));
                found.io_pressure = stats.io_pressure.map(|p| hundredths(p.some.avg10));
            }
            if killed {
                // Its log may be closed to us (kernel.dmesg_restrict with a
                // capability taken away): then it is not known.
                found.oom = last_kill(&group).ok().flatten();
            }
            Ok(found)
        });
        if let Ok(found) = found.await {
            exit.circumstances = Circumstances { asked, ..found };
        }
    }
    if exit.message.is_empty() {
        exit.message = sentence(&exit, &record.cgroup);
    }
    exit
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a percentage, clamped"
)]
fn hundredths(percent: f64) -> u32 {
    (percent.clamp(0.0, 100.0) * 100.0) as u32
}

/// What there is to say in a status; empty for what its code says already.
fn sentence(exit: &Exit, group: &str) -> String {
    if exit.reason == Reason::OomKilled {
        let mut text = "out of memory".to_owned();
        if let Some(oom) = &exit.circumstances.oom {
            text += &format!(
                " at {}: process {:?} ({}) was killed",
                oom.level(group),
                oom.process,
                oom.pid
            );
        }
        if let Some(limit) = exit.circumstances.memory_limit {
            text += &format!("; its limit is {} KiB", limit >> 10);
        }
        return text;
    }
    match (exit.signal, exit.circumstances.asked) {
        (0, _) | (_, Some(_)) => String::new(),
        (signal, None) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string());
            format!("ended by {name}, which no caller of the runtime asked for")
        }
    }
}

/// The kernel's last word on a kill in `group` or below.
fn last_kill(group: &str) -> io::Result<Option<OutOfMemory>> {
    let mut log = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut last = None;
    let mut record = vec![0; RECORD];
    for _ in 0..RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]);
                if let Some(found) = parse_kill(&text, group) {
                    last = Some(found);
                }
            }
            Err(error) => match error.raw_os_error() {
                // The end; or records were overwritten meanwhile, and the next
                // read goes on behind them; or it was too long.
                Some(libc::EAGAIN) => break,
                Some(libc::EPIPE | libc::EINVAL | libc::EINTR) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(last)
}

/// Reads the line that `dump_oom_summary` of mm/oom_kill.c writes. The process's
/// name comes from the container, so everything after it is read from the end.
fn parse_kill(record: &str, group: &str) -> Option<OutOfMemory> {
    let text = record.lines().next()?.split_once(";oom-kill:")?.1;
    let (before, task_group_on) = text.split_once(",task_memcg=")?;
    let (task_group, task) = task_group_on.split_once(",task=")?;
    if !is_within(task_group, group) {
        return None;
    }
    let (rest, _uid) = task.rsplit_once(",uid=")?;
    let (process, pid) = rest.rsplit_once(",pid=")?;
    Some(OutOfMemory {
        group: before
            .split_once(",oom_memcg=")
            .map(|(_, group)| group.to_owned())
            .unwrap_or_default(),
        process: process.to_owned(),
        pid: pid.parse().ok()?,
    })
}

/// Whether `group` is `outer` or below it. The kernel's paths begin with a slash.
fn is_within(group: &str, outer: &str) -> bool {
    group
        .trim_start_matches('/')
        .strip_prefix(outer.trim_start_matches('/'))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_tells_level_and_process() {
        let line = "6,1182,94871,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),\
                    cpuset=/,mems_allowed=0,oom_memcg=/berth/p/c,task_memcg=/berth/p/c,\
                    task=sh,pid=1,uid=0,pid=4711,uid=1000\n SUBSYSTEM=x\n";
        let found = parse_kill(line, "/berth/p/c").unwrap();
        assert_eq!(found.process, "sh,pid=1,uid=0");
        assert_eq!(found.pid, 4711);
        assert_eq!(found.level("/berth/p/c"), Level::Container);
        assert!(
            parse_kill(line, "berth/p/c").is_some(),
            "as records have it"
        );
        assert_eq!(parse_kill(line, "/berth/p/other"), None);
        assert_eq!(parse_kill(line, "/berth/p/c2"), None);
        assert!(parse_kill(line, "/berth/p").is_some(), "a group below");
    }

    #[test]
    fn memory_runs_out_on_three_levels() {
        let at = |group: &str| OutOfMemory {
            group: group.to_owned(),
            ..OutOfMemory::default()
        };
        assert_eq!(at("/p/c").level("/p/c"), Level::Container);
        assert_eq!(at("/p/c/inner").level("/p/c"), Level::Container);
        assert_eq!(at("/p").level("/p/c"), Level::Above);
        assert_eq!(at("").level("/p/c"), Level::Node);
        let global = "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,\
                      mems_allowed=0,global_oom,task_memcg=/p/c,task=a,pid=5,uid=0";
        let found = parse_kill(global, "/p/c").unwrap();
        assert_eq!(found.level("/p/c"), Level::Node);
    }

    #[test]
    fn other_records_are_passed_over() {
        for record in [
            "",
            "6,1,2,-;hello",
            "6,1,2,-;oom-kill:",
            "oom-kill:,task_memcg=/p",
        ] {
            assert_eq!(parse_kill(record, "/p"), None, "{record:?}");
        }
    }

    #[test]
    fn only_what_the_code_does_not_say_is_said() {
        let exit = |code, signal| Exit::of_program(code, signal, false, 1, 2);
        assert_eq!(sentence(&exit(3, 0), "/p"), "");
        assert!(sentence(&exit(139, 11), "/p").contains("SIGSEGV"));
        let mut asked = exit(143, 15);
        asked.circumstances.asked = Some(Asked::now(Duration::from_secs(1)));
        assert_eq!(sentence(&asked, "/p"), "");
    }
}
