//! `ops`: operations in flight, and the phase that each is in.

use berth_proto::berth::v1 as berth;

use super::Context;
use crate::{
    cri_json,
    failure::{Failure, Outcome},
    output::{self, Format, table::Table},
    time,
};

pub(crate) async fn run(context: &Context) -> Outcome<u8> {
    let connection = context.connect().await?;
    let list = connection
        .node()
        .list_operations(connection.read(berth::ListOperationsRequest {}))
        .await
        .map_err(|status| Failure::refused("cannot list the operations", &status))?
        .into_inner();
    if context.format != Format::Table {
        let value = cri_json::to_value("berth.v1.ListOperationsResponse", &list);
        output::value(context.format, &value)?;
        return Ok(0);
    }
    let now = time::now_nanos();
    let mut table = Table::new(&[
        "OPERATION",
        "OBJECT",
        "PHASE",
        "IN PHASE",
        "RUNNING",
        "WAITERS",
    ]);
    for operation in &list.operations {
        table.row([
            &operation.verb,
            &operation.object,
            &operation.phase,
            &time::span(operation.in_phase),
            &time::span(now.saturating_sub(operation.started_at)),
            &operation.waiters.to_string(),
        ]);
    }
    output::print(&table.render())?;
    Ok(0)
}
