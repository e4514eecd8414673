//! A4 to A7 and A12 to A14: who a container's processes are.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{image::Entry, pod};
use berth_proto::cri;
use serde_json::json;

use crate::{
    ground::{Ground, LIVES, bind, field},
    probe,
};

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status";

/// A4, A5: CVE-2022-29162, CVE-2022-24769 and their kin; CVE-2018-10856, CVE-2016-8867.
#[tokio::test(flavor = "multi_thread")]
async fn inheritable_sets_are_empty_and_users_have_nothing_they_were_not_given() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("sets").await?;
    let cases = [
        ("root", 0, vec![], vec![]),
        ("user", 1000, vec![], vec![]),
        ("added", 1000, vec!["SYS_TIME"], vec!["CHOWN"]),
        ("dropped", 0, vec![], vec!["ALL"]),
    ];
    for (name, uid, add, drop) in cases {
        let mut container = ground.container(name, &format!("{STATUS}; {LIVES}"));
        let context = pod::security(&mut container);
        context.run_as_user = Some(cri::Int64Value { value: uid });
        context.capabilities = Some(cri::Capability {
            add_capabilities: add.iter().map(ToString::to_string).collect(),
            drop_capabilities: drop.iter().map(ToString::to_string).collect(),
            ..Default::default()
        });
        let id = pod.run(&container).await?;
        let exec = ground.node.sh(&id, STATUS).await?;
        let terminal = ground.node.ctl(&["exec", "-t", &id, "sh", "-c", STATUS])?;
        let terminal = String::from_utf8_lossy(&terminal.stdout).replace('\r', "");
        let init = fs::read_to_string(format!("/proc/{}/status", ground.node.pid(&id).await?))?;
        for status in [&init, &exec, &terminal] {
            let set = |name| u64::from_str_radix(field(status, name), 16);
            ensure!(
                set("CapInh")? == 0 && set("CapAmb")? == 0,
                "{name}: {status}"
            );
            ensure!(set("CapPrm")? == set("CapEff")?, "{name}: {status}");
            ensure!(uid == 0 || set("CapEff")? == 0, "{name}: {status}");
            ensure!(set("CapBnd")? == set_of(&init)?, "{name}: {status}");
            let time = 1 << 25;
            ensure!((set("CapBnd")? & time == 0) == add.is_empty(), "{status}");
        }
        ensure!((set_of(&init)? == 0) == (name == "dropped"), "{init}");
    }
    ground.finish().await
}

fn set_of(status: &str) -> Result<u64> {
    Ok(u64::from_str_radix(field(status, "CapBnd"), 16)?)
}

/// A5, C4: a setuid program is harmless where privileges must not grow, and works
/// where they may.
#[tokio::test(flavor = "multi_thread")]
async fn a_setuid_program_gains_only_where_it_may() -> Result<()> {
    let ground = Ground::start().await?;
    let suid = Entry::file("bin/suid", 0o4755, fs::read(probe::program()?)?);
    let image = ground.image("suid", &[suid], json!({})).await?;
    let pod = ground.pod("suid").await?;
    for forbidden in [true, false] {
        let name = format!("nnp-{forbidden}");
        let out = ground.directory(&name)?;
        fs::set_permissions(&out, fs::Permissions::from_mode(0o777))?;
        let mut container = ground.of_image(&image, &name, &["/bin/suid", "/out/init", "hold"]);
        container.mounts.push(bind(&out, "/out"));
        let context = pod::security(&mut container);
        context.run_as_user = Some(cri::Int64Value { value: 1000 });
        context.no_new_privs = forbidden;
        let id = pod.run(&container).await?;
        ground
            .node
            .exec_sync(&id, &["/bin/suid", "/out/exec"], 20)
            .await?;
        for part in ["init", "exec"] {
            let found = probe::Findings::read(&out.join(part))?;
            let ids = found.value("process", "Uid");
            let expected = if forbidden {
                "1000\t1000\t1000\t1000"
            } else {
                "1000\t0\t0\t0"
            };
            ensure!(ids == expected, "{name} {part}: {ids:?}");
            let told = found.value("process", "NoNewPrivs");
            ensure!(told == if forbidden { "1" } else { "0" }, "{name} {part}");
        }
    }
    ground.finish().await
}

