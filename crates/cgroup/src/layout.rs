//! Which hierarchies there are and where they are mounted.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use berth_sys::resolve::{self, Scope};
use nix::{
    errno::Errno,
    libc,
    sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs},
};

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
    /// Its root.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        File::open(&self.mount).map(OwnedFd::from)
    }

    /// The group at the relative path `group`.
    pub(crate) fn open_below(&self, group: &str) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        resolve::open(self.open()?, Path::new(group), flags, 0, Scope::Beneath)
    }

    /// Whether its mount point shows it, and not something mounted over it.
    fn is_visible(&self) -> io::Result<bool> {
        let magic = if self.v2 {
            CGROUP2_SUPER_MAGIC
        } else {
            CGROUP_SUPER_MAGIC
        };
        match statfs(&self.mount) {
            Ok(stat) => Ok(stat.filesystem_type() == magic),
            // Covered by a mount on a directory above it.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

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
        // Mount points are bytes; those of hierarchies are UTF-8 everywhere.
        let text = fs::read("/proc/self/mountinfo").map_err(Error::system(what))?;
        let text = String::from_utf8_lossy(&text);
        let known = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        // A hierarchy that is taken for missing would keep its groups for ever.
        let mut failed = None;
        let visible = |hierarchy: &Hierarchy| {
            hierarchy.is_visible().unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        };
        let found = Self::parse(&text, &known, visible);
        if let Some(error) = failed {
            return Err(Error::system("looking at the mounted hierarchies")(error));
        }
        found.ok_or_else(|| {
            let none = io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted");
            Error::system(what)(none)
        })
    }

    fn parse(
        mountinfo: &str,
        known: &str,
        mut visible: impl FnMut(&Hierarchy) -> bool,
    ) -> Option<Self> {
        let known: BTreeSet<&str> = known
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let found: Vec<_> = mountinfo
            .lines()
            .filter_map(|line| parse_line(line, &known))
            .filter(|(hierarchy, _)| visible(hierarchy))
            .collect();
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        // A mount of a part of a hierarchy counts only where the whole is not to be
        // seen: inside a container without a cgroup namespace.
        let (whole, part): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, whole)| *whole);
        for (hierarchy, _) in whole.into_iter().chain(part) {
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
/// Also says whether the whole of the hierarchy is mounted there.
fn parse_line(line: &str, known: &BTreeSet<&str>) -> Option<(Hierarchy, bool)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (root, mount) = (left.nth(3)?, left.next()?);
    let mut right = right.split(' ');
    let (fstype, options) = (right.next()?, right.nth(1)?);
    let mount = PathBuf::from(unescape(mount));
    let hierarchy = match fstype {
        "cgroup2" => Hierarchy {
            controllers: String::new(),
            v2: true,
            mount,
        },
        "cgroup" => {
            let mut controllers: Vec<&str> = options
                .split(',')
                .filter(|option| known.contains(option) || option.starts_with("name="))
                .collect();
            controllers.sort_unstable();
            if controllers.is_empty() {
                return None;
            }
            Hierarchy {
                controllers: controllers.join(","),
                v2: false,
                mount,
            }
        }
        _ => return None,
    };
    Some((hierarchy, root == "/"))
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let code = after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
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
        let parse = |text: &str| Layout::parse(text, KNOWN, |_| true);
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
        assert!(parse("").is_none());
        assert!(Layout::parse(unified, KNOWN, |_| false).is_none());
        // A part is better than nothing, but only than nothing.
        let mount = |text: &str| parse(text).unwrap().hierarchies()[0].mount.clone();
        assert_eq!(mount(part), Path::new("/mnt"));
        let both = format!("{part}{unified}");
        assert_eq!(mount(&both), Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over() {
        for line in [
            "-",
            " - ",
            "1 2 3 - cgroup",
            "1 2 3 / /x rw - cgroup cgroup rw",
        ] {
            assert!(Layout::parse(line, KNOWN, |_| true).is_none(), "{line:?}");
        }
        assert_eq!(unescape("a\\040b\\134c\\04\\"), "a b\\c\\04\\");
    }
}
