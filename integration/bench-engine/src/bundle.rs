//! The bundle that every engine gets, and the two small programs in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use berth_plan::{
    Cap, CapSet,
    seccomp::{FilterCache, Machine, default_profile},
};
use serde_json::{Value, json};

/// Ends at once; and waits for SIGTERM. Static: how long a loader takes is not the
/// engine's business.
const TRUE: &str = "int main(void) { return 0; }\n";
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// What all engines work with.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) dir: PathBuf,
    pub(crate) bare: PathBuf,
    /// The compiled filter, for the bare program.
    pub(crate) filter: PathBuf,
}

impl Bundle {
    /// Makes it in `dir`.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let rootfs = dir.join("rootfs");
        for name in ["bin", "dev", "proc", "sys"] {
            fs::create_dir_all(rootfs.join(name))?;
        }
        for (name, text) in [("true", TRUE), ("pause", PAUSE)] {
            let source = dir.join(format!("{name}.c"));
            fs::write(&source, text)?;
            compile(&source, &rootfs.join("bin").join(name))?;
        }
        let bare = dir.join("bare");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/bare.c");
        compile(Path::new(source), &bare)?;
        let filter = dir.join("filter");
        let machine = Machine::native().context("no filters for this kind of machine")?;
        let profile = default_profile(capabilities(), machine);
        let compiled = FilterCache::default().get(&profile, machine)?;
        fs::write(&filter, &compiled.program)?;
        Ok(Self {
            dir: dir.to_owned(),
            bare,
            filter,
        })
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Writes the configuration of a container that runs `program` in `group`.
    pub(crate) fn configure(&self, program: &str, group: &str) -> Result<()> {
        let config = config(program, group)?;
        let path = self.dir.join("config.json");
        fs::write(path, serde_json::to_vec(&config)?).context("write the configuration")
    }
}

fn capabilities() -> CapSet {
    CAPABILITIES
        .iter()
        .filter_map(|name| Cap::parse(name))
        .collect()
}

fn compile(source: &Path, program: &Path) -> Result<()> {
    let status = Command::new("cc")
        .args(["-O2", "-static", "-s", "-o"])
        .args([program, source])
        .status()
        .context("run cc (package gcc)")?;
    ensure!(status.success(), "cc {}: {status}", source.display());
    Ok(())
}

/// What `berth-oci spec` prints, without a terminal, with the default filter.
pub(crate) fn config(program: &str, group: &str) -> Result<Value> {
    let machine = Machine::native().context("no filters for this kind of machine")?;
    let seccomp = default_profile(capabilities(), machine);
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let usual = ["nosuid", "noexec", "nodev"];
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [program],
            "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", "proc", &usual),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &usual),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "cgroup" },
            ],
            "seccomp": seccomp,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
                "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    }))
}
