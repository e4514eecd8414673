//! A1 to A3: what enters a container is seen by those who are in it.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use anyhow::{Result, ensure};
use berth_integration::{image::Entry, pod, programs, wait};
use berth_proto::cri;
use serde_json::json;

use crate::{
    ground::{Ground, LIVES, bind},
    oci::{Oci, Runtime},
};

/// A1: CVE-2019-5736.
#[tokio::test(flavor = "multi_thread")]
async fn the_programs_that_enter_cannot_be_overwritten_from_within() -> Result<()> {
    let programs = programs::directory()?;
    let look = || -> Result<Vec<_>> {
        let mut found = Vec::new();
        for name in ["berth-agent", "berth-shim", "berthctl"] {
            let path = programs.join(name);
            let metadata = fs::metadata(&path)?;
            found.push((metadata.ino(), metadata.mtime(), fs::read(&path)?.len()));
        }
        Ok(found)
    };
    let before = look()?;
    let ground = Ground::start().await?;
    // Its interpreter is whoever executes it.
    let script = Entry::file("bin/evil", 0o755, "#!/proc/self/exe\n");
    let image = ground.image("evil", &[script], json!({})).await?;
    let pod = ground.pod("writer").await?;
    let writer = "while :; do for p in /proc/[0-9]*; do \
                  (echo x > $p/exe) 2>/dev/null && readlink $p/exe >> /tmp/written; done; done";
    let id = pod
        .run(&ground.of_image(&image, "main", &["sh", "-c", writer]))
        .await?;
    for _ in 0..60 {
        ground.node.exec_sync(&id, &["true"], 10).await?;
        // An error is what is wanted of it.
        ground.node.exec_sync(&id, &["/bin/evil"], 10).await.ok();
    }
    let written = ground
        .node
        .sh(&id, "cat /tmp/written 2>/dev/null; true")
        .await?;
    ensure!(written.is_empty(), "it could write to {written:?}");
    ensure!(look()? == before, "a program of the node has changed");
    ground.finish().await
}

/// A2: CVE-2016-9962. The init of a container that was created and not started waits
/// in a PID namespace that others of its pod may share.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_become_a_container_holds_nothing_of_the_nodes() -> Result<()> {
    let ground = Ground::start().await?;
    let mut config = pod::sandbox(&ground.node, "shared");
    pod::namespace_options(&mut config).pid = cri::NamespaceMode::Pod.into();
    let pod = ground.pod_with(config).await?;
    let mut watcher = ground.container("watcher", LIVES);
    let mut waiting = ground.container("waiting", LIVES);
    for container in [&mut watcher, &mut waiting] {
        let options = pod::security(container).namespace_options.as_mut();
        options.expect("made by program()").pid = cri::NamespaceMode::Pod.into();
    }
    pod::security(&mut watcher).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_PTRACE".into()],
        ..Default::default()
    });
    let watcher = pod.run(&watcher).await?;
    pod.create(&waiting).await?;
    // All processes of the pod: its init, the watcher, and the one that waits.
    let script = "for p in /proc/[0-9]*; do for l in $p/fd/* $p/cwd $p/root $p/exe; do \
                  echo \"$(cat $p/comm) ${l##*/} $(readlink $l)\"; done; done";
    let seen = ground.node.sh(&watcher, script).await?;
    let waits: Vec<&str> = seen
        .lines()
        .filter(|line| line.starts_with("berth-shim "))
        .collect();
    ensure!(
        waits.len() > 4,
        "the one that waits is not to be seen:\n{seen}"
    );
    for line in &waits {
        let target = line.splitn(3, ' ').nth(2).unwrap_or_default();
        let harmless = [
            "pipe:",
            "socket:",
            "/dev/null",
            "anon_inode:",
            "/memfd:berth-shim",
        ];
        ensure!(
            target == "/" || harmless.iter().any(|start| target.starts_with(start)),
            "{line}\nin\n{seen}"
        );
    }
    ground.finish().await
}

