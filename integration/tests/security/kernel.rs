//! C1 to C6: filters, keys, shared memory, numbers.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use berth_integration::pod;
use berth_proto::cri::{self, security_profile::ProfileType};

use crate::{
    ground::{Ground, LIVES, bind, field},
    probe::Findings,
};

/// C1: CVE-2023-2431.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_not_there_is_an_error_and_never_no_profile() -> Result<()> {
    let ground = Ground::start().await?;
    let profiles = ground.directory("profiles")?;
    let own = profiles.join("own.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&own, text)?;
    fs::write(profiles.join("broken.json"), "{\"defaultAction\":")?;
    let path = |name: &str| profiles.join(name).display().to_string();
    let pod = ground.pod("profiles").await?;
    let mut container = ground.container("main", LIVES);
    let invalid = [
        String::new(),
        path("absent.json"),
        path("broken.json"),
        "../own.json".to_owned(),
        path("../profiles/../../x"),
    ];
    for reference in invalid {
        pod::security(&mut container).seccomp = Some(cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: reference.clone(),
        });
        ensure!(pod.create(&container).await.is_err(), "{reference:?}");
    }
    for (name, profile, filters) in [
        ("default", ProfileType::RuntimeDefault, "2"),
        ("own", ProfileType::Localhost, "2"),
        ("none", ProfileType::Unconfined, "0"),
    ] {
        let mut container = ground.container(name, LIVES);
        pod::security(&mut container).seccomp = Some(cri::SecurityProfile {
            profile_type: profile.into(),
            localhost_ref: match profile {
                ProfileType::Localhost => own.display().to_string(),
                _ => String::new(),
            },
        });
        let id = pod.run(&container).await?;
        let init = fs::read_to_string(format!("/proc/{}/status", ground.node.pid(&id).await?))?;
        let exec = ground.node.sh(&id, "cat /proc/self/status").await?;
        for status in [init, exec] {
            ensure!(field(&status, "Seccomp") == filters, "{name}: {status}");
        }
        let made = ground.node.sh(&id, "mkdir /made").await;
        ensure!(made.is_err() == (name == "own"), "{name}: {made:?}");
    }
    ground.finish().await
}

/// C2: CVE-2026-112917, CVE-2026-123876; C3: new calls that do what filtered ones do.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_abi_and_no_newer_call_goes_round_the_filter() -> Result<()> {
    let ground = Ground::start().await?;
    let out = ground.directory("out")?;
    let pod = ground.pod("abi").await?;
    let mut container =
        ground.of_image(&ground.image, "main", &["/bin/probe", "/out/init", "hold"]);
    container.mounts.push(bind(&out, "/out"));
    let id = pod.run(&container).await?;
    ground
        .node
        .exec_sync(&id, &["/bin/probe", "/out/exec"], 20)
        .await?;
    for part in ["init", "exec"] {
        let found = Findings::read(&out.join(part))?;
        let says = |key: &str| found.value("seccomp", key).to_owned();
        // AF_ALG and AF_VSOCK: EPERM, not the kernel's word on a family it lacks.
        let mut closed = vec!["native 41 socket(0x26)", "native 41 socket(0x28)"];
        if cfg!(target_arch = "x86_64") {
            closed.extend([
                "i386 359 socket(0x26)",
                "i386 359 socket(0x28)",
                "i386 102 socketcall",
            ]);
            ensure!(!says("x32 1 ").contains("allowed"), "{part}: x32");
            ensure!(
                !says("i386 21 ").contains("allowed"),
                "{part}: mount of i386"
            );
        }
        if cfg!(target_arch = "x86_64") {
            for key in closed {
                ensure!(says(key).contains("EPERM"), "{part} {key}: {}", says(key));
            }
            ensure!(says("native 41 socket(0x2)").contains("allowed"));
        }
        for name in [
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "fsopen",
            "fsmount",
            "fsconfig",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "userfaultfd",
            "perf_event_open",
            "io_uring_setup",
            "io_uring_enter",
            "kexec_load",
            "init_module",
            "finit_module",
            "reboot",
            "swapon",
            "open_by_handle_at",
            "clone3",
        ] {
            let word = found.call(name)?;
            ensure!(matches!(word, "EPERM" | "ENOSYS"), "{part} {name}: {word}");
        }
        // A libc falls back to clone only if this one does not seem to exist.
        ensure!(found.call("clone3")? == "ENOSYS", "{part}");
    }
    ground.finish().await
}

