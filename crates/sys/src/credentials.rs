//! Ids, capabilities and limits of the calling process.

use std::io;

use crate::{check, check_int};

/// Capability sets; bit N stands for capability N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What execve of a file with capabilities may at most grant.
    pub bounding: u64,
    /// What is checked.
    pub effective: u64,
    /// What may become effective.
    pub permitted: u64,
    /// What survives an execve together with the file's.
    pub inheritable: u64,
    /// What survives an execve of an ordinary file.
    pub ambient: u64,
}

/// Number of the highest capability that the running kernel knows.
#[must_use]
pub fn last_capability() -> u32 {
    // PR_CAPBSET_READ says EINVAL for what it does not know (capabilities(7)).
    (0..64)
        .take_while(|&cap| {
            // SAFETY: prctl with integer arguments.
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) >= 0 }
        })
        .last()
        .unwrap_or(0)
}

/// What this process and those that it starts can have at most: its bounding set,
/// which in a container or on a hardened node lacks some of what the kernel knows.
#[must_use]
pub fn available_capabilities() -> u64 {
    (0..=last_capability())
        .filter(|&cap| {
            // SAFETY: prctl with integer arguments.
            unsafe { libc::prctl(libc::PR_CAPBSET_READ, cap, 0, 0, 0) == 1 }
        })
        .fold(0, |set, cap| set | 1 << cap)
}

/// Drops from the bounding set what `keep` does not name.
///
/// # Errors
/// EPERM without CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> io::Result<()> {
    for cap in 0..=last_capability() {
        if keep & (1 << cap) == 0 {
            // SAFETY: prctl with integer arguments.
            check_int(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0) })?;
        }
    }
    Ok(())
}

/// Keeps the permitted set over a change of user id.
///
/// # Errors
/// The errno of prctl(2).
pub fn keep_capabilities(keep: bool) -> io::Result<()> {
    // SAFETY: prctl with integer arguments.
    check_int(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, libc::c_long::from(keep), 0, 0, 0) })
        .map(drop)
}

/// Sets effective, permitted, inheritable and ambient sets (not the bounding set).
///
/// # Errors
/// EPERM for what is not permitted.
pub fn set_capabilities(caps: &Capabilities) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two words per set (capget(2)).
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let known = u64::MAX >> (63 - last_capability());
    let word = |shift: u32| Data {
        effective: ((caps.effective & known) >> shift) as u32,
        permitted: ((caps.permitted & known) >> shift) as u32,
        inheritable: ((caps.inheritable & known) >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: header and two data words, as version 3 wants.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
    // SAFETY: prctl with integer arguments.
    check_int(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })?;
    for cap in 0..64 {
        if caps.ambient & known & (1 << cap) != 0 {
            // SAFETY: prctl with integer arguments.
            check_int(unsafe {
                libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, cap, 0, 0)
            })?;
        }
    }
    Ok(())
}

/// Sets real, effective and saved ids of this (single-threaded) process: groups first.
///
/// # Errors
/// EPERM without CAP_SETGID or CAP_SETUID; EINVAL for ids not mapped in the user namespace.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // The raw calls: glibc's signal every thread, and there is only one.
    // SAFETY: the pointer and the count belong to one slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets the ids that files are made with and looked up by, and nothing else: what the
/// process may do stays as it is.
///
/// # Errors
/// EPERM where the kernel does not let it.
pub fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    // Both return the former id, whether they succeeded or not, so each is asked twice.
    // SAFETY: integers only.
    let change = |call: libc::c_long, id: u32| unsafe { libc::syscall(call, id) };
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        change(call, id);
        if change(call, id) != libc::c_long::from(id) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    // The kernel takes the capabilities about files away with user 0.
    let all = available_capabilities();
    set_capabilities(&Capabilities {
        effective: all,
        permitted: all,
        ..Capabilities::default()
    })
}

/// Joins a new session keyring, which nobody else has. Without it a process keeps the
/// keys of whoever started its ancestors.
///
/// # Errors
/// The errno of keyctl(2). Where there are no keys, or an outer filter forbids the call
/// to everything that comes after, too, nothing can leak.
pub fn own_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: no name is given, so only integers and a null pointer are.
    let joined = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    });
    match joined {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Sets soft and hard limit of `resource` (RLIMIT_*).
///
/// # Errors
/// EPERM to raise a hard limit without CAP_SYS_RESOURCE.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a complete rlimit64; the old one is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })
    .map(drop)
}

/// Soft and hard limit of `resource` (RLIMIT_*).
///
/// # Errors
/// EINVAL for what is no resource.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a writable rlimit64; no new one is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}
