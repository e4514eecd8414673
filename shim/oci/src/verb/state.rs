//! `state`: what is known of a container.

use anyhow::Result;

use crate::{container::Container, verb::Context};

pub(super) fn run(context: &Context<'_>, id: &str) -> Result<()> {
    let container = Container::find(context.root, id)?;
    let status = container.status()?;
    super::print_json(&container.state(status))
}
