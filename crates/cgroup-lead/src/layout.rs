//! Which hierarchies there are and where they are mounted.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use crate::Error;

/// How the node's hierarchies are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Controllers in hierarchies of their own, no v2.
    V1,
    /// As v1, with a v2 hierarchy without controllers beside them.
    Hybrid,
    /// One hierarchy with all controllers.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// As the kernel names them: "memory", "cpu,cpuacct", "name=systemd"; empty for v2.
    pub controllers: String,
    /// Whether it is the v2 hierarchy.
    pub v2: bool,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        has(&self.controllers, controller)
    }
}

pub(crate) fn has(controllers: &str, controller: &str) -> bool {
    controllers.split(',').any(|one| one == controller)
}

/// The node's hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Finds them in this process's mount table.
    ///
    /// # Errors
    /// [`Error::System`] if it cannot be read, or has none.
    pub fn detect() -> Result<Self, Error> {
        let what = "reading /proc/self/mountinfo";
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(Error::system(what))?;
        let known = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        Self::parse(&text, &known).ok_or_else(|| {
            let none = io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted");
            Error::system(what)(none)
        })
    }

    fn parse(mountinfo: &str, known: &str) -> Option<Self> {
        let known: BTreeSet<&str> = known
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some(hierarchy) = parse_line(line, &known) else {
                continue;
            };
            let same = |other: &Hierarchy| {
                other.v2 == hierarchy.v2 && other.controllers == hierarchy.controllers
            };
            // The first mount of a hierarchy; others are binds of it.
            if !hierarchies.iter().any(same) {
                hierarchies.push(hierarchy);
            }
        }
        let v2 = hierarchies.iter().any(|hierarchy| hierarchy.v2);
        let v1 = hierarchies
            .iter()
            .any(|hierarchy| !hierarchy.v2 && !hierarchy.controllers.starts_with("name="));
        let mode = match (v1, v2) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V1,
            (false, true) => Mode::V2,
            (false, false) => return None,
        };
        Some(Self { mode, hierarchies })
    }

    /// How they are arranged.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// All of them.
    #[must_use]
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// A layout of directories that stand in for mounts, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn of(mode: Mode, hierarchies: Vec<Hierarchy>) -> Self {
        Self { mode, hierarchies }
    }
}

impl Mode {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid",
            Self::V2 => "v2",
        }
    }
}

/// proc_pid_mountinfo(5): id parent dev root mountpoint options ... - type source super-options
fn parse_line(line: &str, known: &BTreeSet<&str>) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (root, mount) = (left.nth(3)?, left.next()?);
    let mut right = right.split(' ');
    let (fstype, options) = (right.next()?, right.nth(1)?);
    // A mount of a part of a hierarchy would put groups in the wrong place.
    if root != "/" {
        return None;
    }
    let mount = PathBuf::from(unescape(mount));
    match fstype {
        "cgroup2" => Some(Hierarchy {
            controllers: String::new(),
            v2: true,
            mount,
        }),
        "cgroup" => {
            let mut controllers: Vec<&str> = options
                .split(',')
                .filter(|option| known.contains(option) || option.starts_with("name="))
                .collect();
            controllers.sort_unstable();
            Some(Hierarchy {
                controllers: controllers.join(","),
                v2: false,
                mount,
            })
        }
        _ => None,
    }
}

/// Spaces and the like are octal in mountinfo.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "#subsys_name\thierarchy\ncpu\t1\ncpuacct\t2\nmemory\t3\ndevices\t4\n";

    #[test]
    fn the_three_arrangements_are_told_apart() {
        let memory = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let both = "31 1 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let named = "32 1 0:3 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n";
        let unified = "33 1 0:4 / /sys/fs/cgroup/unified rw shared:3 - cgroup2 cgroup2 rw\n";
        let part = "34 1 0:4 /x /mnt rw - cgroup2 cgroup2 rw\n";
        let parse = |text: &str| Layout::parse(text, KNOWN);
        assert_eq!(parse(&format!("{memory}{both}")).unwrap().mode(), Mode::V1);
        let hybrid = parse(&format!("{memory}{both}{named}{unified}")).unwrap();
        assert_eq!(hybrid.mode(), Mode::Hybrid);
        let controllers: Vec<_> = hybrid
            .hierarchies()
            .iter()
            .map(|h| &*h.controllers)
            .collect();
        assert_eq!(controllers, ["memory", "cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(
            parse(&format!("{named}{unified}")).unwrap().mode(),
            Mode::V2
        );
        assert!(parse(part).is_none());
        assert!(parse("").is_none());
    }
}
