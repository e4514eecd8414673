//! GetContainerEvents, and lists in pieces.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result};
use berth_integration::{Node, pod};
use berth_proto::cri::{self, ContainerEventType as Type};
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use crate::fixture::{OBEYS, Shell, ready};

async fn listen(node: &Node) -> Result<Streaming<cri::ContainerEventResponse>> {
    let request = cri::GetEventsRequest {};
    Ok(node
        .runtime()?
        .get_container_events(request)
        .await?
        .into_inner())
}

/// The next event; it comes at once or not at all.
async fn next(
    events: &mut Streaming<cri::ContainerEventResponse>,
) -> Result<cri::ContainerEventResponse> {
    tokio::time::timeout(Duration::from_secs(10), events.next())
        .await
        .context("no event came")?
        .context("the events ended")?
        .context("the events failed")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_pod_is_told_in_order_to_everybody_with_the_whole_pod() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut first = listen(node).await?;
    let mut second = listen(node).await?;
    let pod = shell.pod("told", OBEYS).await?;
    ready(node, &pod.container).await?;
    node.stop_container(&pod.container, 10).await?;
    node.remove_container(&pod.container).await?;
    node.stop_pod(&pod.id).await?;
    node.remove_pod(&pod.id).await?;

    let (p, c) = (pod.id.as_str(), pod.container.as_str());
    // Who, what, whether the pod is ready, and the container's state where it is there.
    let expected = [
        (p, Type::ContainerCreatedEvent, true, None),
        (p, Type::ContainerStartedEvent, true, None),
        (
            c,
            Type::ContainerCreatedEvent,
            true,
            Some(cri::ContainerState::ContainerCreated),
        ),
        (
            c,
            Type::ContainerStartedEvent,
            true,
            Some(cri::ContainerState::ContainerRunning),
        ),
        (
            c,
            Type::ContainerStoppedEvent,
            true,
            Some(cri::ContainerState::ContainerExited),
        ),
        (c, Type::ContainerDeletedEvent, true, None),
        (p, Type::ContainerStoppedEvent, false, None),
        (p, Type::ContainerDeletedEvent, false, None),
    ];
    let mut last = 0;
    for (who, what, is_ready, state) in expected {
        let event = next(&mut first).await?;
        assert_eq!(
            (&*event.container_id, event.container_event_type()),
            (who, what)
        );
        assert!(event.created_at > last, "times go back");
        last = event.created_at;
        let status = event.pod_sandbox_status.clone().context("no pod")?;
        assert_eq!(status.id, p);
        assert_eq!(status.metadata.clone(), pod.config.metadata);
        assert_eq!(
            status.state() == cri::PodSandboxState::SandboxReady,
            is_ready
        );
        let states: Vec<_> = event
            .containers_statuses
            .iter()
            .map(|s| s.state())
            .collect();
        assert_eq!(states, state.into_iter().collect::<Vec<_>>(), "{what:?}");
        assert_eq!(next(&mut second).await?, event);
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_status_can_be_put_in_order_with_its_events() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut events = listen(node).await?;
    let pod = shell.pod("order", OBEYS).await?;
    let mut last = 0;
    for _ in 0..4 {
        last = next(&mut events).await?.created_at;
    }
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.id.clone(),
        verbose: false,
    };
    let status = node
        .runtime()?
        .pod_sandbox_status(request)
        .await?
        .into_inner();
    assert!(status.timestamp > last);
    let ids: Vec<_> = status.containers_statuses.iter().map(|c| &c.id).collect();
    assert_eq!(ids, [&pod.container]);
    node.stop_container(&pod.container, 5).await?;
    assert!(next(&mut events).await?.created_at > status.timestamp);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_run_is_not_told_to_a_kubelet() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut events = listen(node).await?;
    crate::fixture::ok(node, &["run", "--rm", &shell.image, "true"])?;
    let config = pod::sandbox(node, "kubelets");
    let id = node.run_pod(&config).await?;
    assert_eq!(next(&mut events).await?.container_id, id);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_in_pieces_say_what_the_lists_say() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut runtime = node.runtime()?;
    let empty = cri::StreamContainersRequest::default();
    let mut none = runtime.stream_containers(empty).await?.into_inner();
    assert!(none.next().await.is_none());

    let (one, two) = (shell.pod("s1", OBEYS).await?, shell.pod("s2", OBEYS).await?);
    let both: BTreeSet<String> = [one.id.clone(), two.id.clone()].into();
    macro_rules! ids {
        ($call:ident($request:expr), $items:ident, $id:expr) => {{
            let mut stream = runtime.$call($request).await?.into_inner();
            let mut ids = BTreeSet::new();
            while let Some(piece) = stream.next().await {
                let items = piece?.$items;
                assert!(!items.is_empty());
                for item in items {
                    assert!(ids.insert($id(item)), "twice");
                }
            }
            ids
        }};
    }
    let all = cri::StreamPodSandboxesRequest::default();
    let pods = ids!(
        stream_pod_sandboxes(all),
        pod_sandboxes,
        |pod: cri::PodSandbox| pod.id
    );
    assert_eq!(pods, both);
    let all = cri::StreamPodSandboxStatsRequest::default();
    let pods = ids!(
        stream_pod_sandbox_stats(all),
        pod_sandbox_stats,
        |pod: cri::PodSandboxStats| pod.attributes.unwrap().id
    );
    assert_eq!(pods, both);
    let all = cri::StreamPodSandboxMetricsRequest {};
    let pods = ids!(
        stream_pod_sandbox_metrics(all),
        pod_sandbox_metrics,
        |pod: cri::PodSandboxMetrics| pod.pod_sandbox_id
    );
    assert_eq!(pods, both);
    let of_one = cri::StreamContainersRequest {
        filter: Some(cri::ContainerFilter {
            pod_sandbox_id: one.id.clone(),
            ..Default::default()
        }),
    };
    let containers = ids!(
        stream_containers(of_one),
        containers,
        |c: cri::Container| c.id
    );
    assert_eq!(containers, [one.container.clone()].into());
    let of_two = cri::StreamContainerStatsRequest {
        filter: Some(cri::ContainerStatsFilter {
            id: two.container.clone(),
            ..Default::default()
        }),
    };
    let containers = ids!(
        stream_container_stats(of_two),
        container_stats,
        |c: cri::ContainerStats| c.attributes.unwrap().id
    );
    assert_eq!(containers, [two.container.clone()].into());
    let mut images = node
        .images()?
        .stream_images(cri::StreamImagesRequest::default())
        .await?
        .into_inner();
    let piece = images.next().await.context("no images")??;
    assert_eq!(piece.images[0].id, shell.image_id);
    assert!(images.next().await.is_none());
    shell.finish().await
}
