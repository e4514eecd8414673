//! Writing limits, in v1's and v2's spellings.

use std::io;

use nix::libc;

use crate::{Dir, Error, Group, Resources, devices, file};

impl Group {
    /// Changes the limits that are given; the others stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is changed, [`Error::NoController`], or
    /// what the kernel refused.
    pub fn update(&self, resources: &Resources) -> Result<(), Error> {
        resources.validate()?;
        self.set_limits(resources)
    }

    pub(crate) fn set_limits(&self, r: &Resources) -> Result<(), Error> {
        self.set_cpu(r)?;
        self.set_memory(r)?;
        if let Some(limit) = r.pids_limit {
            let dir = self.need("pids_limit", "pids")?;
            write(dir, "pids.max", &or_max(limit))?;
        }
        for (field, file, list) in [
            ("cpuset_cpus", "cpuset.cpus", &r.cpuset_cpus),
            ("cpuset_mems", "cpuset.mems", &r.cpuset_mems),
        ] {
            if !list.is_empty() {
                write(self.need(field, "cpuset")?, file, list)?;
            }
        }
        for page in &r.hugepages {
            self.set_hugepage(page)?;
        }
        if let Some(dir) = self.dirs.iter().find(|dir| dir.v2) {
            // On hybrid the v2 directory has no controller's files at all.
            let controllers = file::read(&dir.fd, "cgroup.controllers").unwrap_or_default();
            if !controllers.trim().is_empty() {
                for (name, value) in &r.unified {
                    write(dir, name, value)?;
                }
            }
        }
        if !r.devices.is_empty() {
            self.set_devices(&r.devices)?;
        }
        Ok(())
    }

    fn set_cpu(&self, r: &Resources) -> Result<(), Error> {
        if r.cpu_shares.is_none() && r.cpu_quota.is_none() && r.cpu_period.is_none() {
            return Ok(());
        }
        let dir = self.need("cpu limits", "cpu")?;
        if let Some(shares) = r.cpu_shares {
            if dir.v2 {
                write(dir, "cpu.weight", &weight(shares).to_string())?;
            } else {
                write(dir, "cpu.shares", &shares.to_string())?;
            }
        }
        if dir.v2 {
            if r.cpu_quota.is_some() || r.cpu_period.is_some() {
                let quota = r
                    .cpu_quota
                    .map_or_else(|| first_word(dir, "cpu.max"), |quota| Ok(or_max(quota)))?;
                let period = r.cpu_period.unwrap_or(100_000);
                write(dir, "cpu.max", &format!("{quota} {period}"))?;
            }
            return Ok(());
        }
        // A quota must fit the period that is set at that moment.
        if let Some(period) = r.cpu_period {
            let first = write(dir, "cpu.cfs_period_us", &period.to_string());
            if first.is_err() && r.cpu_quota.is_some() {
                write(dir, "cpu.cfs_quota_us", "-1")?;
                write(dir, "cpu.cfs_period_us", &period.to_string())?;
            } else {
                first?;
            }
        }
        if let Some(quota) = r.cpu_quota {
            write(dir, "cpu.cfs_quota_us", &quota.to_string())?;
        }
        Ok(())
    }

    fn set_memory(&self, r: &Resources) -> Result<(), Error> {
        let given = [r.memory_limit, r.memory_swap_limit, r.memory_reservation];
        if given.iter().all(Option::is_none) {
            return Ok(());
        }
        let dir = self.need("memory limits", "memory")?;
        if dir.v2 {
            if let Some(limit) = r.memory_limit {
                write(dir, "memory.max", &or_max(limit))?;
            }
            if let Some(both) = r.memory_swap_limit {
                let swap = match (both, r.memory_limit) {
                    (-1, _) => -1,
                    (both, Some(memory)) => both - memory,
                    (both, None) => both,
                };
                optional(write(dir, "memory.swap.max", &or_max(swap)))?;
            }
            if let Some(low) = r.memory_reservation {
                write(dir, "memory.low", &or_max(low))?;
            }
            return Ok(());
        }
        if let Some(reservation) = r.memory_reservation {
            write(dir, "memory.soft_limit_in_bytes", &reservation.to_string())?;
        }
        let memory = |value: i64| write(dir, "memory.limit_in_bytes", &value.to_string());
        // Without swap accounting the file is not there.
        let both = |value: i64| {
            optional(write(
                dir,
                "memory.memsw.limit_in_bytes",
                &value.to_string(),
            ))
        };
        match (r.memory_limit, r.memory_swap_limit) {
            (Some(limit), Some(sum)) => {
                // The kernel never lets the sum be below the memory: raise it first,
                // lower it last.
                let now = file::number(&dir.fd, "memory.memsw.limit_in_bytes").unwrap_or(u64::MAX);
                if sum == -1 || u64::try_from(sum).is_ok_and(|sum| sum > now) {
                    both(sum)?;
                    memory(limit)
                } else {
                    memory(limit)?;
                    both(sum)
                }
            }
            (Some(limit), None) => memory(limit),
            (None, Some(sum)) => both(sum),
            (None, None) => Ok(()),
        }
    }

    fn set_hugepage(&self, page: &crate::Hugepage) -> Result<(), Error> {
        // A kubelet sends every size of the node, 0 by default, whether the
        // controller is there or not.
        let Some(dir) = self.with("hugetlb") else {
            return Ok(());
        };
        let name = if dir.v2 {
            format!("hugetlb.{}.max", page.size)
        } else {
            format!("hugetlb.{}.limit_in_bytes", page.size)
        };
        optional(write(dir, &name, &page.limit.to_string()))
    }

    fn set_devices(&self, rules: &[crate::DeviceRule]) -> Result<(), Error> {
        if let Some(dir) = self.with("devices") {
            for (name, line) in devices::v1_lines(rules) {
                write(dir, name, &line)?;
            }
            return Ok(());
        }
        let dir = self
            .dirs
            .iter()
            .find(|dir| dir.v2)
            .ok_or(Error::NoController {
                field: "devices",
                controller: "devices",
            })?;
        devices::attach(&dir.fd, rules).map_err(Error::system("attaching the device program"))
    }

    fn need(&self, field: &'static str, controller: &'static str) -> Result<&Dir, Error> {
        self.with(controller)
            .ok_or(Error::NoController { field, controller })
    }
}

/// v1 counts from 2 to 262,144, v2 from 1 to 10,000 (the conversion that all
/// runtimes share, so that a kubelet's figures mean the same).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn or_max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

fn first_word(dir: &Dir, name: &str) -> Result<String, Error> {
    let text = file::read(&dir.fd, name).map_err(Error::system(format!("reading {name}")))?;
    Ok(text.split_whitespace().next().unwrap_or("max").to_owned())
}

fn write(dir: &Dir, name: &str, value: &str) -> Result<(), Error> {
    file::write(&dir.fd, name, value).map_err(Error::system(format!("setting {name} to {value}")))
}

/// A file that some kernels lack.
fn optional(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::System { source, .. })
            if source.raw_os_error() == Some(libc::ENOENT)
                || source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_every_runtime_converts_them() {
        for (shares, expected) in [(2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected);
        }
    }
}
