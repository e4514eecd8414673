//! B9 to B12: control groups, devices, namespaces, kernel parameters.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Result, ensure};
use berth_integration::{Node, pod};
use berth_proto::cri;

use crate::{
    canary::Canary,
    ground::{Ground, LIVES, bind},
    probe::Findings,
};

/// B9: GHSA-g54h-m393-cpwq, CVE-2022-0492.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_were_not_granted_cannot_be_opened_by_init_or_exec() -> Result<()> {
    let ground = Ground::start().await?;
    let out = ground.directory("out")?;
    let pod = ground.pod("devices").await?;
    let mut container =
        ground.of_image(&ground.image, "main", &["/bin/probe", "/out/init", "hold"]);
    container.mounts.push(bind(&out, "/out"));
    let id = pod.run(&container).await?;
    ground
        .node
        .exec_sync(&id, &["/bin/probe", "/out/exec"], 20)
        .await?;
    for part in ["init", "exec"] {
        let found = Findings::read(&out.join(part))?;
        for name in ["null", "zero", "full", "random", "urandom", "ptmx"] {
            let access = found.value("device access", &format!("{name} "));
            ensure!(access.ends_with("opened: ok"), "{part} {name}: {access}");
        }
        for name in ["mem", "kmsg", "fuse", "tun", "loop0", "sda", "loop-control"] {
            let access = found.value("device access", &format!("{name} "));
            ensure!(access.ends_with("EPERM"), "{part} {name}: {access}");
        }
    }
    let escape = "unshare -UrmC sh -c 'mount -t cgroup -o memory x /tmp' 2>&1 && exit 9; \
                  unshare -Ur true 2>&1 && exit 8; mount -t cgroup -o rdma x /tmp 2>&1 && exit 7; \
                  exit 0";
    ground.node.sh(&id, escape).await?;
    ground.finish().await
}

/// B10: CVE-2023-25809, CVE-2023-6476, CVE-2025-47291.
#[tokio::test(flavor = "multi_thread")]
async fn every_process_is_below_its_pods_group_in_every_hierarchy() -> Result<()> {
    let mut ground = Ground::start().await?;
    let mut config = pod::sandbox(&ground.node, "member");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let parent = linux.cgroup_parent.clone();
    let id = ground.node.run_pod(&config).await?;
    let mut containers = Vec::new();
    for (name, privileged) in [("plain", false), ("privileged", true)] {
        let mut container = ground.container(name, LIVES);
        pod::security(&mut container).privileged = privileged;
        containers.push(ground.node.run(&id, &container, &config).await?);
    }
    for restarted in [false, true] {
        if restarted {
            ground.node.crash_and_restart().await?;
        }
        for container in &containers {
            let node = &ground.node;
            let exec = node.exec_sync(container, &["sleep", "77"], 1);
            let (_, checked) = tokio::join!(exec, async {
                tokio::time::sleep(std::time::Duration::from_millis(400)).await;
                let init = node.pid(container).await?;
                let namespace = fs::metadata(format!("/proc/{init}/ns/pid"))?.ino();
                let mut seen = 0;
                for entry in fs::read_dir("/proc")?.flatten() {
                    let of = fs::metadata(entry.path().join("ns/pid"));
                    if !of.is_ok_and(|of| of.ino() == namespace) {
                        continue;
                    }
                    seen += 1;
                    let groups = fs::read_to_string(entry.path().join("cgroup"))?;
                    for line in groups.lines() {
                        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
                        ensure!(
                            path.starts_with(&parent),
                            "{}: {line}",
                            entry.path().display()
                        );
                    }
                }
                ensure!(seen >= 2, "init and exec: {seen}");
                Ok(())
            });
            checked?;
        }
    }
    for climbing in ["../../x", "/../x", "/a/../../x", "a/\0b"] {
        let mut config = pod::sandbox(&ground.node, "climbing");
        config.linux.get_or_insert_default().cgroup_parent = climbing.into();
        let refused = ground.node.run_pod(&config).await;
        ensure!(refused.is_err(), "{climbing:?} is accepted");
    }
    ground.finish().await
}

