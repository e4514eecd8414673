//! `events`: statistics and out-of-memory events, a line of JSON each.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::{Group, Pressure, Stats};
use berth_sys::process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::{
    cli,
    container::{Container, Status},
    verb::{Context, print},
};

pub(super) fn run(context: &Context<'_>, args: &cli::Events) -> Result<()> {
    let interval = parse_duration(&args.interval)
        .with_context(|| format!("--interval {}: expected a time such as 5s", args.interval))?;
    let container = Container::find(context.root, &args.id)?;
    if container.status()? == Status::Stopped {
        bail!("container with id {} is not running", args.id);
    }
    let group = container.group()?.context("container not running")?;
    if args.stats {
        return line(&args.id, "stats", Some(stats(&group)));
    }
    let init = container.init()?.context("container not running")?;
    let mut kills = group.oom_kill_count().unwrap_or(0);
    // Without memory accounting there is nothing to watch.
    let oom = group.oom_watch().unwrap_or(None);
    let mut next = Instant::now() + interval;
    loop {
        use std::os::fd::AsFd as _;
        let left = next.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            oom.iter()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("waiting for events"),
        }
        if let Some(fd) = &oom {
            if process::wait_readable(fd, 0)? {
                let mut event = [0_u8; 4096];
                // Only the wake-up is of interest; the count comes from the group.
                nix::unistd::read(fd, &mut event).ok();
            }
            let now = group.oom_kill_count().unwrap_or(kills);
            if now > kills {
                kills = now;
                line(&args.id, "oom", None)?;
            }
        }
        if process::wait_readable(&init, 0)? {
            return Ok(());
        }
        if Instant::now() >= next {
            line(&args.id, "stats", Some(stats(&group)))?;
            next = Instant::now() + interval;
        }
    }
}

fn line(id: &str, kind: &str, data: Option<Value>) -> Result<()> {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    print(&format!("{}\n", serde_json::to_string(&event)?));
    Ok(())
}

/// In the shape that callers of OCI runtimes parse.
fn stats(group: &Group) -> Value {
    let stats: Stats = group.stats();
    let entry =
        |usage: u64, limit: Option<u64>| json!({ "usage": usage, "limit": limit.unwrap_or(0) });
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu_usage_ns,
                "user": stats.cpu_user_ns,
                "kernel": stats.cpu_system_ns,
            },
            "throttling": {
                "periods": stats.cpu_periods,
                "throttledPeriods": stats.cpu_throttled_periods,
                "throttledTime": stats.cpu_throttled_ns,
            },
            "psi": stats.cpu_pressure.as_ref().map(pressure),
        },
        "memory": {
            "usage": entry(stats.memory_usage, stats.memory_limit),
            "swap": entry(stats.swap_usage.unwrap_or(0), stats.swap_limit),
            "raw": {
                "rss": stats.memory_rss,
                "pgfault": stats.page_faults,
                "pgmajfault": stats.major_page_faults,
            },
            "psi": stats.memory_pressure.as_ref().map(pressure),
        },
        "pids": { "current": stats.pids, "limit": stats.pids_limit.unwrap_or(0) },
    })
}

fn pressure(pressure: &Pressure) -> Value {
    let stall = |stall: &berth_cgroup::Stall| {
        json!({
            "avg10": stall.avg10,
            "avg60": stall.avg60,
            "avg300": stall.avg300,
            "total": stall.total_ns / 1000,
        })
    };
    json!({ "some": stall(&pressure.some), "full": stall(&pressure.full) })
}

/// A number with ms, s, m or h behind it.
fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("20ms"), Some(Duration::from_millis(20)));
        for bad in ["", "5", "s", "0s", "-1s", "5x"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
