//! Engines behind the command line of an OCI runtime.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Engine, Exec, Life, Watch};
use crate::{Setting, hidden::Hidden, process};

pub(crate) struct CommandLine<'a> {
    name: &'static str,
    program: PathBuf,
    setting: &'a Setting,
    /// A place from which it sees no v2 hierarchy beside v1's.
    hidden: Option<Hidden>,
    settled: Option<i32>,
}

impl<'a> CommandLine<'a> {
    pub(crate) fn new(
        name: &'static str,
        program: PathBuf,
        setting: &'a Setting,
        hidden: Option<Hidden>,
    ) -> Self {
        Self {
            name,
            program,
            setting,
            hidden,
            settled: None,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(self.setting.bundle.dir.join(self.name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let output = match &self.hidden {
            Some(hidden) => hidden.enter(|| Ok(command.spawn()?.wait_with_output()?))?,
            None => command.spawn()?.wait_with_output()?,
        };
        ensure!(
            output.status.success(),
            "{} {:?}: {}: {}",
            self.name,
            command.get_args(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn verb(&self, arguments: &[&str]) -> Result<()> {
        self.run(&mut self.command(arguments))
    }

    /// As a caller of an OCI runtime does it; the init's pid.
    fn create(&self, id: &str) -> Result<i32> {
        let pid_file = self.pid_file();
        let bundle = &self.setting.bundle;
        let mut command = self.command(&["create", "--bundle"]);
        command.arg(&bundle.dir).arg("--pid-file").arg(&pid_file);
        command.arg(id);
        // Its streams are those of the container: a pipe would not end.
        command.stderr(Stdio::null());
        self.run(&mut command)
            .with_context(|| format!("{} create", self.name))?;
        let pid = fs::read_to_string(&pid_file)?;
        Ok(pid.trim().parse()?)
    }

    fn configure(&self, id: &str, program: &str) -> Result<()> {
        let group = self.setting.ground.group(id);
        self.setting.bundle.configure(program, &group)
    }

    fn pid_file(&self) -> PathBuf {
        self.setting
            .bundle
            .dir
            .join(format!("{}.pid", self.name.replace(' ', "-")))
    }
}

impl Engine for CommandLine<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn life(&mut self) -> Result<Life> {
        let id = format!("{}-life", self.name);
        self.configure(&id, "/bin/true")?;
        let mut whole = Watch::start();
        let mut watch = Watch::start();
        let pid = self.create(&id)?;
        let create = watch.lap();
        self.verb(&["start", &id])?;
        let start = watch.lap();
        process::wait(pid)?;
        let wait = watch.lap();
        self.verb(&["delete", &id])?;
        Ok(Life {
            create,
            start,
            wait,
            delete: watch.lap(),
            whole: whole.lap(),
        })
    }

    fn settle(&mut self) -> Result<()> {
        let id = format!("{}-exec", self.name);
        self.configure(&id, "/bin/pause")?;
        self.settled = Some(self.create(&id)?);
        self.verb(&["start", &id])
    }

    fn exec(&mut self) -> Result<Exec> {
        let id = format!("{}-exec", self.name);
        let mut watch = Watch::start();
        self.verb(&["exec", &id, "/bin/true"])?;
        Ok(Exec {
            running: None,
            ended: watch.lap(),
        })
    }

    fn unsettle(&mut self) -> Result<()> {
        if let Some(pid) = self.settled.take() {
            process::kill(pid)?;
            process::wait(pid)?;
            let id = format!("{}-exec", self.name);
            self.verb(&["delete", &id])?;
        }
        Ok(())
    }
}
