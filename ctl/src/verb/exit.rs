//! Waits for the end of a container, whatever becomes of the agent meanwhile.

use std::time::{Duration, Instant};

use berth_proto::{berth::v1 as berth, cri::ContainerState};
use tonic::{Request, Status};

use crate::{
    connect::Connection,
    failure::{Failure, Outcome, is_lost},
    listing::{self, is_missing},
};

/// Between two questions to a runtime that cannot tell by itself.
const POLL: Duration = Duration::from_millis(300);
/// Between two attempts to reach an agent that is being replaced.
const RETRY: Duration = Duration::from_millis(200);
/// An agent is back within seconds of an upgrade or a crash; containers and
/// logs go on meanwhile. After this it is not coming back by itself.
const AGENT_AWAY: Duration = Duration::from_secs(60);

/// The exit code of a container, once it has one. `id` is a whole id.
pub(super) async fn code_of(connection: &Connection, id: &str) -> Outcome<i32> {
    let mut away_since: Option<Instant> = None;
    let mut asks = true;
    loop {
        let begun = Instant::now();
        let answer = if asks {
            ask(connection, id).await
        } else {
            poll(connection, id).await
        };
        let status = match answer {
            Ok(Some(code)) => return Ok(code),
            Ok(None) => {
                away_since = None;
                tokio::time::sleep(POLL).await;
                continue;
            }
            Err(status) => status,
        };
        if is_missing(&status) && asks {
            asks = false;
            continue;
        }
        if begun.elapsed() > AGENT_AWAY {
            // It waited for long and was there: this is another outage.
            away_since = None;
        }
        let since = *away_since.get_or_insert_with(Instant::now);
        if !is_lost(&status) || since.elapsed() > AGENT_AWAY {
            return Err(Failure::refused(
                format!("cannot learn how container {id} ended"),
                &status,
            ));
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn ask(connection: &Connection, id: &str) -> Result<Option<i32>, Status> {
    // No limit: it answers when the container has exited.
    let request = Request::new(berth::WaitRequest {
        container_id: id.to_owned(),
    });
    let answer = connection.node().wait(request).await?;
    Ok(Some(answer.into_inner().exit_code))
}

async fn poll(connection: &Connection, id: &str) -> Result<Option<i32>, Status> {
    let answer = listing::container_status(connection, id, false).await?;
    Ok(answer
        .status
        .filter(|status| status.state() == ContainerState::ContainerExited)
        .map(|status| status.exit_code))
}
