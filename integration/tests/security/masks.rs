//! B5 to B8, B16: what is hidden or must not be written.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use anyhow::{Result, ensure};
use berth_integration::pod;
use berth_proto::cri;
use serde_json::json;

use crate::{
    canary::{Canary, MARKER},
    ground::{Ground, LIVES, MASKED, READONLY, bind},
    oci::{Oci, Runtime},
};

/// B5: CVE-2025-31133. With a /dev whose null is a link, Debian's runc shows a setting of
/// the node where the masked file was.
#[test]
fn a_dev_null_that_is_a_link_is_nothing_to_mask_with() -> Result<()> {
    let scenario = |runtime| -> Result<bool> {
        let oci = Oci::new()?;
        let dev = oci.directory("dev")?;
        symlink("/proc/sys/kernel/core_pattern", dev.join("null"))?;
        for name in ["zero", "full", "random", "urandom", "tty", "console"] {
            fs::write(dev.join(name), "")?;
        }
        fs::create_dir(dev.join("pts"))?;
        let mut config = oci.config("cat /proc/timer_list");
        config["mounts"][1] = json!({"destination": "/dev", "type": "bind", "source": dev,
            "options": ["bind", "rw"]});
        let done = oci.run(runtime, &config)?;
        oci.finish()?;
        let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
        // Seen instead of the mask, or the file itself seen unmasked.
        Ok(done.out.contains(pattern.trim()) || done.out.contains("Timer List"))
    };
    if Runtime::Runc.is_known_to_fall()? {
        ensure!(scenario(Runtime::Runc)?, "the control does not fire");
    }
    ensure!(
        !scenario(Runtime::Berth)?,
        "it runs with something else as a mask"
    );
    Ok(())
}

/// B5 through the agent: without a null device nothing runs unmasked.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_masked_does_not_run() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("masks").await?;
    for kind in ["link", "file", "absent", "directory"] {
        let volume = ground.directory(kind)?;
        fs::create_dir(volume.join("pts"))?;
        let null = volume.join("null");
        match kind {
            "link" => symlink("/proc/sys/kernel/core_pattern", &null)?,
            "file" => fs::write(&null, MARKER)?,
            "directory" => fs::create_dir(&null)?,
            _ => {}
        }
        let mut container = ground.container(kind, "cat /proc/timer_list /proc/keys");
        container.mounts = vec![bind(&volume, "/dev")];
        match pod.end_of(&container).await {
            Err(_) => {}
            Ok((_, text)) => ensure!(text.is_empty(), "{kind}: {text}"),
        }
    }
    ground.finish().await
}

/// B8: GHSA-7ww5-4wqc-m92c. The lists are those of the request, exactly.
#[tokio::test(flavor = "multi_thread")]
async fn paths_are_hidden_and_protected_as_the_request_says() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("lists").await?;
    let id = pod.run(&ground.container("default", LIVES)).await?;
    for path in MASKED {
        let read = format!("test -d {path} && ls {path} || cat {path} 2>/dev/null; true");
        let seen = ground.node.sh(&id, &read).await?;
        ensure!(seen.is_empty(), "{path}: {seen:.100}");
    }
    for path in READONLY {
        let there = Path::new(path).exists();
        let covers = format!("grep -c ' {path} ro,' /proc/self/mountinfo; true");
        let covers = ground.node.sh(&id, &covers).await?;
        ensure!((covers.trim() == "1") == there, "{path}: {covers}");
    }
    let mut bare = ground.container("bare", LIVES);
    let context = pod::security(&mut bare);
    context.masked_paths.clear();
    context.readonly_paths.clear();
    let id = pod.run(&bare).await?;
    ground.node.sh(&id, "grep -q . /proc/interrupts").await?;
    let mounts = ground
        .node
        .sh(&id, "grep -c ' /proc/' /proc/self/mounts; true")
        .await?;
    ensure!(
        mounts.trim() == "0",
        "an empty list hides nothing: {mounts}"
    );
    ground.finish().await
}

/// B6: CVE-2025-52881, CVE-2025-62596. Nothing is written through what the container
/// sees as /proc.
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_written_to_the_kernels_own_files() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    let fake = ground.directory("fake")?;
    for name in ["self", "thread-self", "sys"] {
        symlink("/proc/sys/kernel/core_pattern", fake.join(name))?;
    }
    let mut config = pod::sandbox(&ground.node, "settings");
    let linux = config.linux.get_or_insert_default();
    linux
        .sysctls
        .insert("net.ipv4.ip_unprivileged_port_start".into(), "81".into());
    let pod = ground.pod_with(config).await?;
    for destination in [
        "/proc/self",
        "/proc/self/attr",
        "/proc/thread-self",
        "/proc/sys",
        "/proc/1",
    ] {
        let mut container = ground.container("fake", "true");
        container.mounts = vec![bind(&fake, destination)];
        ensure!(pod.create(&container).await.is_err(), "{destination}");
    }
    // A volume instead of the whole, which masks then fail on, or which is the caller's wish.
    let mut whole = ground.container("whole", LIVES);
    whole.mounts = vec![bind(&fake, "/proc")];
    pod::linux(&mut whole).resources = Some(cri::LinuxContainerResources {
        oom_score_adj: 500,
        ..Default::default()
    });
    if let Ok(id) = pod.run(&whole).await {
        let pid = ground.node.pid(&id).await?;
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?;
        ensure!(score.trim() == "500", "{score}");
        ground.node.remove_container(&id).await?;
    }
    canary.check()?;
    let inside = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let (_, text) = pod.end_of(&ground.container("inside", inside)).await?;
    ensure!(text.trim() == "81", "{text}");
    let after = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    ensure!(after == before, "the node's own has changed");
    ground.finish().await
}

/// B7: CVE-2026-115521; B16: sources keep their owner and mode.
#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_read_only_below_too_and_sources_stay_as_they_are() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let below = ground.directory("below")?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "below"])
        .arg(&below)
        .status()?;
    ensure!(mounted.success());
    let tree = ground.directory("tree")?;
    fs::create_dir(tree.join("sub"))?;
    let bound = Command::new("mount")
        .arg("--bind")
        .args([&below, &tree.join("sub")])
        .status()?;
    ensure!(bound.success());
    let done = async {
        let pod = ground.pod("readonly").await?;
        let mut container = ground.container("main", LIVES);
        pod::security(&mut container).readonly_rootfs = true;
        container.mounts = vec![
            cri::Mount {
                readonly: true,
                ..bind(&canary.path, "/canary")
            },
            cri::Mount {
                readonly: true,
                recursive_read_only: true,
                ..bind(&tree, "/tree")
            },
            cri::Mount {
                readonly: true,
                ..bind(canary.path.join("hostname"), "/etc/hosts")
            },
            bind(canary.path.join("marker"), "/dev/termination-log"),
        ];
        let id = pod.run(&container).await?;
        let script = "for f in / /canary /tree /tree/sub /etc /canary/directory; do \
                      touch $f/new 2>&1; done; echo x 2>&1 >> /etc/hosts; \
                      echo x 2>&1 >> /canary/marker; true";
        let said = ground.node.sh(&id, script).await?;
        ensure!(said.matches("Read-only file system").count() >= 6, "{said}");
        ensure!(fs::read_dir(&below)?.count() == 0, "written below");
        ground.node.remove_container(&id).await?;
        canary.check()
    }
    .await;
    for path in [tree.join("sub"), below] {
        Command::new("umount").arg(path).status()?;
    }
    done?;
    ground.finish().await
}
