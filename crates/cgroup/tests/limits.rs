//! Limits, devices, events and statistics, by the real kernel.

#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod ground;

use std::fs;

use berth_cgroup::{DeviceKind, DeviceRule, Error, Group, Mode, Resources};
use ground::{Ground, LIMIT, spawn, until};

const MIB: i64 = 1 << 20;

fn memory(limit: i64) -> Resources {
    Resources {
        memory_limit: Some(limit),
        memory_swap_limit: Some(limit),
        ..Resources::default()
    }
}

/// What a v1 and a v2 node call the same.
fn name(ground: &Ground, v1: &'static str, v2: &'static str) -> &'static str {
    match ground.layout.mode() {
        Mode::V2 => v2,
        Mode::V1 | Mode::Hybrid => v1,
    }
}

#[test]
fn limits_are_what_the_kernel_reads_back() {
    let ground = Ground::new();
    let path = ground.path("c");
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 * MIB),
        memory_swap_limit: Some(96 * MIB),
        pids_limit: Some(123),
        cpuset_cpus: "0".to_owned(),
        ..Resources::default()
    };
    let group = ground.group("c", &resources);
    let read = |v1, v2| ground.read(&path, name(&ground, v1, v2));
    assert_eq!(
        read("memory.limit_in_bytes", "memory.max"),
        (64 * MIB).to_string()
    );
    assert_eq!(read("pids.max", "pids.max"), "123");
    assert_eq!(read("cpuset.cpus", "cpuset.cpus"), "0");
    match ground.layout.mode() {
        Mode::V2 => {
            assert_eq!(ground.read(&path, "cpu.weight"), "59");
            assert_eq!(ground.read(&path, "cpu.max"), "50000 100000");
        }
        Mode::V1 | Mode::Hybrid => {
            assert_eq!(ground.read(&path, "cpu.shares"), "512");
            assert_eq!(ground.read(&path, "cpu.cfs_quota_us"), "50000");
            assert_eq!(ground.read(&path, "cpuset.mems"), "0");
        }
    }
    // Up beyond the old limit of both together, and down again.
    for limit in [256 * MIB, 16 * MIB] {
        group.update(&memory(limit)).unwrap();
        assert_eq!(
            read("memory.limit_in_bytes", "memory.max"),
            limit.to_string()
        );
        assert_eq!(read("pids.max", "pids.max"), "123");
    }
    let free = Resources {
        memory_limit: Some(-1),
        pids_limit: Some(-1),
        cpu_quota: Some(-1),
        ..Resources::default()
    };
    group.update(&free).unwrap();
    let stats = group.stats();
    assert_eq!((stats.memory_limit, stats.pids_limit), (None, None));
}

#[test]
fn a_period_and_a_quota_change_together_below_a_parent_that_allows_no_more() {
    let ground = Ground::new();
    let cpu = |quota, period| Resources {
        cpu_quota: Some(quota),
        cpu_period: Some(period),
        ..Resources::default()
    };
    ground.group("parent", &cpu(50_000, 100_000));
    let path = ground.path("parent").join("c").unwrap();
    let group = Group::create(&ground.layout, &path, &cpu(50_000, 100_000)).unwrap();
    for (quota, period) in [(25_000, 50_000), (100_000, 200_000), (10_000, 20_000)] {
        group.update(&cpu(quota, period)).unwrap();
    }
    match ground.layout.mode() {
        Mode::V2 => assert_eq!(ground.read(&path, "cpu.max"), "10000 20000"),
        Mode::V1 | Mode::Hybrid => {
            assert_eq!(ground.read(&path, "cpu.cfs_quota_us"), "10000");
            assert_eq!(ground.read(&path, "cpu.cfs_period_us"), "20000");
        }
    }
}

#[test]
fn a_memory_limit_below_what_is_in_use_is_refused_and_nothing_changes() {
    let ground = Ground::new();
    let path = ground.path("c");
    let group = ground.group("c", &memory(128 * MIB));
    // The buffer is filled and held while the pipe is full.
    let inside = spawn(&group, "dd if=/dev/zero bs=32M count=1 | sleep 60");
    until("memory is in use", || group.stats().memory_rss > 30 << 20);
    let shares = name(&ground, "cpu.shares", "cpu.weight");
    let before = ground.read(&path, shares);
    let smaller = Resources {
        cpu_shares: Some(77),
        pids_limit: Some(9),
        ..memory(4 * MIB)
    };
    let refused = group.update(&smaller);
    assert!(
        matches!(refused, Err(Error::BelowUsage { .. })),
        "{refused:?}"
    );
    assert_eq!(ground.read(&path, shares), before);
    assert_eq!(group.stats().memory_limit, Some(128 << 20));
    assert_eq!(group.stats().pids_limit, None);
    assert_eq!(group.oom_kill_count(), Some(0));
    drop(inside);
}

