//! `stats`: what containers use.

use std::{collections::HashMap, io::IsTerminal as _, time::Duration};

use berth_proto::cri::{self, ContainerState};
use serde_json::json;

use super::Context;
use crate::{
    connect::Connection,
    cri_json,
    failure::{Failure, Outcome},
    listing, lookup,
    output::{
        self, Format,
        table::Table,
        text::{binary_bytes, decimal_bytes, shown_id},
    },
    time::parse_duration,
};

/// Between two samples of a single look: CPU accounting moves in milliseconds.
const SAMPLE: Duration = Duration::from_millis(500);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these containers
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Show it again and again
    #[arg(short, long)]
    watch: bool,
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    interval: Duration,
}

/// The last CPU counter of a container: time and nanoseconds of one core.
type Counters = HashMap<String, (i64, u64)>;

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let connection = context.connect().await?;
    let mut ids = Vec::new();
    for name in &args.containers {
        ids.push(lookup::container(&connection, name).await?.id);
    }
    let mut stats = sample(&connection, args, &ids).await?;
    if context.format != Format::Table {
        let list = cri::ListContainerStatsResponse { stats };
        let value = cri_json::to_value("runtime.v1.ListContainerStatsResponse", &list);
        output::value(context.format, &json!({"stats": value["stats"]}))?;
        return Ok(0);
    }
    let mut before = counters(&stats);
    let mut pause = SAMPLE;
    loop {
        tokio::time::sleep(pause).await;
        stats = sample(&connection, args, &ids).await?;
        let table = table(context, &stats, &before);
        before = counters(&stats);
        if !args.watch {
            output::print(&table)?;
            return Ok(0);
        }
        if std::io::stdout().is_terminal() {
            output::print(&format!("{CLEAR}{table}"))?;
        } else {
            output::print(&table)?;
        }
        pause = args.interval.max(SAMPLE);
    }
}

/// One sample of the chosen containers, by name.
async fn sample(
    connection: &Connection,
    args: &Args,
    ids: &[String],
) -> Outcome<Vec<cri::ContainerStats>> {
    let answer = connection
        .runtime()
        .list_container_stats(connection.read(cri::ListContainerStatsRequest { filter: None }))
        .await
        .map_err(|status| Failure::refused("cannot ask what the containers use", &status))?;
    let mut listed: HashMap<String, cri::ContainerStats> = answer
        .into_inner()
        .stats
        .into_iter()
        .map(|stats| (id_of(&stats).to_owned(), stats))
        .collect();
    let mut stats = Vec::new();
    for container in listing::containers(connection, None).await? {
        let running = container.state() == ContainerState::ContainerRunning;
        let chosen = if ids.is_empty() {
            args.all || running
        } else {
            ids.contains(&container.id)
        };
        if !chosen {
            continue;
        }
        if let Some(found) = listed.remove(&container.id) {
            stats.push(found);
        } else if running {
            // CRI's list leaves out what people have started.
            let request = cri::ContainerStatsRequest {
                container_id: container.id.clone(),
            };
            // It may be gone meanwhile.
            if let Ok(answer) = connection
                .runtime()
                .container_stats(connection.read(request))
                .await
            {
                stats.extend(answer.into_inner().stats);
            }
        }
    }
    stats.sort_by(|a, b| name_of(a).cmp(name_of(b)));
    Ok(stats)
}

fn counters(stats: &[cri::ContainerStats]) -> Counters {
    stats
        .iter()
        .filter_map(|stats| {
            let cpu = stats.cpu.as_ref()?;
            let used = cpu.usage_core_nano_seconds.as_ref()?.value;
            Some((id_of(stats).to_owned(), (cpu.timestamp, used)))
        })
        .collect()
}

fn table(context: &Context, stats: &[cri::ContainerStats], before: &Counters) -> String {
    let mut table = Table::new(&[
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEMORY",
        "LIMIT LEFT",
        "SWAP",
        "DISK",
        "INODES",
    ]);
    let now = counters(stats);
    for stats in stats {
        let id = id_of(stats);
        let memory = stats.memory.as_ref();
        let disk = stats.writable_layer.as_ref();
        table.row([
            shown_id(id, context.no_trunc),
            name_of(stats),
            &percent(before.get(id), now.get(id)),
            &shown(
                memory.and_then(|memory| memory.working_set_bytes),
                binary_bytes,
            ),
            &shown(
                memory
                    .and_then(|memory| memory.available_bytes)
                    .filter(|left| left.value > 0),
                binary_bytes,
            ),
            &shown(
                stats.swap.as_ref().and_then(|swap| swap.swap_usage_bytes),
                binary_bytes,
            ),
            &shown(disk.and_then(|disk| disk.used_bytes), decimal_bytes),
            &shown(disk.and_then(|disk| disk.inodes_used), |inodes| {
                inodes.to_string()
            }),
        ]);
    }
    table.render()
}

fn shown(value: Option<cri::UInt64Value>, show: impl Fn(u64) -> String) -> String {
    value.map_or("-".to_owned(), |value| show(value.value))
}

/// How much of one core was used between two samples.
fn percent(before: Option<&(i64, u64)>, now: Option<&(i64, u64)>) -> String {
    let share = || {
        let ((from, used_before), (to, used)) = (before?, now?);
        let elapsed = u128::try_from(to.checked_sub(*from)?)
            .ok()
            .filter(|&elapsed| elapsed > 0)?;
        // A counter that went back belongs to another life of the container.
        let used = u128::from(used.checked_sub(*used_before)?);
        Some(used * 10_000 / elapsed)
    };
    share().map_or("-".to_owned(), |hundredths| {
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    })
}

fn id_of(stats: &cri::ContainerStats) -> &str {
    stats.attributes.as_ref().map_or("", |data| &data.id)
}

fn name_of(stats: &cri::ContainerStats) -> &str {
    stats
        .attributes
        .as_ref()
        .and_then(|data| data.metadata.as_ref())
        .map_or("", |data| &data.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_core_comes_from_two_samples() {
        let second = 1_000_000_000;
        let share = |before, now| percent(Some(&before), Some(&now));
        assert_eq!(share((0, 0), (second, 500_000_000)), "50.00");
        assert_eq!(share((0, 0), (second, 2_500_000_000)), "250.00");
        assert_eq!(share((second, 7), (second, 7)), "-");
        assert_eq!(share((0, 9), (second, 7)), "-");
        assert_eq!(percent(None, Some(&(second, 7))), "-");
    }
}
