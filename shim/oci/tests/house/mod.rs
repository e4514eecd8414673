//! Bundles made from busybox, `berth-oci` on a root of its own, and a look for what
//! is left behind.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of this"
)]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longest wait for something that takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

pub struct House {
    pub dir: tempfile::TempDir,
    /// Of every container's group.
    pub groups: String,
}

pub fn shim_program() -> PathBuf {
    std::env::var_os("BERTH_SHIM").map_or_else(
        || {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
            target.join("x86_64-unknown-linux-gnu/shim/berth-shim")
        },
        PathBuf::from,
    )
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    /// It succeeded and had nothing to complain of; its output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self.out
    }

    /// It failed, and its one line says all of `words`.
    #[track_caller]
    pub fn refused(self, words: &[&str]) {
        assert!(self.code != 0, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} in {self:?}");
        }
    }
}

impl House {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let shim = shim_program();
        let shown = shim.display();
        assert!(
            shim.exists(),
            "{shown} is missing: run `make build`, or set BERTH_SHIM"
        );
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for name in ["bin", "etc", "proc", "tmp"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("busybox-static is needed: apt-get install busybox-static");
        for applet in ["sh", "cat", "mkdir", "true", "sleep", "taskset", "readlink"] {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy();
        let groups = format!("berth-oci-test-{}", name.trim_start_matches('.'));
        Self { dir, groups }
    }

    /// The usual configuration, running `script`.
    pub fn config(&self, script: &str) -> Value {
        let caps = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "../rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin", "HOME=/"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            },
            "hostname": "box",
            "mounts": [
                mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts",
                    &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            ],
            "linux": {
                "cgroupsPath": format!("/{}/c", self.groups),
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "mount"}, {"type": "cgroup"},
                ],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "maskedPaths": ["/proc/kcore"],
                "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    /// A bundle with `config`.
    pub fn bundle(&self, config: &Value) -> PathBuf {
        let bundle = self.dir.path().join("bundle");
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        bundle
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// `berth-oci` with its root here.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth-oci"));
        command
            .arg("--root")
            .arg(self.dir.path().join("run"))
            .args(args)
            .env("BERTH_SHIM", shim_program())
            .env_remove("LISTEN_FDS")
            .stdin(Stdio::null());
        command
    }

    pub fn oci(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// With `input` on standard input.
    pub fn oci_with(&self, args: &[&str], input: &str) -> Done {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Creates, starts, waits and deletes a container with `config`.
    pub fn run(&self, config: &Value) -> Done {
        let bundle = self.bundle(config);
        self.oci(&["run", "--bundle", bundle.to_str().unwrap(), "c"])
    }

    /// A container with `config` that runs in the background.
    pub fn start(&self, config: &Value) {
        let bundle = self.bundle(config);
        // Its streams must not be ours, whose end is waited for.
        let mut run = self.command(&["run", "-d", "--bundle", bundle.to_str().unwrap(), "c"]);
        run.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(run.status().unwrap().success());
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.oci(&["state", "c"]).ok()).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn wait_for_status(&self, status: &str) {
        eventually(status, || self.status() == status);
    }

    /// Nothing is left of any container: no record, group, process or mount.
    #[track_caller]
    pub fn assert_clean(&self) {
        if let Ok(entries) = fs::read_dir(self.dir.path().join("run")) {
            let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            assert!(names.is_empty(), "records are left: {names:?}");
        }
        for top in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let group = top.unwrap().path().join(&self.groups).join("c");
            assert!(!group.exists(), "{} is left", group.display());
        }
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(&dir)).collect();
        assert!(left.is_empty(), "mounts are left: {left:?}");
        eventually("no shim is left", || self.shims().is_empty());
    }

    /// Pids of shims that hold a descriptor of our records.
    fn shims(&self) -> Vec<String> {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if !comm.starts_with("berth-") {
                continue;
            }
            let fds = fs::read_dir(entry.path().join("fd"));
            let ours = fds.into_iter().flatten().flatten().any(|fd| {
                fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().contains(&dir))
            });
            if ours {
                found.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.oci(&["delete", "--force", "c"]);
        for top in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let group = top.path().join(&self.groups);
            fs::remove_dir(group.join("c")).ok();
            fs::remove_dir(group).ok();
        }
    }
}

#[track_caller]
pub fn eventually(what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !check() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
