//! OCI mount options to what the mount calls take (runtime specification, "Linux mount options").

use crate::error::PlanError;

/// MOUNT_ATTR_* (include/uapi/linux/mount.h).
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    /// Of all access time settings: mount_setattr(2) refuses to set one (EINVAL) unless
    /// all are cleared by the same call.
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// The options of one mount, sorted out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `Some(recursive)` for a bind mount.
    pub(crate) bind: Option<bool>,
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same for mounts below as well.
    pub(crate) recursive_set: u64,
    pub(crate) recursive_clear: u64,
    /// `Some(recursive)` for a mount whose ids are mapped.
    pub(crate) idmap: Option<bool>,
    /// A tmpfs that begins with what it covers.
    pub(crate) copy_up: bool,
    /// MS_*, 0 for none.
    pub(crate) propagation: u64,
    pub(crate) propagation_recursive: bool,
    /// For the file system.
    pub(crate) data: Vec<String>,
}

impl Options {
    pub(crate) fn parse(destination: &str, options: &[String]) -> Result<Self, PlanError> {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "bind" => parsed.bind = Some(parsed.bind.unwrap_or(false)),
                "rbind" => parsed.bind = Some(true),
                // Mount's own defaults; nothing to do.
                "defaults" | "async" | "nolazytime" | "loud" | "silent" | "nomand" => {}
                zero if zero.contains('\0') => {
                    return Err(PlanError::invalid("mounts.options", zero, "contains NUL"));
                }
                "tmpcopyup" => parsed.copy_up = true,
                "idmap" => parsed.idmap = Some(parsed.idmap.unwrap_or(false)),
                "ridmap" => parsed.idmap = Some(true),
                "" | "remount" => {
                    let reason = format!("option {option} of {destination}");
                    return Err(PlanError::unsupported("mounts.options", reason));
                }
                other => {
                    if let Some((flag, recursive)) = propagation(other) {
                        parsed.propagation = flag;
                        parsed.propagation_recursive = recursive;
                    } else if let Some((set, clear)) = attribute(other) {
                        parsed.apply(set, clear);
                    } else if let Some((set, clear)) = other.strip_prefix('r').and_then(attribute) {
                        parsed.apply_recursive(set, clear);
                    } else {
                        parsed.data.push(option.clone());
                    }
                }
            }
        }
        Ok(parsed)
    }

    /// Of `clear`, what a mount is really given. A tree of the host that is read-only or
    /// nosuid stays so: `rw`, which kubelets put on every volume, takes back an earlier
    /// `ro` and is not leave to write where the host itself may not.
    pub(crate) fn cleared(&self) -> u64 {
        self.clear & attr::ATIME
    }

    /// The same of what is cleared recursively.
    pub(crate) fn cleared_recursively(&self) -> u64 {
        self.recursive_clear & attr::ATIME
    }

    /// Whether anything is for mounts below as well.
    pub(crate) fn is_recursive(&self) -> bool {
        self.recursive_set | self.recursive_clear != 0
    }

    fn apply(&mut self, set: u64, clear: u64) {
        last_word(&mut self.set, &mut self.clear, set, clear);
    }

    fn apply_recursive(&mut self, set: u64, clear: u64) {
        last_word(
            &mut self.recursive_set,
            &mut self.recursive_clear,
            set,
            clear,
        );
    }
}

/// The last word counts, as with mount(8).
fn last_word(all_set: &mut u64, all_clear: &mut u64, set: u64, clear: u64) {
    *all_set = (*all_set & !clear) | set;
    *all_clear = (*all_clear & !set) | clear;
    // The settings of access time are a number, not flags: cleared, then set.
    if (set | clear) & attr::ATIME != 0 {
        *all_clear |= attr::ATIME;
    }
}

