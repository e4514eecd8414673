//! Findings without what differs from machine to machine.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _};

use anyhow::Result;
use berth_integration::Node;

use crate::probe::Findings;

/// Names of capabilities by number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Nodes that every container has; others of a privileged one are the machine's.
const USUAL_DEVICES: [&str; 17] = [
    "/dev/console",
    "/dev/fd",
    "/dev/full",
    "/dev/mqueue",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/pts/0",
    "/dev/pts/1",
    "/dev/pts/ptmx",
    "/dev/random",
    "/dev/shm",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/tty",
    "/dev/urandom",
];

/// Longest line of a list.
const WIDTH: usize = 100;

/// What the container's surroundings have, to compare with.
pub struct Outside {
    findings: Findings,
    /// The number of the agent's network namespace.
    network: u64,
}

impl Outside {
    pub fn of(node: &Node) -> Result<Self> {
        Ok(Self {
            findings: Findings::outside()?,
            network: node.netns().inode(),
        })
    }

    pub fn of_this_process() -> Result<Self> {
        Ok(Self {
            findings: Findings::outside()?,
            network: fs::metadata("/proc/self/ns/net")?.ino(),
        })
    }

    /// The text that is kept. `names` are those of container, pod and node.
    pub fn normalise(&self, found: &Findings, names: &[&str]) -> String {
        let mut text = String::new();
        for (section, lines) in &found.0 {
            let mut kept: Vec<String> = match section.as_str() {
                "process" => lines.iter().map(|line| self.process(line)).collect(),
                "limits" => self.limits(lines),
                "namespaces" => lines.iter().map(|line| self.namespace(line)).collect(),
                "mounts" => lines.iter().filter_map(|line| mount(line)).collect(),
                "groups" => groups(lines),
                "devices" => devices(lines),
                "device access" => lines.iter().map(|line| opened(line)).collect(),
                "environment" => lines.iter().map(|line| self.variable(line)).collect(),
                "seccomp" => seccomp(lines),
                _ => lines.clone(),
            };
            if section == "mounts" {
                // One line for all hierarchies, of which machines have several or one.
                let mut seen = BTreeSet::new();
                kept.retain(|line| seen.insert(line.clone()));
            }
            text += &format!("[{section}]\n");
            for mut line in kept {
                for (number, name) in names.iter().enumerate() {
                    line = line.replace(name, &format!("<{}>", number + 1));
                }
                text += line.trim_end();
                text.push('\n');
            }
        }
        text
    }

    fn process(&self, line: &str) -> String {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        let outside = self.findings.value("process", key);
        let value = match key {
            "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => {
                let all = self.findings.value("process", "CapBnd");
                capabilities(&value, all)
            }
            "pid" | "parent" => match value.as_str() {
                "0" => "none of its own".to_owned(),
                "1" => "1".to_owned(),
                _ => "another".to_owned(),
            },
            "host name" if value == outside => "the node's".to_owned(),
            _ => value,
        };
        format!("{key}: {value}")
    }

    fn variable(&self, line: &str) -> String {
        let name = self.findings.value("process", "host name");
        if line == format!("HOSTNAME={name}") {
            "HOSTNAME=<the node's>".to_owned()
        } else {
            line.to_owned()
        }
    }

    fn limits(&self, lines: &[String]) -> Vec<String> {
        let outside = self.findings.section("limits");
        let changed: Vec<String> = lines
            .iter()
            .filter(|line| !outside.contains(line))
            .cloned()
            .collect();
        if changed.is_empty() {
            vec!["as outside".to_owned()]
        } else {
            changed
        }
    }

    fn namespace(&self, line: &str) -> String {
        let (kind, value) = line.split_once(' ').unwrap_or((line, ""));
        if kind.ends_with(':') {
            return format!(
                "{kind} {}",
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            );
        }
        let outside = match kind {
            "net" => format!("net:[{}]", self.network),
            _ => self.findings.value("namespaces", kind).to_owned(),
        };
        let whose = if value == outside {
            "the node's"
        } else {
            "its own"
        };
        format!("{kind} {whose}")
    }
}

