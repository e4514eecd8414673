//! Limits as the CRI and the OCI runtime specification name them, checked before
//! any is written.

use crate::{
    BlockIo, DeviceRule, Error,
    cpulist::{self, possible_cpus, possible_mems},
    devices::Table,
};

/// The kernel's bounds of `cpu.shares`.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// The kernel's bounds of a CFS period in microseconds.
const PERIOD: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// The kernel's bounds of a CFS quota in microseconds (`max_cfs_runtime`).
const QUOTA: std::ops::RangeInclusive<i64> = 1_000..=(1 << 44) - 1;
/// A process cannot be executed at all in less memory than this; the kernel would
/// take it and kill the container's init before its first instruction.
const LEAST_MEMORY: i64 = 512 * 1024;
/// PID_MAX_LIMIT, the most that `pids.max` takes.
const MOST_PIDS: i64 = 4 * 1024 * 1024;
/// Most bytes of a value in `unified`; the kernel takes a page at most.
const MAX_VALUE: usize = 4095;
/// Most entries of `unified` and `hugepages`: there are not that many files.
const MAX_ENTRIES: usize = 256;

/// Limits of a group. `None` and empty mean "not given": an update leaves it as it
/// is, a creation at the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Weight against siblings, 2 to 262144; 1024 is the default.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time per period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds, 1000 to 1000000.
    pub cpu_period: Option<u64>,
    /// Microseconds of unused quota that may be spent later; at most the quota.
    pub cpu_burst: Option<u64>,
    /// Runs only when nothing else wants to (SCHED_IDLE).
    pub cpu_idle: Option<bool>,
    /// Period of real-time processes in microseconds (v1 only).
    pub cpu_rt_period: Option<u64>,
    /// CPU time of real-time processes in each such period (v1 only); -1 for no limit.
    pub cpu_rt_runtime: Option<i64>,
    /// Bytes; -1 for no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap_limit: Option<i64>,
    /// Bytes that are spared while memory is short (v1 soft limit, v2 `memory.low`).
    pub memory_reservation: Option<i64>,
    /// Most processes and threads; -1 for no limit.
    pub pids_limit: Option<i64>,
    /// CPUs, such as `0-3,8`.
    pub cpuset_cpus: String,
    /// Memory nodes, in the same form.
    pub cpuset_mems: String,
    /// Limits of huge pages; left out where the kernel does not account them.
    pub hugepages: Vec<Hugepage>,
    /// Block devices.
    pub block_io: BlockIo,
    /// v2 files and values, written last and in this order; ignored on v1, and on a
    /// hybrid node whose controller is in v1.
    pub unified: Vec<(String, String)>,
    /// Devices, later rules winning; what no rule names is denied. Empty: not restricted.
    pub devices: Vec<DeviceRule>,
}

/// A limit of huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hugepage {
    /// As the kernel spells it: `2MB`, `1GB`.
    pub size: String,
    /// Bytes.
    pub limit: u64,
}

impl Resources {
    /// The weight of the CPU shares in v2's unit.
    #[must_use]
    pub fn cpu_weight(&self) -> Option<u64> {
        self.cpu_shares.map(crate::limits::weight)
    }

