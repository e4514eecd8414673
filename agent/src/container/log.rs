//! ReopenContainerLog.

use std::{os::fd::AsFd as _, path::PathBuf, sync::Arc};

use berth_phase::Phase;

use super::{convert, files};
use crate::{
    error::{Error, Result},
    node::{Node, blocking},
    operation::{Request, Value, Verb},
};

/// Makes the log go to a new file at its old path, after a rotation.
///
/// # Errors
/// FailedPrecondition if the container does not run or has no log. No new file
/// remains of a failure.
pub(crate) async fn reopen_log(
    node: &Arc<Node>,
    id: &str,
    deadline: Option<tokio::time::Instant>,
) -> Result<()> {
    let container = node.container(id)?;
    let request = Request::new(Verb::ReopenLog, container.id.to_string()).deadline(deadline);
    node.operations
        .run(request, move |context| async move {
            let live = container.running()?;
            let path = PathBuf::from(&container.record().log_path);
            if path.as_os_str().is_empty() {
                return Err(Error::precondition(format!(
                    "container {} has no log",
                    container.id.short()
                )));
            }
            context.enter(Phase::Record, "log")?;
            let existed = path.exists();
            let at = path.clone();
            let name = container.record().config.log_path.clone();
            let file = blocking("open a log", move || files::open_log(&at, &name)).await?;
            let reopened = live
                .shim
                .reopen_log(file.as_fd())
                .await
                .map_err(convert("reopen the log"));
            if reopened.is_err() && !existed {
                // Whoever rotates renames the old file back.
                std::fs::remove_file(&path).ok();
            }
            reopened?;
            Ok(Value::Done)
        })
        .await
        .map(drop)
}