/// A6: CVE-2022-2989 and its kin. A file that forbids a group is closed to its members.
#[tokio::test(flavor = "multi_thread")]
async fn groups_are_those_of_image_and_request_for_init_and_exec_alike() -> Result<()> {
    use cri::SupplementalGroupsPolicy::{Merge, Strict};
    let ground = Ground::start().await?;
    let group = "root:x:0:\nu:x:1500:\na:x:2000:u\nb:x:3000:u\n";
    let passwd = "root:x:0:0::/:/bin/sh\nu:x:1500:1500::/:/bin/sh\n";
    let entries = [
        Entry::file("etc/group", 0o644, group),
        Entry::file("etc/passwd", 0o644, passwd),
    ];
    let image = ground.image("groups", &entries, json!({})).await?;
    let volume = ground.directory("groups")?;
    for gid in [2000, 1500, 4242] {
        let path = volume.join(gid.to_string());
        fs::write(&path, "secret\n")?;
        chown(&path, Some(0), Some(gid))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o707))?;
    }
    let pod = ground.pod("groups").await?;
    let ids = "grep ^Groups /proc/self/status; id -g";
    for (name, policy, expected) in [
        ("merge", Merge, vec![1500, 2000, 3000, 4242]),
        ("strict", Strict, vec![1500, 4242]),
    ] {
        let mut container = ground.of_image(&image, name, &["sh", "-c", LIVES]);
        container.mounts.push(bind(&volume, "/v"));
        let context = pod::security(&mut container);
        context.run_as_user = Some(cri::Int64Value { value: 1500 });
        context.supplemental_groups = vec![4242];
        context.supplemental_groups_policy = policy.into();
        let id = pod.run(&container).await?;
        let init = fs::read_to_string(format!("/proc/{}/status", ground.node.pid(&id).await?))?;
        let exec = ground.node.sh(&id, ids).await?;
        for status in [&init, &exec] {
            let mut groups: Vec<u32> = field(status, "Groups")
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            groups.sort_unstable();
            groups.dedup();
            ensure!(groups == expected, "{name}: {groups:?}");
        }
        for gid in [2000, 1500, 4242] {
            let read = ground.node.sh(&id, &format!("cat /v/{gid}")).await;
            let closed = expected.contains(&gid);
            ensure!(read.is_err() == closed, "{name} {gid}: {read:?}");
        }
    }
    ground.finish().await
}

/// A7: names are those of the image; the node's own users do not exist in it.
#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_node_are_not_users_of_the_container() -> Result<()> {
    let own = fs::read_to_string("/etc/passwd")?;
    let name = own
        .lines()
        .filter_map(|line| line.split(':').next())
        .find(|name| !["root", "daemon", "www-data", "nobody"].contains(name))
        .context("the node has no other user")?;
    let ground = Ground::start().await?;
    let pod = ground.pod("names").await?;
    let mut container = ground.container("main", LIVES);
    pod::security(&mut container).run_as_username = name.to_owned();
    let error = pod.create(&container).await.expect_err("no such user");
    ensure!(error.message().contains(name), "{error}");
    // What answers such questions wrongly, or by code of the container's, is not linked.
    let lock = include_str!("../../../Cargo.lock");
    for package in ["users", "uzers", "pwd", "nss"] {
        ensure!(
            !lock.contains(&format!("name = \"{package}\"\n")),
            "{package}"
        );
    }
    ground.finish().await
}

/// A12: CVE-2016-3697, CVE-2024-40635, CVE-2026-46680.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_in_digits_is_a_number_that_fits_or_an_error() -> Result<()> {
    let names = [
        "00",
        "+0",
        "-1",
        "4294967296",
        "4294967297",
        "2147483648",
        "18446744073709551616",
        "0x0",
        "1:4294967296",
        " 1",
        "1\n",
        "99999999999999999999999999",
    ];
    // Each of them is also a name, of root.
    let mut passwd = "root:x:0:0::/:/bin/sh\n".to_owned();
    for name in names {
        passwd += &format!("{}:x:0:0::/:/bin/sh\n", name.trim_end());
    }
    let ground = Ground::start().await?;
    let pod = ground.pod("numbers").await?;
    for (number, name) in names.iter().enumerate() {
        let entry = Entry::file("etc/passwd", 0o644, passwd.as_str());
        let config = json!({ "User": name });
        let image = match ground
            .image(&format!("user{number}"), &[entry], config)
            .await
        {
            Ok(image) => image,
            // Refused with the image, which is early enough.
            Err(_) => continue,
        };
        let container = ground.of_image(&image, &format!("u{number}"), &["id", "-u"]);
        match pod.end_of(&container).await {
            Err(_) => {}
            Ok((_, text)) => {
                let zero = name.bytes().all(|byte| byte == b'0');
                ensure!(
                    text.trim() == *name || (zero && text.trim() == "0"),
                    "{name:?} became {text:?}"
                );
            }
        }
    }
    for value in [-1, 1 << 32, i64::MAX, i64::MIN] {
        let mut container = ground.container("request", "id -u");
        pod::security(&mut container).run_as_user = Some(cri::Int64Value { value });
        let error = pod.create(&container).await.expect_err("no such number");
        ensure!(error.code() == tonic::Code::InvalidArgument, "{error}");
    }
    ground.finish().await
}