/// What to set and to clear.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (attr::RDONLY, 0),
        "rw" => (0, attr::RDONLY),
        "nosuid" => (attr::NOSUID, 0),
        "suid" => (0, attr::NOSUID),
        "nodev" => (attr::NODEV, 0),
        "dev" => (0, attr::NODEV),
        "noexec" => (attr::NOEXEC, 0),
        "exec" => (0, attr::NOEXEC),
        "noatime" => (attr::NOATIME, attr::ATIME),
        "strictatime" => (attr::STRICTATIME, attr::ATIME),
        // The kernel's default.
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, attr::ATIME),
        "nodiratime" => (attr::NODIRATIME, 0),
        "diratime" => (0, attr::NODIRATIME),
        "nosymfollow" => (attr::NOSYMFOLLOW, 0),
        "symfollow" => (0, attr::NOSYMFOLLOW),
        _ => return None,
    })
}

/// Every option that is known by name, sorted; others go to the file system.
#[must_use]
pub fn mount_options() -> Vec<&'static str> {
    const NAMES: [&str; 44] = [
        "async",
        "atime",
        "bind",
        "defaults",
        "dev",
        "diratime",
        "exec",
        "loud",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "nolazytime",
        "nomand",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nosymfollow",
        "private",
        "rbind",
        "rdev",
        "relatime",
        "rexec",
        "rnoatime",
        "rnodev",
        "rnodiratime",
        "rnoexec",
        "rnosuid",
        "rnosymfollow",
        "ro",
        "rprivate",
        "rrelatime",
        "rro",
        "rshared",
        "rslave",
        "rstrictatime",
        "rsuid",
        "rsymfollow",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "unbindable",
    ];
    let mut names = NAMES.to_vec();
    names.extend([
        "strictatime",
        "suid",
        "symfollow",
        "rrw",
        "rdiratime",
        "ratime",
    ]);
    names.sort_unstable();
    names
}

/// MS_* and whether for mounts below too.
pub(crate) fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option {
        "rprivate" | "rslave" | "rshared" | "runbindable" => (&option[1..], true),
        other => (other, false),
    };
    let flag = match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> Options {
        let options: Vec<String> = options.split(',').map(str::to_owned).collect();
        Options::parse("/x", &options).unwrap()
    }

    #[test]
    fn the_last_word_counts() {
        let options = parse("ro,nosuid,suid,rw");
        assert_eq!(
            (options.set, options.clear),
            (0, attr::RDONLY | attr::NOSUID)
        );
    }

    #[test]
    fn nothing_loosens_what_the_host_restricts() {
        for option in ["rw", "suid", "dev", "exec", "symfollow", "ro,rw", "rrw"] {
            assert_eq!(parse(option).cleared(), 0, "{option}");
            assert_eq!(parse(option).set, 0, "{option}");
        }
    }

    #[test]
    fn access_times_are_cleared_before_they_are_set() {
        let options = parse("strictatime");
        assert_eq!(
            (options.set, options.clear),
            (attr::STRICTATIME, attr::ATIME)
        );
        let options = parse("strictatime,noatime");
        assert_eq!((options.set, options.clear), (attr::NOATIME, attr::ATIME));
        let options = parse("noatime,relatime");
        assert_eq!((options.set, options.clear), (0, attr::ATIME));
    }

    #[test]
    fn recursive_words_differ_from_plain_ones_that_begin_with_r() {
        let options = parse("rbind,rslave,rro");
        assert_eq!(options.bind, Some(true));
        assert_eq!((options.set, options.recursive_set), (0, attr::RDONLY));
        assert_eq!(
            (options.propagation, options.propagation_recursive),
            (libc::MS_SLAVE, true)
        );
        // "ro" is not "recursive o", and "rw" and "relatime" are whole words.
        for plain in ["ro", "rw", "relatime"] {
            assert!(!parse(plain).is_recursive(), "{plain}");
        }
    }

    #[test]
    fn what_is_no_option_of_mounts_goes_to_the_file_system() {
        let options = parse("nosuid,mode=755,size=64k,newinstance");
        assert_eq!(options.data, ["mode=755", "size=64k", "newinstance"]);
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for option in ["remount", "", "a\0b"] {
            assert!(
                Options::parse("/x", &[option.to_owned()]).is_err(),
                "{option}"
            );
        }
    }
}
