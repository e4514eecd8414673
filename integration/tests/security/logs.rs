//! B15, B17: paths below directories that others can write, and what is deleted.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use berth_integration::pod;
use nix::{
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
    unistd::mkfifo,
};

use crate::{
    canary::Canary,
    ground::{Ground, LIVES, bind},
};

/// B15: CVE-2025-0750, CVE-2026-53489.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_written_where_it_belongs_or_not_at_all() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let pod = ground.pod("logs").await?;
    let absolute = canary.path.join("new").display().to_string();
    for (number, path) in [
        "../../../../tmp/x",
        "a/../../x",
        "..",
        &absolute,
        "a\0b",
        "a/\0",
    ]
    .into_iter()
    .enumerate()
    {
        let mut container = ground.container(&format!("c{number}"), "echo x");
        container.log_path = path.into();
        let error = pod
            .create(&container)
            .await
            .expect_err("a path that leads out");
        ensure!(
            error.code() == tonic::Code::InvalidArgument,
            "{path:?}: {error}"
        );
    }
    // Prepared by somebody who can write the log directory.
    let logs = std::path::PathBuf::from(&pod.config.log_directory);
    let marker = canary.path.join("marker");
    for kind in ["symlink", "directory link", "fifo", "directory"] {
        let name = kind.replace(' ', "-");
        let at = logs.join(&name);
        match kind {
            "directory link" => symlink(&canary.path, &at)?,
            _ => fs::create_dir_all(&at)?,
        }
        match kind {
            "symlink" => symlink(&marker, at.join("0.log"))?,
            "fifo" => mkfifo(&at.join("0.log"), Mode::S_IRWXU)?,
            "directory" => fs::create_dir(at.join("0.log"))?,
            _ => {}
        }
        let start = Instant::now();
        let container = ground.container(&name, "echo words of the container");
        let done = pod.run(&container).await;
        ensure!(start.elapsed() < Duration::from_secs(10), "{kind}: it hung");
        if let Ok(id) = done {
            ground.node.exited(&id).await?;
        }
        canary.check()?;
    }
    // Swapped in between creation and rotation.
    let id = pod.run(&ground.container("rotated", LIVES)).await?;
    let log = ground.node.log_path(&id).await?;
    fs::remove_file(&log)?;
    symlink(&marker, &log)?;
    let reopened = ground.node.reopen_log(&id).await;
    ensure!(reopened.is_err(), "a link is opened");
    canary.check()?;
    ground.finish().await
}

/// B17: CVE-2022-21658, CVE-2017-1002102.
#[tokio::test(flavor = "multi_thread")]
async fn removal_stops_at_mounts_and_follows_no_link() -> Result<()> {
    let ground = Ground::start().await?;
    let canary = Canary::new(ground.directory("canary")?)?;
    let pod = ground.pod("removal").await?;
    // Somebody's mount was left in the container's writable layer.
    let id = pod.run(&ground.container("mounted", LIVES)).await?;
    ground
        .node
        .sh(&id, "mkdir -p /left/behind; echo x > /left/file")
        .await?;
    let upper = find(&ground.node.home().join("root"), "behind")?;
    let (none, bound) = (None::<&str>, Some(&canary.path));
    mount(bound, &upper, none, MsFlags::MS_BIND, none)?;
    let removed = ground.node.remove_container(&id).await;
    let checked = canary.check();
    // What could be removed may have been moved.
    let upper = find(&ground.node.home().join("root"), "behind")?;
    umount2(&upper, MntFlags::MNT_DETACH)?;
    checked?;
    if removed.is_err() {
        ground.node.remove_container(&id).await?;
    }
    // The container swaps directories and links in a volume while it is removed.
    let volume = ground.directory("volume")?;
    let racing = AtomicBool::new(true);
    for number in 0..10 {
        let mut container = ground.container(&format!("r{number}"), LIVES);
        container.mounts = vec![bind(&volume, "/v")];
        let id = pod.run(&container).await?;
        let make = format!(
            "mkdir -p /d/sub; ln -s {} /d/link; touch /d/sub/f",
            canary.path.display()
        );
        ground.node.sh(&id, &make).await?;
        let sub = find(&ground.node.home().join("root"), "sub")?;
        let link = sub.with_file_name("link");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while racing.load(Ordering::Relaxed)
                    && sub.parent().is_some_and(std::path::Path::exists)
                {
                    renameat2(
                        AT_FDCWD,
                        &sub,
                        AT_FDCWD,
                        &link,
                        RenameFlags::RENAME_EXCHANGE,
                    )
                    .ok();
                }
            });
            let removed = tokio::task::block_in_place(|| {
                let handle = tokio::runtime::Handle::current();
                handle.block_on(ground.node.remove_container(&id))
            });
            racing.store(removed.is_ok(), Ordering::Relaxed);
        });
        canary.check()?;
        racing.store(true, Ordering::Relaxed);
    }
    // Names that are paths.
    for name in [
        "..",
        "../..",
        "a/../../x",
        "%2e%2e",
        "",
        "/",
        &"x".repeat(300),
        "a\0b",
    ] {
        // Nothing of that name: removed already, or refused.
        ground.node.remove_container(name).await.ok();
        ground.node.remove_pod(name).await.ok();
        ground.node.remove_image(name).await.ok();
        canary.check()?;
        ensure!(ground.node.home().join("root").exists(), "{name:?}");
    }
    ensure!(pod.create(&ground.container("after", LIVES)).await.is_ok());
    let mut odd = pod::sandbox(&ground.node, "odd");
    odd.metadata.get_or_insert_default().name = "../../odd".into();
    // A name is not a path; the pod's id is what directories are called by.
    ground.node.run_pod(&odd).await.ok();
    canary.check()?;
    ground.finish().await
}

/// A directory of that name below `top`, not followed through links.
fn find(top: &std::path::Path, name: &str) -> Result<std::path::PathBuf> {
    let mut left = vec![top.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if entry.file_name() == name {
                return Ok(entry.path());
            }
            left.push(entry.path());
        }
    }
    anyhow::bail!("there is no {name} below {}", top.display())
}