/// A13: CVE-2026-47262, CVE-2024-9676.
#[tokio::test(flavor = "multi_thread")]
async fn account_files_that_are_traps_cost_neither_time_nor_memory() -> Result<()> {
    let ground = Ground::start().await?;
    let pod = ground.pod("traps").await?;
    let long = vec![b'a'; 64 << 20];
    let traps = [
        ("zero", vec![Entry::symlink("etc/group", "/dev/zero")]),
        ("kmsg", vec![Entry::symlink("etc/group", "/proc/kmsg")]),
        (
            "shadow",
            vec![Entry::symlink("etc/group", "../../../../etc/shadow")],
        ),
        (
            "directory",
            vec![
                Entry::whiteout("etc/group"),
                Entry::directory("etc/group", 0o755),
            ],
        ),
        (
            "fifo",
            vec![
                Entry::fifo("etc/group", 0o644),
                Entry::fifo("etc/passwd", 0o644),
            ],
        ),
        ("long", vec![Entry::file("etc/group", 0o644, long)]),
    ];
    for (name, entries) in traps {
        let Ok(image) = ground
            .image(name, &entries, json!({ "User": "default-user" }))
            .await
        else {
            continue;
        };
        let memory = resident(&ground)?;
        let container = ground.of_image(&image, name, &["true"]);
        let start = Instant::now();
        // Refused, or with what it could read of them.
        pod.end_of(&container).await.ok();
        ensure!(
            start.elapsed() < Duration::from_secs(5),
            "{name}: {:?}",
            start.elapsed()
        );
        let grown = resident(&ground)?.saturating_sub(memory);
        ensure!(grown < 32 << 10, "{name}: the agent grew by {grown} KiB");
    }
    ground.finish().await
}

/// KiB of the agent.
fn resident(ground: &Ground) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", ground.node.agent_pid()?))?;
    let value = field(&status, "VmRSS");
    Ok(value.trim_end_matches("kB").trim().parse()?)
}

/// A14: CVE-2022-4318, CVE-2026-15809.
#[tokio::test(flavor = "multi_thread")]
async fn no_value_becomes_a_second_line_of_a_file() -> Result<()> {
    let ground = Ground::start().await?;
    let count = "cat /etc/passwd /etc/group | wc -l; wc -l </etc/hosts; wc -l </etc/resolv.conf";
    let pod = ground.pod("plain").await?;
    let plain = pod.end_of(&ground.container("plain", count)).await?.1;
    for (number, value) in [
        "/root\nx::0:0::/:/bin/sh",
        "/root\\nx::0:0::/:/bin/sh",
        "/r\rx",
    ]
    .into_iter()
    .enumerate()
    {
        let mut evil = ground.container(&format!("evil{number}"), count);
        evil.envs = vec![cri::KeyValue {
            key: "HOME".into(),
            value: value.into(),
        }];
        if let Ok((code, text)) = pod.end_of(&evil).await {
            ensure!(text == plain, "{value:?}: {code} {text:?}, not {plain:?}");
        }
    }
    for name in ["root\nx", "x:y", "www-data\r"] {
        let mut container = ground.container("named", "id -u");
        pod::security(&mut container).run_as_username = name.into();
        ensure!(pod.create(&container).await.is_err(), "{name:?}");
    }
    for (number, evil) in ["a\n192.0.2.1 evil", "a\rb", "a\0b"].iter().enumerate() {
        let base = || pod::sandbox(&ground.node, &format!("pod{number}"));
        let mut host = base();
        host.hostname = (*evil).into();
        let mut server = base();
        server.dns_config.get_or_insert_default().servers = vec![(*evil).into()];
        let mut search = base();
        search.dns_config.get_or_insert_default().searches = vec![(*evil).into()];
        let mut option = base();
        option.dns_config.get_or_insert_default().options = vec![(*evil).into()];
        for config in [host, server, search, option] {
            let error = ground.node.run_pod(&config).await.expect_err("two lines");
            ensure!(
                error.code() == tonic::Code::InvalidArgument,
                "{evil:?}: {error}"
            );
        }
    }
    ground.finish().await
}
