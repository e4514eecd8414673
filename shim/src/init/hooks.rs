//! Hooks that run in the container's own namespaces.

use std::{
    ffi::OsStr, os::unix::ffi::OsStrExt as _, os::unix::process::CommandExt as _, path::Path,
    process::Command, time::Duration,
};

use berth_proto::shim::{Failure, HookPlan};
use berth_sys::bounded;

use crate::{
    trace,
    wire::{Step as _, system},
};

/// Runs them in order, with `state` on their standard input; the first that fails ends it.
pub(super) fn run(kind: &str, hooks: &[HookPlan], state: &[u8]) -> Result<(), Failure> {
    for (number, hook) in hooks.iter().enumerate() {
        let path = Path::new(OsStr::from_bytes(&hook.path));
        let what = || format!("{kind} hook #{number} {}", path.display());
        let mut command = Command::new(path);
        if let Some((name, rest)) = hook.args.split_first() {
            command.arg0(OsStr::from_bytes(name));
            command.args(rest.iter().map(|arg| OsStr::from_bytes(arg)));
        }
        command.env_clear();
        // First, so that what the hook says itself holds.
        trace::for_each(|name, value| {
            command.env(name, value);
        });
        for pair in &hook.env {
            if let Some(at) = pair.iter().position(|&byte| byte == b'=') {
                command.env(
                    OsStr::from_bytes(&pair[..at]),
                    OsStr::from_bytes(&pair[at + 1..]),
                );
            }
        }
        let limit = (hook.timeout_ms > 0).then(|| Duration::from_millis(hook.timeout_ms));
        let ended = bounded::run(&mut command, state, limit).step("hook", what)?;
        let why = match ended.status {
            Some(status) if status.success() => continue,
            Some(status) => format!("{status}: {}", ended.words),
            None => format!(
                "killed: it took longer than its timeout of {:?}",
                limit.unwrap_or_default()
            ),
        };
        return Err(system("hook", what(), &std::io::Error::other(why)));
    }
    Ok(())
}
