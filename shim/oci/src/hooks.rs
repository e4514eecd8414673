//! Hooks: programs of the configuration that are run at points of a container's life.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use berth_sys::process;
use oci_spec::runtime::{Hook, Spec};
use serde_json::Value;

use crate::log::Log;

/// Enough of a hook's own words for an error.
const WORDS: usize = 4096;
/// How often a hook is looked at.
const POLL: Duration = Duration::from_millis(1);
const POLL_MS: i32 = 1;

/// The hooks of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    prestart: Vec<One>,
    create_runtime: Vec<One>,
    poststart: Vec<One>,
    poststop: Vec<One>,
}

#[derive(Clone, Debug)]
struct One {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    timeout: Option<Duration>,
}

impl Hooks {
    /// Takes them from `spec`, checked.
    #[allow(deprecated, reason = "prestart is deprecated and still used")]
    pub(crate) fn of(spec: &Spec) -> Result<Self> {
        let Some(hooks) = spec.hooks() else {
            return Ok(Self::default());
        };
        Ok(Self {
            prestart: checked("hooks.prestart", hooks.prestart())?,
            create_runtime: checked("hooks.createRuntime", hooks.create_runtime())?,
            poststart: checked("hooks.poststart", hooks.poststart())?,
            poststop: checked("hooks.poststop", hooks.poststop())?,
        })
    }

    /// Those that run when the namespaces are there and the root is not yet changed.
    pub(crate) fn before_root(&self, state: &Value) -> Result<()> {
        run_all("prestart", &self.prestart, state)?;
        run_all("createRuntime", &self.create_runtime, state)
    }

    /// After the program was started. A failure is logged; the container goes on.
    pub(crate) fn poststart(&self, state: &Value, log: &Log) -> Result<()> {
        for hook in &self.poststart {
            if let Err(error) = hook.run(state) {
                log.warn(&format!("poststart: {error:#}"));
            }
        }
        Ok(())
    }

    /// After the container is gone; every one is run whatever the others do.
    pub(crate) fn poststop(&self, state: &Value) -> Result<()> {
        let mut first = Ok(());
        for hook in &self.poststop {
            if let (Err(error), Ok(())) = (hook.run(state), &first) {
                first = Err(error);
            }
        }
        first
    }
}

fn checked(field: &str, hooks: &Option<Vec<Hook>>) -> Result<Vec<One>> {
    hooks
        .iter()
        .flatten()
        .map(|hook| {
            let path = hook.path().clone();
            if !path.is_absolute() {
                bail!("{field}: path {} is not absolute", path.display());
            }
            let timeout = match hook.timeout() {
                None => None,
                Some(seconds) => match u64::try_from(seconds) {
                    Ok(seconds @ 1..) => Some(Duration::from_secs(seconds)),
                    _ => bail!("{field}: timeout {seconds} is not above 0"),
                },
            };
            let env = hook.env().iter().flatten().map(|pair| {
                let parts = pair.split_once('=').filter(|(name, _)| !name.is_empty());
                match parts {
                    Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
                    None => bail!("{field}: environment {pair:?} is not NAME=value"),
                }
            });
            Ok(One {
                path,
                args: hook.args().clone().unwrap_or_default(),
                env: env.collect::<Result<_>>()?,
                timeout,
            })
        })
        .collect()
}

fn run_all(kind: &str, hooks: &[One], state: &Value) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        hook.run(state)
            .with_context(|| format!("{kind} hook #{number}"))?;
    }
    Ok(())
}

impl One {
    /// Runs it with the state on its standard input.
    fn run(&self, state: &Value) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let what = || self.path.display().to_string();
        let mut command = Command::new(&self.path);
        if let Some((name, rest)) = self.args.split_first() {
            command.arg0(name).args(rest);
        }
        let mut child = command
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(what)?;
        let bytes = serde_json::to_vec(state)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(&bytes) {
                // It need not read it.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(error).with_context(what);
                }
                _ => {}
            }
        }
        let (status, words) = self.await_end(&mut child).with_context(what)?;
        let words = String::from_utf8_lossy(&words).trim().to_owned();
        match status {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{}: {status}: {words}", what()),
            None => bail!(
                "{}: killed: it took longer than its timeout of {} s",
                what(),
                self.timeout.unwrap_or_default().as_secs()
            ),
        }
    }

    /// Its status, none if it had to be killed, and the first of its words.
    fn await_end(&self, child: &mut Child) -> io::Result<(Option<ExitStatus>, Vec<u8>)> {
        let end = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut stderr = child.stderr.take();
        let mut words = Vec::new();
        loop {
            // Read all the time, or a talkative hook would wait for ever.
            match &mut stderr {
                Some(pipe) if process::wait_readable(&*pipe, POLL_MS)? => {
                    let mut buffer = [0; 4096];
                    match pipe.read(&mut buffer)? {
                        0 => stderr = None,
                        count if words.len() < WORDS => words.extend_from_slice(&buffer[..count]),
                        _ => {}
                    }
                    continue;
                }
                Some(_) => {}
                None => std::thread::sleep(POLL),
            }
            if let Some(status) = child.try_wait()? {
                return Ok((Some(status), words));
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                child.kill()?;
                child.wait()?;
                return Ok((None, words));
            }
        }
    }
}
