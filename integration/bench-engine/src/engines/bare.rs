//! The bare C program.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Engine, Exec, Life, Watch};
use crate::{Setting, process};

#[derive(Debug)]
pub(crate) struct Bare<'a> {
    setting: &'a Setting,
    settled: Option<(Child, i32)>,
}

impl<'a> Bare<'a> {
    pub(crate) fn new(setting: &'a Setting) -> Self {
        Self {
            setting,
            settled: None,
        }
    }

    fn command(&self, verb: &str, target: &str, program: &str, id: &str) -> Result<Command> {
        let bundle = &self.setting.bundle;
        let mut command = Command::new(&bundle.bare);
        command
            .args([verb, target])
            .arg(&bundle.filter)
            .arg(program)
            .args(self.setting.ground.directories(id)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }

    fn run(&self, program: &str, id: &str) -> Result<Command> {
        let rootfs = self.setting.bundle.rootfs();
        let rootfs = rootfs.to_str().context("a path that is not UTF-8")?;
        self.command("run", rootfs, program, id)
    }
}

impl Engine for Bare<'_> {
    fn name(&self) -> &'static str {
        "bare C"
    }

    fn life(&mut self) -> Result<Life> {
        let mut command = self.run("/bin/true", "bare")?;
        let mut watch = Watch::start();
        let status = command.status().context("run the bare program")?;
        let whole = watch.lap();
        ensure!(status.success(), "the bare program ended with {status}");
        Ok(Life {
            whole,
            ..Life::default()
        })
    }

    fn settle(&mut self) -> Result<()> {
        let child = self.run("/bin/pause", "bare-exec")?.spawn()?;
        let init = process::child_that_executes(child.id(), "pause")?;
        self.settled = Some((child, init));
        Ok(())
    }

    fn exec(&mut self) -> Result<Exec> {
        let (_, init) = self.settled.as_ref().context("nothing runs")?;
        let mut command = self.command("exec", &init.to_string(), "/bin/true", "bare-exec")?;
        let mut watch = Watch::start();
        let status = command.status().context("run the bare program")?;
        let ended = watch.lap();
        ensure!(status.success(), "the bare exec ended with {status}");
        Ok(Exec {
            running: None,
            ended,
        })
    }

    fn unsettle(&mut self) -> Result<()> {
        if let Some((mut child, init)) = self.settled.take() {
            process::kill(init)?;
            child.wait()?;
        }
        Ok(())
    }
}
