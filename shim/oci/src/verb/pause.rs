//! `pause` and `resume`.

use anyhow::{Context as _, Result, bail};
use berth_cgroup::Group;

use crate::{
    container::{Container, Status},
    verb::Context,
};

pub(super) fn pause(context: &Context<'_>, id: &str) -> Result<()> {
    let container = Container::find(context.root, id)?;
    match container.status()? {
        Status::Running | Status::Created => {}
        other => bail!("container not running or created: {}", other.name()),
    }
    group(&container)?.set_frozen(true).context("pausing")
}

pub(super) fn resume(context: &Context<'_>, id: &str) -> Result<()> {
    let container = Container::find(context.root, id)?;
    match container.status()? {
        Status::Paused => {}
        // A container that was paused before it was started counts as created.
        Status::Created if group(&container)?.is_frozen()? => {}
        other => bail!("container not paused: {}", other.name()),
    }
    group(&container)?.set_frozen(false).context("resuming")
}

fn group(container: &Container) -> Result<Group> {
    container.group()?.context("container not running")
}