fn capabilities(hex: &str, all: &str) -> String {
    if hex == all {
        return "all that the node has".to_owned();
    }
    let bits = u64::from_str_radix(hex, 16).unwrap_or(0);
    let names: Vec<&str> = CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits >> number & 1 == 1)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

/// Mount point, type, what of it, options and propagation.
fn mount(line: &str) -> Option<String> {
    let (own, rest) = line.split_once(" - ")?;
    let own: Vec<&str> = own.split(' ').collect();
    let [_, _, _, root, point, options, propagation @ ..] = own.as_slice() else {
        return None;
    };
    let rest: Vec<&str> = rest.splitn(3, ' ').collect();
    let [kind, _source, options_of_all] = rest.as_slice() else {
        return None;
    };
    let propagation: Vec<&str> = propagation
        .iter()
        .map(|one| one.split(':').next().unwrap_or(one))
        .collect();
    let told = if propagation.is_empty() {
        "private".to_owned()
    } else {
        propagation.join(" ")
    };
    if *point == "/out" {
        return None;
    }
    if kind.starts_with("cgroup") || point.starts_with("/sys/fs/cgroup") {
        return Some(format!("/sys/fs/cgroup {options} {told}"));
    }
    // Of the node's disk it matters only that it is.
    let (kind, details) = match *kind {
        "overlay" => ("overlay", String::new()),
        "proc" | "sysfs" | "mqueue" | "devpts" | "tmpfs" => (
            *kind,
            format!(" of {root} ({})", without_machine(options_of_all)),
        ),
        "devtmpfs" => ("the node's /dev", format!(" of {root}")),
        _ => ("the node's disk", String::new()),
    };
    Some(format!("{point} {kind}{details} {options} {told}"))
}

/// Without sizes that follow from the machine's memory.
fn without_machine(options: &str) -> String {
    let kept: Vec<&str> = options
        .split(',')
        .filter(|option| !option.starts_with("nr_inodes=") && *option != "inode64")
        .collect();
    kept.join(",")
}

fn groups(lines: &[String]) -> Vec<String> {
    let paths: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .map(|path| {
            // An exec has a group of its own in the v2 hierarchy, below the container's.
            let below = path != "/" && !path.starts_with("/..");
            if below { "one below its own" } else { path }
        })
        .collect();
    paths.into_iter().map(str::to_owned).collect()
}

/// Whether there is such a device is the machine's business, EPERM the container's.
fn opened(line: &str) -> String {
    match line.split_once(", opened: ") {
        Some((made, "EPERM")) => format!("{made}, opening: refused"),
        Some((made, _)) => format!("{made}, opening: allowed"),
        None => line.to_owned(),
    }
}

fn devices(lines: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut others = 0;
    for line in lines {
        let name = line.split(' ').next().unwrap_or_default();
        if USUAL_DEVICES.contains(&name) || name == "/dev/zero" {
            kept.push(line.clone());
        } else {
            others += 1;
        }
    }
    kept.push(match others {
        0 => "no others".to_owned(),
        _ => "those of the node".to_owned(),
    });
    kept
}

/// Calls by what the filter says to them.
fn seccomp(lines: &[String]) -> Vec<String> {
    let mut text = Vec::new();
    for abi in ["native", "i386", "x32"] {
        let mut answers: Vec<(String, Vec<String>)> = Vec::new();
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let (Some(of), Some(number), Some(rest)) = (words.next(), words.next(), words.next())
            else {
                text.push(line.clone());
                continue;
            };
            if of != abi {
                continue;
            }
            let (call, answer) = match rest.split_once(") ") {
                Some((case, answer)) => (format!("{case})"), answer),
                None => (name(abi, number), rest),
            };
            let known = answers.iter_mut().find(|(known, _)| known == answer);
            match known {
                Some((_, calls)) => calls.push(call),
                None => answers.push((answer.to_owned(), vec![call])),
            }
        }
        for (answer, calls) in &answers {
            if answers.len() == 1 {
                text.push(format!("{abi} {answer}: everything"));
                continue;
            }
            text.push(format!("{abi} {answer}:"));
            text.extend(wrapped(&joined(calls)));
        }
    }
    text
}

