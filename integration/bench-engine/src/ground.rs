//! The control groups in which everything runs: one file has the CPU time of all
//! processes, those that have ended too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use berth_integration::{cgroup, leak::hierarchies};

/// Groups of our own. This program is in one of them while it measures, since the
/// client of a shim is a part of what a container costs.
#[derive(Debug)]
pub(crate) struct Ground {
    name: String,
    /// The top group where CPU time is counted.
    counted: PathBuf,
    /// Where this program came from.
    home: PathBuf,
}

impl Ground {
    pub(crate) fn make() -> Result<Self> {
        let name = format!("berth-bench-engine-{}", std::process::id());
        cgroup::make(&format!("/{name}/self"))?;
        cgroup::make(&format!("/{name}/pods"))?;
        let (counted, home) = counting(&name)?;
        fs::write(counted.join("self/cgroup.procs"), "0").context("enter the group")?;
        Ok(Self {
            name,
            counted,
            home,
        })
    }

    /// The group of container `id`, as a specification names it.
    pub(crate) fn group(&self, id: &str) -> String {
        format!("/{}/pods/{id}", self.name)
    }

    /// The same as directories, that of v2 marked with a `+`.
    pub(crate) fn directories(&self, id: &str) -> Result<Vec<String>> {
        let group = self.group(id);
        let directory = |mount: PathBuf| {
            let v2 = mount.join("cgroup.controllers").exists();
            format!("{}{}{group}", if v2 { "+" } else { "" }, mount.display())
        };
        Ok(hierarchies()?.into_iter().map(directory).collect())
    }

    /// CPU time of all processes so far, in milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn cpu(&self) -> Result<f64> {
        if let Ok(text) = fs::read_to_string(self.counted.join("cpuacct.usage")) {
            return Ok(text.trim().parse::<u64>()? as f64 / 1e6);
        }
        let text = fs::read_to_string(self.counted.join("cpu.stat"))?;
        let usage = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        Ok(usage
            .context("cpu.stat without usage_usec")?
            .parse::<f64>()?
            / 1e3)
    }

    /// Leaves the groups and removes them.
    pub(crate) fn clear(self) -> Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0").context("leave the group")?;
        for part in ["/self", "/pods", ""] {
            cgroup::remove(&format!("/{}{part}", self.name))?;
        }
        Ok(())
    }
}

/// The hierarchy that counts: our group in it, and the one that this program is in.
fn counting(name: &str) -> Result<(PathBuf, PathBuf)> {
    let memberships = fs::read_to_string("/proc/self/cgroup")?;
    for mount in hierarchies()? {
        let counted = mount.join(name);
        let v1 = counted.join("cpuacct.usage").exists();
        // The empty v2 of a hybrid machine counts as well, but not for v1's groups.
        let v2 = !v1 && counted.join("cpu.stat").exists() && !is_hybrid()?;
        let line = memberships.lines().find(|line| {
            let mut fields = line.split(':').skip(1);
            let controllers = fields.next().unwrap_or_default();
            (v1 && controllers.split(',').any(|one| one == "cpuacct"))
                || (v2 && controllers.is_empty())
        });
        if let Some(path) = line.and_then(|line| line.splitn(3, ':').nth(2)) {
            let home = mount.join(path.trim_start_matches('/'));
            return Ok((counted, home));
        }
    }
    bail!("no control group counts CPU time here")
}

fn is_hybrid() -> Result<bool> {
    let v1 = |at: &Path| at.join("cpuacct.usage").exists();
    Ok(hierarchies()?.iter().any(|at| v1(at)))
}
