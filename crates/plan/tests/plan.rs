//! Whole specifications to whole plans.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::path::{Path, PathBuf};

use berth_plan::{
    CapSet, Hierarchy, IoInputs, NamespaceKind, PlanError, PlanInputs, PlanOutput, RootInputs,
    Slot,
    seccomp::{FilterCache, Machine},
};
use berth_proto::shim::{MAX_SLOTS, MountStep, namespace_target::Mode};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// A pod's container as a kubelet asks for it, on a node with v1 hierarchies.
fn usual() -> Value {
    let caps = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"];
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [2000]},
            "args": ["/bin/server", "--port=80"],
            "env": ["PATH=/bin", "HOME=/"],
            "cwd": "/srv",
            "noNewPrivileges": true,
            "oomScoreAdj": 985,
            "capabilities": {"bounding": caps, "effective": [], "permitted": []},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/shm", "type": "bind", "source": "berth:pod-shm",
             "options": ["rbind", "nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/etc/hosts", "type": "bind", "source": "/pods/x/hosts",
             "options": ["rbind", "rprivate", "rw"]},
            {"destination": "/data", "type": "bind", "source": "/pods/x/data",
             "options": ["rbind", "rslave", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", "path": "/run/pod/net"},
                {"type": "ipc", "path": "/run/pod/ipc"},
                {"type": "uts", "path": "/elsewhere/uts"},
            ],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "resources": {
                "cpu": {"shares": 102, "quota": 50000, "period": 100000},
                "memory": {"limit": 1048576},
                "devices": [{"allow": false, "access": "rwm"}],
            },
        },
    })
}

fn plan_with(
    spec: &Value,
    hierarchies: &[Hierarchy],
    change: impl FnOnce(&mut PlanInputs<'_>),
) -> Result<PlanOutput, PlanError> {
    let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
    let filters = FilterCache::default();
    let mut inputs = PlanInputs {
        id: "c1",
        root: RootInputs {
            layers: vec!["layers/b".into(), "layers/a".into()],
            upper: "c1/upper".into(),
            work: "c1/work".into(),
            volatile: true,
        },
        cgroups: hierarchies,
        pod_dir: Some(Path::new("/run/pod")),
        stop_signal: libc::SIGTERM,
        io: IoInputs {
            log: true,
            max_line: 16_384,
            ..IoInputs::default()
        },
        env: None,
        kernel_capabilities: CapSet::all(),
        machine: Machine::X86_64,
        filters: &filters,
        is_file: &|path| Ok(path.ends_with("hosts")),
    };
    change(&mut inputs);
    berth_plan::plan(&spec, &inputs)
}

fn hierarchies(names: &[&str]) -> Vec<Hierarchy> {
    let hierarchy = |name: &&str| Hierarchy {
        controllers: (*name).to_owned(),
        v2: name.is_empty(),
    };
    names.iter().map(hierarchy).collect()
}

fn plan(spec: &Value) -> Result<PlanOutput, PlanError> {
    plan_with(spec, &hierarchies(&["cpu,cpuacct", "name=systemd"]), |_| ())
}

/// The usual specification with `value` at `pointer`, of which only the last part may be new.
fn changed(pointer: &str, value: Value) -> Value {
    let mut spec = usual();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match spec.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        object => object[name] = value,
    }
    spec
}

fn step<'a>(output: &'a PlanOutput, destination: &str) -> &'a MountStep {
    let mut steps = output.plan.mounts.iter();
    steps.find(|step| step.destination == destination).unwrap()
}

fn slot(output: &PlanOutput, number: u32) -> &Slot {
    &output.slots[number as usize - 1]
}

#[test]
fn every_slot_of_a_plan_is_what_the_plan_says() {
    let output = plan(&usual()).unwrap();
    let plan = &output.plan;
    assert_eq!(
        slot(&output, plan.root.as_ref().unwrap().tree_slot),
        &Slot::StateTree
    );
    let log = u32::try_from(plan.io.unwrap().log_slot).unwrap();
    assert_eq!(slot(&output, log), &Slot::LogFile);
    for (number, dir) in plan.cgroup.as_ref().unwrap().dirs.iter().enumerate() {
        assert_eq!(slot(&output, dir.slot), &Slot::CgroupDir(number));
    }
    let namespaces = plan.namespaces.as_ref().unwrap();
    assert_eq!(namespaces.pid.unwrap().mode(), Mode::New);
    assert_eq!(namespaces.cgroup.unwrap().mode(), Mode::New);
    assert_eq!(namespaces.net.unwrap().mode(), Mode::Join);
    assert_eq!(
        slot(&output, namespaces.net.unwrap().slot),
        &Slot::PodNamespace(NamespaceKind::Net)
    );
    assert_eq!(
        slot(&output, namespaces.uts.unwrap().slot),
        &Slot::Namespace {
            kind: NamespaceKind::Uts,
            path: PathBuf::from("/elsewhere/uts")
        }
    );
    let shm = step(&output, "/dev/shm");
    assert!(shm.bind);
    assert_eq!(slot(&output, shm.bind_slot), &Slot::PodShm);
    // One descriptor each: a detached tree can be attached only once.
    assert_eq!(output.slots.len(), 1 + 1 + 2 + 3 + 3);
}

