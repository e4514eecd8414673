//! bpf(2), as far as cgroup device programs need it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::check;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One eBPF instruction (struct bpf_insn).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    /// Destination in the low, source in the high half.
    registers: u8,
    /// Of a jump in instructions, of a load in bytes.
    pub offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: destination | source << 4,
            offset,
            immediate,
        }
    }

    /// Register `to` = the u32 at `offset` bytes behind register `from`.
    #[must_use]
    pub const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(0x61, to, from, offset, 0)
    }

    /// 32-bit: register `to` = register `from`.
    #[must_use]
    pub const fn move_register(to: u8, from: u8) -> Self {
        Self::new(0xbc, to, from, 0, 0)
    }

    /// 32-bit: register `to` = `value`.
    #[must_use]
    pub const fn set(to: u8, value: i32) -> Self {
        Self::new(0xb4, to, 0, 0, value)
    }

    /// 32-bit: register `to` &= `value`.
    #[must_use]
    pub const fn and(to: u8, value: i32) -> Self {
        Self::new(0x54, to, 0, 0, value)
    }

    /// 32-bit: register `to` >>= `bits`.
    #[must_use]
    pub const fn shift_right(to: u8, bits: i32) -> Self {
        Self::new(0x74, to, 0, 0, bits)
    }

    /// 32-bit: skips `offset` instructions unless register `of` is `value`.
    #[must_use]
    pub const fn jump_unless_equal(of: u8, value: i32, offset: i16) -> Self {
        Self::new(0x56, of, 0, offset, value)
    }

    /// 32-bit: skips `offset` instructions if register `of` is `value`.
    #[must_use]
    pub const fn jump_if_equal(of: u8, value: i32, offset: i16) -> Self {
        Self::new(0x16, of, 0, offset, value)
    }

    /// Returns register 0.
    #[must_use]
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
}

/// Runs a program of the instructions above on a context of three words, for tests.
///
/// # Panics
/// On any other instruction, or one outside the program.
#[doc(hidden)]
#[must_use]
pub fn interpret(program: &[Instruction], context: [u32; 3]) -> u32 {
    let mut registers = [0_u32; 11];
    let mut at = 0_usize;
    loop {
        let i = program[at];
        let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
        let value = i.immediate as u32;
        at += 1;
        let jump = match i.code {
            0x61 => {
                registers[to] = context[i.offset as usize / 4];
                false
            }
            0xbc => {
                registers[to] = registers[from];
                false
            }
            0xb4 => {
                registers[to] = value;
                false
            }
            0x54 => {
                registers[to] &= value;
                false
            }
            0x74 => {
                registers[to] >>= value;
                false
            }
            0x56 => registers[to] != value,
            0x16 => registers[to] == value,
            0x95 => return registers[0],
            other => panic!("instruction {other:#x}"),
        };
        if jump {
            at += i.offset as usize;
        }
    }
}

// Each attr is the part of union bpf_attr that its command reads; the kernel takes
// a shorter one for zeroes behind it.

fn bpf<T>(command: i32, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a complete prefix of union bpf_attr for `command`, and its
    // size is passed; the pointers in it are valid for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    })
}

fn owned(result: libc::c_long) -> OwnedFd {
    // SAFETY: the callers pass what a command returned that makes a descriptor.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE.
///
/// # Errors
/// EINVAL or EACCES if the verifier refuses it; EPERM without CAP_BPF.
pub fn load_cgroup_device(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(owned)
}

/// Attaches a device program to the v2 group `dir` and detaches those that were
/// there: the new one is in force before the old ones go, and while both are,
/// what either denies is denied.
///
/// # Errors
/// The errno of bpf(2).
pub fn replace_cgroup_device(dir: impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let group = dir.as_fd().as_raw_fd() as u32;
    let old = attached(group)?;
    change(BPF_PROG_ATTACH, group, program)?;
    for id in old {
        let mut attr = [id, 0, 0];
        let old = owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut attr)?);
        change(BPF_PROG_DETACH, group, &old)?;
    }
    Ok(())
}

fn change(command: i32, group: u32, program: &OwnedFd) -> io::Result<()> {
    // target_fd, attach_bpf_fd, attach_type, attach_flags
    let mut attr = [
        group,
        program.as_raw_fd() as u32,
        BPF_CGROUP_DEVICE,
        if command == BPF_PROG_ATTACH {
            BPF_F_ALLOW_MULTI
        } else {
            0
        },
    ];
    bpf(command, &mut attr).map(drop)
}

/// Ids of the device programs that are attached to the group itself.
fn attached(group: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        pad: u32,
    }
    // The kernel's limit of programs for one group and type.
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target_fd: group,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        pad: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(ids[..attr.prog_cnt as usize].to_vec())
}
