//! B1 to B4, B14: mount points and files that the image prepared.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, ensure};
use berth_integration::image::Entry;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use crate::{
    canary::{Canary, MARKER},
    ground::{Ground, bind},
    oci::{Oci, Runtime},
};

/// Attempts of a race: with the fault each would succeed with a chance of a few percent.
const RACES: usize = 60;

/// B1: CVE-2021-30465. Somebody swaps the mount point while it is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_point_that_is_swapped_meanwhile_leads_nowhere_else() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let volume = ground.directory("volume")?;
    let inner = ground.directory("inner")?;
    fs::write(inner.join("mine"), "")?;
    fs::create_dir(volume.join("a"))?;
    // As a container would see it, `/` is its own; as the node would, the canary is there.
    symlink(&canary.path, volume.join("link"))?;
    let before = fs::read_to_string("/proc/self/mountinfo")?.lines().count();
    let pod = ground.pod("race").await?;
    let racing = AtomicBool::new(true);
    let raced = std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            while racing.load(Ordering::Relaxed) {
                let (a, link) = (volume.join("a"), volume.join("link"));
                renameat2(AT_FDCWD, &a, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).ok();
            }
        });
        let done = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for number in 0..RACES {
                    let script = "ls /v/a/b; ls /v/a | head -3";
                    let mut container = ground.container(&format!("c{number}"), script);
                    container.mounts = vec![bind(&volume, "/v"), bind(&inner, "/v/a/b")];
                    if let Ok((_, text)) = pod.end_of(&container).await {
                        ensure!(!text.contains("marker"), "{text}");
                    }
                }
                Ok(())
            })
        });
        racing.store(false, Ordering::Relaxed);
        racer.join().expect("the racer only renames");
        done
    });
    raced?;
    canary.check()?;
    let after = fs::read_to_string("/proc/self/mountinfo")?;
    let home = ground.node.name();
    let ours: Vec<&str> = after
        .lines()
        .filter(|line| line.contains(&home) && line.contains("canary"))
        .collect();
    ensure!(ours.is_empty(), "{before} mounts before, and now {ours:?}");
    ground.finish().await
}

/// B2: CVE-2024-45310, CVE-2026-55686, CVE-2024-5154.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_where_links_of_the_image_lead() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let volume = ground.directory("volume")?;
    let pod = ground.pod("links").await?;
    let absolute = canary.path.display().to_string();
    let climbing = format!("../../../../../../../..{absolute}");
    let dangling = format!("{absolute}/new/directory");
    let mut chain: Vec<Entry> = (0..39)
        .map(|number| Entry::symlink(&format!("l{number}"), &format!("/l{}", number + 1)))
        .collect();
    chain.push(Entry::symlink("l39", &absolute));
    let mut number = 0;
    for target in [&absolute, &climbing, &dangling, &"/l0".to_owned()] {
        for (name, at) in [
            ("etc", "/etc/x/y"),
            ("work", "/work/a/b"),
            ("run", "/run/z"),
            ("var", "/var/w"),
        ] {
            number += 1;
            let mut entries = vec![Entry::whiteout(name), Entry::symlink(name, target)];
            entries.extend_from_slice(&chain);
            let reference = format!("links{number}");
            let image = ground
                .image(&reference, &entries, json!({ "WorkingDir": at }))
                .await?;
            let mut container = ground.of_image(&image, &reference, &["true"]);
            container.mounts = vec![bind(&volume, at)];
            // Made within, or refused.
            pod.end_of(&container).await.ok();
            canary.check()?;
        }
    }
    // The files that every container gets.
    for name in [
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/mtab",
        "dev/shm",
    ] {
        number += 1;
        let target = format!("{absolute}/hostname");
        let entries = [Entry::symlink(name, &target)];
        let image = ground
            .image(&format!("file{number}"), &entries, json!({}))
            .await?;
        let container = ground.of_image(&image, &format!("f{number}"), &["true"]);
        pod.end_of(&container).await.ok();
        canary.check()?;
    }
    ground.finish().await
}

