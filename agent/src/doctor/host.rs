//! The machine: kernel, control groups, file systems, limits.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use berth_cgroup::{Layout, Mode};

use super::{Check, Verdict, boot};
use crate::{
    kernel::{self, Feature},
    node::Node,
};

/// Below this much free space pulls and logs fail soon.
const LITTLE_SPACE: f64 = 0.10;
/// Below this almost everything that writes fails.
const NO_SPACE: f64 = 0.02;
/// Inotify instances that a node of a hundred pods needs at least; the kernel's default.
const INOTIFY: u64 = 128;
/// Processes that a node of a hundred pods needs at least.
const PIDS: u64 = 32_768;
/// 2024-01-01: a clock before it makes every certificate invalid.
const PLAUSIBLE: u64 = 1_704_067_200;

/// What the checks are about.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    layout: Layout,
    features: Vec<Feature>,
    root: PathBuf,
    run: PathBuf,
    /// Why pods cannot be connected; `None` while nobody has looked.
    network: Option<Result<(), String>>,
    /// Where shims start from.
    shim_source: &'static str,
}

impl Facts {
    /// `serving`: whether the agent looks after the network.
    pub(super) fn of(node: &Node, serving: bool) -> Self {
        Self {
            layout: node.layout.clone(),
            features: node.facts.kernel.clone(),
            root: node.dirs.root.clone(),
            run: node.dirs.run.clone(),
            network: serving.then(|| node.network.problem().map_or(Ok(()), Err)),
            shim_source: node.launcher.program().source().name(),
        }
    }
}

/// All checks, in the order in which they are shown.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![kernel(facts), cgroup(&facts.layout), swap(&facts.layout)];
    checks.extend([
        pressure(),
        overlay(facts),
        user_namespaces(),
        seccomp(),
        security_modules(),
        shim_program(facts.shim_source),
        network(facts.network.as_ref()),
        packet_filter(facts.network.is_some()),
        limit(
            "inotify",
            "/proc/sys/fs/inotify/max_user_instances",
            INOTIFY,
            "fs.inotify.max_user_instances",
        ),
        limit("pids", "/proc/sys/kernel/pid_max", PIDS, "kernel.pid_max"),
        clock(),
        space("disk", &facts.root),
        space("run-directory", &facts.run),
    ]);
    checks
}

fn kernel(facts: &Facts) -> Check {
    const NAME: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    if let Some(problem) = kernel::problem(&facts.features) {
        return Check::not_ok(NAME, Verdict::Fail, release, problem);
    }
    let missing: Vec<String> = facts
        .features
        .iter()
        .filter(|feature| !feature.present && feature.name != "pressure")
        .map(|feature| format!("{} (Linux {})", feature.name, feature.since))
        .collect();
    if missing.is_empty() {
        Check::ok(NAME, format!("Linux {release}"))
    } else {
        Check::not_ok(
            NAME,
            Verdict::Warn,
            format!("Linux {release} without {}", missing.join(", ")),
            "all works; a newer kernel does it faster or more safely (berthctl info says what \
             is done instead)",
        )
    }
}

fn cgroup(layout: &Layout) -> Check {
    const NAME: &str = "cgroup";
    let mode = layout.mode();
    let v2 = layout.hierarchies().iter().find(|one| one.v2);
    if mode != Mode::V2 {
        let hint = match boot::parameter("systemd.unified_cgroup_hierarchy").as_deref() {
            Some("0" | "no" | "false") => {
                "remove systemd.unified_cgroup_hierarchy=0 from the kernel's command line"
            }
            _ => "boot with systemd.unified_cgroup_hierarchy=1",
        };
        return Check::not_ok(
            NAME,
            Verdict::Warn,
            format!("cgroup {}", mode.name()),
            format!("all works; kubelets give up cgroup v1: {hint}"),
        );
    }
    let Some(v2) = v2 else {
        return Check::not_ok(
            NAME,
            Verdict::Fail,
            "no cgroup file system",
            "mount cgroup2 on /sys/fs/cgroup",
        );
    };
    let offered =
        fs::read_to_string(Path::new(&v2.mount).join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<&str> = ["cpu", "memory", "pids", "cpuset", "io"]
        .into_iter()
        .filter(|wanted| !offered.split_whitespace().any(|one| one == *wanted))
        .collect();
    if missing.is_empty() {
        Check::ok(NAME, "cgroup v2 with cpu, memory, pids, cpuset and io")
    } else {
        let verdict = if missing.contains(&"memory") || missing.contains(&"pids") {
            Verdict::Fail
        } else {
            Verdict::Warn
        };
        Check::not_ok(
            NAME,
            verdict,
            format!("cgroup v2 without {}", missing.join(", ")),
            "limits of that kind cannot be set: look for cgroup_disable= on the kernel's command \
             line, and whether the agent runs in a container that was not given them",
        )
    }
}

fn swap(layout: &Layout) -> Check {
    const NAME: &str = "swap";
    let used = fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1);
    if !used {
        return Check::ok(NAME, "no swap is in use");
    }
    let memory = layout
        .hierarchies()
        .iter()
        .find(|one| one.controllers.split(',').any(|name| name == "memory"));
    let accounted = layout.mode() == Mode::V2
        || memory.is_some_and(|one| {
            Path::new(&one.mount)
                .join("memory.memsw.usage_in_bytes")
                .exists()
        });
    if accounted {
        Check::ok(NAME, "swap is in use and accounted")
    } else {
        Check::not_ok(
            NAME,
            Verdict::Warn,
            "swap is in use and not accounted: a memory limit does not hold it",
            "boot with swapaccount=1, or turn swap off",
        )
    }
}

