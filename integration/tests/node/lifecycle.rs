use anyhow::Result;
use berth_integration::{Node, pod};
use berth_proto::cri;

use crate::fixture::{OBEYS, Shell, ready};

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_leaves_nothing_behind() -> Result<()> {
    Node::start().await?.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_goes_from_created_to_running_to_exited_to_gone() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "life");
    let pod = node.run_pod(&config).await?;
    let sandbox = node.pod_status(&pod).await?;
    assert_eq!(sandbox.state(), cri::PodSandboxState::SandboxReady);
    assert!(sandbox.created_at > 0);

    let container = shell.container("main", OBEYS);
    let id = node.create(&pod, &container, &config).await?;
    let created = node.status(&id).await?;
    assert_eq!(created.state(), cri::ContainerState::ContainerCreated);
    assert!(created.created_at > 0);
    assert_eq!((created.started_at, created.finished_at), (0, 0));

    node.start_container(&id).await?;
    let running = node.status(&id).await?;
    assert_eq!(running.state(), cri::ContainerState::ContainerRunning);
    assert!(running.started_at >= created.created_at);
    assert_eq!(running.finished_at, 0);
    assert_eq!(running.image_id, shell.image_id);
    assert_eq!(
        running.log_path,
        format!("{}/main/0.log", config.log_directory)
    );

    ready(node, &id).await?;
    node.stop_container(&id, 10).await?;
    let exited = node.status(&id).await?;
    assert_eq!(exited.state(), cri::ContainerState::ContainerExited);
    assert_eq!((exited.exit_code, exited.reason.as_str()), (0, "Completed"));
    assert!(exited.finished_at >= exited.started_at);

    node.remove_container(&id).await?;
    let gone = node.status(&id).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);

    node.stop_pod(&pod).await?;
    let stopped = node.pod_status(&pod).await?;
    assert_eq!(stopped.state(), cri::PodSandboxState::SandboxNotready);
    assert!(stopped.network.is_none_or(|n| n.ip.is_empty()));
    node.remove_pod(&pod).await?;
    let gone = node.pod_status(&pod).await.unwrap_err();
    assert_eq!(gone.code(), tonic::Code::NotFound);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_remove_may_be_repeated_and_know_no_unknown_ids() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("twice", OBEYS).await?;
    for _ in 0..2 {
        node.stop_container(&pod.container, 5).await?;
    }
    for _ in 0..2 {
        node.remove_container(&pod.container).await?;
    }
    for _ in 0..2 {
        node.stop_pod(&pod.id).await?;
    }
    for _ in 0..2 {
        node.remove_pod(&pod.id).await?;
    }
    let unknown = "0123456789abcdef".repeat(4);
    node.stop_container(&unknown, 0).await?;
    node.remove_container(&unknown).await?;
    node.stop_pod(&unknown).await?;
    node.remove_pod(&unknown).await?;
    for _ in 0..2 {
        node.remove_image(&shell.image).await?;
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_a_pod_kills_its_containers_and_removing_it_removes_them() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("whole", crate::fixture::IGNORES).await?;
    let second = shell.container("second", OBEYS);
    let second = node.run(&pod.id, &second, &pod.config).await?;

    node.stop_pod(&pod.id).await?;
    for id in [&pod.container, &second] {
        let status = node.status(id).await?;
        assert_eq!(status.state(), cri::ContainerState::ContainerExited);
        assert_ne!(status.exit_code, 0);
    }
    let late = shell.container("late", OBEYS);
    let refused = node.create(&pod.id, &late, &pod.config).await;
    assert!(refused.is_err(), "a container in a stopped pod");

    node.remove_pod(&pod.id).await?;
    assert!(node.list_containers().await?.is_empty());
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_can_be_removed_by_force() -> Result<()> {
    let shell = Shell::start().await?;
    let pod = shell.pod("force", crate::fixture::IGNORES).await?;
    let pid = shell.node.pid(&pod.container).await?;
    shell.node.remove_container(&pod.container).await?;
    assert!(!crate::fixture::alive(pid));
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_filter_by_state_label_pod_and_a_prefix_of_the_id() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("one", OBEYS).await?;
    let mut other = pod::sandbox(node, "two");
    other.labels.insert("tier".into(), "back".into());
    let other_id = node.run_pod(&other).await?;
    let mut labelled = shell.container("labelled", OBEYS);
    labelled.labels.insert("role".into(), "web".into());
    labelled.annotations.insert("note".into(), "kept".into());
    let labelled = node.create(&other_id, &labelled, &other).await?;

    let containers = |filter: cri::ContainerFilter| async move {
        let request = cri::ListContainersRequest {
            filter: Some(filter),
        };
        let response = node.runtime()?.list_containers(request).await?;
        let ids = response.into_inner().containers.into_iter().map(|c| c.id);
        anyhow::Ok(ids.collect::<Vec<_>>())
    };
    let by_label = containers(cri::ContainerFilter {
        label_selector: [("role".into(), "web".into())].into(),
        ..Default::default()
    });
    assert_eq!(by_label.await?, [labelled.as_str()]);
    let by_pod = containers(cri::ContainerFilter {
        pod_sandbox_id: pod.id.clone(),
        ..Default::default()
    });
    assert_eq!(by_pod.await?, [pod.container.as_str()]);
    let by_state = containers(cri::ContainerFilter {
        state: Some(cri::ContainerStateValue {
            state: cri::ContainerState::ContainerCreated.into(),
        }),
        ..Default::default()
    });
    assert_eq!(by_state.await?, [labelled.as_str()]);
    let by_prefix = containers(cri::ContainerFilter {
        id: labelled[..16].into(),
        ..Default::default()
    });
    assert_eq!(by_prefix.await?, [labelled.as_str()]);
    let unknown = containers(cri::ContainerFilter {
        id: "ffffffffffff".into(),
        ..Default::default()
    });
    assert!(unknown.await?.is_empty());

    let request = cri::ListPodSandboxRequest {
        filter: Some(cri::PodSandboxFilter {
            label_selector: [("tier".into(), "back".into())].into(),
            ..Default::default()
        }),
    };
    let pods = node
        .runtime()?
        .list_pod_sandbox(request)
        .await?
        .into_inner()
        .items;
    assert_eq!(pods.len(), 1);
    assert_eq!(pods[0].id, other_id);

    let short = node.status(&labelled[..16]).await?;
    assert_eq!(short.id, labelled);
    assert_eq!(short.annotations["note"], "kept");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlapping_second_request_joins_the_first_instead_of_being_refused() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "joined");
    let (first, second) = tokio::join!(node.run_pod(&config), node.run_pod(&config));
    let (first, second) = (first?, second?);
    assert_eq!(first, second);
    let again = node.run_pod(&config).await?;
    assert_eq!(again, first, "a repeated request receives the same result");
    assert_eq!(node.list_pods().await?.len(), 1);

    let container = shell.container("main", OBEYS);
    let (a, b) = tokio::join!(
        node.create(&first, &container, &config),
        node.create(&first, &container, &config)
    );
    assert_eq!(a?, b?);
    assert_eq!(node.list_containers().await?.len(), 1);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_cycles_leave_the_agent_with_the_descriptors_it_had() -> Result<()> {
    let shell = Shell::start().await?;
    let pid = shell.node.agent_pid()?;
    let cycle = async |index: usize| -> Result<()> {
        let pod = shell.pod(&format!("cycle-{index}"), OBEYS).await?;
        shell.node.stop_pod(&pod.id).await?;
        Ok(shell.node.remove_pod(&pod.id).await?)
    };
    for index in 0..2 {
        cycle(index).await?;
    }
    let count = || -> Result<usize> {
        let open = berth_integration::leak::descriptors(pid)?;
        // Connections of this test come and go on their own.
        Ok(open
            .iter()
            .filter(|(sort, _)| *sort != "socket")
            .map(|(_, n)| n)
            .sum())
    };
    let before = count()?;
    for index in 2..12 {
        cycle(index).await?;
    }
    berth_integration::wait::until_true(
        "descriptors are back to where they were",
        std::time::Duration::from_secs(5),
        || Ok(count()? <= before),
    )
    .await?;
    shell.finish().await
}
