//! Which of the newer calls this kernel has, found out by asking it. Nothing is changed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
};

use crate::{
    check, check_int,
    mount::FsContext,
    resolve::{self, Scope},
};

/// Whether openat2(2) resolves below a root (Linux 5.6).
#[must_use]
pub fn openat2() -> bool {
    File::open("/")
        .is_ok_and(|root| resolve::open_path(root, Path::new(""), Scope::Beneath).is_ok())
}

/// Whether clone3(2) can make a process in a group (CLONE_INTO_CGROUP, Linux 5.7).
#[must_use]
pub fn clone_into_cgroup() -> bool {
    // SAFETY: clone_args is a plain C struct for which zeros are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    // No such descriptor can be, which who knows the flag finds out before anything is
    // cloned; who does not says E2BIG for a field that it does not know.
    args.flags = 0x2_0000_0000;
    args.cgroup = u64::MAX;
    // SAFETY: a complete clone_args of the size that is passed, with which the kernel
    // never gets as far as making a process.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    check(result).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Whether mount_setattr(2) is there (Linux 5.12).
#[must_use]
pub fn mount_setattr() -> bool {
    // SAFETY: a string that ends with NUL and integers; the kernel refuses a size of 0.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, 0_usize, 0) };
    is_there(check(result))
}

/// Whether close_range(2) is there (Linux 5.9).
#[must_use]
pub fn close_range() -> bool {
    // SAFETY: integers only; the last number is below the first, which is refused.
    let result = unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, 0_u32, 0) };
    is_there(check(result))
}

/// ENOSYS is what a kernel says that lacks the call, EPERM a filter that hides it.
fn is_there(result: io::Result<libc::c_long>) -> bool {
    !result.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)))
}

/// Whether a memory's mode can be sealed (F_SEAL_EXEC, Linux 6.3).
#[must_use]
pub fn exec_seal() -> bool {
    // MFD_NOEXEC_SEAL, which came with it and which no setting forbids.
    memory(0x08).is_ok()
}

/// Whether `vm.memfd_noexec` lets memories be executed; older kernels have no such setting.
#[must_use]
pub fn executable_memory() -> bool {
    // MFD_EXEC.
    !memory(0x10).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

fn memory(flags: u32) -> io::Result<OwnedFd> {
    let name = c"berth-probe";
    // SAFETY: a string that ends with NUL and an integer.
    let fd = check_int(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// How overlay takes its lower layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OverlayLayers {
    /// All names in one value.
    Together,
    /// One name after the other (`lowerdir+`).
    OneByOne,
    /// By descriptors.
    ByDescriptor,
}

/// How overlay takes lower layers, tried with the directory `dir`.
///
/// # Errors
/// ENODEV without overlay.
pub fn overlay_layers(dir: impl AsFd) -> io::Result<OverlayLayers> {
    let dir = dir.as_fd();
    let context = FsContext::open("overlay")?;
    Ok(match context.descriptor("lowerdir+", dir) {
        Ok(()) => OverlayLayers::ByDescriptor,
        // The interface before overlay's own takes any name of an option.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => OverlayLayers::Together,
        Err(_) => {
            let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
            match context.string("lowerdir+", &name) {
                Ok(()) => OverlayLayers::OneByOne,
                Err(_) => OverlayLayers::Together,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_twice_says_the_same_and_makes_no_process() {
        let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let before = children();
        for _ in 0..2 {
            // What the oldest supported kernel, 6.1, has.
            assert!(openat2() && clone_into_cgroup() && mount_setattr() && close_range());
        }
        assert_eq!(children(), before);
        assert_eq!(exec_seal(), exec_seal());
    }

    #[test]
    fn a_call_that_is_missing_or_hidden_is_not_there() {
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        assert!(!is_there(failed(libc::ENOSYS)) && !is_there(failed(libc::EPERM)));
        assert!(is_there(failed(libc::EBADF)) && is_there(Ok(0)));
    }
}