fn pressure() -> Check {
    const NAME: &str = "pressure";
    if fs::read("/proc/pressure/memory").is_ok() {
        Check::ok(NAME, "stalls are measured (PSI)")
    } else {
        Check::not_ok(
            NAME,
            Verdict::Warn,
            "stalls are not measured",
            "boot with psi=1 to see pressure in statistics and in `berthctl why`",
        )
    }
}

fn overlay(facts: &Facts) -> Check {
    const NAME: &str = "overlay";
    let has = |name: &str| {
        facts
            .features
            .iter()
            .any(|one| one.name == name && one.present)
    };
    if !has("overlay") {
        return Check::not_ok(
            NAME,
            Verdict::Fail,
            format!("no overlay on the file system of {}", facts.root.display()),
            "load the module overlay, and put the root directory on ext4, xfs (ftype=1) or btrfs",
        );
    }
    Check::ok(
        NAME,
        format!("layers can be stacked on {}", facts.root.display()),
    )
}

fn user_namespaces() -> Check {
    const NAME: &str = "user-namespaces";
    let most = number("/proc/sys/user/max_user_namespaces");
    match most {
        Some(0) => Check::not_ok(
            NAME,
            Verdict::Warn,
            "user.max_user_namespaces is 0",
            "pods with a user namespace fail: sysctl user.max_user_namespaces=10000",
        ),
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::not_ok(
            NAME,
            Verdict::Warn,
            "this kernel has none",
            "pods with a user namespace fail: use a kernel with CONFIG_USER_NS",
        ),
    }
}

fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Check::ok(NAME, "system calls are filtered"),
        _ => Check::not_ok(
            NAME,
            Verdict::Fail,
            "this kernel cannot filter system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn security_modules() -> Check {
    const NAME: &str = "security-modules";
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let known: Vec<&str> = active
        .trim()
        .split(',')
        .filter(|name| matches!(*name, "apparmor" | "selinux"))
        .collect();
    if known.contains(&"selinux") {
        let enforcing =
            fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
        let mode = if enforcing { "enforcing" } else { "permissive" };
        return Check::ok(NAME, format!("SELinux, {mode}"));
    }
    if known.is_empty() {
        // Securityfs may just not be mounted.
        return Check::not_ok(
            NAME,
            Verdict::Warn,
            "neither AppArmor nor SELinux is active",
            "containers are held by namespaces, capabilities and seccomp alone: boot with \
             apparmor=1 security=apparmor if the kernel has it",
        );
    }
    Check::ok(NAME, "AppArmor")
}

fn shim_program(source: &str) -> Check {
    const NAME: &str = "shim-program";
    if source == "sealed-memfd" {
        Check::ok(NAME, "shims start from sealed memory")
    } else {
        Check::not_ok(
            NAME,
            Verdict::Warn,
            format!("shims start from a {source}"),
            "sysctl vm.memfd_noexec=0 (or 1) allows sealed memory, which a container cannot \
             overwrite whatever it breaks into",
        )
    }
}