#[test]
fn parents_are_mounted_before_what_lies_below_them() {
    let output = plan(&usual()).unwrap();
    let places: Vec<&str> = output
        .plan
        .mounts
        .iter()
        .map(|step| step.destination.as_str())
        .collect();
    assert_eq!(
        places,
        [
            "/proc",
            "/dev",
            "/sys",
            "/data",
            "/dev/pts",
            "/dev/shm",
            "/etc/hosts",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/cpu,cpuacct",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpuacct",
            "/sys/fs/cgroup/systemd",
        ]
    );
}

#[test]
fn file_systems_get_their_options_and_mounts_their_attributes() {
    let output = plan(&usual()).unwrap();
    let dev = step(&output, "/dev");
    assert_eq!(
        (dev.fstype.as_str(), dev.source.as_str()),
        ("tmpfs", "tmpfs")
    );
    assert_eq!(dev.options, ["mode=755", "size=65536k"]);
    let strict = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_STRICTATIME;
    // mount_setattr(2) sets no access time that is not cleared.
    assert_eq!(
        (dev.attr_set, dev.attr_clear),
        (strict, libc::MOUNT_ATTR__ATIME)
    );
    let pts = step(&output, "/dev/pts");
    assert_eq!(
        pts.options,
        ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    );
    let sys = step(&output, "/sys");
    assert_ne!(sys.attr_set & libc::MOUNT_ATTR_RDONLY, 0);
}

#[test]
fn read_only_binds_reach_the_top_only_and_their_propagation_all() {
    let output = plan(&usual()).unwrap();
    let data = step(&output, "/data");
    assert_eq!(
        (data.attr_set, data.recursive),
        (libc::MOUNT_ATTR_RDONLY, false)
    );
    assert_eq!(data.propagation, 0);
    assert_eq!(
        slot(&output, data.bind_slot),
        &Slot::Bind {
            source: PathBuf::from("/pods/x/data"),
            recursive: true,
            propagation: libc::MS_SLAVE,
            idmap: None,
        }
    );
    let all = changed("/mounts/7/options", json!(["rbind", "rro"]));
    let output = plan(&all).unwrap();
    let data = step(&output, "/data");
    assert_eq!(
        (data.attr_set, data.recursive),
        (libc::MOUNT_ATTR_RDONLY, true)
    );
    // Without a word it is private and not what the host's mount happens to be.
    let Slot::Bind { propagation, .. } = slot(&output, data.bind_slot) else {
        panic!("not a bind");
    };
    assert_eq!(*propagation, libc::MS_PRIVATE);
}

#[test]
fn a_bind_says_whether_its_mount_point_is_a_file() {
    let output = plan(&usual()).unwrap();
    assert!(step(&output, "/etc/hosts").file);
    assert!(!step(&output, "/data").file);
    // "rw" does not clear what the host has set.
    let hosts = step(&output, "/etc/hosts");
    assert_eq!((hosts.attr_set, hosts.attr_clear), (0, 0));
}

#[test]
fn control_groups_are_shown_as_the_node_has_them() {
    let output = plan(&usual()).unwrap();
    assert_eq!(step(&output, "/sys/fs/cgroup").fstype, "tmpfs");
    let root = step(&output, "/sys/fs/cgroup");
    // Mount points have to be made in it.
    assert_eq!(root.attr_set & libc::MOUNT_ATTR_RDONLY, 0);
    assert_eq!(output.plan.readonly_paths, ["/sys/fs/cgroup", "/proc/sys"]);
    let cpu = step(&output, "/sys/fs/cgroup/cpu,cpuacct");
    assert_eq!(cpu.options, ["cpu", "cpuacct"]);
    assert_ne!(cpu.attr_set & libc::MOUNT_ATTR_RDONLY, 0);
    let systemd = step(&output, "/sys/fs/cgroup/systemd");
    assert_eq!(systemd.options, ["none", "name=systemd"]);

    let output = plan_with(&usual(), &hierarchies(&[""]), |_| ()).unwrap();
    let only = step(&output, "/sys/fs/cgroup");
    assert_eq!(only.fstype, "cgroup2");
    assert_ne!(only.attr_set & libc::MOUNT_ATTR_RDONLY, 0);
    assert_eq!(output.plan.readonly_paths, ["/proc/sys"]);
}

