//! `start`: lets the program of a created container run.

use anyhow::{Context as _, Result, bail};
use berth_engine::Shim;
use tokio::sync::mpsc;

use crate::{
    container::{Container, Status},
    engine,
    hooks::Hooks,
    listener::Answerer,
    verb::{Context, exec::filter_listens},
};

pub(super) fn run(context: &Context<'_>, id: &str) -> Result<()> {
    start(context, &Container::find(context.root, id)?)
}

pub(super) fn start(context: &Context<'_>, container: &Container) -> Result<()> {
    match container.status()? {
        Status::Created => {}
        Status::Creating => bail!("cannot start a container that is still being created"),
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Stopped => bail!("cannot start a container that has stopped"),
    }
    let spec = crate::bundle::parse(&container.home.config()?)?;
    let hooks = Hooks::of(&spec)?;
    let state = container.state(Status::Created);
    let answerer = Answerer::connect(&spec, filter_listens(&spec)?, &state)?;
    let state = serde_json::to_vec(&state)?;
    engine::wait(async {
        let (events, _) = mpsc::unbounded_channel();
        let shim = Shim::connect(container.home.path(), events).await?;
        shim.start_with(state, answerer.as_ref().map(Answerer::listener))
            .await
    })?
    .map_err(engine::explain)
    .context("start failed")?;
    // The shim has left; its socket is of no more use.
    std::fs::remove_file(container.home.path().join("sock")).ok();
    hooks.poststart(&container.state(Status::Running), context.log);
    Ok(())
}
