//! `kill`: a signal to the init, or to every process.

use anyhow::{Context as _, Result, bail};
use berth_sys::process;

use crate::{
    cli,
    container::{Container, Status},
    signals,
    verb::Context,
};

pub(super) fn run(context: &Context<'_>, args: &cli::Kill) -> Result<()> {
    let signal = signals::parse(&args.signal)?;
    let container = Container::find(context.root, &args.id)?;
    if args.all {
        // Processes may outlive the init where the PID namespace is shared.
        return match container.group()? {
            Some(group) => group
                .signal_all(signal)
                .context("signalling every process of the container"),
            None => bail!("container not running"),
        };
    }
    let Some(init) = container.init()? else {
        bail!("container not running");
    };
    match process::pidfd_send_signal(&init, signal) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {
            bail!("container not running")
        }
        other => other.context("signalling the init")?,
    }
    // A process that v1's freezer holds does not die of SIGKILL.
    if signal == nix::libc::SIGKILL
        && container.status()? == Status::Paused
        && let Some(group) = container.group()?
    {
        group.thaw().context("thawing the container")?;
    }
    Ok(())
}
