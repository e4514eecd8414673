//! `berthctl exec` and its kin: what people can change of a command, and TLS.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{Node, pod, programs, wait};
use berth_proto::cri;

use crate::fixture::{OBEYS, Shell, ctl, ok};

#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_have_another_user_directory_and_environment() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let users = "echo app:x:1234:1001::/:/bin/sh >>/etc/passwd; echo more:x:50:app >>/etc/group";
    let config = pod::sandbox(node, "options");
    let id = node.run_pod(&config).await?;
    let mut container = shell.container("main", &format!("{users}; {OBEYS}"));
    let linux = container.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.seccomp = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..cri::SecurityProfile::default()
    });
    let c = &*node.run(&id, &container, &config).await?;
    wait::until("its users", Duration::from_secs(10), || async {
        let seen = node.sh(c, "grep -c app /etc/group || :").await?;
        Ok((seen.trim() == "1").then_some(()))
    })
    .await?;
    let script = "id; pwd; echo $A-$B-$HOME; grep -E \"Cap(Eff|Bnd)|Seccomp:\" /proc/self/status";
    let said = ok(
        node,
        &[
            "exec", "-u", "app", "-w", "/tmp", "-e", "A=1", "-e", "B=x=y", "-e", "HOME", c, "sh",
            "-c", script,
        ],
    )?;
    let out = &said.out;
    ensure!(
        out.contains("uid=1234(app) gid=1001") && out.contains("50(more)"),
        "{out}"
    );
    ensure!(out.contains("\n/tmp\n"), "{out}");
    // The value of a name alone is that of whoever types it.
    let home = node.home().display();
    ensure!(out.contains(&format!("1-x=y-{home}\n")), "{out}");
    ensure!(
        out.contains("CapEff:\t0000000000000000") && out.contains("Seccomp:\t2"),
        "{out}"
    );
    ensure!(!out.contains("CapBnd:\t0000000000000000"), "{out}");

    let numeric = ok(node, &["exec", "-u", "5:6", c, "id"])?;
    ensure!(numeric.out.starts_with("uid=5 gid=6"), "{}", numeric.out);
    let privileged = ok(node, &["exec", "--privileged", c, "sh", "-c", script])?.out;
    let all = std::fs::read_to_string("/proc/self/status")?;
    let all = all
        .lines()
        .find(|line| line.starts_with("CapBnd"))
        .context("no CapBnd")?;
    ensure!(
        privileged.contains(&all.replace("CapBnd", "CapEff")),
        "{privileged} {all}"
    );
    ensure!(privileged.contains("Seccomp:\t0"), "{privileged}");
    // The container's own process is what it was.
    ensure!(
        ok(node, &["exec", c, "sh", "-c", script])?
            .out
            .contains("uid=0")
    );

    for (flags, word) in [
        (["-u", "nobody-here"], "nobody-here"),
        (["-u", "+0"], "+0"),
        (["-w", "tmp"], "absolute"),
        (["-e", "=x"], "NAME=value"),
    ] {
        let arguments = ["exec", flags[0], flags[1], c, "true"];
        let refused = ctl(node, &arguments)?;
        ensure!(
            refused.code == 1 && refused.err.contains(word),
            "{arguments:?}: {}",
            refused.err
        );
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_command_goes_on_alone_until_its_container_ends() -> Result<()> {
    let mut shell = Shell::start().await?;
    let pod = shell.pod("detached", OBEYS).await?;
    let c = pod.container.clone();
    let node = &shell.node;
    let script = "echo begun >/tmp/mark; sleep 4290";
    let done = ok(node, &["exec", "-d", &c, "sh", "-c", script])?;
    assert_eq!(done.out, "");
    let running = async |node: &Node| {
        let listed = node.sh(&c, "ps; cat /tmp/mark").await?;
        Ok::<_, anyhow::Error>(listed.contains("sleep 4290") && listed.contains("begun"))
    };
    wait::until("it runs", Duration::from_secs(10), || async {
        Ok(running(node).await?.then_some(()))
    })
    .await?;
    shell.node.crash_and_restart().await?;
    ensure!(running(&shell.node).await?, "it died with the agent");
    let node = &shell.node;
    let missing = ctl(node, &["exec", "-d", &c, "/no/such"])?;
    ensure!(
        missing.code == 127 && missing.err.contains("/no/such"),
        "{}",
        missing.err
    );
    ensure!(ctl(node, &["exec", "-d", "-i", &c, "true"])?.code == 2);
    node.stop_container(&c, 5).await?;
    let refused = ctl(node, &["exec", "-d", &c, "true"])?;
    ensure!(
        refused.code == 1 && refused.err.contains("not running"),
        "{}",
        refused.err
    );
    shell.finish().await
}

/// A certificate for 127.0.0.1 and its key.
fn certificate(node: &Node) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (node.home().join("tls.crt"), node.home().join("tls.key"));
    let done = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=streams"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .context("run openssl")?;
    ensure!(done.success(), "openssl: {done}");
    Ok((certificate, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_tls_are_for_those_who_know_the_certificate() -> Result<()> {
    let mut node = Node::prepare("")?;
    let (certificate, key) = certificate(&node)?;
    node.configure(&format!(
        "[streaming]\ncertificate = {certificate:?}\nkey = {key:?}\n"
    ))?;
    node.launch(&[]).await?;
    let shell = Shell::on(node).await?;
    let node = &shell.node;
    let pod = shell.pod("tls", OBEYS).await?;
    let c = &*pod.container;
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    // Not of an authority, and marked as one: what `openssl req -x509` makes.
    let done = ok(
        node,
        &[
            "exec",
            "--tls-ca",
            &certificate,
            c,
            "sh",
            "-c",
            "echo secret",
        ],
    )?;
    assert_eq!(done.out, "secret");
    assert_eq!(
        ok(node, &["exec", "--tls-insecure", c, "echo", "it"])?.out,
        "it"
    );
    let shown = [
        "exec",
        "--tls-ca",
        &certificate,
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        c,
        "echo",
        "it",
    ];
    assert_eq!(ok(node, &shown)?.out, "it");
    let refused = ctl(node, &["exec", c, "echo", "never"])?;
    ensure!(
        refused.code == 1 && refused.out.is_empty(),
        "{}",
        refused.err
    );
    ensure!(
        refused.err.contains("no TLS") && refused.err.contains("--tls-ca"),
        "{}",
        refused.err
    );
    let wrong = ctl(node, &["exec", "--tls-ca", "/dev/null", c, "echo", "never"])?;
    ensure!(
        wrong.code == 1 && wrong.err.contains("no certificate"),
        "{}",
        wrong.err
    );
    // Megabytes both ways, and the Go client.
    let input = node.home().join("input");
    let payload: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&input, &payload)?;
    let output = node.ctl_from(
        &["exec", "-i", "--tls-insecure", c, "cat"],
        std::fs::File::open(&input)?.into(),
    )?;
    ensure!(
        output.stdout == payload,
        "{} bytes came back",
        output.stdout.len()
    );
    let Ok(crictl) = programs::tool("crictl") else {
        return shell.finish().await;
    };
    for transport in ["spdy", "websocket"] {
        let output = node.netns().enter(|| {
            Ok(Command::new(&crictl)
                .args(["--runtime-endpoint", &node.endpoint(), "--timeout", "20s"])
                .args(["--config", "/dev/null", "exec", "--transport", transport])
                .args([c, "echo", "through"])
                .output()?)
        })?;
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.stdout == b"through\n", "{transport}: {err}");
    }
    shell.finish().await
}
