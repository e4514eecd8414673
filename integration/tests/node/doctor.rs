//! `doctor`: what nobody owns is found, shown with a plan, and undone; nothing else is.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use berth_integration::{Node, programs};
use berth_proto::berth::v1;

use crate::fixture::{OBEYS, Shell, ready};

const ID: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

async fn doctor(node: &Node, fix: bool) -> Result<v1::DoctorResponse> {
    Ok(node
        .berth()?
        .doctor(v1::DoctorRequest { fix })
        .await?
        .into_inner())
}

/// What a crash could have left, and beside it what is none of ours.
fn litter(node: &Node) -> Result<Vec<std::path::PathBuf>> {
    let home = node.home();
    let mut strays = Vec::new();
    for below in ["run/shims", "run/pods", "root/containers", "root/logs"] {
        let stray = home.join(below).join(ID);
        fs::create_dir_all(&stray)?;
        fs::write(stray.join("file"), [0; 5000])?;
        strays.push(stray);
        fs::create_dir_all(home.join(below).join("not-an-id"))?;
    }
    Ok(strays)
}

fn tidy(node: &Node) -> Result<()> {
    for below in ["run/shims", "run/pods", "root/containers", "root/logs"] {
        fs::remove_dir(node.home().join(below).join("not-an-id"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_owns_is_planned_first_and_undone_only_when_asked_for() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("owner", OBEYS).await?;
    ready(node, &pod.container).await?;
    let clean = doctor(node, false).await?;
    assert_eq!(clean.strays, [], "a node that serves has no strays");
    assert!(clean.checks.len() > 10);

    let strays = litter(node)?;
    let found = doctor(node, false).await?;
    assert_eq!(found.strays.len(), strays.len(), "{:?}", found.strays);
    for stray in &found.strays {
        assert_eq!(stray.owner, ID);
        assert!(stray.plan.contains(&stray.place), "{stray:?}");
        assert!(stray.bytes >= 5000 && stray.age.is_some(), "{stray:?}");
        assert!(!stray.undone);
    }
    assert!(strays.iter().all(|stray| stray.exists()), "only looked at");

    let fixed = doctor(node, true).await?;
    assert!(fixed.strays.iter().all(|stray| stray.undone), "{fixed:?}");
    assert!(strays.iter().all(|stray| !stray.exists()));
    assert_eq!(doctor(node, false).await?.strays, []);
    // What has an owner, and what is not ours, is as it was.
    assert_eq!(node.sh(&pod.container, "echo here").await?, "here\n");
    tidy(node)?;
    shell.finish().await
}

/// The flags that say which node is meant.
fn place(node: &Node) -> Vec<std::ffi::OsString> {
    let mut flags = Vec::new();
    for (flag, path) in [
        ("--config", "config.toml"),
        ("--root", "root"),
        ("--run-dir", "run"),
    ] {
        flags.extend([flag.into(), node.home().join(path).into()]);
    }
    flags
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_works_without_an_agent_and_leaves_living_pods_alone() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("alone", OBEYS).await?;
    ready(&shell.node, &pod.container).await?;
    shell.node.kill()?;
    let node = &shell.node;
    let strays = litter(node)?;
    let run = |fix: bool| -> Result<(bool, serde_json::Value)> {
        let mut command = Command::new(programs::directory()?.join("berthctl"));
        command
            .env("BERTH_HOST", node.endpoint())
            .args(["doctor", "-o", "json"])
            .args(place(node));
        if fix {
            command.arg("--fix");
        }
        let output = node.netns().enter(|| Ok(command.output()?))?;
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok((output.status.success(), report))
    };
    let (well, report) = run(false)?;
    let count = |report: &serde_json::Value| report["strays"].as_array().map_or(0, Vec::len);
    assert!(!well);
    assert_eq!(count(&report), strays.len(), "{report:#}");
    let (_, report) = run(true)?;
    assert_eq!(report["strays"][0]["undone"], true, "{report:#}");
    let (_, report) = run(false)?;
    assert_eq!(count(&report), 0, "{report:#}");

    shell.node.launch(&[]).await?;
    let node = &shell.node;
    assert_eq!(node.sh(&pod.container, "echo here").await?, "here\n");
    // An agent that runs is asked itself.
    let refused = node.netns().enter(|| {
        Ok(Command::new(programs::directory()?.join("berth-agent"))
            .arg("doctor")
            .args(place(node))
            .output()?)
    })?;
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("berthctl doctor"), "{said}");
    tidy(node)?;
    shell.finish().await
}
