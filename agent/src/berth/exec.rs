//! A command in a container, with what the CRI's Exec lacks.

use std::sync::Arc;

use berth_proto::berth::v1::{ExecRequest, ExecResponse};
use berth_streaming::ExecOptions;

use crate::{
    container,
    error::{Error, Result},
    node::Node,
    streaming::{self, Exec},
};

pub(super) async fn exec(node: &Arc<Node>, request: ExecRequest) -> Result<ExecResponse> {
    let options = ExecOptions {
        env: request.env,
        user: request.user,
        working_directory: request.working_directory,
        privileged: request.privileged,
    };
    let streams = request.stdin || request.stdout || request.stderr || request.tty;
    match (request.detach, streams) {
        (true, true) => Err(Error::invalid(
            "a detached command has neither streams nor a terminal",
        )),
        (true, false) => {
            let id = &request.container_id;
            let pid = container::exec_detached(node, id, request.command, options).await?;
            Ok(ExecResponse {
                pid,
                ..ExecResponse::default()
            })
        }
        (false, _) => {
            let exec = Exec {
                container: request.container_id,
                command: request.command,
                tty: request.tty,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                options,
            };
            Ok(ExecResponse {
                url: streaming::url(node, streaming::Request::Exec(exec))?,
                ..ExecResponse::default()
            })
        }
    }
}
