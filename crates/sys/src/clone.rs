//! clone3(2) from a single-threaded process.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

/// libc's constant is of a type too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What to clone into.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'fd> {
    /// CLONE_NEW* and CLONE_PARENT; CLONE_PIDFD is always added.
    pub flags: u64,
    /// A v2 cgroup directory for the child (CLONE_INTO_CGROUP).
    pub cgroup: Option<BorrowedFd<'fd>>,
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The caller, with the child's pid in the caller's namespace and its pidfd.
    Parent {
        /// Process id.
        pid: i32,
        /// Refers to the child however pids are reused.
        pidfd: OwnedFd,
    },
}

/// Clones the calling process.
///
/// With CLONE_PARENT no exit signal can be chosen: the child takes the caller's.
///
/// # Errors
/// The errno of clone3(2).
///
/// # Safety
/// The caller must be single-threaded. A child of a threaded process holds
/// locks (the allocator's among them) whose owners do not exist in it.
/// [`crate::process::assert_single_threaded`] checks it.
pub unsafe fn clone3(request: Request<'_>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    // glibc caches the thread id at an address that the kernel knows; the child's
    // copy would keep the parent's id, so the kernel is asked to write it anew.
    let tid = tid_address()?;
    let parent = request.flags & libc::CLONE_PARENT as u64 != 0;
    let mut args = libc::clone_args {
        flags: request.flags
            | libc::CLONE_PIDFD as u64
            | libc::CLONE_CHILD_SETTID as u64
            | libc::CLONE_CHILD_CLEARTID as u64,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: tid,
        parent_tid: 0,
        exit_signal: if parent { 0 } else { libc::SIGCHLD as u64 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    }
    // SAFETY: `args` is a complete clone_args of the size that is passed; no stack is
    // given, so the child goes on here with a copy of this one; the caller vouches
    // that there are no other threads.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match crate::check(result)? {
        0 => Ok(Side::Child),
        pid => {
            // SAFETY: CLONE_PIDFD made the kernel store a fresh descriptor in `pidfd`.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent {
                pid: i32::try_from(pid).unwrap_or(i32::MAX),
                pidfd,
            })
        }
    }
}

fn tid_address() -> io::Result<u64> {
    let mut address: u64 = 0;
    // SAFETY: PR_GET_TID_ADDRESS stores one pointer-sized value at the given address.
    let result = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address) };
    crate::check_int(result)?;
    Ok(address)
}
