//! Whole plans, kept as files: a change of what is carried out shows as a change of one.
//!
//! `BERTH_SNAPSHOTS=write cargo test -p berth-plan --test snapshots` writes them anew.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{fs, path::Path};

use berth_plan::{
    CapSet, Hierarchy, IoInputs, PlanInputs, RootInputs,
    seccomp::{FilterCache, Machine},
};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

fn compare(name: &str, spec: &Spec, hierarchies: &[Hierarchy]) {
    let filters = FilterCache::default();
    let output = berth_plan::plan(
        spec,
        &PlanInputs {
            id: "snapshot",
            root: RootInputs::default(),
            cgroups: hierarchies,
            pod_dir: None,
            stop_signal: 15,
            io: IoInputs {
                given: true,
                ..IoInputs::default()
            },
            env: None,
            kernel_capabilities: CapSet::from_bits((1 << 41) - 1),
            machine: Machine::X86_64,
            filters: &filters,
            is_file: &|path| Ok(path.extension().is_some()),
        },
    );
    let mut text = match output {
        Ok(mut output) => {
            // A filter has its own tests, and thousands of numbers.
            if let Some(process) = &mut output.plan.process {
                let length = process.seccomp.len();
                process.seccomp = format!("{length} bytes").into_bytes();
            }
            format!("{output:#?}\n")
        }
        Err(error) => format!("refused: {error}\n"),
    };
    // Strings of bytes are easier to read as text.
    text = readable(&text);
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/snapshots")
        .join(format!("{name}.plan"));
    if std::env::var_os("BERTH_SNAPSHOTS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    if kept != text {
        let differs = kept
            .lines()
            .zip(text.lines())
            .position(|(old, new)| old != new);
        let line = differs.unwrap_or_else(|| kept.lines().count().min(text.lines().count()));
        panic!(
            "{} differs in line {}:\n- {}\n+ {}\nwrite it anew with BERTH_SNAPSHOTS=write if that is meant",
            file.display(),
            line + 1,
            kept.lines().nth(line).unwrap_or("(end)"),
            text.lines().nth(line).unwrap_or("(end)"),
        );
    }
}

/// Lists of printable bytes, which `Debug` puts on a line each, as one text.
fn readable(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let items = lines[at + 1..].iter().map(|item| item.trim());
        let bytes: Vec<u8> = items
            .map_while(|item| item.strip_suffix(',')?.parse().ok())
            .take_while(|byte: &u8| byte.is_ascii_graphic() || *byte == b' ')
            .collect();
        let end = at + 1 + bytes.len();
        let closed = lines.get(end).is_some_and(|item| item.trim() == "],");
        if line.ends_with('[') && bytes.len() > 1 && closed {
            let text = String::from_utf8_lossy(&bytes);
            out.push_str(&format!("{}{text:?},", line.trim_end_matches('[')));
            at = end + 1;
        } else {
            out.push_str(line);
            at += 1;
        }
        out.push('\n');
    }
    out
}

fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let caps = json!(["CAP_CHOWN", "CAP_KILL"]);
    let mut config = json!({
        "ociVersion": "1.3.0",
        "hostname": "box",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            "args": ["/bin/true", "x"],
            "env": ["PATH=/bin"],
            "cwd": "/srv",
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            {"destination": "/data/file", "type": "bind", "source": "/srv/file.txt", "options": ["rbind", "rro", "rslave"]},
            {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["bind", "rw"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "cgroup"},
                {"type": "network", "path": "/run/netns/x"},
            ],
            "resources": {
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 512, "quota": 20000, "period": 100_000, "burst": 1000},
                "devices": [{"allow": false, "access": "rwm"}],
            },
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
            ]},
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    });
    change(&mut config);
    serde_json::from_value(config).unwrap()
}

fn v2() -> Vec<Hierarchy> {
    vec![Hierarchy {
        controllers: String::new(),
        v2: true,
    }]
}

#[test]
fn a_container_with_a_bit_of_everything() {
    compare("usual-v2", &spec(|_| {}), &v2());
    let v1 = ["memory", "cpu,cpuacct", "name=systemd"].map(|name| Hierarchy {
        controllers: name.to_owned(),
        v2: false,
    });
    compare("usual-v1", &spec(|_| {}), &v1);
}

#[test]
fn a_user_namespace_binds_devices_and_maps_ids() {
    let users = spec(|config| {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        config["mounts"][4]["options"] = json!(["bind", "idmap"]);
    });
    compare("user-namespace", &users, &v2());
}

#[test]
fn a_mount_namespace_that_is_joined_leaves_nothing_to_mount() {
    let joined = spec(|config| {
        config["linux"]["namespaces"] = json!([
            {"type": "mount", "path": "/proc/1/ns/mnt"}, {"type": "pid", "path": "/proc/1/ns/pid"},
        ]);
        for field in ["maskedPaths", "readonlyPaths"] {
            config["linux"][field] = json!([]);
        }
        config["mounts"] = json!([]);
        config["root"]["readonly"] = false.into();
        config["hostname"] = "".into();
    });
    compare("joined-mounts", &joined, &v2());
    let asking = spec(|config| {
        config["linux"]["namespaces"][1]["path"] = "/proc/1/ns/mnt".into();
    });
    compare("joined-mounts-refused", &asking, &v2());
}