fn name(abi: &str, number: &str) -> String {
    let known = number.parse().ok().and_then(|number| match abi {
        "native" => syscalls::Sysno::new(number).map(|call| call.name()),
        #[cfg(target_arch = "x86_64")]
        "i386" => syscalls::x86::Sysno::new(number).map(|call| call.name()),
        _ => None,
    });
    known.map_or_else(|| number.to_owned(), str::to_owned)
}

/// Numbers that follow each other as a range.
fn joined(calls: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut range: Option<(u32, u32)> = None;
    let close = |range: &mut Option<(u32, u32)>, out: &mut Vec<String>| {
        if let Some((first, last)) = range.take() {
            out.push(if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            });
        }
    };
    for call in calls {
        match (call.parse::<u32>().ok(), range) {
            (Some(number), Some((first, last))) if number == last + 1 => {
                range = Some((first, number));
            }
            (Some(number), _) => {
                close(&mut range, &mut out);
                range = Some((number, number));
            }
            (None, _) => {
                close(&mut range, &mut out);
                out.push(call.clone());
            }
        }
    }
    close(&mut range, &mut out);
    out
}

fn wrapped(words: &[String]) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words {
        let last = lines.last_mut().expect("there is one");
        if last.len() + word.len() + 1 > WIDTH {
            lines.push(format!("  {word}"));
        } else {
            let space = if last.is_empty() { "  " } else { " " };
            last.push_str(space);
            last.push_str(word);
        }
    }
    lines
}

/// What the reference was taken on.
pub fn heading() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.split('.').take(2).collect();
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let apparmor = fs::metadata("/sys/module/apparmor").is_ok();
    let selinux = fs::metadata("/sys/fs/selinux").is_ok();
    let mut absent = Vec::new();
    for (name, there) in [("AppArmor", apparmor), ("SELinux", selinux)] {
        if !there && !modules.contains(&name.to_lowercase()) {
            absent.push(name);
        }
    }
    format!(
        "# Linux {}, {}; absent: {}\n",
        kernel.join("."),
        std::env::consts::ARCH,
        if absent.is_empty() {
            "nothing".to_owned()
        } else {
            absent.join(", ")
        }
    )
}

/// Lines that only one side has; a path that this kernel does not have is no difference.
pub fn differences(reference: &str, found: &str) -> Vec<String> {
    let other_machine = !reference
        .lines()
        .next()
        .is_some_and(|head| head.contains(std::env::consts::ARCH));
    let lines = |text: &str| -> Vec<String> {
        let mut section = String::new();
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with('[') {
                line.clone_into(&mut section);
            } else if !(other_machine && section == "[seccomp]") {
                lines.push(format!("{section} {line}"));
            }
        }
        lines
    };
    let (before, now) = (lines(reference), lines(found));
    let absent = |line: &String, others: &[String]| {
        let Some(key) = line.strip_prefix("[write access] ") else {
            return false;
        };
        let path = key.split(' ').next().unwrap_or_default();
        let gone = format!("[write access] {path} absent");
        let unknown = !std::path::Path::new(path).exists();
        *line == gone || others.contains(&gone) || unknown
    };
    let lost = before
        .iter()
        .filter(|line| !now.contains(line) && !absent(line, &now));
    let new = now
        .iter()
        .filter(|line| !before.contains(line) && !absent(line, &before));
    lost.map(|line| format!("- {line}"))
        .chain(new.map(|line| format!("+ {line}")))
        .collect()
}

#[test]
fn numbers_are_joined_and_a_missing_path_is_no_difference() {
    let calls = ["read", "470", "471", "472", "write", "500"].map(str::to_owned);
    assert_eq!(joined(&calls), ["read", "470-472", "write", "500"]);
    let head = format!("# Linux, {}\n", std::env::consts::ARCH);
    let old = format!("{head}[write access]\n/etc writable\n/tmp EROFS\n/none writable\n");
    let same = "[write access]\n/etc absent\n/tmp EROFS\n";
    assert!(differences(&old, same).is_empty());
    let worse = differences(&old, "[write access]\n/etc absent\n/tmp writable\n");
    let told = [
        "- [write access] /tmp EROFS",
        "+ [write access] /tmp writable",
    ];
    assert_eq!(worse, told);
}
