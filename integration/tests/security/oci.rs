//! Bundles for OCI runtimes: ours, and older ones that are known to fall.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{cgroup, programs};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ground::{MASKED, READONLY};

/// Whose command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Berth,
    /// Debian 12's 1.1.5: before the fixes of CVE-2024-45310, 2025-31133, 2025-52565,
    /// 2025-52881 and 2026-41579.
    Runc,
}

impl Runtime {
    fn program(self) -> Result<PathBuf> {
        match self {
            Self::Berth => Ok(programs::directory()?.join("berth-oci")),
            Self::Runc => programs::tool("debian/usr/sbin/runc"),
        }
    }

    /// Whether this is the version that is known to fall; a newer Debian's is not.
    pub fn is_known_to_fall(self) -> Result<bool> {
        let output = Command::new(self.program()?).arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(self == Self::Runc && text.contains("version 1.1.5"))
    }
}

/// What a command did.
#[derive(Debug)]
#[allow(dead_code, reason = "all of it is shown when a test fails")]
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
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "{self:?}");
        Ok(self.out)
    }
}

/// A root file system, a bundle and a place for records.
pub struct Oci {
    dir: TempDir,
}

impl Oci {
    pub fn new() -> Result<Self> {
        // Where every user may look: ids of a user namespace have to reach the root.
        let dir = tempfile::Builder::new()
            .prefix("berth-s-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in("/var/tmp")?;
        let oci = Self { dir };
        let root = oci.rootfs();
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "out"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::copy(
            programs::tool("debian/bin/busybox")?,
            root.join("bin/busybox"),
        )?;
        for applet in [
            "sh", "cat", "ls", "id", "pwd", "true", "sleep", "grep", "stat",
        ] {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
        cgroup::make(&format!("/{}", oci.name()))?;
        Ok(oci)
    }

    pub fn name(&self) -> String {
        let name = self.dir.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// What engines usually ask for, running `script`.
    pub fn config(&self, script: &str) -> Value {
        let caps = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"];
        let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
        json!({
            "ociVersion": "1.0.2",
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
                "cgroupsPath": format!("/{}/c", self.name()),
                "namespaces": [
                    {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "mount"}, {"type": "cgroup"},
                ],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "maskedPaths": MASKED,
                "readonlyPaths": READONLY,
            },
        })
    }

    fn bundle(&self, config: &Value) -> Result<String> {
        let bundle = self.directory("bundle")?;
        fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(bundle.display().to_string())
    }

    fn command(&self, runtime: Runtime, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(runtime.program()?);
        command
            .arg("--root")
            .arg(self.dir.path().join("run"))
            .args(args)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// A verb of `runtime`.
    pub fn runtime(&self, runtime: Runtime, args: &[&str]) -> Result<Done> {
        let output = self.command(runtime, args)?.output();
        Ok(output.context("run an OCI runtime")?.into())
    }

    /// Creates, starts, waits and deletes.
    pub fn run(&self, runtime: Runtime, config: &Value) -> Result<Done> {
        let bundle = self.bundle(config)?;
        let done = self.runtime(runtime, &["run", "--bundle", &bundle, "c"])?;
        self.runtime(runtime, &["delete", "--force", "c"])?;
        Ok(done)
    }

    /// A container that runs in the background.
    pub fn start(&self, runtime: Runtime, config: &Value) -> Result<()> {
        let bundle = self.bundle(config)?;
        // Its streams must not be ours, whose end is waited for.
        let status = self
            .command(runtime, &["run", "-d", "--bundle", &bundle, "c"])?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "{runtime:?} run -d: {status}");
        Ok(())
    }

    pub fn finish(self) -> Result<()> {
        self.runtime(Runtime::Berth, &["delete", "--force", "c"])?
            .ok()?;
        let name = format!("/{}", self.name());
        drop(self);
        cgroup::remove(&name)
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        // A test that failed; one that did not has nothing any more.
        drop(self.runtime(Runtime::Berth, &["delete", "--force", "c"]));
        for part in ["/c", ""] {
            drop(cgroup::remove(&format!("/{}{part}", self.name())));
        }
    }
}
