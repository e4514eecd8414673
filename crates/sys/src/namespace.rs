//! Namespaces.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use crate::{check_int, process};

/// Joins the namespaces of kind `flags` (CLONE_NEW*) behind `fd`: a namespace
/// file, or a pidfd for several at once. 0 means whatever a namespace file is.
///
/// # Errors
/// The errno of setns(2).
pub fn setns(fd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::setns(fd.as_fd().as_raw_fd(), flags) }).map(drop)
}

/// Moves the caller into new namespaces of kind `flags` (CLONE_NEW*).
///
/// # Errors
/// The errno of unshare(2).
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: an integer only.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

/// Sets the host name of the caller's UTS namespace.
///
/// # Errors
/// The errno of sethostname(2).
pub fn sethostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length belong to one slice.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the NIS domain name of the caller's UTS namespace.
///
/// # Errors
/// The errno of setdomainname(2).
pub fn setdomainname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length belong to one slice.
    check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Opens a new user namespace with these maps (lines of `/proc/PID/uid_map` and
/// `gid_map`), in which nobody is.
///
/// # Errors
/// InvalidInput in a threaded process; EINVAL for maps that the kernel refuses.
pub fn mapped_users(uid_map: &str, gid_map: &str) -> io::Result<std::os::fd::OwnedFd> {
    use crate::clone::{Request, Side, clone3};
    process::assert_single_threaded()?;
    let (ours, theirs) = crate::message::pair()?;
    let request = Request {
        flags: libc::CLONE_NEWUSER as u64,
        cgroup: None,
    };
    // SAFETY: the first line proved that there is one thread.
    match unsafe { clone3(request) }? {
        Side::Child => {
            drop(ours);
            // Until the other end closes: the namespace needs somebody while it is mapped.
            drop(process::wait_readable(&theirs, -1));
            process::exit_now(0)
        }
        Side::Parent { pid, pidfd } => {
            drop(theirs);
            let opened = std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)
                .and_then(|()| std::fs::write(format!("/proc/{pid}/gid_map"), gid_map))
                .and_then(|()| std::fs::File::open(format!("/proc/{pid}/ns/user")));
            drop(ours);
            process::wait_pidfd(&pidfd)?;
            opened.map(Into::into)
        }
    }
}

/// Brings the loopback link of the caller's network namespace up.
///
/// # Errors
/// The errno of socket(2) or ioctl(2).
pub fn loopback_up() -> io::Result<()> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    // SAFETY: integers only.
    let fd = check_int(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an all-zero ifreq is a valid value of that plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq.
    check_int(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
        .map(drop)
}

/// Moves the caller into a new mount namespace of its own whose mounts tell nobody.
///
/// # Errors
/// The errno of unshare(2) or mount(2); InvalidInput in a threaded process,
/// where only the calling thread would move.
pub fn own_mount_namespace() -> io::Result<()> {
    process::assert_single_threaded()?;
    unshare(libc::CLONE_NEWNS)?;
    crate::mount::set_propagation_path(c"/", libc::MS_PRIVATE | libc::MS_REC)
}
