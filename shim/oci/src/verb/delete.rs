//! `delete`: what is left of a container.

use anyhow::{Result, bail};
use berth_sys::process;
use nix::libc;

use crate::{
    bundle, cli,
    container::{Container, Status},
    group,
    hooks::Hooks,
    record::Home,
    verb::{Context, create::END_LIMIT},
};

pub(super) fn run(context: &Context<'_>, args: &cli::Delete) -> Result<()> {
    let home = match Home::find(context.root, &args.id) {
        Ok(home) => home,
        Err(_) if args.force && crate::record::check_id(&args.id).is_ok() => return Ok(()),
        Err(error) => return Err(error),
    };
    let record = match home.load() {
        Ok(record) => record,
        // A creation that was killed before it wrote anything made nothing else.
        Err(_) if args.force => return home.remove(),
        Err(error) => return Err(error),
    };
    let container = Container { home, record };
    match container.status()? {
        Status::Stopped => {}
        _ if args.force => {}
        // It has never run anything: nothing is lost.
        Status::Created => {}
        other => bail!(
            "cannot delete container {} that is not stopped: {}",
            args.id,
            other.name()
        ),
    }
    delete(context, &container)
}

/// Kills what is left and removes it all.
pub(super) fn delete(context: &Context<'_>, container: &Container) -> Result<()> {
    if let Some(init) = container.init()? {
        // ESRCH: it ended meanwhile, which is what is wanted.
        drop(process::pidfd_send_signal(&init, libc::SIGKILL));
        // Frozen by v1 it dies only once it is thawed, which killing the group does.
        group::destroy(&container.record)?;
        let limit = i32::try_from(END_LIMIT.as_millis()).unwrap_or(i32::MAX);
        if !process::wait_readable(&init, limit)? {
            bail!("the init does not die within {END_LIMIT:?}");
        }
    }
    group::destroy(&container.record)?;
    let hooks = container
        .home
        .config()
        .and_then(|config| bundle::parse(&config))
        .and_then(|spec| Hooks::of(&spec));
    container.home.remove()?;
    match hooks {
        Ok(hooks) => hooks.poststop(&container.state(Status::Stopped), context.log),
        Err(error) => context.log.warn(&format!("hooks: {error:#}")),
    }
    Ok(())
}
