//! `ps`: the list of containers.

use std::{collections::HashMap, sync::Arc};

use berth_proto::cri::{self, ContainerState};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Context,
    pods::{AT_ONCE, label},
};
use crate::{
    connect::Connection,
    cri_json,
    failure::{Failure, Outcome},
    listing, lookup,
    output::{
        self, Format,
        table::Table,
        text::{short_id, shown_id},
    },
    time,
};

/// An image reference is cut to this in a table; the end tells more than the beginning.
const IMAGE_WIDTH: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only the newest, in any state
    #[arg(short, long)]
    latest: bool,
    /// Only the newest N, in any state
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Containers that fit: name=, label=KEY[=VALUE], status=, pod=, namespace=, image=, id=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    filter: Vec<(String, String)>,
    /// The same as --filter name=
    #[arg(long)]
    name: Option<String>,
    /// The same as --filter pod=
    #[arg(short, long)]
    pod: Option<String>,
    /// The same as --filter status=
    #[arg(short, long)]
    state: Option<String>,
    /// The same as --filter label=
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// The same as --filter image=
    #[arg(long)]
    image: Option<String>,
}

/// What is wanted, after all ways to say it.
#[derive(Debug, Default)]
struct Wanted {
    names: Vec<String>,
    ids: Vec<String>,
    images: Vec<String>,
    namespaces: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    states: Vec<ContainerState>,
    pods: Vec<String>,
}

impl Wanted {
    fn of(args: &Args) -> Outcome<Self> {
        let mut wanted = Self::default();
        for (key, value) in &args.filter {
            wanted.add(key, value)?;
        }
        for (key, value) in [
            ("name", &args.name),
            ("pod", &args.pod),
            ("status", &args.state),
            ("image", &args.image),
        ] {
            if let Some(value) = value {
                wanted.add(key, value)?;
            }
        }
        for value in &args.label {
            wanted.add("label", value)?;
        }
        Ok(wanted)
    }

    fn add(&mut self, key: &str, value: &str) -> Outcome<()> {
        match key {
            "name" => self.names.push(value.to_owned()),
            "id" => self.ids.push(value.to_owned()),
            "pod" => self.pods.push(value.to_owned()),
            "namespace" => self.namespaces.push(value.to_owned()),
            "image" | "ancestor" => self.images.push(value.to_owned()),
            "label" => self.labels.push(match value.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (value.to_owned(), None),
            }),
            "status" | "state" => self.states.push(match value.to_ascii_lowercase().as_str() {
                "created" => ContainerState::ContainerCreated,
                "running" => ContainerState::ContainerRunning,
                "exited" => ContainerState::ContainerExited,
                "unknown" => ContainerState::ContainerUnknown,
                other => {
                    return Err(Failure::usage(
                        format!("there is no container state {other}"),
                        "the states are created, running, exited and unknown",
                    ));
                }
            }),
            other => {
                return Err(Failure::usage(
                    format!("cannot filter by {other}"),
                    "the filters are name, label, status, pod, namespace, image and id",
                ));
            }
        }
        Ok(())
    }

    /// Filters of one kind are alternatives; all kinds must fit. Labels all must fit.
    fn fits(&self, container: &cri::Container, pod: Option<&cri::PodSandbox>) -> bool {
        let any = |wanted: &[String], fits: &dyn Fn(&str) -> bool| {
            wanted.is_empty() || wanted.iter().any(|wanted| fits(wanted))
        };
        let name = container.metadata.as_ref().map_or("", |data| &data.name);
        let image = image_name(container);
        let namespace = pod
            .and_then(|pod| pod.metadata.as_ref())
            .map_or("", |data| &data.namespace);
        any(&self.names, &|wanted| name.contains(wanted))
            && any(&self.ids, &|wanted| container.id.starts_with(wanted))
            && any(&self.images, &|wanted| {
                image.contains(wanted)
                    || short_id(&container.image_ref).starts_with(wanted)
                    || container.image_ref.starts_with(wanted)
            })
            && any(&self.namespaces, &|wanted| namespace == wanted)
            && (self.states.is_empty() || self.states.contains(&container.state()))
            && self.labels.iter().all(|(key, value)| {
                container
                    .labels
                    .get(key)
                    .is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            })
    }
}

pub(crate) async fn run(context: &Context, args: &Args) -> Outcome<u8> {
    let mut wanted = Wanted::of(args)?;
    let connection = context.connect().await?;
    let newest = if args.latest { Some(1) } else { args.last };
    if !args.all && newest.is_none() && wanted.states.is_empty() {
        wanted.states.push(ContainerState::ContainerRunning);
    }
    let mut pod_ids = Vec::new();
    for pod in &wanted.pods {
        pod_ids.push(lookup::pod(&connection, pod).await?.id);
    }
    let mut containers = listing::containers(&connection, None).await?;
    let needs_pods = !wanted.namespaces.is_empty()
        || (context.format == Format::Table && !args.quiet && !containers.is_empty());
    let pods: HashMap<String, cri::PodSandbox> = if needs_pods {
        let pods = listing::pods(&connection, None).await?;
        pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect()
    } else {
        HashMap::new()
    };
    containers.retain(|container| {
        (pod_ids.is_empty() || pod_ids.contains(&container.pod_sandbox_id))
            && wanted.fits(container, pods.get(&container.pod_sandbox_id))
    });
    containers.truncate(newest.unwrap_or(usize::MAX));
    if args.quiet {
        for container in &containers {
            output::line(&container.id)?;
        }
        return Ok(0);
    }
    if context.format != Format::Table {
        let list = cri::ListContainersResponse { containers };
        let value = cri_json::to_value("runtime.v1.ListContainersResponse", &list);
        output::value(context.format, &json!({"containers": value["containers"]}))?;
        return Ok(0);
    }
    let statuses = statuses(&connection, &containers).await;
    let now = time::now_nanos();
    output::print(&table(context, &containers, &statuses, &pods, now))?;
    Ok(0)
}