/// C5: keys are nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_a_session_keyring_of_its_own() -> Result<()> {
    let ground = Ground::start().await?;
    let mut config = pod::sandbox(&ground.node, "keys");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = ground.pod_with(config).await?;
    for name in ["one", "other"] {
        let out = ground.directory(name)?;
        let mut container =
            ground.of_image(&ground.image, name, &["/bin/probe", "/out/init", "hold"]);
        container.mounts.push(bind(&out, "/out"));
        let context = pod::security(&mut container);
        context.privileged = true;
        context.seccomp = None;
        let id = pod.run(&container).await?;
        ground
            .node
            .exec_sync(&id, &["/bin/probe", "/out/exec"], 20)
            .await?;
        for part in ["init", "exec"] {
            let found = Findings::read(&out.join(part))?;
            let ring = found.value("keys", "session keyring");
            ensure!(ring.ends_with(";_ses"), "{name} {part}: {ring}");
            ensure!(
                found.value("keys", "keys in it") == "0",
                "{name} {part}: {:?}",
                found.section("keys")
            );
        }
    }
    ground.finish().await
}

/// C5: CVE-2024-3056. Shared memory is bounded and goes with the pod.
#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_is_limited_and_gone_with_its_pod() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("shm").await?;
    let fill = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=200 2>&1; wc -c </dev/shm/fill";
    let (_, text) = pod.end_of(&ground.container("fill", fill)).await?;
    let written: u64 = text.lines().last().unwrap_or_default().trim().parse()?;
    ensure!(written == 64 << 20, "{text}");
    ensure!(text.contains("No space"), "{text}");
    let shared = || -> Result<usize> {
        let text = fs::read_to_string("/proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Shmem:"));
        let number = line
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("0");
        Ok(number.parse()?)
    };
    let before = shared()?;
    ground.node.stop_pod(&pod.id).await?;
    ground.node.remove_pod(&pod.id).await?;
    berth_integration::wait::until("the memory is free", Duration::from_secs(10), || async {
        // Others use shared memory meanwhile; most of 64 MiB must have gone.
        Ok((shared()? + (48 << 10) < before).then_some(()))
    })
    .await?;
    ground.finish().await
}

/// C6: CVE-2018-20699.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_numbers_are_refused_at_once() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("numbers").await?;
    let with = |change: &dyn Fn(&mut cri::LinuxContainerResources)| {
        let mut container = ground.container("main", LIVES);
        let mut resources = cri::LinuxContainerResources::default();
        change(&mut resources);
        pod::linux(&mut container).resources = Some(resources);
        container
    };
    let mut cases = Vec::new();
    for set in [
        "0-4294967295",
        "0-9999999",
        "1-0",
        "0,,1",
        "a",
        "0-",
        "0-18446744073709551616",
    ] {
        cases.push((
            format!("cpuset {set}"),
            with(&|r| r.cpuset_cpus = set.into()),
        ));
        cases.push((
            format!("memory nodes {set}"),
            with(&|r| r.cpuset_mems = set.into()),
        ));
    }
    for value in [i64::MIN, -2] {
        cases.push((format!("quota {value}"), with(&|r| r.cpu_quota = value)));
        cases.push((
            format!("memory {value}"),
            with(&|r| r.memory_limit_in_bytes = value),
        ));
    }
    for value in [1001, -1001, i64::MAX, i64::MIN] {
        cases.push((format!("score {value}"), with(&|r| r.oom_score_adj = value)));
    }
    for (name, container) in cases {
        let start = Instant::now();
        let error = pod.create(&container).await;
        let took = start.elapsed();
        let Err(error) = error else {
            anyhow::bail!("{name} is accepted");
        };
        ensure!(
            error.code() == tonic::Code::InvalidArgument,
            "{name}: {error}"
        );
        ensure!(took < Duration::from_secs(1), "{name}: {took:?}");
    }
    ground.finish().await
}