#[test]
fn the_process_comes_over_whole() {
    let output = plan(&usual()).unwrap();
    let process = output.plan.process.unwrap();
    assert_eq!(
        process.args,
        [b"/bin/server".to_vec(), b"--port=80".to_vec()]
    );
    assert_eq!(process.cwd, b"/srv");
    assert_eq!(
        (process.uid, process.gid, process.groups),
        (1000, 1000, vec![2000])
    );
    let caps = process.capabilities.unwrap();
    assert_eq!((caps.bounding, caps.effective), (0b1010_0001, 0));
    assert_eq!(process.oom_score_adj, Some(985));
    let limit = process.rlimits[0];
    assert_eq!(
        (limit.resource, limit.soft, limit.hard),
        (libc::RLIMIT_NOFILE, 1024, 4096)
    );
    assert!(process.no_new_privileges && process.seccomp.is_empty());
    assert!(output.plan.root.unwrap().readonly);
}

#[test]
fn devices_are_the_usual_and_the_listed_ones_as_far_as_they_can_be_made() {
    let spec = changed(
        "/linux/devices",
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o100_600},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600},
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
            {"path": "/dev/pts/0", "type": "c", "major": 136, "minor": 0},
        ]),
    );
    let output = plan(&spec).unwrap();
    let nodes: Vec<(&str, u32)> = output
        .plan
        .devices
        .iter()
        .map(|node| (node.path.as_str(), node.mode))
        .collect();
    let char = libc::S_IFCHR;
    assert_eq!(
        nodes,
        [
            ("/dev/zero", char | 0o666),
            ("/dev/full", char | 0o666),
            ("/dev/random", char | 0o666),
            ("/dev/urandom", char | 0o666),
            ("/dev/tty", char | 0o666),
            ("/dev/fuse", char | 0o600),
            ("/dev/null", char | 0o600),
        ]
    );
    let host = changed(
        "/mounts/2",
        json!({"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}),
    );
    assert!(plan(&host).unwrap().plan.devices.is_empty());
}

#[test]
fn limits_are_read_beside_the_plan() {
    let output = plan(&usual()).unwrap();
    assert_eq!(output.limits.cpu_shares, Some(102));
    assert_eq!(output.limits.cpu_quota, Some(50_000));
    assert_eq!(output.limits.memory_limit, Some(1 << 20));
    let first = output.limits.devices[0];
    assert!(!first.allow && first.read && first.write && first.mknod);
    let spec: Spec = serde_json::from_value(usual()).unwrap();
    assert_eq!(berth_plan::limits(&spec).unwrap(), output.limits);
}

#[test]
fn an_empty_namespace_path_means_a_new_one_and_an_absent_namespace_the_hosts() {
    let spec = changed(
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "network", "path": ""}]),
    );
    let namespaces = plan(&spec).unwrap().plan.namespaces.unwrap();
    assert_eq!(namespaces.net.unwrap().mode(), Mode::New);
    assert_eq!(namespaces.pid.unwrap().mode(), Mode::Host);
}

#[test]
fn sysctls_never_reach_the_host() {
    let spec = changed("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert_eq!(plan(&spec).unwrap().plan.sysctls.len(), 1);
    let mut shared = spec;
    shared["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let error = plan(&shared).unwrap_err();
    assert!(error.to_string().contains("linux.sysctl"), "{error}");
}

#[test]
fn a_seccomp_profile_arrives_compiled() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]});
    let output = plan(&changed("/linux/seccomp", profile)).unwrap();
    let filter = output.plan.process.unwrap().seccomp;
    assert!(!filter.is_empty() && filter.len().is_multiple_of(8));
}

