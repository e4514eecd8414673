//! The v2 spelling of everything, against a directory that looks like a v2 group:
//! what the crate reads and writes there, where the kernel at hand has no v2
//! controllers. Plain files keep what is longer than a new value, so old and new
//! values here have one length.

#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{fs, path::Path, time::Duration};

use berth_cgroup::{Error, Group, GroupPath, Hierarchy, Layout, Mode, Resources};
use tempfile::TempDir;

struct Fake {
    dir: TempDir,
    layout: Layout,
    path: GroupPath,
}

impl Fake {
    /// A hierarchy that offers `controllers`, and the group `/p/c` in it.
    fn new(controllers: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let hierarchy = Hierarchy {
            controllers: String::new(),
            v2: true,
            mount: dir.path().to_owned(),
        };
        let fake = Self {
            layout: Layout::of(Mode::V2, vec![hierarchy]),
            path: GroupPath::parse("p/c").unwrap(),
            dir,
        };
        fs::create_dir_all(fake.dir.path().join("p/c")).unwrap();
        for group in ["", "p", "p/c"] {
            let group = fake.dir.path().join(group);
            fs::write(group.join("cgroup.controllers"), controllers).unwrap();
            fs::write(group.join("cgroup.subtree_control"), "").unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
            fs::write(group.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        }
        fake
    }

    fn with(self, files: &[(&str, &str)]) -> Self {
        for (name, text) in files {
            fs::write(self.group().join(name), text).unwrap();
        }
        self
    }

    fn group(&self) -> std::path::PathBuf {
        self.dir.path().join("p/c")
    }

    fn read(&self, name: &str) -> String {
        read(&self.group(), name)
    }
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn a_controller_is_enabled_in_every_group_above_but_not_in_the_group() {
    let fake = Fake::new("memory");
    Group::create(&fake.layout, &fake.path, &Resources::default()).unwrap();
    let control = "cgroup.subtree_control";
    assert_eq!(read(fake.dir.path(), control), "+memory");
    assert_eq!(read(&fake.dir.path().join("p"), control), "+memory");
    assert_eq!(fake.read(control), "");
}

#[test]
fn a_controller_that_is_enabled_already_is_not_written_again() {
    let fake = Fake::new("memory");
    let control = fake.dir.path().join("cgroup.subtree_control");
    fs::write(&control, "cpu memory").unwrap();
    Group::create(&fake.layout, &fake.path, &Resources::default()).unwrap();
    assert_eq!(fs::read_to_string(control).unwrap(), "cpu memory");
}

#[test]
fn limits_are_written_in_the_v2_spelling() {
    let fake = Fake::new("cpu memory pids").with(&[
        ("cpu.weight", "100"),
        ("cpu.max", "max         "),
        ("memory.max", "max     "),
        ("memory.swap.max", "max     "),
        ("memory.low", "0       "),
        ("memory.oom.group", "0"),
        ("pids.max", "max"),
    ]);
    let resources = Resources {
        cpu_shares: Some(2048),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(96 << 20),
        memory_reservation: Some(32 << 20),
        pids_limit: Some(100),
        unified: vec![("memory.oom.group".to_owned(), "1".to_owned())],
        ..Resources::default()
    };
    Group::create(&fake.layout, &fake.path, &resources).unwrap();
    for (name, text) in [
        ("cpu.weight", "174"),
        ("cpu.max", "50000 100000"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("memory.oom.group", "1"),
        ("pids.max", "100"),
    ] {
        assert_eq!(fake.read(name), text, "{name}");
    }
}

#[test]
fn a_missing_controller_is_named_and_swap_accounting_may_be_missing() {
    let fake = Fake::new("memory").with(&[("memory.max", "max     ")]);
    let resources = Resources {
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(64 << 20),
        ..Resources::default()
    };
    Group::create(&fake.layout, &fake.path, &resources).unwrap();
    let pids = Resources {
        pids_limit: Some(9),
        ..Resources::default()
    };
    let error = Group::create(&fake.layout, &fake.path, &pids).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoController {
                field: "pids_limit",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_refused_update_sets_back_what_it_had_written() {
    let fake = Fake::new("cpu memory pids").with(&[
        ("cpu.weight", "100\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.current", "0\n"),
        ("memory.max", "33554432\n"),
    ]);
    // There is no pids.max, which is written after these.
    let group = Group::open(&fake.layout, &fake.path).unwrap();
    let resources = Resources {
        cpu_shares: Some(2048),
        memory_limit: Some(64 << 20),
        pids_limit: Some(9),
        ..Resources::default()
    };
    assert!(matches!(
        group.update(&resources),
        Err(Error::System { .. })
    ));
    assert_eq!(fake.read("cpu.weight"), "100\n");
    assert_eq!(fake.read("memory.max"), "33554432\n");
}

#[test]
fn a_limit_below_what_is_in_use_is_not_tried_since_the_kernel_would_kill() {
    let fake = Fake::new("memory").with(&[
        ("memory.current", "50000000\n"),
        ("memory.max", "max     "),
        ("memory.reclaim", ""),
    ]);
    let group = Group::open(&fake.layout, &fake.path).unwrap();
    let resources = Resources {
        memory_limit: Some(40_000_000),
        ..Resources::default()
    };
    let refused = group.update(&resources);
    assert!(matches!(
        refused,
        Err(Error::BelowUsage {
            usage: 50_000_000,
            ..
        })
    ));
    assert_eq!(fake.read("memory.max"), "max     ");
    assert_eq!(fake.read("memory.reclaim"), "10000000");
}

#[test]
fn statistics_are_read_in_the_v2_spelling() {
    let fake = Fake::new("cpu memory pids").with(&[
        (
            "cpu.stat",
            "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 9\nnr_throttled 4\nthrottled_usec 5\n",
        ),
        ("memory.current", "1000\n"),
        ("memory.max", "2000\n"),
        ("memory.stat", "anon 300\nfile 600\ninactive_file 100\npgfault 7\npgmajfault 2\n"),
        ("memory.swap.current", "50\n"),
        ("memory.swap.max", "max\n"),
        ("memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("memory.peak", "1500\n"),
        ("pids.current", "6\n"),
        ("pids.max", "max\n"),
        (
            "memory.pressure",
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
        ),
    ]);
    let group = Group::open(&fake.layout, &fake.path).unwrap();
    let stats = group.stats();
    assert_eq!(
        (stats.cpu_usage_ns, stats.cpu_user_ns, stats.cpu_system_ns),
        (3000, 2000, 1000)
    );
    assert_eq!((stats.cpu_periods, stats.cpu_throttled_periods), (9, 4));
    assert_eq!(stats.cpu_throttled_ns, 5000);
    assert_eq!((stats.memory_usage, stats.memory_working_set), (1000, 900));
    assert_eq!((stats.memory_rss, stats.memory_limit), (300, Some(2000)));
    assert_eq!((stats.page_faults, stats.major_page_faults), (7, 2));
    assert_eq!((stats.swap_usage, stats.swap_limit), (Some(50), None));
    assert_eq!((stats.pids, stats.pids_limit), (6, None));
    assert_eq!(group.oom_kill_count(), Some(2));
    assert_eq!(group.memory_peak(), Some(1500));
    let pressure = stats.memory_pressure.unwrap();
    assert_eq!((pressure.some.avg10, pressure.some.avg60), (1.5, 0.25));
    assert_eq!(
        (pressure.some.total_ns, pressure.full.total_ns),
        (12_000, 3_000)
    );
    assert_eq!(stats.cpu_pressure, None);
}

#[test]
fn memory_events_wake_the_watch() {
    let fake = Fake::new("memory").with(&[("memory.events", "oom_kill 0\n")]);
    let group = Group::open(&fake.layout, &fake.path).unwrap();
    let watch = group.oom_watch().unwrap().unwrap();
    assert!(!berth_sys::process::wait_readable(&watch, 0).unwrap());
    fs::write(fake.group().join("memory.events"), "oom_kill 1\n").unwrap();
    assert!(berth_sys::process::wait_readable(&watch, 5_000).unwrap());
    assert_eq!(group.oom_kill_count(), Some(1));
}

#[test]
fn a_populated_group_is_killed_by_one_write() {
    let fake = Fake::new("").with(&[("cgroup.kill", " "), ("cgroup.freeze", "1")]);
    fs::write(
        fake.group().join("cgroup.events"),
        "populated 1\nfrozen 1\n",
    )
    .unwrap();
    let group = Group::open(&fake.layout, &fake.path).unwrap();
    let left = group.kill_all(Duration::from_millis(10));
    assert!(matches!(left, Err(Error::Busy { .. })));
    assert_eq!(fake.read("cgroup.kill"), "1");
    assert_eq!(fake.read("cgroup.freeze"), "0");
}

#[test]
fn beside_v1_nothing_is_enabled_and_v2_files_are_ignored() {
    let fake = Fake::new("hugetlb");
    let v1 = fake.dir.path().join("v1");
    fs::create_dir_all(v1.join("p/c")).unwrap();
    fs::write(v1.join("p/c/cgroup.procs"), "").unwrap();
    let mut hierarchies = fake.layout.hierarchies().to_vec();
    hierarchies.push(Hierarchy {
        controllers: "memory".to_owned(),
        v2: false,
        mount: v1,
    });
    let layout = Layout::of(Mode::Hybrid, hierarchies);
    let resources = Resources {
        unified: vec![("memory.oom.group".to_owned(), "1".to_owned())],
        ..Resources::default()
    };
    Group::create(&layout, &fake.path, &resources).unwrap();
    assert_eq!(read(fake.dir.path(), "cgroup.subtree_control"), "");
}

#[test]
fn a_v2_file_whose_controller_is_missing_is_refused() {
    let fake = Fake::new("cpu");
    let resources = Resources {
        unified: vec![("memory.high".to_owned(), "1".to_owned())],
        ..Resources::default()
    };
    let made = Group::create(&fake.layout, &fake.path, &resources);
    assert!(matches!(
        made,
        Err(Error::NoController {
            field: "unified",
            ..
        })
    ));
}
