//! A10, A11, B13: what an image or a pod says is content, never an order.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Result, ensure};
use berth_integration::{Node, image::Entry};
use serde_json::{Value, json};

use crate::{
    ground::{Ground, LIVES, bind},
    probe::Findings,
};

/// A10: CVE-2026-57231, CVE-2025-23266.
#[tokio::test(flavor = "multi_thread")]
async fn no_variable_of_the_node_can_be_asked_for_by_name() -> Result<()> {
    let secret = ("SECRET_X", "of-the-node");
    let node = Node::start_with("", &[secret, ("LD_PRELOAD_X", "1")]).await?;
    let ground = Ground::on(node).await?;
    let words = json!({ "Env": ["PATH=/bin", "SECRET_X", "*", "PATH*", "=x", "SECRET*=1"] });
    let pod = ground.pod("env").await?;
    match ground.image("env", &[], words).await {
        // Refused as nonsense.
        Err(_) => {}
        Ok(image) => {
            let container = ground.of_image(&image, "main", &["sh", "-c", "env"]);
            if let Ok((_, text)) = pod.end_of(&container).await {
                ensure!(!text.contains("of-the-node"), "{text}");
            }
        }
    }
    // A program of the container's is loaded with what the image wants; the node's are not.
    let preload = json!({ "Env": ["PATH=/bin", "LD_PRELOAD=/evil.so", "LD_AUDIT=/evil.so"] });
    let image = ground.image("preload", &[], preload).await?;
    let container = ground.of_image(&image, "preload", &["sh", "-c", LIVES]);
    let id = pod.run(&container).await?;
    for process in processes_of(&ground)? {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let namespace = |pid| {
            fs::metadata(format!("/proc/{pid}/ns/pid"))
                .map(|of| of.ino())
                .ok()
        };
        let inside = namespace(process) == namespace(ground.node.pid(&id).await?);
        ensure!(
            inside || !environment.contains("evil"),
            "{process}: {environment}"
        );
    }
    ground.finish().await
}

