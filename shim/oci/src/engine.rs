//! The shim's program and the calls to it.

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use berth_engine::{Error, Program};
use berth_proto::shim::{Failure, failure::Kind};
use nix::errno::Errno;

/// Names the shim's program where it lies elsewhere.
const VARIABLE: &str = "BERTH_SHIM";
/// Where packages put it.
const INSTALLED: &str = "/usr/libexec/berth/berth-shim";

/// The shim's program as something that no container can overwrite.
pub(crate) fn program() -> Result<Program> {
    Ok(Program::load(&find()?)?)
}

fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    let own = env::current_exe().context("looking for berth-shim")?;
    let beside = own.with_file_name("berth-shim");
    let found = [beside.as_path(), Path::new(INSTALLED)];
    match found.into_iter().find(|path| path.exists()) {
        Some(path) => Ok(path.to_owned()),
        None => bail!(
            "berth-shim is neither beside berth-oci nor at {INSTALLED}; name it in {VARIABLE}"
        ),
    }
}

/// Waits for `future` in this thread: cloning wants a process with one.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop")?;
    Ok(runtime.block_on(future))
}

/// The failure in the words that callers of OCI runtimes look for.
pub(crate) fn explain(error: Error) -> anyhow::Error {
    match error.remote() {
        Some(failure) if failure.kind() == Kind::Execute => {
            anyhow::Error::msg(cannot_execute(failure))
        }
        _ => error.into(),
    }
}

fn cannot_execute(failure: &Failure) -> String {
    let name = &failure.detail;
    let why = match Errno::from_raw(failure.errno) {
        Errno::ENOENT if !name.contains('/') => "executable file not found in $PATH".to_owned(),
        other => other.desc().to_lowercase(),
    };
    format!("unable to start container process: exec: {name:?}: {why}")
}