/// B3: CVE-2026-41579. Debian's runc replaces a file of the node.
#[test]
fn a_dev_that_is_a_link_is_not_populated_on_the_node() -> Result<()> {
    let scenario = |runtime| -> Result<Result<()>> {
        let oci = Oci::new()?;
        let canary = Canary::new(oci.directory("canary")?)?;
        fs::remove_dir(oci.rootfs().join("dev"))?;
        symlink(&canary.path, oci.rootfs().join("dev"))?;
        // Refused or not: what counts is the node.
        oci.run(runtime, &oci.config("true"))?;
        let checked = canary.check();
        fs::remove_file(oci.rootfs().join("dev"))?;
        oci.finish()?;
        Ok(checked)
    };
    if Runtime::Runc.is_known_to_fall()? {
        ensure!(
            scenario(Runtime::Runc)?.is_err(),
            "the control does not fire"
        );
    }
    scenario(Runtime::Berth)?
}

/// B3, B4 through the agent: CVE-2019-19921, CVE-2023-27561, CVE-2025-54867.
#[tokio::test(flavor = "multi_thread")]
async fn places_of_the_kernel_that_are_links_or_files_are_refused() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let absolute = canary.path.display().to_string();
    let pod = ground.pod("kernel-places").await?;
    let mut number = 0;
    for place in ["proc", "sys", "dev"] {
        for target in [absolute.as_str(), "/", "../../..", "tmp", ""] {
            number += 1;
            let entry = match target {
                "" => Entry::file(place, 0o644, MARKER),
                target => Entry::symlink(place, target),
            };
            let image = ground
                .image(&format!("place{number}"), &[entry], json!({}))
                .await?;
            let name = format!("p{number}");
            let container = ground.of_image(&image, &name, &["ls", "/proc/self/fd"]);
            let created = pod.create(&container).await;
            ensure!(created.is_err(), "/{place} -> {target:?} is accepted");
            canary.check()?;
        }
    }
    let volume = ground.directory("volume")?;
    for destination in [
        "/proc",
        "/proc/self",
        "/proc/sys",
        "/./proc//sys",
        "/proc/self/attr",
        "/sys/..",
    ] {
        let mut container = ground.container("volume", "true");
        container.mounts = vec![bind(&volume, destination)];
        let created = pod.create(&container).await;
        // A volume instead of /proc itself is what the caller asked for; it has no masks.
        let whole = destination == "/proc";
        ensure!(whole || created.is_err(), "{destination}: {created:?}");
        if let Ok(id) = created {
            ground.node.remove_container(&id).await?;
        }
    }
    ground.finish().await
}

/// B14: CVE-2022-23648.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_of_an_image_copy_nothing_of_the_nodes() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let pod = ground.pod("volumes").await?;
    let link = canary.path.display().to_string();
    let volumes = [
        "/../../../../etc",
        "/a/../../..",
        "/link",
        "/",
        "/proc",
        "etc",
        "/link/..",
        "/dev",
    ];
    for (number, volume) in volumes.into_iter().enumerate() {
        let entries = [Entry::symlink("link", &link)];
        let mut set = serde_json::Map::new();
        set.insert(volume.to_owned(), json!({}));
        let config = json!({ "Volumes": set });
        let Ok(image) = ground
            .image(&format!("volume{number}"), &entries, config)
            .await
        else {
            continue;
        };
        let script = format!(
            "find {volume} -type f -name marker; cat /etc/shadow {volume}/shadow; \
                              cat {link}/marker {volume}/marker; true"
        );
        let container = ground.of_image(&image, &format!("v{number}"), &["sh", "-c", &script]);
        if let Ok((_, text)) = pod.end_of(&container).await {
            ensure!(
                !text.contains(MARKER.trim()) && !text.contains("root:"),
                "{volume}: {text}"
            );
        }
        canary.check()?;
    }
    ensure!(
        Path::new(&link).join("marker").exists(),
        "it was there to be copied"
    );
    ground.finish().await
}
