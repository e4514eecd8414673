use std::time::Duration;

use anyhow::Result;
use berth_integration::{log, pod, wait};

use crate::fixture::{OBEYS, Shell};

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_are_logged_in_the_cri_format() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell
        .pod("streams", "echo one; echo two >&2; printf unfinished")
        .await?;
    node.exited(&pod.container).await?;
    let entries = log::read(&node.log_path(&pod.container).await?)?;
    assert!(log::written(&entries, "stdout").starts_with(b"one\n"));
    assert_eq!(log::written(&entries, "stderr"), b"two\n");
    // What has no end of line must not be lost.
    let last = entries
        .iter()
        .rfind(|entry| entry.stream == "stdout")
        .unwrap();
    assert_eq!(last.content, b"unfinished");
    let mut times: Vec<&String> = entries.iter().map(|entry| &entry.time).collect();
    times.sort();
    assert!(times.len() >= 3);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_line_is_split_at_16_kib_and_joins_to_itself() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    // 40,000 bytes in one line, then a short one.
    let script = "head -c 40000 /dev/zero | tr '\\0' a; echo; echo short";
    let pod = shell.pod("long", script).await?;
    node.exited(&pod.container).await?;
    let entries = log::read(&node.log_path(&pod.container).await?)?;
    let mut wanted = vec![b'a'; 40000];
    wanted.extend_from_slice(b"\nshort\n");
    assert_eq!(log::written(&entries, "stdout"), wanted);
    assert!(entries.iter().all(|entry| entry.content.len() <= 16 << 10));
    assert!(entries.iter().filter(|entry| entry.partial).count() >= 2);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_stream_with_carriage_returns() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "terminal");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", "tty; echo err >&2; echo TERM=$TERM");
    container.tty = true;
    let id = node.run(&pod, &container, &config).await?;
    node.exited(&id).await?;
    let entries = log::read(&node.log_path(&id).await?)?;
    assert!(
        entries.iter().all(|entry| entry.stream == "stdout"),
        "{entries:?}"
    );
    let text = log::written(&entries, "stdout");
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("/dev/"), "{text}");
    assert!(text.contains("err"), "{text}");
    assert!(text.contains("TERM=xterm"), "{text}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_log_goes_on_in_a_new_file_without_losing_a_line() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; [ $((i % 100)) = 0 ] && usleep 20000; done";
    let pod = shell.pod("rotate", script).await?;
    let path = node.log_path(&pod.container).await?;
    let mut rotated = Vec::new();
    for index in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let aside = path.with_extension(format!("log.{index}"));
        std::fs::rename(&path, &aside)?;
        rotated.push(aside);
        node.reopen_log(&pod.container).await?;
        assert!(path.exists(), "the new file is there when the call returns");
    }
    node.exited(&pod.container).await?;
    let mut all = Vec::new();
    for file in rotated.iter().chain([&path]) {
        all.extend(log::written(&log::read(file)?, "stdout"));
    }
    let wanted: String = (1..=3000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(all)?, wanted);

    let after = node.reopen_log(&pod.container).await;
    assert!(after.is_err(), "reopening the log of an exited container");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_lines_go_through_a_hundred_rotations() -> Result<()> {
    const LINES: u64 = 1_000_000;
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell
        .pod("load", &format!("read go < /dev/null; seq 1 {LINES}"))
        .await?;
    let path = node.log_path(&pod.container).await?;
    let mut files = Vec::new();
    // As often as it goes while it writes: the last may find that it has ended.
    for index in 0..100 {
        let aside = path.with_extension(format!("log.{index}"));
        std::fs::rename(&path, &aside)?;
        if node.reopen_log(&pod.container).await.is_err() {
            std::fs::rename(&aside, &path)?;
            break;
        }
        files.push(aside);
    }
    node.exited(&pod.container).await?;
    files.push(path);
    assert!(
        files.len() > 10,
        "{} files: it was not rotated under load",
        files.len()
    );
    // Counted as a stream: the line of N is N, none twice, none torn, none missing.
    let mut next = 1;
    for file in &files {
        for entry in log::read(file)? {
            assert!(!entry.partial, "torn at {next}");
            assert_eq!(
                entry.content,
                next.to_string().as_bytes(),
                "{}",
                file.display()
            );
            next += 1;
        }
    }
    assert_eq!(next, LINES + 1);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_lines_are_all_there() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("bulk", "seq 1 100000").await?;
    node.exited(&pod.container).await?;
    let entries = log::read(&node.log_path(&pod.container).await?)?;
    let wanted: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(
        log::written(&entries, "stdout") == wanted.as_bytes(),
        "a line is missing or torn"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_log_path_runs_and_logs_nothing() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "silent");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", "seq 1 100000; exit 5");
    container.log_path.clear();
    let id = node.run(&pod, &container, &config).await?;
    assert_eq!(node.exited(&id).await?.exit_code, 5);
    assert_eq!(node.status(&id).await?.log_path, "");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_container_leaves_its_log_to_the_caller() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("kept", &format!("echo kept; {OBEYS}")).await?;
    let path = node.log_path(&pod.container).await?;
    // Both lines, so that none is on its way when the container is killed.
    wait::until_true("the lines are logged", Duration::from_secs(5), || {
        Ok(std::fs::read(&path)?.ends_with(b"ready\n"))
    })
    .await?;
    node.remove_container(&pod.container).await?;
    let written = log::written(&log::read(&path)?, "stdout");
    assert_eq!(written, b"kept\nready\n");
    shell.finish().await
}