fn network(looked: Option<&Result<(), String>>) -> Check {
    const NAME: &str = "network";
    match looked {
        None => Check::not_ok(
            NAME,
            Verdict::Warn,
            "nobody has looked: the agent does not run",
            "start the agent (systemctl start berth-agent) and ask again",
        ),
        Some(Ok(())) => Check::ok(NAME, "pods can be connected"),
        Some(Err(problem)) => Check::not_ok(
            NAME,
            Verdict::Fail,
            problem,
            "pods that do not use the node's network fail until this is mended",
        ),
    }
}

fn packet_filter(serving: bool) -> Check {
    const NAME: &str = "forwarding";
    match number("/proc/sys/net/ipv4/ip_forward") {
        Some(1) => Check::ok(NAME, "packets are forwarded (IPv4)"),
        // The agent turns it on.
        _ if !serving => Check::ok(NAME, "net.ipv4.ip_forward is 0 until the agent starts"),
        _ => Check::not_ok(
            NAME,
            Verdict::Warn,
            "net.ipv4.ip_forward is 0",
            "pods reach nothing outside this node: something turned it off after the agent \
             had turned it on",
        ),
    }
}

fn limit(name: &'static str, file: &str, least: u64, sysctl: &str) -> Check {
    match number(file) {
        Some(value) if value >= least => Check::ok(name, format!("{sysctl} is {value}")),
        Some(value) => Check::not_ok(
            name,
            Verdict::Warn,
            format!("{sysctl} is {value}"),
            format!("a hundred pods may need more: sysctl {sysctl}={least}"),
        ),
        None => Check::ok(name, format!("{sysctl} is not there")),
    }
}

fn clock() -> Check {
    const NAME: &str = "clock";
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now >= PLAUSIBLE {
        Check::ok(NAME, "the time is plausible")
    } else {
        Check::not_ok(
            NAME,
            Verdict::Fail,
            "the clock is years behind",
            "registries' certificates are not valid yet: set the clock (systemctl start \
             systemd-timesyncd, or chrony)",
        )
    }
}

fn space(name: &'static str, directory: &Path) -> Check {
    let Ok(stat) = nix::sys::statvfs::statvfs(directory) else {
        return Check::not_ok(
            name,
            Verdict::Fail,
            format!("{} cannot be looked at", directory.display()),
            "look whether its disk is still there",
        );
    };
    if stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Check::not_ok(
            name,
            Verdict::Fail,
            format!("{} is read-only", directory.display()),
            "the kernel does that after errors of the disk: look at dmesg",
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    let share = |free: u64, all: u64| {
        if all == 0 {
            1.0
        } else {
            free as f64 / all as f64
        }
    };
    let bytes = share(stat.blocks_available(), stat.blocks());
    let files = share(stat.files_available(), stat.files());
    let least = bytes.min(files);
    let found = format!(
        "{}: {:.0} % of its bytes and {:.0} % of its files are free",
        directory.display(),
        bytes * 100.0,
        files * 100.0
    );
    let remedy = "remove images that nobody uses (berthctl images, berthctl rmi) and old logs";
    if least < NO_SPACE {
        Check::not_ok(name, Verdict::Fail, found, remedy)
    } else if least < LITTLE_SPACE {
        Check::not_ok(name, Verdict::Warn, found, remedy)
    } else {
        Check::ok(name, found)
    }
}

fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ok_comes_with_a_remedy() {
        let layout = Layout::detect().unwrap();
        let facts = Facts {
            features: kernel::features(&layout, fs::File::open("/").unwrap()),
            layout,
            root: "/".into(),
            run: "/run".into(),
            network: Some(Err("the bridge is gone".to_owned())),
            shim_source: "read-only-mount",
        };
        let checks = checks(&facts);
        for check in &checks {
            let fine = check.verdict == Verdict::Ok;
            assert_eq!(check.remedy.is_empty(), fine, "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
        let of = |name: &str| checks.iter().find(|one| one.name == name).unwrap();
        assert_eq!(of("network").verdict, Verdict::Fail);
        assert_eq!(of("shim-program").verdict, Verdict::Warn);
        let mut names: Vec<_> = checks.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len());
    }

    #[test]
    fn a_limit_that_is_too_low_names_the_sysctl() {
        let check = limit(
            "pids",
            "/proc/sys/kernel/pid_max",
            u64::MAX,
            "kernel.pid_max",
        );
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.remedy.contains("sysctl kernel.pid_max="));
    }
}
