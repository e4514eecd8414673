//! The calling conventions that a filter tells apart, and their system call tables.

use std::str::FromStr as _;

use oci_spec::runtime::Arch;

/// Bit that marks a call as x32 (arch/x86/include/uapi/asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Calls private to 32-bit ARM start here (arch/arm/include/uapi/asm/unistd.h).
const ARM_PRIVATE: u32 = 0x000f_0000;

/// The processor that the filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Machine {
    /// 64-bit x86, which also runs 32-bit programs and x32.
    X86_64,
    /// 64-bit ARM, which may also run 32-bit programs.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for, where filters can be compiled for it.
    #[must_use]
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }

    pub(super) fn native_abi(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }
}

/// A calling convention with a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Abi {
    X86_64,
    /// Shares the audit architecture of x86_64; its numbers have [`X32_BIT`].
    X32,
    X86,
    Aarch64,
    Arm,
}

impl Abi {
    /// `None` for what the machine cannot run: the kernel never shows it to the filter.
    pub(super) fn of(arch: Arch, machine: Machine) -> Option<Self> {
        match (machine, arch) {
            (_, Arch::ScmpArchNative) => Some(machine.native_abi()),
            (Machine::X86_64, Arch::ScmpArchX86_64) => Some(Self::X86_64),
            (Machine::X86_64, Arch::ScmpArchX32) => Some(Self::X32),
            (Machine::X86_64, Arch::ScmpArchX86) => Some(Self::X86),
            (Machine::Aarch64, Arch::ScmpArchAarch64) => Some(Self::Aarch64),
            (Machine::Aarch64, Arch::ScmpArchArm) => Some(Self::Arm),
            _ => None,
        }
    }

    /// AUDIT_ARCH_* (include/uapi/linux/audit.h).
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are 64 bits wide. x32 has 64-bit registers.
    pub(super) fn wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::X32 | Self::Aarch64)
    }

    /// The numbers of the call `name`, none if this table lacks it.
    ///
    /// x32 has two for the calls whose 64-bit version it does not share: kernels
    /// before 5.4 accepted either, so that a rule must cover both.
    pub(super) fn numbers(self, name: &str) -> Vec<u32> {
        match self {
            Self::X86_64 => number(syscalls::x86_64::Sysno::from_str(name).map(|call| call.id())),
            Self::X86 => number(syscalls::x86::Sysno::from_str(name).map(|call| call.id())),
            Self::Aarch64 => {
                let name = if name == "newfstatat" {
                    "fstatat"
                } else {
                    name
                };
                number(syscalls::aarch64::Sysno::from_str(name).map(|call| call.id()))
            }
            Self::Arm => {
                if let Some(private) = arm_private(name) {
                    return vec![private];
                }
                let name = if name == "sync_file_range2" {
                    "arm_sync_file_range"
                } else {
                    name
                };
                number(syscalls::arm::Sysno::from_str(name).map(|call| call.id()))
            }
            Self::X32 => {
                let mut numbers = Self::X86_64.numbers(name);
                numbers.extend(x32_own(name));
                numbers.iter().map(|number| number | X32_BIT).collect()
            }
        }
    }

    /// Whether `number` belongs to the range that grows with the kernel, unlike the
    /// machine's private calls.
    pub(super) fn grows_at(self, number: u32) -> bool {
        match self {
            Self::Arm => number < ARM_PRIVATE,
            // 512 to 547 are x32's own, fixed for ever.
            Self::X32 => number & !X32_BIT < 512,
            Self::X86_64 | Self::X86 | Self::Aarch64 => true,
        }
    }

    /// The numbers that belong to this table: first and last.
    pub(super) fn span(self) -> (u32, u32) {
        match self {
            Self::X86_64 => (0, X32_BIT - 1),
            Self::X32 => (X32_BIT, u32::MAX),
            Self::X86 | Self::Aarch64 | Self::Arm => (0, u32::MAX),
        }
    }

    /// The range in which calls newer than `newest` will get their numbers.
    pub(super) fn future(self, newest: u32) -> Option<(u32, u32)> {
        let last = match self {
            Self::X86_64 => X32_BIT - 1,
            Self::Arm => ARM_PRIVATE - 1,
            Self::X32 => return (newest < X32_BIT + 511).then_some((newest + 1, X32_BIT + 511)),
            Self::X86 | Self::Aarch64 => u32::MAX,
        };
        (newest < last).then_some((newest + 1, last))
    }
}

fn number<E>(id: Result<i32, E>) -> Vec<u32> {
    id.ok()
        .and_then(|id| u32::try_from(id).ok())
        .into_iter()
        .collect()
}

fn arm_private(name: &str) -> Option<u32> {
    let offset = match name {
        "breakpoint" => 1,
        "cacheflush" => 2,
        "usr26" => 3,
        "usr32" => 4,
        "set_tls" => 5,
        _ => return None,
    };
    Some(ARM_PRIVATE + offset)
}

/// x32's own entries (arch/x86/entry/syscalls/syscall_64.tbl).
fn x32_own(name: &str) -> Option<u32> {
    const OWN: [&str; 36] = [
        "rt_sigaction",
        "rt_sigreturn",
        "ioctl",
        "readv",
        "writev",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "execve",
        "ptrace",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "sigaltstack",
        "timer_create",
        "mq_notify",
        "kexec_load",
        "waitid",
        "set_robust_list",
        "get_robust_list",
        "vmsplice",
        "move_pages",
        "preadv",
        "pwritev",
        "rt_tgsigqueueinfo",
        "recvmmsg",
        "sendmmsg",
        "process_vm_readv",
        "process_vm_writev",
        "setsockopt",
        "getsockopt",
        "io_setup",
        "io_submit",
        "execveat",
        "preadv2",
        "pwritev2",
    ];
    let place = OWN.iter().position(|&own| own == name)?;
    Some(512 + u32::try_from(place).ok()?)
}