/// Processes named as ours below the agent.
fn processes_of(ground: &Ground) -> Result<Vec<u32>> {
    let agent = ground.node.agent_pid()?;
    let mut found = vec![agent];
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent.is_some_and(|parent: u32| found.contains(&parent)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A11: CVE-2019-14271, CVE-2026-41567. Every program that a node might call leaves a
/// mark if it is the container's that is called.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_runs_no_program_of_the_container() -> Result<()> {
    let ground = Ground::start().await?;
    let programs = [
        "tar",
        "xz",
        "unpigz",
        "pigz",
        "gzip",
        "zstd",
        "ps",
        "nsenter",
        "mount",
        "umount",
        "modprobe",
        "nft",
        "ip",
        "newuidmap",
        "criu",
    ];
    let mark = "#!/bin/sh\necho $0 $(id -u) > /called\n";
    let mut entries = vec![
        Entry::directory("usr/bin", 0o755),
        Entry::directory("sbin", 0o755),
    ];
    for name in programs {
        entries.push(Entry::file(&format!("usr/bin/{name}"), 0o755, mark));
        entries.push(Entry::file(&format!("sbin/{name}"), 0o755, mark));
    }
    for library in [
        "lib/libnss_files.so.2",
        "lib/x86_64-linux-gnu/libnss_files.so.2",
    ] {
        entries.push(Entry::file(library, 0o755, "not a library"));
    }
    let image = ground.image("programs", &entries, json!({})).await?;
    let pod = ground.pod("programs").await?;
    let id = pod
        .run(&ground.of_image(&image, "main", &["sh", "-c", LIVES]))
        .await?;
    ground.node.exec_sync(&id, &["true"], 10).await?;
    let archive = ground.node.home().join("saved.tar").display().to_string();
    for arguments in [
        vec!["stats", "--no-stream"],
        vec!["inspect", &id],
        vec!["exec", &id, "true"],
        vec!["logs", &id],
        vec!["save", "-o", &archive, &image],
    ] {
        // Whether each succeeds is tested elsewhere.
        ground.node.ctl(&arguments)?;
    }
    ground.node.reopen_log(&id).await?;
    ground
        .node
        .sh(&id, "! test -e /called || { cat /called; exit 1; }")
        .await?;
    ensure!(
        !std::path::Path::new("/called").exists(),
        "called on the node"
    );
    ground.finish().await
}

/// B13: CVE-2024-3154, CVE-2026-53488, CVE-2026-94603, CVE-2026-121885.
#[tokio::test(flavor = "multi_thread")]
async fn labels_and_annotations_change_nothing() -> Result<()> {
    let keys = [
        "io.kubernetes.cri-o.userns-mode",
        "io.kubernetes.cri-o.Devices",
        "io.kubernetes.cri-o.unified-cgroup",
        "io.kubernetes.cri-o.ShmSize",
        "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
        "io.containerd.cri.runtime-handler",
        "io.containerd.rdt-class",
        "containerd.io/restart.loguri",
        "containerd.io/gc.root",
        "io.podman.annotations.privileged",
        "io.podman.annotations.seccomp",
        "io.podman.annotations.apparmor",
        "io.podman.annotations.label",
        "org.systemd.property.ExecStart",
        "run.oci.keep_original_groups",
        "run.oci.seccomp_fail_unknown_syscall",
        "run.oci.hooks.stdout",
        "run.oci.systemd.subgroup",
        "org.criu.config",
        "io.kubernetes.docker.type",
        "berth.io/privileged",
        "berth.privileged",
        "io.berth.runtime",
        "com.docker.compose.project",
        "container.apparmor.security.beta.kubernetes.io/main",
        "container.seccomp.security.alpha.kubernetes.io/main",
        "seccomp.security.alpha.kubernetes.io/pod",
    ];
    let all: std::collections::BTreeMap<String, String> = keys
        .iter()
        .map(|key| ((*key).to_owned(), "unconfined".to_owned()))
        .collect();
    let ground = Ground::start().await?;
    let labels = serde_json::to_value(&all)?;
    let image = ground
        .image("labels", &[], json!({ "Labels": labels }))
        .await?;
    let mut found = Vec::new();
    for with in [false, true] {
        let mut config = berth_integration::pod::sandbox(&ground.node, "labels");
        let source = if with { &image } else { &ground.image };
        let out = ground.directory(&format!("labels-{with}"))?;
        let mut container = ground.of_image(source, "main", &["/bin/probe", "/out/init", "hold"]);
        container.mounts.push(bind(&out, "/out"));
        if with {
            config.annotations = all.clone();
            config.labels.extend(all.clone());
            container.annotations = all.clone();
            container.labels = all.clone();
        }
        let pod = ground.pod_with(config).await?;
        let id = pod.run(&container).await?;
        let file = out.join("init");
        berth_integration::wait::until(
            "the probe has written",
            std::time::Duration::from_secs(20),
            || async { Ok(file.exists().then_some(())) },
        )
        .await?;
        found.push((Findings::read(&file)?, limits(&ground, &id).await?));
        ground.node.stop_pod(&pod.id).await?;
        ground.node.remove_pod(&pod.id).await?;
    }
    let sections = [
        "process",
        "seccomp",
        "devices",
        "device access",
        "masks",
        "environment",
        "write access",
        "limits",
    ];
    for section in sections {
        ensure!(
            found[0].0.section(section) == found[1].0.section(section),
            "{section} differs"
        );
    }
    ensure!(
        found[0].0.section("mounts").len() == found[1].0.section("mounts").len(),
        "mounts differ"
    );
    ensure!(found[0].1 == found[1].1, "limits differ");
    ground.finish().await
}

async fn limits(ground: &Ground, id: &str) -> Result<Value> {
    let status = ground.node.status(id).await?;
    let linux = status
        .resources
        .unwrap_or_default()
        .linux
        .unwrap_or_default();
    Ok(json!([
        linux.cpu_quota,
        linux.cpu_shares,
        linux.memory_limit_in_bytes,
        linux.oom_score_adj,
    ]))
}