/// B10: a fork bomb ends at its limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_cannot_have_more_processes_than_it_may() -> Result<()> {
    let node = Node::start_with("[container]\npids_limit = 32\n", &[]).await?;
    let ground = Ground::on(node).await?;
    let pod = ground.pod("bomb").await?;
    let bomb = "n=0; while [ $n -lt 200 ]; do sleep 60 & n=$((n+1)); done; wait";
    let (code, said) = pod.end_of(&ground.container("ends", bomb)).await?;
    ensure!(code != 0 && said.contains("can't fork"), "{code}: {said}");
    // One that goes on when it cannot have more.
    let bomb = "n=0; while [ $n -lt 200 ]; do (sleep 60 &) ; n=$((n+1)); done; wait";
    let bomb = format!("sh -c '{bomb}'; sh -c '{bomb}'; sleep 60");
    let id = pod.run(&ground.container("main", &bomb)).await?;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let init = ground.node.pid(&id).await?;
    let namespace = fs::metadata(format!("/proc/{init}/ns/pid"))?.ino();
    let of = |path: std::path::PathBuf| fs::metadata(path.join("ns/pid")).map(|of| of.ino()).ok();
    let count = fs::read_dir("/proc")?
        .flatten()
        .filter(|entry| of(entry.path()) == Some(namespace))
        .count();
    ensure!(count <= 32, "{count} processes");
    ground.finish().await
}

/// B11: CVE-2021-43784. However much is asked for, the namespaces are those asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_loses_none_of_its_namespaces() -> Result<()> {
    let ground = Ground::start().await?;
    let propagation = || -> Result<Vec<String>> {
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        let home = ground.node.name();
        let lines = text.lines().filter(|line| !line.contains(&home));
        Ok(lines
            .filter(|line| line.contains(" / / "))
            .map(str::to_owned)
            .collect())
    };
    let before = propagation()?;
    let pod = ground.pod("large").await?;
    for size in [60 << 10, 70 << 10, 1 << 20] {
        let mut container = ground.container(&format!("c{size}"), LIVES);
        // One string of the kernel's is at most 128 KiB.
        container.envs = (0..size / 1024)
            .map(|number| cri::KeyValue {
                key: format!("V{number}"),
                value: "x".repeat(1000).into(),
            })
            .collect();
        container.annotations = [("a".to_owned(), "y".repeat(size))].into();
        match pod.run(&container).await {
            Err(error) => ensure!(
                !matches!(error.code(), tonic::Code::Internal | tonic::Code::Unknown),
                "{error}"
            ),
            Ok(id) => {
                let pid = ground.node.pid(&id).await?;
                for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
                    let of = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}"));
                    let (own, ours) = (of(&pid.to_string())?.ino(), of("self")?.ino());
                    ensure!(own != ours, "{size}: {kind} is the node's");
                }
                ground.node.remove_container(&id).await?;
            }
        }
    }
    ensure!(
        propagation()? == before,
        "the node's root tells differently"
    );
    ground.finish().await
}

/// B12: CVE-2022-0811.
#[tokio::test(flavor = "multi_thread")]
async fn kernel_parameters_of_the_node_cannot_be_smuggled_in() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let smuggled = [
        ("kernel.core_pattern", "|/x"),
        ("net/../kernel/core_pattern", "|/x"),
        ("net.ipv4.conf.eth0/1.x", "1"),
        ("net..ipv4", "1"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced\0", "1"),
        ("vm.overcommit_memory", "1"),
        ("kernel.sysrq", "1"),
        ("fs.suid_dumpable", "2"),
        ("", "1"),
    ];
    for (number, (name, value)) in smuggled.into_iter().enumerate() {
        let mut config = pod::sandbox(&ground.node, &format!("s{number}"));
        let linux = config.linux.get_or_insert_default();
        linux.sysctls.insert(name.into(), value.into());
        let refused = ground.node.run_pod(&config).await;
        ensure!(refused.is_err(), "{name:?} = {value:?}");
        canary.check()?;
    }
    // What would be the pod's own, if it had such a namespace.
    for (name, network) in [("net.ipv4.ip_forward", true), ("kernel.shmmax", false)] {
        let mut config = pod::sandbox(&ground.node, &name.replace('.', "-"));
        let options = pod::namespace_options(&mut config);
        if network {
            options.network = cri::NamespaceMode::Node.into();
        } else {
            options.ipc = cri::NamespaceMode::Node.into();
        }
        let linux = config.linux.get_or_insert_default();
        linux.sysctls.insert(name.into(), "1".into());
        let refused = ground.node.run_pod(&config).await;
        ensure!(refused.is_err(), "{name} of the node");
    }
    canary.check()?;
    ground.finish().await
}