#[test]
fn what_is_wrong_or_would_be_ignored_is_refused_by_name() {
    let mount = |destination: &str| json!({"destination": destination, "type": "bind", "source": "/x", "options": ["bind"]});
    let device = |path: &str, kind: &str, major: i64| json!([{"path": path, "type": kind, "major": major, "minor": 0}]);
    for (pointer, value, field) in [
        ("/process/user/uid", json!(u32::MAX), "process.user.uid"),
        ("/process/user/gid", json!(u32::MAX), "process.user.gid"),
        (
            "/process/user/additionalGids",
            json!([1, u32::MAX]),
            "additionalGids",
        ),
        ("/process/user/umask", json!(0o7777), "process.user.umask"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\0b"]), "process.args"),
        ("/process/cwd", json!("srv"), "process.cwd"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        (
            "/process/apparmorProfile",
            json!("mi\nne"),
            "process.apparmorProfile",
        ),
        ("/hostname", json!("h".repeat(65)), ""),
        ("/mounts/7", mount("data"), "mounts.destination"),
        ("/mounts/7", mount("/a/../b"), "mounts.destination"),
        ("/mounts/7", mount("/"), "mounts.destination"),
        ("/mounts/7", mount("/proc/self"), "mounts.destination"),
        ("/mounts/0/type", json!("tmpfs"), "mounts.type"),
        ("/mounts/7/source", json!("relative"), "mounts.source"),
        ("/mounts/7/source", json!("/a\0b"), "mounts.source"),
        (
            "/mounts/7/options",
            json!(["rbind", "size=1"]),
            "mounts.options",
        ),
        (
            "/mounts/7/options",
            json!(["rbind", "idmap"]),
            "mounts.options",
        ),
        ("/linux/devices", device("/etc/x", "c", 1), "linux.devices"),
        (
            "/linux/devices",
            device("/dev/../x", "c", 1),
            "linux.devices",
        ),
        ("/linux/devices", device("/dev/x", "c", -1), "linux.devices"),
        (
            "/linux/maskedPaths",
            json!(["proc/kcore"]),
            "linux.maskedPaths",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.core_pattern": "|/x"}),
            "linux.sysctl",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "user"}]),
            "linux.uidMappings",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "time", "path": "x"}]),
            "linux.namespaces",
        ),
        (
            "/linux/uidMappings",
            json!([{"hostID": 1, "containerID": 0, "size": 1}]),
            "linux.uidMappings",
        ),
        (
            "/linux/rootfsPropagation",
            json!("loud"),
            "rootfsPropagation",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "seccomp",
        ),
    ] {
        if field.is_empty() {
            // A joined UTS namespace has its name already.
            assert!(plan(&changed(pointer, value)).is_ok());
            continue;
        }
        let error = plan(&changed(pointer, value.clone())).unwrap_err();
        assert!(
            error.to_string().contains(field),
            "{pointer} = {value}: {error}"
        );
    }
}

#[test]
fn layers_and_signals_of_the_agent_are_checked_too() {
    let none = hierarchies(&[]);
    for path in ["/etc", "../x", "a/..", "a\0b", ""] {
        let layer = |inputs: &mut PlanInputs<'_>| inputs.root.layers = vec![path.to_owned()];
        assert!(plan_with(&usual(), &none, layer).is_err(), "{path:?}");
    }
    let no_work = |inputs: &mut PlanInputs<'_>| inputs.root.work.clear();
    assert!(plan_with(&usual(), &none, no_work).is_err());
    for signal in [0, -1, 65] {
        let stop = |inputs: &mut PlanInputs<'_>| inputs.stop_signal = signal;
        assert!(plan_with(&usual(), &none, stop).is_err(), "{signal}");
    }
}

#[test]
fn more_mounts_than_one_message_can_carry_are_refused() {
    let mounts = |count: usize| -> Value {
        let mount = |number| {
            json!({"destination": format!("/m/{number}"), "type": "bind", "source": "/x",
                "options": ["bind"]})
        };
        (0..count).map(mount).collect()
    };
    // The plan itself, the state tree, the log, two groups and three namespaces.
    let fits = MAX_SLOTS - 8;
    let output = plan(&changed("/mounts", mounts(fits))).unwrap();
    assert_eq!(output.slots.len() + 1, MAX_SLOTS);
    let error = plan(&changed("/mounts", mounts(fits + 1))).unwrap_err();
    assert!(matches!(error, PlanError::TooManySlots { .. }), "{error}");
}

#[test]
fn equal_specifications_give_equal_plans() {
    let spec = changed(
        "/linux/sysctl",
        json!({"net.a": "1", "net.b": "2", "net.c": "3", "net.d": "4", "kernel.sem": "5"}),
    );
    let first = plan(&spec).unwrap();
    for _ in 0..20 {
        let again = plan(&spec).unwrap();
        assert_eq!(again.plan, first.plan);
        assert_eq!(again.slots, first.slots);
    }
}
