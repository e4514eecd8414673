//! The agent's own process, under the names that every dashboard knows.

use std::fs;

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// What is read at each scrape.
#[derive(Debug)]
pub(super) struct Process;

/// What `/proc/self` says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) resident_bytes: u64,
    pub(super) cpu_seconds: f64,
    pub(super) threads: u64,
    pub(super) open_fds: u64,
    pub(super) max_fds: u64,
    /// Unix time.
    pub(super) started: f64,
}

impl Usage {
    /// None where `/proc` cannot be read.
    pub(super) fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let host = fs::read_to_string("/proc/stat").ok()?;
        let boot = host
            .lines()
            .find_map(|line| line.strip_prefix("btime "))?
            .parse::<f64>()
            .ok()?;
        let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
        let mut usage = Self::parse(&stat, boot, ticks as f64, u64::try_from(page).ok()?)?;
        // One of them is the directory itself.
        let open = fs::read_dir("/proc/self/fd").ok()?.count();
        usage.open_fds = u64::try_from(open.saturating_sub(1)).ok()?;
        usage.max_fds = getrlimit(Resource::RLIMIT_NOFILE).ok()?.0;
        Some(usage)
    }

    /// proc_pid_stat(5): the fields after the name, which may hold anything.
    fn parse(stat: &str, boot: f64, ticks: f64, page: u64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of them is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            threads: field(20)?,
            started: boot + field(22)? as f64 / ticks,
            resident_bytes: field(24)?.saturating_mul(page),
            ..Self::default()
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(usage) = Usage::now() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        cpu.encode(encoder.encode_descriptor(
            "process_cpu",
            "Processor time used.",
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)?;
        for (name, help, unit, value) in [
            (
                "process_resident_memory",
                "Memory that is resident.",
                Some(Unit::Bytes),
                usage.resident_bytes as f64,
            ),
            (
                "process_start_time",
                "When the process started, in Unix time.",
                Some(Unit::Seconds),
                usage.started,
            ),
            (
                "process_open_fds",
                "Open file descriptors.",
                None,
                usage.open_fds as f64,
            ),
            (
                "process_max_fds",
                "Limit of open file descriptors.",
                None,
                usage.max_fds as f64,
            ),
            ("process_threads", "Threads.", None, usage.threads as f64),
        ] {
            let gauge = ConstGauge::new(value);
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 1000 9 25 18446744073709551615";
        let usage = Usage::parse(stat, 1000.0, 100.0, 4096).unwrap();
        assert!((usage.cpu_seconds - 2.0).abs() < 1e-9);
        assert!((usage.started - 1010.0).abs() < 1e-9);
        assert_eq!((usage.threads, usage.resident_bytes), (4, 25 * 4096));
        assert!(Usage::parse("", 0.0, 1.0, 1).is_none());
    }

    #[test]
    fn this_process_uses_memory_and_descriptors() {
        let usage = Usage::now().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.open_fds > 2);
        assert!(usage.max_fds >= usage.open_fds);
    }
}
