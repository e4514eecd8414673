//! Limits as plain values.

use crate::{DeviceRule, Error};

/// Limits of a group. None, 0 and empty mean "not given", unless a field says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight, 2 to 262,144 (v1's unit, converted on v2).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period; -1 for no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds, 1,000 to 1,000,000.
    pub cpu_period: Option<u64>,
    /// Bytes; -1 for no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap_limit: Option<i64>,
    /// Bytes; what is kept under pressure.
    pub memory_reservation: Option<i64>,
    /// Processes and threads; -1 for no limit.
    pub pids_limit: Option<i64>,
    /// As cpuset(7) lists them: `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes, likewise.
    pub cpuset_mems: String,
    /// Limits of huge pages.
    pub hugepages: Vec<Hugepage>,
    /// v2 files and values, written last; ignored on v1.
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

/// Less is refused by the kernel in ways that nobody understands: no program starts in 4 KiB.
const LEAST_MEMORY: i64 = 512 * 1024;

impl Resources {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Invalid`] with field, value and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        if let Some(shares) = self.cpu_shares
            && !(2..=262_144).contains(&shares)
        {
            return Err(invalid("cpu_shares", shares, "2 to 262144"));
        }
        if let Some(period) = self.cpu_period
            && !(1_000..=1_000_000).contains(&period)
        {
            return Err(invalid(
                "cpu_period",
                period,
                "1000 to 1000000 microseconds",
            ));
        }
        if let Some(quota) = self.cpu_quota
            && quota != -1
            && quota < 1_000
        {
            return Err(invalid(
                "cpu_quota",
                quota,
                "-1 or at least 1000 microseconds",
            ));
        }
        for (field, value) in [
            ("memory_limit", self.memory_limit),
            ("memory_swap_limit", self.memory_swap_limit),
        ] {
            if let Some(value) = value
                && value != -1
                && value < LEAST_MEMORY
            {
                return Err(invalid(field, value, "-1 or at least 524288 bytes"));
            }
        }
        if let (Some(memory), Some(both)) = (self.memory_limit, self.memory_swap_limit)
            && both != -1
            && (memory == -1 || both < memory)
        {
            return Err(invalid(
                "memory_swap_limit",
                both,
                "-1 or at least memory_limit, since it counts memory and swap together",
            ));
        }
        if let Some(limit) = self.pids_limit
            && (limit == 0 || limit < -1)
        {
            return Err(invalid("pids_limit", limit, "-1 or at least 1"));
        }
        for (field, list) in [
            ("cpuset_cpus", &self.cpuset_cpus),
            ("cpuset_mems", &self.cpuset_mems),
        ] {
            if !is_list(list) {
                return Err(invalid(field, format!("{list:?}"), "a list such as 0-3,7"));
            }
        }
        for page in &self.hugepages {
            let known = page.size.len() <= 8
                && page.size.ends_with("B")
                && page.size.bytes().all(|b| b.is_ascii_alphanumeric());
            if !known {
                return Err(invalid(
                    "hugepage size",
                    format!("{:?}", page.size),
                    "such as 2MB",
                ));
            }
        }
        for (name, value) in &self.unified {
            let plain = !name.is_empty()
                && name.contains('.')
                && !name.starts_with("cgroup.")
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
                && !value.bytes().any(|b| b == 0);
            if !plain {
                return Err(invalid(
                    "unified",
                    format!("{name:?}"),
                    "the name of a controller's file, such as memory.high",
                ));
            }
        }
        Ok(())
    }
}

fn invalid(field: &'static str, value: impl ToString, allowed: &'static str) -> Error {
    Error::Invalid {
        field,
        value: value.to_string(),
        allowed,
    }
}

/// Numbers and ranges, ascending within a range. Longer lists than any machine
/// has CPUs are refused before the kernel has to parse them.
fn is_list(list: &str) -> bool {
    let number = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|&n| n < 8192 && !text.starts_with('+'))
    };
    list.len() < 4096
        && (list.is_empty()
            || list.split(',').all(|part| match part.split_once('-') {
                Some((from, to)) => match (number(from), number(to)) {
                    (Some(from), Some(to)) => from <= to,
                    _ => false,
                },
                None => number(part).is_some(),
            }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named_with_what_is_allowed() {
        let base = Resources::default;
        for (resources, field) in [
            (
                Resources {
                    cpu_shares: Some(1),
                    ..base()
                },
                "cpu_shares",
            ),
            (
                Resources {
                    cpu_period: Some(5),
                    ..base()
                },
                "cpu_period",
            ),
            (
                Resources {
                    cpu_quota: Some(0),
                    ..base()
                },
                "cpu_quota",
            ),
            (
                Resources {
                    memory_limit: Some(4096),
                    ..base()
                },
                "memory_limit",
            ),
            (
                Resources {
                    pids_limit: Some(0),
                    ..base()
                },
                "pids_limit",
            ),
            (
                Resources {
                    cpuset_cpus: "3-1".into(),
                    ..base()
                },
                "cpuset_cpus",
            ),
            (
                Resources {
                    cpuset_mems: "0\n1".into(),
                    ..base()
                },
                "cpuset_mems",
            ),
            (
                Resources {
                    memory_limit: Some(2 << 20),
                    memory_swap_limit: Some(1 << 20),
                    ..base()
                },
                "memory_swap_limit",
            ),
            (
                Resources {
                    unified: vec![("../x".into(), "1".into())],
                    ..base()
                },
                "unified",
            ),
            (
                Resources {
                    unified: vec![("cgroup.procs".into(), "1".into())],
                    ..base()
                },
                "unified",
            ),
        ] {
            let error = resources.validate().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
        assert!(base().validate().is_ok());
        assert!(
            is_list("0-3,7") && is_list("") && !is_list("a") && !is_list("+1") && !is_list("1,")
        );
    }
}