#[test]
fn a_group_that_runs_out_of_memory_tells_and_counts() {
    let ground = Ground::new();
    let group = ground.group("c", &memory(16 * MIB));
    let watch = group.oom_watch().unwrap().unwrap();
    assert_eq!(group.oom_kill_count(), Some(0));
    let mut inside = spawn(&group, "exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    assert_eq!(inside.wait(), 128 + 9);
    assert!(berth_sys::process::wait_readable(&watch, 5_000).unwrap());
    assert_eq!(group.oom_kill_count(), Some(1));
    let peak = group.memory_peak().unwrap();
    assert!((8 << 20..=17 << 20).contains(&peak), "{peak}");
    let mut buffer = [0; 4096];
    assert!(nix::unistd::read(&watch, &mut buffer).unwrap() > 0);
    assert!(!berth_sys::process::wait_readable(&watch, 0).unwrap());
}

#[test]
fn memory_that_runs_out_below_the_group_counts_too() {
    let ground = Ground::new();
    let group = ground.group("c", &memory(16 * MIB));
    if ground.layout.mode() == Mode::V2 {
        return;
    }
    let path = ground.path("c").join("inner").unwrap();
    let inner = Group::create(&ground.layout, &path, &Resources::default()).unwrap();
    for (count, group_of_victim) in [(1, &inner), (2, &group)] {
        let script = "exec dd if=/dev/zero of=/dev/null bs=64M count=1";
        let mut inside = spawn(group_of_victim, script);
        assert_eq!(inside.wait(), 128 + 9);
        assert_eq!(group.oom_kill_count(), Some(count));
    }
}

#[test]
fn processes_beyond_the_limit_cannot_be_made() {
    let ground = Ground::new();
    let limit = Resources {
        pids_limit: Some(4),
        ..Resources::default()
    };
    let group = ground.group("c", &limit);
    // The inner shell ends at its first failed fork.
    let script = "(sleep 60 & sleep 60 & sleep 60 & wait); exec sleep 61";
    let inside = spawn(&group, script);
    let command = || fs::read_to_string(format!("/proc/{}/cmdline", inside.pid())).unwrap();
    until("a fork has failed", || command().starts_with("sleep"));
    assert_eq!(group.processes().unwrap().len(), 3);
}

#[test]
fn use_is_accounted() {
    let ground = Ground::new();
    let group = ground.group("c", &memory(64 * MIB));
    let _inside = spawn(
        &group,
        "dd if=/dev/zero bs=16M count=1 | sleep 60 & while :; do :; done",
    );
    until("it has burnt", || {
        let stats = group.stats();
        stats.cpu_usage_ns > 20_000_000 && stats.memory_rss > 15 << 20
    });
    let stats = group.stats();
    assert!(stats.cpu_user_ns > 0 && stats.cpu_user_ns <= stats.cpu_usage_ns * 2);
    assert!(stats.memory_usage >= stats.memory_working_set);
    assert!(stats.memory_working_set > 15 << 20);
    assert_eq!(stats.memory_limit, Some(64 << 20));
    assert!(stats.page_faults > 0);
    assert!(stats.pids >= 3, "{stats:?}");
    group.kill_all(LIMIT).unwrap();
}

fn device(major: u32, minor: u32) -> DeviceRule {
    DeviceRule {
        kind: DeviceKind::Char,
        major: Some(major),
        minor: Some(minor),
        ..DeviceRule::everything(true)
    }
}

/// Whether a process in the group can read so many devices.
fn can_read(group: &Group, device: &str) -> bool {
    // Without /dev/null the shell's own streams would be refused; they are open already.
    let mut inside = spawn(
        group,
        &format!("sleep 0.05; exec dd if={device} count=1 of=/proc/self/fd/1"),
    );
    inside.wait() == 0
}

fn devices(ground: &Ground) {
    let mut resources = Resources {
        devices: vec![DeviceRule::everything(false), device(1, 3), device(1, 5)],
        ..Resources::default()
    };
    let group = ground.group("c", &resources);
    assert!(can_read(&group, "/dev/null"));
    assert!(can_read(&group, "/dev/zero"));
    assert!(!can_read(&group, "/dev/full"));
    resources.devices = vec![device(1, 3), device(1, 7)];
    group.update(&resources).unwrap();
    assert!(!can_read(&group, "/dev/zero"));
    assert!(can_read(&group, "/dev/full"));
    resources.devices = vec![DeviceRule::everything(true)];
    group.update(&resources).unwrap();
    assert!(can_read(&group, "/dev/zero"));
}

#[test]
fn devices_are_those_that_are_allowed_and_no_others() {
    devices(&Ground::new());
}

#[test]
fn devices_are_allowed_by_a_program_on_v2_which_is_replaced_and_not_piled_up() {
    let Some(ground) = Ground::v2_only() else {
        return;
    };
    devices(&ground);
    let group = Group::open(&ground.layout, &ground.path("c")).unwrap();
    let programs = berth_sys::bpf::device_programs(group.v2_fd().unwrap()).unwrap();
    let names: Vec<_> = programs.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["berth_devices"]);
}

#[test]
fn the_list_on_v1_is_exactly_what_was_asked_for() {
    let ground = Ground::new();
    if ground.layout.mode() == Mode::V2 {
        return;
    }
    let path = ground.path("c");
    let resources = Resources {
        devices: vec![DeviceRule::everything(false), device(1, 3), device(5, 0)],
        ..Resources::default()
    };
    let group = ground.group("c", &resources);
    assert_eq!(ground.read(&path, "devices.list"), "c 1:3 rwm\nc 5:0 rwm");
    // The kernel refuses to empty a list with groups below it, so the difference is written.
    for place in ground.places(&path) {
        fs::create_dir(place.join("below")).unwrap();
    }
    let other = Resources {
        devices: vec![device(1, 3), device(1, 9)],
        ..Resources::default()
    };
    group.update(&other).unwrap();
    assert_eq!(ground.read(&path, "devices.list"), "c 1:3 rwm\nc 1:9 rwm");
    let inner = Group::open(&ground.layout, &path.join("below").unwrap()).unwrap();
    assert!(
        inner
            .update(&Resources {
                devices: vec![device(10, 200)],
                ..Resources::default()
            })
            .is_err()
    );
}
