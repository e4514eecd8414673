//! A flame graph of a suite while Berth is measured, by `perf`.
//!
//! The clock is `cpu-clock`, a timer: virtual machines often cannot count
//! hardware events. All processors are sampled, and only those stacks are kept
//! that belong to Berth's programs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::flame;

/// Samples in a second and processor; not a divisor of common timers.
const RATE: &str = "997";

/// Samples of one suite.
#[derive(Debug)]
pub(crate) struct Profile {
    directory: PathBuf,
    name: String,
    running: Option<Child>,
    folded: BTreeMap<String, u64>,
}

impl Profile {
    pub(crate) fn new(directory: PathBuf, name: &str) -> Result<Self> {
        let there = Command::new("perf")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        ensure!(
            there.is_ok_and(|status| status.success()),
            "perf is missing: install linux-perf"
        );
        fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            running: None,
            folded: BTreeMap::new(),
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.join("perf.data")
    }

    /// Begins to sample.
    pub(crate) fn begin(&mut self) -> Result<()> {
        let log = File::create(self.directory.join("perf.log"))?;
        let child = Command::new("perf")
            .args(["record", "-q", "-a", "-e", "cpu-clock", "-F", RATE])
            .args(["--call-graph", "fp", "-o"])
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start perf")?;
        self.running = Some(child);
        // It has no other way to say that it samples.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Ok(())
    }

    /// Ends sampling, if it runs, and keeps what was seen.
    pub(crate) fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.running.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        child.wait()?;
        let output = Command::new("perf")
            .args(["script", "-F", "comm,ip,sym", "-i"])
            .arg(self.data())
            .stderr(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "perf script: {}", output.status);
        flame::fold(&String::from_utf8_lossy(&output.stdout), &mut self.folded);
        fs::remove_file(self.data())?;
        Ok(())
    }

    /// Writes the folded stacks and the picture; their path without extension.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let base = self.directory.join(&self.name);
        let lines: Vec<String> = self
            .folded
            .iter()
            .map(|(stack, count)| format!("{stack} {count}\n"))
            .collect();
        fs::write(base.with_extension("folded"), lines.concat())?;
        fs::write(
            base.with_extension("svg"),
            flame::draw(&self.name, &self.folded),
        )?;
        Ok(base)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // Ended already: nothing to kill.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
