//! What a group uses.

use crate::{Group, file};

/// A limit above this is none: v1 shows the largest page-aligned number.
const UNLIMITED: u64 = 1 << 62;

/// Use of a group at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
            stats.page_faults = keyed("pgfault");
            stats.major_page_faults = keyed("pgmajfault");
            keyed("inactive_file")
        } else {
            stats.memory_usage = number("memory.usage_in_bytes").unwrap_or(0);
            stats.memory_limit = number("memory.limit_in_bytes").filter(|&l| l < UNLIMITED);
            stats.memory_rss = keyed("total_rss");
            // The sum file also counts memory.
            stats.swap_usage = number("memory.memsw.usage_in_bytes")
                .map(|both| both.saturating_sub(stats.memory_usage));
            stats.page_faults = keyed("total_pgfault");
            stats.major_page_faults = keyed("total_pgmajfault");
            keyed("total_inactive_file")
        };
        stats.memory_working_set = stats.memory_usage.saturating_sub(inactive);
    }
}