fn table(
    context: &Context,
    containers: &[cri::Container],
    statuses: &HashMap<String, cri::ContainerStatus>,
    pods: &HashMap<String, cri::PodSandbox>,
    now: i64,
) -> String {
    let mut table = Table::new(&[
        "CONTAINER ID",
        "IMAGE",
        "CREATED",
        "STATUS",
        "NAME",
        "ATTEMPT",
        "POD ID",
        "POD",
    ]);
    for container in containers {
        let data = container.metadata.clone().unwrap_or_default();
        let image = image_name(container);
        let pod = pods
            .get(&container.pod_sandbox_id)
            .and_then(|pod| pod.metadata.as_ref())
            .map_or("-", |data| &data.name);
        table.row([
            shown_id(&container.id, context.no_trunc),
            &shown_image(image, context.no_trunc),
            &time::ago(now, container.created_at),
            &condition(container, statuses.get(&container.id), now),
            &data.name,
            &data.attempt.to_string(),
            shown_id(&container.pod_sandbox_id, context.no_trunc),
            pod,
        ]);
    }
    table.render()
}

/// What the user called the image; a kubelet asks by id and tells the name beside it.
fn image_name(container: &cri::Container) -> &str {
    let spec = container.image.as_ref();
    let asked = spec.map_or("", |image| image.image.as_str());
    let told = spec.map_or("", |image| image.user_specified_image.as_str());
    if told.is_empty() { asked } else { told }
}

fn shown_image(image: &str, whole: bool) -> String {
    let length = image.chars().count();
    if whole {
        image.to_owned()
    } else if image.starts_with("sha256:") {
        short_id(image).to_owned()
    } else if length > IMAGE_WIDTH {
        let end: String = image.chars().skip(length - IMAGE_WIDTH + 1).collect();
        format!("…{end}")
    } else {
        image.to_owned()
    }
}

/// `Up 8 seconds`, `Exited (137, OOMKilled) 2 hours ago`.
fn condition(
    container: &cri::Container,
    status: Option<&cri::ContainerStatus>,
    now: i64,
) -> String {
    match (container.state(), status) {
        (ContainerState::ContainerCreated, _) => "Created".to_owned(),
        (ContainerState::ContainerRunning, Some(status)) => {
            format!("Up {}", time::spoken(now.saturating_sub(status.started_at)))
        }
        (ContainerState::ContainerRunning, None) => "Running".to_owned(),
        (ContainerState::ContainerExited, Some(status)) => {
            let reason = match status.reason.as_str() {
                "" | "Completed" | "Error" => String::new(),
                reason => format!(", {reason}"),
            };
            format!(
                "Exited ({}{reason}) {}",
                status.exit_code,
                time::ago(now, status.finished_at)
            )
        }
        (ContainerState::ContainerExited, None) => "Exited".to_owned(),
        (ContainerState::ContainerUnknown, _) => "Unknown".to_owned(),
    }
}

/// The status of each container that has more to say than its state. One that
/// vanishes meanwhile has none.
async fn statuses(
    connection: &Connection,
    containers: &[cri::Container],
) -> HashMap<String, cri::ContainerStatus> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    for container in containers {
        if !matches!(
            container.state(),
            ContainerState::ContainerRunning | ContainerState::ContainerExited
        ) {
            continue;
        }
        let (connection, gate) = (connection.clone(), Arc::clone(&gate));
        let id = container.id.clone();
        asked.spawn(async move {
            let _permit = gate.acquire_owned().await.ok()?;
            let answer = listing::container_status(&connection, &id, false).await;
            Some((id, answer.ok()?.status?))
        });
    }
    let mut statuses = HashMap::new();
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some((id, status))) = answer {
            statuses.insert(id, status);
        }
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_told_with_its_age_and_cause() {
        let second = 1_000_000_000;
        let container = |state: ContainerState| cri::Container {
            state: state.into(),
            ..Default::default()
        };
        let status = cri::ContainerStatus {
            started_at: 2 * second,
            finished_at: 5 * second,
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
            ..Default::default()
        };
        let now = 10 * second;
        let told = |state, status| condition(&container(state), status, now);
        assert_eq!(
            told(ContainerState::ContainerRunning, Some(&status)),
            "Up 8 seconds"
        );
        assert_eq!(
            told(ContainerState::ContainerExited, Some(&status)),
            "Exited (137, OOMKilled) 5 seconds ago"
        );
        assert_eq!(told(ContainerState::ContainerExited, None), "Exited");
    }

    #[test]
    fn a_long_image_keeps_its_end() {
        let image = format!("registry.example.org/{}/web:1.2", "x".repeat(40));
        let shown = shown_image(&image, false);
        assert_eq!(shown.chars().count(), IMAGE_WIDTH);
        assert!(shown.ends_with("/web:1.2"));
        assert_eq!(shown_image(&image, true), image);
    }
}
