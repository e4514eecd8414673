//! Pods with users of their own.

use anyhow::{Context as _, Result};
use berth_integration::{Node, pod};
use berth_proto::cri;
use tonic::Code;

use crate::fixture::{OBEYS, Shell, assert_refused, ready};

const FIRST: u32 = 1_000_000;

fn map() -> cri::IdMapping {
    cri::IdMapping {
        host_id: FIRST,
        container_id: 0,
        length: 65_536,
    }
}

fn users() -> cri::UserNamespace {
    cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: vec![map()],
        gids: vec![map()],
    }
}

/// A pod whose containers share their PID namespace if `shared`.
async fn pod_with_users(
    node: &Node,
    name: &str,
    shared: bool,
) -> Result<(String, cri::PodSandboxConfig)> {
    let mut config = pod::sandbox(node, name);
    let options = pod::namespace_options(&mut config);
    options.userns_options = Some(users());
    if shared {
        options.set_pid(cri::NamespaceMode::Pod);
    }
    Ok((node.run_pod(&config).await?, config))
}

fn container(shell: &Shell, name: &str, script: &str, shared: bool) -> cri::ContainerConfig {
    let mut container = shell.container(name, script);
    let options = pod::security(&mut container).namespace_options.as_mut();
    let options = options.expect("made by shell()");
    options.userns_options = Some(users());
    if shared {
        options.set_pid(cri::NamespaceMode::Pod);
    }
    container
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_root_is_somebody_else_on_the_node_and_owns_what_it_makes() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    for shared in [false, true] {
        let name = if shared { "shared" } else { "own" };
        let (pod, config) = pod_with_users(node, name, shared).await?;
        let outside = node.home().join(format!("volume-{name}"));
        std::fs::create_dir(&outside)?;
        std::os::unix::fs::chown(&outside, Some(7), Some(7))?;
        let mut one = container(&shell, "one", OBEYS, shared);
        one.mounts.push(cri::Mount {
            container_path: "/volume".into(),
            host_path: outside.display().to_string(),
            uid_mappings: vec![map()],
            gid_mappings: vec![map()],
            ..Default::default()
        });
        let one = node.run(&pod, &one, &config).await?;
        ready(node, &one).await?;

        // Inside it is root, with a root directory of its own.
        assert_eq!(
            node.sh(&one, "id -u; stat -c %u:%g / /etc/hosts").await?,
            "0\n0:0\n0:0\n"
        );
        node.sh(&one, "touch /mine /volume/mine; chown 5:6 /volume/mine")
            .await?;
        assert_eq!(
            node.sh(&one, "stat -c %u:%g /mine /volume").await?,
            "0:0\n7:7\n"
        );
        // On the node it is not, though its files are those of whom it says.
        use std::os::unix::fs::MetadataExt as _;
        let pid = node.pid(&one).await?;
        let owner = std::fs::metadata(format!("/proc/{pid}"))?.uid();
        assert_eq!(owner, FIRST);
        let mine = std::fs::metadata(outside.join("mine"))?;
        assert_eq!((mine.uid(), mine.gid()), (5, 6));
        let maps = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
        let maps: Vec<_> = maps.split_whitespace().collect();
        assert_eq!(maps, ["0", "1000000", "65536"]);

        // What it may do is bounded by what belongs to the pod.
        node.sh(&one, "hostname renamed && hostname | grep renamed")
            .await
            .unwrap_err();
        let two = container(&shell, "two", OBEYS, shared);
        let two = node.run(&pod, &two, &config).await?;
        let spaces = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user"));
        assert_eq!(spaces(pid)?, spaces(node.pid(&two).await?)?);
        assert_ne!(spaces(pid)?, std::fs::read_link("/proc/self/ns/user")?);
        assert_eq!(
            node.sh(&two, "cat /proc/sys/net/ipv4/ping_group_range")
                .await?,
            "0\t65535\n"
        );
        node.stop_container(&one, 10).await?;
        assert_eq!(node.status(&one).await?.exit_code, 0);
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_survive_the_agent_and_are_told_in_the_status() -> Result<()> {
    let mut shell = Shell::start().await?;
    let (pod, config) = pod_with_users(&shell.node, "stays", false).await?;
    let one = container(&shell, "one", OBEYS, false);
    let one = shell.node.run(&pod, &one, &config).await?;
    shell.node.crash_and_restart().await?;
    assert_eq!(shell.node.sh(&one, "id -u").await?, "0\n");
    let two = container(&shell, "two", OBEYS, false);
    let two = shell.node.run(&pod, &two, &config).await?;
    assert_eq!(shell.node.sh(&two, "id -u").await?, "0\n");
    let status = shell.node.pod_status(&pod).await?;
    let told = status.linux.and_then(|linux| linux.namespaces);
    let told = told.and_then(|namespaces| namespaces.options);
    assert_eq!(told.context("no options")?.userns_options, Some(users()));
    let features = shell
        .node
        .runtime()?
        .status(cri::StatusRequest::default())
        .await?;
    for handler in features.into_inner().runtime_handlers {
        assert!(
            handler
                .features
                .is_some_and(|features| features.user_namespaces)
        );
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_cannot_be_are_refused() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    type Change = fn(&mut cri::NamespaceOption);
    let refused: [(Change, &str); 5] = [
        (
            |o| o.userns_options.as_mut().unwrap().uids.push(map()),
            "one map",
        ),
        (
            |o| o.userns_options.as_mut().unwrap().gids[0].container_id = 1,
            "id 0",
        ),
        (
            |o| o.userns_options.as_mut().unwrap().uids[0].host_id = 0,
            "root",
        ),
        (|o| o.set_network(cri::NamespaceMode::Node), "network"),
        (
            |o| {
                o.userns_options
                    .as_mut()
                    .unwrap()
                    .set_mode(cri::NamespaceMode::Target)
            },
            "mode",
        ),
    ];
    for (change, word) in refused {
        let mut config = pod::sandbox(node, "refused");
        let options = pod::namespace_options(&mut config);
        options.userns_options = Some(users());
        change(options);
        let refused = node.run_pod(&config).await;
        assert_refused(refused, &[Code::InvalidArgument], &[word]);
    }
    // A container has those of its pod or none.
    let config = pod::sandbox(node, "plain");
    let pod = node.run_pod(&config).await?;
    let one = container(&shell, "one", OBEYS, false);
    let refused = node.create(&pod, &one, &config).await;
    assert_refused(refused, &[Code::InvalidArgument], &["userns_options"]);
    shell.finish().await
}
