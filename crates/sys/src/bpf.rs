//! bpf(2), as far as cgroup device programs need it.
//!
//! The attribute structs are the kernel's, cut off after the last field that is
//! used: it takes shorter ones as if the rest were zero.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use crate::check;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Longest name of a program, without the NUL at its end (BPF_OBJ_NAME_LEN).
const MAX_NAME: usize = 15;
/// Most programs on one group (BPF_CGROUP_MAX_PROGS).
const MAX_PROGRAMS: usize = 64;
/// The verifier's words about a refused program.
const LOG_BYTES: usize = 16 * 1024;

#[repr(C)]
#[derive(Default)]
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
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    // The struct's alignment pads here; the kernel insists on zeros.
    zero: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetFd {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    prog_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    jited_prog_insns: u64,
    xlated_prog_insns: u64,
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
}

fn number(fd: impl AsFd) -> u32 {
    // A descriptor is never negative.
    fd.as_fd().as_raw_fd().unsigned_abs()
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as u64
}

/// # Safety
/// `attr` must be the struct that `command` takes, with all-zero padding, and
/// every address in it must be valid for what `command` does with it.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: a struct with its size; the caller vouches for what is in it.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) })
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE; each item of `program` is
/// one `struct bpf_insn` in host byte order.
///
/// # Errors
/// EACCES or EINVAL if the verifier refuses it, with its log in the message; EPERM
/// without CAP_BPF or CAP_SYS_ADMIN. E2BIG for a program that is too long.
pub fn load_device_program(program: &[u64], name: &str) -> io::Result<OwnedFd> {
    let error = match load(program, name, &mut []) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => error,
        other => return other,
    };
    // Only a refused program is worth the verifier's prose.
    let mut log = vec![0_u8; LOG_BYTES];
    match load(program, name, &mut log) {
        Ok(fd) => Ok(fd),
        Err(_again) => {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let message = format!("{error}: {}", text.trim());
            Err(io::Error::new(error.kind(), message))
        }
    }
}

fn load(program: &[u64], name: &str, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: address(program.as_ptr()),
        // No helper is called that is for GPL programs only.
        license: address(c"Apache-2.0".as_ptr()),
        ..Load::default()
    };
    if !log.is_empty() {
        attr.log_level = 1;
        attr.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
        attr.log_buf = address(log.as_mut_ptr());
    }
    for (to, from) in attr.prog_name.iter_mut().zip(name.bytes().take(MAX_NAME)) {
        *to = from;
    }
    // SAFETY: a complete Load; program, license and log outlive the call and have the
    // lengths that are given.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Attaches a device program to a v2 cgroup directory, beside those of others
/// (all must agree to an access). With `replace` it takes the place of that
/// program, with no moment in between (Linux 5.6).
///
/// # Errors
/// EPERM if a group above forbids others' programs; ENOENT if `replace` is not attached.
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replace: Option<&OwnedFd>,
) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    if let Some(old) = replace {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = number(old);
    }
    // SAFETY: a complete Attach, which holds no addresses.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(drop)
}

/// Takes a device program off a v2 cgroup directory.
///
/// # Errors
/// ENOENT if it is not attached.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attr = Attach {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        ..Attach::default()
    };
    // SAFETY: a complete Attach, which holds no addresses.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(drop)
}

/// The device programs attached to a v2 cgroup directory itself, with their names.
///
/// # Errors
/// EPERM without CAP_BPF or CAP_SYS_ADMIN; EINVAL on kernels without the controller.
pub fn device_programs(cgroup: impl AsFd) -> io::Result<Vec<(OwnedFd, String)>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = Query {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: address(ids.as_mut_ptr()),
        prog_cnt: MAX_PROGRAMS as u32,
        ..Query::default()
    };
    // SAFETY: a complete Query; `ids` has room for as many ids as it says.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let count = (attr.prog_cnt as usize).min(MAX_PROGRAMS);
    let mut programs = Vec::with_capacity(count);
    for &id in &ids[..count] {
        let mut attr = GetFd {
            id,
            ..GetFd::default()
        };
        // SAFETY: a complete GetFd, which holds no addresses.
        let fd = match unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) } {
            // Detached and freed since the query.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            other => other?,
        };
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let name = program_name(&fd)?;
        programs.push((fd, name));
    }
    Ok(programs)
}

fn program_name(program: &OwnedFd) -> io::Result<String> {
    let mut info = ProgramInfo::default();
    let mut attr = GetInfo {
        bpf_fd: number(program),
        info_len: size_of::<ProgramInfo>() as u32,
        info: address(&raw mut info),
    };
    // SAFETY: a complete GetInfo; `info` is writable and as long as it says.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let end = info.name.iter().position(|&b| b == 0).unwrap_or(16);
    Ok(String::from_utf8_lossy(&info.name[..end]).into_owned())
}
