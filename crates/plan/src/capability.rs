//! Capability names and their numbers (include/uapi/linux/capability.h).

use std::fmt;

/// Names without `CAP_`, by number.
const NAMES: [&str; 41] = [
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

/// What a container has unless it is told otherwise, by name without `CAP_`.
pub const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A name that no capability has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no capability is called {0:?}")]
pub struct UnknownCapability(pub String);

/// The set of `names`, each with or without `CAP_` and in any case.
///
/// # Errors
/// The first name that no capability has.
pub fn mask<'names>(
    names: impl IntoIterator<Item = &'names str>,
) -> Result<u64, UnknownCapability> {
    names
        .into_iter()
        .map(|name| Cap::parse(name).ok_or_else(|| UnknownCapability(name.to_owned())))
        .collect::<Result<CapSet, _>>()
        .map(CapSet::bits)
}

/// One capability, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cap(u8);

impl Cap {
    /// Reads a name with or without `CAP_`, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|&known| known == bare)?;
        Some(Self(u8::try_from(number).ok()?))
    }

    /// The name without `CAP_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }

    /// The kernel's number of it.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Every capability that this build knows, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..41).map(Self)
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CAP_{}", self.name())
    }
}

/// A set of capabilities; bit N stands for number N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapSet(u64);

impl CapSet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability that this build knows.
    #[must_use]
    pub fn all() -> Self {
        Cap::all().collect()
    }

    /// The set with these bits; bits that no known capability has are left out.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & Self::all().0)
    }

    /// The bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cap` is in it.
    #[must_use]
    pub fn contains(self, cap: Cap) -> bool {
        self.0 & (1 << cap.number()) != 0
    }

    /// Adds `cap`.
    pub fn insert(&mut self, cap: Cap) {
        self.0 |= 1 << cap.number();
    }

    /// Takes `cap` away.
    pub fn remove(&mut self, cap: Cap) {
        self.0 &= !(1 << cap.number());
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this one and not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Its members in order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Cap> {
        Cap::all().filter(move |cap| self.contains(*cap))
    }
}

impl FromIterator<Cap> for CapSet {
    fn from_iter<I: IntoIterator<Item = Cap>>(caps: I) -> Self {
        let mut set = Self::EMPTY;
        for cap in caps {
            set.insert(cap);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        for (name, number) in [
            ("CAP_CHOWN", 0),
            ("sys_admin", 21),
            ("CAP_MKNOD", 27),
            ("Cap_Setfcap", 31),
            ("SYSLOG", 34),
            ("CHECKPOINT_RESTORE", 40),
        ] {
            assert_eq!(Cap::parse(name).unwrap().number(), number, "{name}");
        }
        assert_eq!(Cap::parse("ALL"), None);
        assert_eq!(Cap::parse("CAP_"), None);
        assert_eq!(Cap::parse("CAP_CAP_CHOWN"), None);
    }

    #[test]
    fn every_name_reads_back_as_itself() {
        for cap in Cap::all() {
            assert_eq!(Cap::parse(&cap.to_string()), Some(cap));
        }
        assert_eq!(CapSet::all().bits(), (1 << 41) - 1);
        assert_eq!(CapSet::from_bits(u64::MAX), CapSet::all());
    }

    #[test]
    fn the_default_set_is_the_usual_one() {
        assert_eq!(mask(DEFAULT).unwrap(), 0xa804_25fb);
        assert_eq!(mask(["chown", "CAP_NOPE"]).unwrap_err().0, "CAP_NOPE");
    }
}
