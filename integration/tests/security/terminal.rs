//! A8, A9: terminals and standard streams from places that the image chose.

use std::{fs, os::unix::fs::symlink};

use anyhow::{Result, ensure};
use berth_integration::{image::Entry, pod};
use berth_proto::cri;
use serde_json::json;

use crate::{
    canary::Canary,
    ground::{Ground, bind},
};

/// A8: CVE-2025-52565, CVE-2026-88264.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_shown_where_it_belongs_or_not_at_all() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let marker = canary.path.join("marker").display().to_string();
    let pod = ground.pod("console").await?;
    let targets = [
        marker.as_str(),
        "/proc/sys/kernel/core_pattern",
        "/nowhere",
        "../../../../..",
    ];
    let script = "stat -c %t:%T /dev/console; tty; wc -c </proc/keys";
    let mut number = 0;
    for name in ["console", "ptmx", "pts", "pts/0"] {
        for target in targets {
            number += 1;
            // In the image, where the runtime's own /dev covers it.
            let link = [
                Entry::directory("dev", 0o755),
                Entry::symlink(&format!("dev/{name}"), target),
            ];
            let link = &link[if name.contains('/') { 2 } else { 0 }..];
            let image = ground
                .image(&format!("dev{number}"), link, json!({}))
                .await?;
            let mut container =
                ground.of_image(&image, &format!("i{number}"), &["sh", "-c", script]);
            container.tty = true;
            let (_, text) = pod.end_of(&container).await?;
            ensure!(text.starts_with("88:"), "{name} -> {target}: {text}");
            ensure!(text.contains("\n0"), "masks are missing: {text}");
            // In a volume in its place, which the runtime must not trust.
            let volume = ground.directory(&format!("volume{number}"))?;
            if name == "pts/0" {
                fs::create_dir(volume.join("pts"))?;
            }
            fs::write(volume.join("null"), "")?;
            symlink(target, volume.join(name))?;
            container.metadata.get_or_insert_default().name = format!("v{number}");
            container.mounts = vec![bind(&volume, "/dev")];
            if let Ok((_, text)) = pod.end_of(&container).await {
                ensure!(text.starts_with("88:"), "{name} -> {target}: {text}");
            }
            canary.check()?;
        }
    }
    ground.finish().await
}

/// A9: CVE-2026-88265.
#[tokio::test(flavor = "multi_thread")]
async fn standard_streams_are_never_a_file_that_lies_at_dev_null() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let pod = ground.pod("null").await?;
    for (name, in_volume) in [("image", false), ("volume", true)] {
        let target = canary.path.join("null").display().to_string();
        let link = [Entry::symlink("dev/null", &target)];
        let image = ground.image(name, &link, json!({})).await?;
        let script = "stat -Lc %t:%T /proc/self/fd/0; cat; echo ended";
        let mut container = ground.of_image(&image, name, &["sh", "-c", script]);
        pod::security(&mut container).run_as_user = Some(cri::Int64Value { value: 1000 });
        // Without masks, which would refuse such a /dev/null before anything else.
        pod::security(&mut container).masked_paths.clear();
        if in_volume {
            let volume = ground.directory("dev-volume")?;
            symlink(&target, volume.join("null"))?;
            // The link must lead somewhere from within, too.
            container
                .mounts
                .push(bind(&canary.path, &canary.path.display().to_string()));
            container.mounts.push(bind(&volume, "/dev"));
        }
        if let Ok((_, text)) = pod.end_of(&container).await {
            ensure!(
                text.starts_with("1:3\n") && text.ends_with("ended\n"),
                "{text}"
            );
        }
        canary.check()?;
    }
    ground.finish().await
}