/// A2 again, for what an exec brings in: a watcher with the right to look sees it for
/// a moment, before it executes.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_exec_brings_in_holds_nothing_of_the_nodes() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("watch").await?;
    let script = "while :; do for l in /proc/[0-9]*/fd/*; do t=$(readlink $l 2>/dev/null) && \
                  case $t in pipe:*|socket:*|/dev/null|anon_inode:*|/proc/*|/tmp/*) ;; \
                  *) echo \"$l $t\" >> /tmp/seen ;; esac; done; done";
    let mut watcher = ground.container("watcher", script);
    pod::security(&mut watcher).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_PTRACE".into()],
        ..Default::default()
    });
    let id = pod.run(&watcher).await?;
    for _ in 0..100 {
        ground.node.exec_sync(&id, &["true"], 10).await?;
    }
    let seen = ground
        .node
        .sh(&id, "cat /tmp/seen 2>/dev/null; true")
        .await?;
    ensure!(seen.is_empty(), "{seen}");
    ground.finish().await
}

/// A3: CVE-2024-21626.
#[tokio::test(flavor = "multi_thread")]
async fn no_working_directory_leads_out_through_a_descriptor() -> Result<()> {
    let ground = Ground::start().await?;
    let marker = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let link = Entry::symlink("w", "/proc/self/fd/7");
    let image = ground.image("cwd", &[link], json!({})).await?;
    let pod = ground.pod("cwd").await?;
    let script = "pwd; cat ../../../proc/sys/kernel/hostname ../../../../etc/hostname; \
                  ls /proc/self/fd";
    let mut directories: Vec<String> = (3..16)
        .flat_map(|fd| ["self", "1", "thread-self"].map(|whose| format!("/proc/{whose}/fd/{fd}")))
        .collect();
    directories.push("/w".to_owned());
    for (number, directory) in directories.iter().enumerate() {
        let name = format!("c{number}");
        let mut container = ground.of_image(&image, &name, &["sh", "-c", script]);
        container.working_dir.clone_from(directory);
        match pod.end_of(&container).await {
            // Refused, by creation or start.
            Err(_) => {}
            Ok((_, text)) => {
                let seen = text.lines().next().unwrap_or_default();
                ensure!(
                    seen.starts_with('/') && !seen.contains("unreachable"),
                    "{directory}: {text}"
                );
                ensure!(!text.contains(marker.trim()), "{directory}: {text}");
            }
        }
    }
    ground.finish().await
}

/// A3 for execs, whose working directory only an OCI runtime's caller can choose.
#[test]
fn no_exec_gets_a_working_directory_of_the_nodes() -> Result<()> {
    let oci = Oci::new()?;
    let mut config = oci.config("");
    config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    oci.start(Runtime::Berth, &config)?;
    for fd in 3..16 {
        for whose in ["self", "1", "thread-self"] {
            let cwd = format!("/proc/{whose}/fd/{fd}");
            let args = ["exec", "--cwd", &cwd, "c", "/bin/pwd"];
            let done = oci.runtime(Runtime::Berth, &args)?;
            ensure!(
                done.code != 0 || done.out.starts_with("/proc/"),
                "{cwd}: {done:?}"
            );
        }
    }
    let open = oci.runtime(Runtime::Berth, &["exec", "c", "/bin/ls", "/proc/self/fd"])?;
    ensure!(
        open.out.split_whitespace().eq(["0", "1", "2", "3"]),
        "{open:?}"
    );
    oci.finish()
}

/// L5: nothing hangs between clone and execve while the agent's threads allocate.
#[tokio::test(flavor = "multi_thread")]
async fn execs_and_containers_at_once_all_come_back() -> Result<()> {
    let ground = Ground::start().await?;
    let out = ground.directory("many")?;
    let pod = ground.pod("many").await?;
    let mut container = ground.container("main", LIVES);
    container.mounts.push(bind(&out, "/out"));
    let id = pod.run(&container).await?;
    let mut waves = 0;
    wait::until("300 execs", Duration::from_secs(60), || {
        waves += 1;
        let node = &ground.node;
        let id = &id;
        async move {
            let execs = (0..20).map(|_| node.exec_sync(id, &["true"], 10));
            for done in futures(execs).await {
                ensure!(done?.exit_code == 0, "an exec failed");
            }
            Ok((waves == 15).then_some(()))
        }
    })
    .await?;
    ground.finish().await
}

/// All at once, in their order.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = all.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<F::Output>> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pinned.iter_mut().zip(&mut done) {
            if let Some(waiting) = future
                && let std::task::Poll::Ready(output) = waiting.as_mut().poll(context)
            {
                *done = Some(output);
                *future = None;
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
