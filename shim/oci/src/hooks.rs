//! Hooks that run in the node's namespaces; the shim's init runs the others.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use berth_plan::hooks;
use berth_proto::shim::HookPlan;
use berth_sys::bounded;
use oci_spec::runtime::Spec;
use serde_json::Value;

use crate::{log::Log, trace};

/// The hooks of one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    prestart: Vec<HookPlan>,
    create_runtime: Vec<HookPlan>,
    poststart: Vec<HookPlan>,
    poststop: Vec<HookPlan>,
}

impl Hooks {
    /// Takes them from `spec`, checked.
    #[allow(deprecated, reason = "prestart is deprecated and still used")]
    pub(crate) fn of(spec: &Spec) -> Result<Self> {
        let Some(given) = spec.hooks() else {
            return Ok(Self::default());
        };
        Ok(Self {
            prestart: hooks("hooks.prestart", given.prestart())?,
            create_runtime: hooks("hooks.createRuntime", given.create_runtime())?,
            poststart: hooks("hooks.poststart", given.poststart())?,
            poststop: hooks("hooks.poststop", given.poststop())?,
        })
    }

    /// Those that run when the namespaces are there and the root is not yet made.
    pub(crate) fn before_root(&self, state: &Value) -> Result<()> {
        for (kind, hooks) in [
            ("prestart", &self.prestart),
            ("createRuntime", &self.create_runtime),
        ] {
            for (number, hook) in hooks.iter().enumerate() {
                run(hook, state).with_context(|| format!("{kind} hook #{number}"))?;
            }
        }
        Ok(())
    }

    /// After the program was started. A failure is logged; the container goes on.
    pub(crate) fn poststart(&self, state: &Value, log: &Log) {
        for hook in &self.poststart {
            if let Err(error) = run(hook, state) {
                log.warn(&format!("poststart: {error:#}"));
            }
        }
    }

    /// After the container is gone; every one is run whatever the others do.
    pub(crate) fn poststop(&self, state: &Value, log: &Log) {
        for hook in &self.poststop {
            if let Err(error) = run(hook, state) {
                log.warn(&format!("poststop: {error:#}"));
            }
        }
    }
}

/// Runs one with the state on its standard input.
fn run(hook: &HookPlan, state: &Value) -> Result<()> {
    let path = Path::new(OsStr::from_bytes(&hook.path));
    let what = || path.display().to_string();
    let mut command = Command::new(path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(OsStr::from_bytes(name));
        command.args(rest.iter().map(|arg| OsStr::from_bytes(arg)));
    }
    command.env_clear();
    // First, so that what the hook says itself holds.
    command.envs(trace::given());
    for pair in &hook.env {
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(0);
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    let limit = (hook.timeout_ms > 0).then(|| Duration::from_millis(hook.timeout_ms));
    let input = serde_json::to_vec(state)?;
    let ended = bounded::run(&mut command, &input, limit).with_context(what)?;
    match ended.status {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{}: {status}: {}", what(), ended.words),
        None => bail!(
            "{}: killed: it took longer than its timeout of {:?}",
            what(),
            limit.unwrap_or_default()
        ),
    }
}
