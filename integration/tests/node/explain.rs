//! What people are told of what was done and of what ended.

use std::time::Duration;

use anyhow::{Context as _, Result};
use berth_integration::{Node, pod, wait};
use berth_proto::berth::v1;

use crate::fixture::{IGNORES, OBEYS, Shell, assert_refused, ready};

async fn explain(node: &Node, object: &str) -> Result<Vec<v1::TimelineEntry>> {
    let request = v1::ExplainRequest {
        object: object.to_owned(),
    };
    let answer = node.berth()?.explain(request).await?.into_inner();
    Ok(answer.entries)
}

async fn why(node: &Node, container: &str) -> Result<v1::WhyResponse> {
    let request = v1::WhyRequest {
        container_id: container.to_owned(),
    };
    Ok(node.berth()?.why(request).await?.into_inner())
}

fn names(entries: &[v1::TimelineEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.what.as_str()).collect()
}

/// Nanoseconds of the entry that lie in no phase.
fn uncovered(entry: &v1::TimelineEntry) -> i64 {
    let mut spans: Vec<(i64, i64)> = entry
        .phases
        .iter()
        .map(|phase| (phase.after, phase.after + phase.took))
        .collect();
    spans.sort_unstable();
    let (mut covered, mut until) = (0, 0);
    for (from, to) in spans {
        covered += (to - from.max(until)).max(0);
        until = until.max(to);
    }
    entry.took - covered
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_life_of_a_pod_is_explained_after_it_is_gone_and_by_the_next_agent() -> Result<()>
{
    let mut shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("told", OBEYS).await?;
    ready(node, &pod.container).await?;
    node.stop_container(&pod.container, 5).await?;
    node.remove_container(&pod.container).await?;
    node.stop_pod(&pod.id).await?;
    node.remove_pod(&pod.id).await?;
    // What was done is on disk within milliseconds; an answer waits for it.
    assert!(!explain(node, &pod.id).await?.is_empty());
    shell.node.crash_and_restart().await?;

    let node = &shell.node;
    let entries = explain(node, "told").await?;
    let expected = [
        "run-pod-sandbox",
        "create-container",
        "start-container",
        "stop-container",
        "remove-container",
        "stop-pod-sandbox",
        "remove-pod-sandbox",
    ];
    let mut operations = names(&entries);
    operations.retain(|name| *name != "exited");
    assert_eq!(operations, expected);
    for entry in entries.iter().filter(|entry| entry.what != "exited") {
        assert!(!entry.phases.is_empty(), "{entry:?}");
        let bound = (entry.took / 50).max(200_000);
        let missing = uncovered(entry);
        assert!(missing <= bound, "{missing} ns of {entry:?}");
    }
    let exit = entries.iter().find(|entry| entry.what == "exited");
    let exit = exit.context("no exit")?;
    assert!(exit.note.contains("code 0, Completed"), "{exit:?}");
    // By the beginning of its id, and without its pod.
    let container = explain(node, &pod.container[..12]).await?;
    assert!(!names(&container).contains(&"run-pod-sandbox"));
    assert!(names(&container).contains(&"start-container"));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_explained_and_so_is_what_is_not_done_yet() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let missing = shell.image.replace("test/shell", "no/such");
    node.pull(&missing).await.unwrap_err();
    let pulls = explain(node, &missing).await?;
    assert!(pulls[0].error.contains("no/such"), "{pulls:?}");
    let here = explain(node, &shell.image).await?;
    assert_eq!(names(&here), ["pull"]);
    assert_eq!(here[0].ids, std::slice::from_ref(&shell.image_id));
    assert!(uncovered(&here[0]) <= (here[0].took / 50).max(200_000));

    let pod = shell.pod("slow", IGNORES).await?;
    ready(node, &pod.container).await?;
    let stop = {
        let mut runtime = node.runtime()?;
        let request = berth_proto::cri::StopContainerRequest {
            container_id: pod.container.clone(),
            timeout: 2,
        };
        tokio::spawn(async move { runtime.stop_container(request).await })
    };
    wait::until("the stop is under way", Duration::from_secs(5), || async {
        let entries = explain(node, &pod.container).await?;
        let running = entries.into_iter().find(|entry| entry.running);
        Ok(running.filter(|entry| entry.what == "stop-container"))
    })
    .await?;
    stop.await??;
    let entries = explain(node, &pod.container).await?;
    assert!(entries.iter().all(|entry| !entry.running));

    assert_refused(
        node.berth()?
            .explain(v1::ExplainRequest {
                object: "nothing-like-this".to_owned(),
            })
            .await,
        &[tonic::Code::NotFound],
        &["nothing-like-this"],
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_certificate_tells_how_it_came_about() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "deaths");
    let pod = node.run_pod(&config).await?;
    let run = async |name: &str, script: &str| {
        node.run(&pod, &shell.container(name, script), &config)
            .await
    };

    let failed = run("failed", "echo last words; exit 3").await?;
    node.exited(&failed).await?;
    let told = why(node, &failed).await?;
    assert_eq!((told.exit_code, told.reason.as_str()), (3, "Error"));
    assert_eq!(told.output, b"last words\n");
    assert!(told.cause.contains("code 3"), "{told:?}");
    assert_eq!(
        told.command.last().map(String::as_str),
        Some("echo last words; exit 3")
    );
    assert_eq!((told.sent_by.as_str(), told.output_cut), ("", false));

    let killed = run("killed", IGNORES).await?;
    ready(node, &killed).await?;
    let init = nix::unistd::Pid::from_raw(i32::try_from(node.pid(&killed).await?)?);
    nix::sys::signal::kill(init, nix::sys::signal::Signal::SIGKILL)?;
    let status = node.exited(&killed).await?;
    assert!(status.message.contains("SIGKILL"), "{status:?}");
    let told = why(node, &killed).await?;
    assert_eq!(told.signal_name, "SIGKILL");
    assert!(told.sent_by.contains("not the runtime"), "{told:?}");

    let stopped = run("stopped", IGNORES).await?;
    ready(node, &stopped).await?;
    node.stop_container(&stopped, 1).await?;
    let told = why(node, &stopped).await?;
    assert!(told.sent_by.contains("had not ended after 1 s"), "{told:?}");

    let mut hungry = shell.container("hungry", "head -c 80m /dev/zero | tail");
    pod::linux(&mut hungry).resources = Some(berth_proto::cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let hungry = node.run(&pod, &hungry, &config).await?;
    let status = node.exited(&hungry).await?;
    assert_eq!(status.reason, "OOMKilled");
    assert!(
        status.message.contains("the container's limit"),
        "{status:?}"
    );
    let told = why(node, &hungry).await?;
    let oom = told
        .out_of_memory
        .clone()
        .context("no word of the kernel")?;
    assert_eq!(oom.level, "container");
    assert_eq!(told.memory_limit, 16 << 20);
    assert!(oom.group.contains(&hungry) && oom.pid > 0, "{oom:?}");

    let running = run("running", IGNORES).await?;
    let told = why(node, &running).await?;
    assert_eq!((told.state.as_str(), told.finished_at), ("running", 0));
    shell.finish().await
}
