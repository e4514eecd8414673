//! The control group of a runtime: everything that it starts is below it, so
//! that one file has the CPU time of all processes, those that have ended too.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_integration::{cgroup, leak::hierarchies};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Until killed processes have been reaped.
const EMPTY: Duration = Duration::from_secs(20);

/// A group of our own; [`Group::clear`] ends what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    name: String,
    /// Where CPU time is counted.
    counted: PathBuf,
}

impl Group {
    /// The group `/NAME` with `daemon` below it, in all hierarchies.
    pub(crate) fn make(name: &str) -> Result<Self> {
        cgroup::make(&format!("/{name}/daemon"))?;
        cgroup::make(&format!("/{name}/pods"))?;
        for hierarchy in hierarchies()? {
            let counted = hierarchy.join(name);
            if counted.join("cpuacct.usage").exists() || counted.join("cpu.stat").exists() {
                let group = Self {
                    name: name.to_owned(),
                    counted,
                };
                // The empty v2 of a hybrid machine counts as well, but v1's
                // controllers are where the runtimes put their containers.
                if group.counted.join("cpuacct.usage").exists() || is_unified()? {
                    return Ok(group);
                }
            }
        }
        bail!("no control group counts CPU time here")
    }

    /// The file through which a process joins the daemon's part.
    pub(crate) fn door(&self) -> PathBuf {
        self.counted.join("daemon/cgroup.procs")
    }

    /// Moves a daemon and what it has started already into the group: the
    /// launcher, above all, whose children the shims are.
    pub(crate) fn admit(&self, daemon: u32) -> Result<()> {
        let mut family = vec![daemon];
        // Grows while it is walked: children of children.
        let mut next = 0;
        while let Some(pid) = family.get(next).copied() {
            fs::write(self.door(), pid.to_string())?;
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                // A thread may have ended meanwhile.
                let children = fs::read_to_string(thread?.path().join("children"));
                let children = children.unwrap_or_default();
                let children = children.split_whitespace().map(str::parse);
                family.extend(children.collect::<Result<Vec<u32>, _>>()?);
            }
            next += 1;
        }
        Ok(())
    }

    /// The value for the pods' `cgroup_parent`.
    pub(crate) fn parent(&self) -> String {
        format!("/{}/pods", self.name)
    }

    /// CPU time of all processes so far, in milliseconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        if let Ok(text) = fs::read_to_string(self.counted.join("cpuacct.usage")) {
            return Ok(text.trim().parse::<u64>()? as f64 / 1e6);
        }
        let text = fs::read_to_string(self.counted.join("cpu.stat"))?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        Ok(line
            .context("cpu.stat without usage_usec")?
            .parse::<f64>()?
            / 1e3)
    }

    /// All processes that are counted.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        below(&self.counted, &mut |group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        });
        found
    }

    /// Proportional and private memory in KiB of the processes, by their name.
    pub(crate) fn memory(&self) -> BTreeMap<String, (f64, f64)> {
        let mut sums = BTreeMap::new();
        for pid in self.processes() {
            // A process may have ended meanwhile.
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let (Ok(name), Ok(rollup)) = (read("comm"), read("smaps_rollup")) else {
                continue;
            };
            let field = |key: &str| -> f64 {
                let line = rollup.lines().find_map(|line| line.strip_prefix(key));
                line.and_then(|rest| rest.split_whitespace().next())
                    .and_then(|number| number.parse().ok())
                    .unwrap_or_default()
            };
            let sum: &mut (f64, f64) = sums.entry(name.trim().to_owned()).or_default();
            sum.0 += field("Pss:");
            sum.1 += field("Private_Clean:") + field("Private_Dirty:");
        }
        sums
    }

    /// Moves the processes that are left, the agent above all, out of the group.
    pub(crate) fn leave(&self) -> Result<()> {
        let top = self.counted.parent().context("no hierarchy above")?;
        for pid in self.processes() {
            // Ended already: it is out.
            drop(fs::write(top.join("cgroup.procs"), pid.to_string()));
        }
        Ok(())
    }

    /// Kills everything in the group and removes it.
    pub(crate) fn clear(&self) -> Result<()> {
        let end = Instant::now() + EMPTY;
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            ensure!(Instant::now() < end, "{processes:?} do not end");
            for pid in processes {
                ensure!(
                    pid != i32::try_from(process::id())?,
                    "this is our own group"
                );
                // Ended already: nothing to kill.
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            sleep(Duration::from_millis(20));
        }
        for hierarchy in hierarchies()? {
            let mut groups = Vec::new();
            below(&hierarchy.join(&self.name), &mut |group| {
                groups.push(group.to_owned());
            });
            for group in groups.iter().rev() {
                loop {
                    match fs::remove_dir(group) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            ensure!(Instant::now() < end, "remove {}: {error}", group.display());
                            sleep(Duration::from_millis(20));
                        }
                        _ => break,
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_unified() -> Result<bool> {
    let v1 = hierarchies()?;
    Ok(!v1.iter().any(|at| at.join("cpuacct.usage").exists()))
}

/// The group and those below it, parents first. They come and go meanwhile.
fn below(group: &Path, visit: &mut impl FnMut(&Path)) {
    if !group.is_dir() {
        return;
    }
    visit(group);
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), visit);
        }
    }
}
