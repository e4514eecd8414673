//! What a group uses.

use crate::{Group, apply::NO_LIMIT, file};

/// Use of a group at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// CPU time in nanoseconds of one core.
    pub cpu_usage_ns: u64,
    /// Of it in user mode.
    pub cpu_user_ns: u64,
    /// Of it in the kernel.
    pub cpu_system_ns: u64,
    /// Periods in which a quota was in force.
    pub cpu_periods: u64,
    /// Of them those in which it was used up.
    pub cpu_throttled_periods: u64,
    /// Time for which it was held back, in nanoseconds.
    pub cpu_throttled_ns: u64,
    /// Bytes, page cache included.
    pub memory_usage: u64,
    /// Bytes without the page cache that can be dropped at once.
    pub memory_working_set: u64,
    /// Bytes of anonymous memory.
    pub memory_rss: u64,
    /// Bytes; none if unlimited.
    pub memory_limit: Option<u64>,
    /// Bytes of swap; none without swap accounting.
    pub swap_usage: Option<u64>,
    /// Page faults.
    pub page_faults: u64,
    /// Of them those that read from disk.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Their limit; none if unlimited.
    pub pids_limit: Option<u64>,
    /// Limit of swap in bytes; none if unlimited or not accounted.
    pub swap_limit: Option<u64>,
    /// Time lost for want of CPU; none where the kernel does not measure it.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost for want of memory; likewise.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for input and output; likewise.
    pub io_pressure: Option<Pressure>,
}

/// Time lost while waiting for one resource. Source: the kernel's `accounting/psi`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// While some tasks waited.
    pub some: Stall,
    /// While all of them did.
    pub full: Stall,
}

/// Share of time, in percent over three windows, and the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Over 10 seconds.
    pub avg10: f64,
    /// Over 60 seconds.
    pub avg60: f64,
    /// Over 300 seconds.
    pub avg300: f64,
    /// Nanoseconds since the group was made.
    pub total_ns: u64,
}

impl Group {
    /// Reads what it uses. What the node does not account is 0 or none.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.read_cpu(&mut stats);
        self.read_memory(&mut stats);
        if let Some(dir) = self.with("pids") {
            stats.pids = file::number(&dir.fd, "pids.current").unwrap_or(0);
            stats.pids_limit = file::number(&dir.fd, "pids.max");
        }
        if let Some(dir) = self.v2() {
            // Also on a hybrid node: these need no controller.
            let pressure = |name| file::read(&dir.fd, name).ok().and_then(|text| parse(&text));
            stats.cpu_pressure = pressure("cpu.pressure");
            stats.memory_pressure = pressure("memory.pressure");
            stats.io_pressure = pressure("io.pressure");
        }
        stats
    }

    fn read_cpu(&self, stats: &mut Stats) {
        let v1 = |name: &str| self.dirs.iter().find(|dir| !dir.v2 && dir.has(name));
        if let Some(dir) = v1("cpuacct") {
            let number = |name| file::number(&dir.fd, name).unwrap_or(0);
            stats.cpu_usage_ns = number("cpuacct.usage");
            stats.cpu_user_ns = number("cpuacct.usage_user");
            stats.cpu_system_ns = number("cpuacct.usage_sys");
        }
        if let Some(dir) = v1("cpu") {
            let text = file::read(&dir.fd, "cpu.stat").unwrap_or_default();
            let keyed = |key| file::keyed(&text, key).unwrap_or(0);
            stats.cpu_periods = keyed("nr_periods");
            stats.cpu_throttled_periods = keyed("nr_throttled");
            stats.cpu_throttled_ns = keyed("throttled_time");
            return;
        }
        let Some(dir) = self.dirs.iter().find(|dir| dir.v2) else {
            return;
        };
        let text = file::read(&dir.fd, "cpu.stat").unwrap_or_default();
        // Microseconds there.
        let keyed = |key| file::keyed(&text, key).unwrap_or(0);
        stats.cpu_usage_ns = keyed("usage_usec").saturating_mul(1000);
        stats.cpu_user_ns = keyed("user_usec").saturating_mul(1000);
        stats.cpu_system_ns = keyed("system_usec").saturating_mul(1000);
        stats.cpu_periods = keyed("nr_periods");
        stats.cpu_throttled_periods = keyed("nr_throttled");
        stats.cpu_throttled_ns = keyed("throttled_usec").saturating_mul(1000);
    }

    fn read_memory(&self, stats: &mut Stats) {
        let Some(dir) = self.with("memory") else {
            return;
        };
        let number = |name| file::number(&dir.fd, name);
        let text = file::read(&dir.fd, "memory.stat").unwrap_or_default();
        let keyed = |key| file::keyed(&text, key).unwrap_or(0);
        let inactive = if dir.v2 {
            stats.memory_usage = number("memory.current").unwrap_or(0);
            stats.memory_limit = number("memory.max");
            stats.memory_rss = keyed("anon");
            stats.swap_usage = number("memory.swap.current");
            stats.swap_limit = number("memory.swap.max");
            stats.page_faults = keyed("pgfault");
            stats.major_page_faults = keyed("pgmajfault");
            keyed("inactive_file")
        } else {
            stats.memory_usage = number("memory.usage_in_bytes").unwrap_or(0);
            stats.memory_limit = number("memory.limit_in_bytes").filter(|&l| l < NO_LIMIT);
            stats.memory_rss = keyed("total_rss");
            // The sum file also counts memory.
            stats.swap_usage = number("memory.memsw.usage_in_bytes")
                .map(|both| both.saturating_sub(stats.memory_usage));
            let both = number("memory.memsw.limit_in_bytes").filter(|&limit| limit < NO_LIMIT);
            stats.swap_limit = both
                .zip(stats.memory_limit)
                .map(|(both, memory)| both.saturating_sub(memory));
            stats.page_faults = keyed("total_pgfault");
            stats.major_page_faults = keyed("total_pgmajfault");
            keyed("total_inactive_file")
        };
        stats.memory_working_set = stats.memory_usage.saturating_sub(inactive);
    }
}

/// None where pressure is not measured: reading fails, or the file is empty.
fn parse(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let (kind, values) = line.split_once(' ')?;
        let stall = match kind {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for value in values.split(' ') {
            let (name, number) = value.split_once('=')?;
            match name {
                "avg10" => stall.avg10 = number.parse().ok()?,
                "avg60" => stall.avg60 = number.parse().ok()?,
                "avg300" => stall.avg300 = number.parse().ok()?,
                // Microseconds there.
                "total" => stall.total_ns = number.parse::<u64>().ok()?.saturating_mul(1000),
                _ => {}
            }
        }
    }
    (!text.trim().is_empty()).then_some(pressure)
}
