//! A database that is damaged or gone: what runs goes on, under control, and nothing
//! that somebody may want back is deleted.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use berth_integration::Node;
use berth_proto::cri::ContainerState;

use crate::fixture::{OBEYS, Shell, ready};

fn records(node: &Node) -> PathBuf {
    node.home().join("root/records")
}

/// Damages the database of a node whose agent has been killed.
async fn survives(damage: fn(&Node) -> Result<()>) -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("kept", OBEYS).await?;
    ready(&shell.node, &pod.container).await?;
    let pid = shell.node.pid(&pod.container).await?;
    let before = shell.node.pod_status(&pod.id).await?;
    // Somebody's container that has ended: its files are there for `start` or `cp`.
    let unowned = shell
        .node
        .home()
        .join("root/containers")
        .join("c".repeat(64));
    shell.node.kill()?;
    fs::create_dir_all(&unowned)?;
    damage(&shell.node)?;
    shell.node.launch(&[]).await?;

    let node = &shell.node;
    let status = node.status(&pod.container).await?;
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(node.pid(&pod.container).await?, pid);
    let after = node.pod_status(&pod.id).await?;
    assert_eq!(after.network, before.network);
    assert_eq!(after.labels, before.labels);
    assert_eq!(node.sh(&pod.container, "echo on").await?, "on\n");
    let image = node.image_status(&shell.image).await?;
    assert_eq!(image.context("the image is lost")?.id, shell.image_id);
    // A new pod gets an address of its own.
    let other = shell.pod("other", OBEYS).await?;
    let other = node.pod_status(&other.id).await?.network;
    assert_ne!(other.map(|n| n.ip), before.network.map(|n| n.ip));
    let told = node.ctl(&["info"])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("broken-"), "{told}");
    assert!(unowned.exists(), "what may be wanted back is deleted");

    // It is ended as any other, and the operator lets go.
    shell.node.stop_container(&pod.container, 5).await?;
    for entry in fs::read_dir(records(&shell.node))?.flatten() {
        if entry.file_name().to_string_lossy().contains(".broken-") {
            fs::remove_file(entry.path())?;
        }
    }
    shell.node.crash_and_restart().await?;
    assert!(!unowned.exists(), "nobody owns it and nothing was lost");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_overwritten_is_put_aside_and_made_anew_from_what_runs() -> Result<()> {
    survives(|node| {
        // The journal too, from which it would be whole again.
        for name in ["berth.db", "berth.db-wal"] {
            let file = records(node).join(name);
            let length = fs::metadata(&file)?.len();
            fs::write(file, vec![0x5a; usize::try_from(length)?])?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_is_made_anew_from_what_runs() -> Result<()> {
    survives(|node| {
        for name in ["berth.db", "berth.db-wal", "berth.db-shm"] {
            fs::remove_file(records(node).join(name)).or_else(|error| {
                if error.kind() == std::io::ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        Ok(())
    })
    .await
}
