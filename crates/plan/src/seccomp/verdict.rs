//! What a filter says: the return values of seccomp(2).

use oci_spec::runtime::LinuxSeccompAction;

use super::Error;

/// Largest errno that the kernel passes on (SECCOMP_RET_DATA is clamped to MAX_ERRNO).
const MAX_ERRNO: u32 = 4095;
/// SECCOMP_RET_DATA.
const MAX_DATA: u32 = 0xffff;

/// One answer of a filter. Ordered from the strictest to the most permissive, in
/// the kernel's own order of precedence between filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Verdict {
    KillProcess,
    KillThread,
    Trap,
    Errno(u16),
    Notify,
    Trace(u16),
    Log,
    Allow,
}

impl Verdict {
    pub(super) fn new(action: LinuxSeccompAction, data: Option<u32>) -> Result<Self, Error> {
        use LinuxSeccompAction as Action;
        Ok(match action {
            Action::ScmpActKill | Action::ScmpActKillThread => Self::KillThread,
            Action::ScmpActKillProcess => Self::KillProcess,
            Action::ScmpActTrap => Self::Trap,
            Action::ScmpActErrno => Self::Errno(limited(data, MAX_ERRNO)?),
            Action::ScmpActTrace => Self::Trace(limited(data, MAX_DATA)?),
            Action::ScmpActLog => Self::Log,
            Action::ScmpActAllow => Self::Allow,
            Action::ScmpActNotify => Self::Notify,
        })
    }

    /// SECCOMP_RET_*.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Errno(errno) => 0x0005_0000 | u32::from(errno),
            Self::Notify => 0x7fc0_0000,
            Self::Trace(data) => 0x7ff0_0000 | u32::from(data),
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        }
    }

    /// Whether the call is carried out without anybody else's consent.
    pub(super) fn permits(self) -> bool {
        matches!(self, Self::Log | Self::Allow | Self::Trace(_))
    }
}

/// EPERM where nothing is said (runtime specification, `errnoRet`).
fn limited(data: Option<u32>, largest: u32) -> Result<u16, Error> {
    let value = data.unwrap_or(libc::EPERM.unsigned_abs());
    match u16::try_from(value) {
        Ok(small) if value <= largest => Ok(small),
        _ => Err(Error::Errno { value, largest }),
    }
}