    /// Checks every value against what the kernel of this node can take.
    ///
    /// # Errors
    /// [`Error::Invalid`] with field, value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        self.check(possible_cpus(), possible_mems())
    }

    fn check(&self, cpus: u32, mems: u32) -> Result<(), Error> {
        if let Some(shares) = self.cpu_shares
            && !SHARES.contains(&shares)
        {
            return Err(Error::invalid("cpu_shares", shares, "2 to 262144"));
        }
        if let Some(period) = self.cpu_period
            && !PERIOD.contains(&period)
        {
            return Err(Error::invalid("cpu_period", period, "1000 to 1000000 µs"));
        }
        if let Some(quota) = self.cpu_quota
            && quota != -1
            && !QUOTA.contains(&quota)
        {
            let allowed = format!("-1, or {} to {} µs", QUOTA.start(), QUOTA.end());
            return Err(Error::invalid("cpu_quota", quota, allowed));
        }
        if let (Some(burst), Some(quota)) = (self.cpu_burst, self.cpu_quota)
            && u64::try_from(quota).is_ok_and(|quota| burst > quota)
        {
            let allowed = format!("at most the quota ({quota} µs)");
            return Err(Error::invalid("cpu_burst", burst, allowed));
        }
        if let Some(runtime) = self.cpu_rt_runtime
            && runtime < -1
        {
            let allowed = "-1, or microseconds";
            return Err(Error::invalid("cpu_rt_runtime", runtime, allowed));
        }
        self.block_io.check()?;
        self.check_memory()?;
        if let Some(limit) = self.pids_limit
            && limit != -1
            && !(1..=MOST_PIDS).contains(&limit)
        {
            let allowed = format!("-1, or 1 to {MOST_PIDS}");
            return Err(Error::invalid("pids_limit", limit, allowed));
        }
        for (field, list, bound) in [
            ("cpuset_cpus", &self.cpuset_cpus, cpus),
            ("cpuset_mems", &self.cpuset_mems, mems),
        ] {
            if !list.is_empty() {
                cpulist::parse(list, bound)
                    .map_err(|allowed| Error::invalid(field, shorten(list), allowed))?;
            }
        }
        self.check_hugepages()?;
        self.check_unified()?;
        Table::from_rules(&self.devices).map(drop)
    }

    fn check_memory(&self) -> Result<(), Error> {
        let at_least = || format!("-1, or at least {LEAST_MEMORY} bytes");
        for (field, value) in [
            ("memory_limit", self.memory_limit),
            ("memory_swap_limit", self.memory_swap_limit),
        ] {
            if let Some(value) = value
                && value != -1
                && value < LEAST_MEMORY
            {
                return Err(Error::invalid(field, value, at_least()));
            }
        }
        if let Some(value) = self.memory_reservation
            && value < -1
        {
            let allowed = "-1, or a number of bytes";
            return Err(Error::invalid("memory_reservation", value, allowed));
        }
        match (self.memory_limit, self.memory_swap_limit) {
            (Some(limit), Some(both)) if both != -1 && (limit == -1 || both < limit) => {
                let allowed = if limit == -1 {
                    "-1 while memory_limit is -1".to_owned()
                } else {
                    format!("-1, or at least memory_limit ({limit} bytes)")
                };
                Err(Error::invalid("memory_swap_limit", both, allowed))
            }
            _ => Ok(()),
        }
    }

    fn check_hugepages(&self) -> Result<(), Error> {
        check_count("hugepages", self.hugepages.len())?;
        for Hugepage { size, .. } in &self.hugepages {
            let (digits, unit) = size.split_at(size.len().saturating_sub(2));
            let number = digits.len() <= 4
                && !digits.starts_with('0')
                && !digits.is_empty()
                && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !number || !matches!(unit, "KB" | "MB" | "GB") {
                let allowed = "a size such as 2MB";
                return Err(Error::invalid("hugepages", shorten(size), allowed));
            }
        }
        Ok(())
    }

    fn check_unified(&self) -> Result<(), Error> {
        check_count("unified", self.unified.len())?;
        for (key, value) in &self.unified {
            // `cgroup.procs` would move processes, `cgroup.subtree_control` change others.
            let plain = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_')
            };
            // Huge page files have an upper-case unit in their names.
            let huge =
                |byte: u8| key.starts_with("hugetlb.") && matches!(byte, b'K' | b'M' | b'G' | b'B');
            let parts = key.split('.').count() >= 2 && !key.split('.').any(str::is_empty);
            let sound = parts && key.len() <= 64 && key.bytes().all(|b| plain(b) || huge(b));
            if !sound || key.starts_with("cgroup.") {
                let allowed = "controllers' files such as memory.high";
                return Err(Error::invalid("unified", shorten(key), allowed));
            }
            let control = value.bytes().any(|byte| byte < b' ' && byte != b'\n');
            if value.is_empty() || value.len() > MAX_VALUE || control {
                let allowed = format!("1 to {MAX_VALUE} bytes without control characters");
                return Err(Error::invalid(
                    format!("unified.{key}"),
                    shorten(value),
                    allowed,
                ));
            }
        }
        Ok(())
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), Error> {
    if count > MAX_ENTRIES {
        let allowed = format!("at most {MAX_ENTRIES} entries");
        return Err(Error::invalid(field, format!("{count} entries"), allowed));
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Resources)) -> String {
        let mut resources = Resources::default();
        change(&mut resources);
        match resources.check(4, 1) {
            Err(Error::Invalid { field, allowed, .. }) => {
                assert!(!allowed.is_empty());
                field.into_owned()
            }
            other => panic!("{resources:?} gave {other:?}"),
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_by_name() {
        for shares in [0, 1, 262_145, u64::MAX] {
            assert_eq!(refused(|r| r.cpu_shares = Some(shares)), "cpu_shares");
        }
        for quota in [-2, 0, 1, 999, i64::MAX, i64::MIN] {
            assert_eq!(refused(|r| r.cpu_quota = Some(quota)), "cpu_quota");
        }
        for period in [0, 999, 1_000_001, u64::MAX] {
            assert_eq!(refused(|r| r.cpu_period = Some(period)), "cpu_period");
        }
        for memory in [0, 1, -2, i64::MIN, LEAST_MEMORY - 1] {
            assert_eq!(refused(|r| r.memory_limit = Some(memory)), "memory_limit");
            assert_eq!(
                refused(|r| r.memory_swap_limit = Some(memory)),
                "memory_swap_limit"
            );
        }
        for pids in [0, -2, MOST_PIDS + 1, i64::MAX, i64::MIN] {
            assert_eq!(refused(|r| r.pids_limit = Some(pids)), "pids_limit");
        }
        for list in [",", "4", "0-4294967295", "1-0", "0,,1"] {
            assert_eq!(refused(|r| r.cpuset_cpus = list.to_owned()), "cpuset_cpus");
        }
        assert_eq!(refused(|r| r.cpuset_mems = "1".to_owned()), "cpuset_mems");
    }

    #[test]
    fn memory_and_swap_together_are_no_less_than_memory() {
        let set = |limit, both| {
            move |r: &mut Resources| {
                r.memory_limit = Some(limit);
                r.memory_swap_limit = Some(both);
            }
        };
        assert_eq!(refused(set(1 << 20, (1 << 20) - 1)), "memory_swap_limit");
        assert_eq!(refused(set(-1, 1 << 20)), "memory_swap_limit");
        let mut fine = Resources::default();
        set(1 << 20, 1 << 20)(&mut fine);
        assert!(fine.check(4, 1).is_ok());
    }

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        for bad in [
            "", "MB", "2", "2mb", "2 MB", "../2MB", "02MB", "99999MB", "ä",
        ] {
            let size = bad.to_owned();
            let limit = Hugepage { size, limit: 0 };
            assert_eq!(
                refused(|r| r.hugepages = vec![limit]),
                "hugepages",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn unified_keys_name_controllers_files_only() {
        for bad in [
            "",
            "memory",
            "cgroup.procs",
            "cgroup.subtree_control",
            "../memory.max",
            "memory.max/x",
            "memory..max",
            ".max",
            "Memory.max",
            "memory.max\0",
        ] {
            let entry = (bad.to_owned(), "1".to_owned());
            assert_eq!(refused(|r| r.unified = vec![entry]), "unified", "{bad:?}");
        }
        let entry = ("memory.high".to_owned(), "1\0".to_owned());
        assert_eq!(refused(|r| r.unified = vec![entry]), "unified.memory.high");
        let mut fine = Resources::default();
        for key in [
            "memory.oom.group",
            "io.max",
            "hugetlb.2MB.max",
            "cpu.uclamp.min",
        ] {
            fine.unified.push((key.to_owned(), "1".to_owned()));
        }
        assert!(fine.check(4, 1).is_ok());
    }
}
