//! A group of the test's own in the node's real hierarchies, which goes whatever
//! happens to the test.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stderr, reason = "what is left behind must be seen")]
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{
    fs,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use berth_cgroup::{Group, GroupPath, Hierarchy, Layout, Mode, Resources};

/// More than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Ground {
    pub(crate) layout: Layout,
    /// `/berth-test-PID-N`, which is not made yet.
    pub(crate) top: GroupPath,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let root =
            fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
        assert_eq!(
            root.unwrap(),
            0,
            "these tests make control groups and need root"
        );
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-test-{}-{number}", std::process::id());
        Self {
            layout: Layout::detect().unwrap(),
            top: GroupPath::parent(&name).unwrap(),
        }
    }

    /// Only the v2 hierarchy, as on a unified node, though here without controllers.
    pub(crate) fn v2_only() -> Option<Self> {
        Self::new().only(Mode::V2, |hierarchy| hierarchy.v2)
    }

    /// Only the v1 hierarchies.
    pub(crate) fn v1_only() -> Option<Self> {
        Self::new().only(Mode::V1, |hierarchy| !hierarchy.v2)
    }

    fn only(mut self, mode: Mode, wanted: impl Fn(&Hierarchy) -> bool) -> Option<Self> {
        let mut hierarchies = self.layout.hierarchies().to_vec();
        hierarchies.retain(|hierarchy| wanted(hierarchy));
        if hierarchies.is_empty() {
            return None;
        }
        self.layout = Layout::of(mode, hierarchies);
        Some(self)
    }

    pub(crate) fn path(&self, name: &str) -> GroupPath {
        self.top.join(name).unwrap()
    }

    pub(crate) fn group(&self, name: &str, resources: &Resources) -> Group {
        Group::create(&self.layout, &self.path(name), resources).unwrap()
    }

    /// Directories of `path` in every hierarchy, whether they are there or not.
    pub(crate) fn places(&self, path: &GroupPath) -> Vec<PathBuf> {
        let place = |hierarchy: &Hierarchy| hierarchy.mount.join(path.as_str());
        self.layout.hierarchies().iter().map(place).collect()
    }

    /// The file `name` of `path`, in whichever hierarchy has it.
    pub(crate) fn read(&self, path: &GroupPath, name: &str) -> String {
        let mut places = self.places(path).into_iter();
        let found = places.find_map(|place| fs::read_to_string(place.join(name)).ok());
        found
            .unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .to_owned()
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        let mut hierarchies = self.layout.hierarchies().iter();
        hierarchies.any(|one| one.controllers.split(',').any(|name| name == controller))
            || self
                .v2_controllers()
                .split_whitespace()
                .any(|name| name == controller)
    }

    fn v2_controllers(&self) -> String {
        let mut hierarchies = self.layout.hierarchies().iter();
        let v2 = hierarchies.find(|hierarchy| hierarchy.v2);
        v2.map_or(String::new(), |hierarchy| {
            fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap()
        })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Ok(group) = Group::open(&self.layout, &self.top)
            && let Err(error) = group.kill_all(LIMIT)
        {
            eprintln!("{}: {error}", self.top);
        }
        if let Err(error) = Group::remove(&self.layout, &self.top, LIMIT) {
            eprintln!("{}: {error}", self.top);
            assert!(thread::panicking(), "{} is left behind", self.top);
        }
    }
}

/// A shell in the group, killed with the test.
pub(crate) struct Shell(pub(crate) Child);

impl Shell {
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// The shell's exit status as a shell says it.
    pub(crate) fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        let status = self.0.wait().unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs `script` by a shell that first moves itself into the group, as a container's
/// init does.
pub(crate) fn spawn(group: &Group, script: &str) -> Shell {
    let mut files = Vec::new();
    for dir in group.dirs() {
        let name = if dir.v2 { "cgroup.procs" } else { "tasks" };
        let (pid, fd) = (std::process::id(), dir.fd.as_raw_fd());
        files.push(format!("/proc/{pid}/fd/{fd}/{name}"));
    }
    let inside = shell(&files, script);
    until("the shell is in every hierarchy", || {
        let is_in = |file: &String| {
            let list = fs::read_to_string(file.replace("tasks", "cgroup.procs")).unwrap();
            list.lines().any(|pid| pid == inside.pid().to_string())
        };
        // It may have done its work and ended between two looks.
        files.iter().all(is_in) || !is_alive(inside.pid())
    });
    inside
}

pub(crate) fn shell(files: &[String], script: &str) -> Shell {
    let join = "for file; do echo 0 > \"$file\" || exit 99; done; ";
    let child = Command::new("sh")
        .args(["-c", &format!("{join}{script}"), "sh"])
        .args(files)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Shell(child)
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn is_alive(pid: i32) -> bool {
    // A zombie has ended.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}
