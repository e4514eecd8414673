//! Mounts by descriptor: fsopen, open_tree, move_mount, mount_setattr.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use crate::{c_string, check, check_int};

/// MOUNT_ATTR_RDONLY and its neighbours (mount_setattr(2)).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits are ignored.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes do not work.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// No access times.
    pub const NOATIME: u64 = 0x10;
    /// Ids are mapped.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const OPEN_TREE_CLONE: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSOPEN_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: every caller passes the result of a call that returns a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A file system that is being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Begins to configure a file system of type `fstype`.
    ///
    /// # Errors
    /// ENODEV if the kernel does not know the type.
    pub fn open(fstype: &str) -> io::Result<Self> {
        let fstype = c_string(fstype)?;
        // SAFETY: a string that ends with NUL and an integer.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// EINVAL if the file system does not take it.
    pub fn string(&self, key: &str, value: &str) -> io::Result<()> {
        let (key, value) = (c_string(key)?, c_string(value)?);
        // SAFETY: two strings that end with NUL.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })
        .map(drop)
    }

    /// Sets the flag `key`.
    ///
    /// # Errors
    /// EINVAL if the file system does not take it.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        let key = c_string(key)?;
        // SAFETY: a string that ends with NUL; the value must be null for flags.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FLAG,
                key.as_ptr(),
                std::ptr::null::<libc::c_char>(),
                0,
            )
        })
        .map(drop)
    }

    /// Sets `key` to the object behind `fd`.
    ///
    /// # Errors
    /// EINVAL if the file system takes no descriptor there.
    pub fn descriptor(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let key = c_string(key)?;
        // SAFETY: a string that ends with NUL, no value, a descriptor.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FD,
                key.as_ptr(),
                std::ptr::null::<libc::c_char>(),
                fd.as_raw_fd(),
            )
        })
        .map(drop)
    }

    /// Creates the file system and a detached mount of it with MOUNT_ATTR_* `attributes`.
    ///
    /// # Errors
    /// Whatever the file system says; its own words are in [`FsContext::complaint`].
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        let fd = self.0.as_raw_fd();
        let null = std::ptr::null::<libc::c_char>();
        // SAFETY: FSCONFIG_CMD_CREATE takes neither key nor value.
        check(unsafe {
            libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0)
        })?;
        // SAFETY: integers only.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes as u32) })
    }

    /// What the file system has to say about the last failure; empty if nothing.
    #[must_use]
    pub fn complaint(&self) -> String {
        let mut text = Vec::new();
        let mut buffer = [0_u8; 256];
        // SAFETY: reads at most the buffer's length into it.
        let read = |buffer: &mut [u8; 256]| unsafe {
            libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len())
        };
        // Each read returns one message; ENODATA ends them.
        while let Ok(count @ 1..) = usize::try_from(read(&mut buffer)) {
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&text).trim().replace('\n', "; ")
    }
}

/// Clones the mount tree at `path` below `dir` into a detached one of its own.
///
/// # Errors
/// EINVAL if the mount belongs to another mount namespace.
pub fn clone_tree(dir: impl AsFd, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: a string that ends with NUL and integers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) })
}

/// A detached overlay of at least two directories, uppermost first, that cannot be written.
///
/// # Errors
/// Whatever overlay says. Before Linux 6.7 the names of all layers must fit into 255 bytes.
pub fn overlay(layers: &[OwnedFd]) -> io::Result<OwnedFd> {
    let name = |layer: &OwnedFd| format!("/proc/self/fd/{}", layer.as_raw_fd());
    let context = FsContext::open("overlay")?;
    for (index, layer) in layers.iter().enumerate() {
        // By descriptor from Linux 6.13 on, one by one by name from 6.7 on.
        let taken = context
            .descriptor("lowerdir+", layer.as_fd())
            .or_else(|_unknown| context.string("lowerdir+", &name(layer)));
        match taken {
            Err(_unknown) if index == 0 => {
                let names: Vec<_> = layers.iter().map(name).collect();
                context.string("lowerdir", &names.join(":"))?;
                break;
            }
            other => other?,
        }
    }
    context.mount(attr::RDONLY)
}

/// Attaches the detached tree `tree` on top of what `target` refers to.
///
/// # Errors
/// ENOTDIR or EISDIR if one is a directory and the other is not.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let (tree, target) = (tree.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: empty strings that end with NUL, as both EMPTY_PATH flags ask for.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            target,
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Sets and clears MOUNT_ATTR_* of the mount behind `mount` and its propagation
/// (MS_PRIVATE, MS_SLAVE, MS_SHARED or 0 to leave it).
///
/// # Errors
/// EPERM for attributes that are locked.
pub fn set_attributes(
    mount: impl AsFd,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: set,
        attr_clr: clear,
        propagation,
        userns_fd: 0,
    };
    setattr(mount, &attributes, recursive)
}

/// Maps the ids of the detached `mount` as the user namespace behind `users` does.
///
/// # Errors
/// EINVAL if its file system cannot, or if it is mapped already; EPERM if it is attached.
pub fn map_ids(mount: impl AsFd, users: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes = MountAttr {
        attr_set: attr::IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_fd().as_raw_fd()).unwrap_or(u64::MAX),
    };
    setattr(mount, &attributes, recursive)
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn setattr(mount: impl AsFd, attributes: &MountAttr, recursive: bool) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: a complete mount_attr with its size, an empty string that ends with NUL.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Sets the propagation of the mount at `path` by mount(2): for the caller's own root.
///
/// # Errors
/// The errno of mount(2).
pub fn set_propagation_path(path: &CStr, flags: u64) -> io::Result<()> {
    let null = std::ptr::null();
    // SAFETY: only the target is looked at; it ends with NUL.
    check_int(unsafe { libc::mount(null, path.as_ptr(), null, flags, null.cast()) }).map(drop)
}

/// Unmounts what is mounted at `path`, with MNT_* `flags`.
///
/// # Errors
/// EINVAL if nothing is mounted there.
pub fn unmount(path: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: a string that ends with NUL.
    check_int(unsafe { libc::umount2(path.as_ptr(), flags) }).map(drop)
}

/// Makes the directory behind `root` the root of this mount namespace and drops the old one.
///
/// # Errors
/// The errno of pivot_root(2) or umount2(2).
pub fn pivot_into(root: impl AsFd) -> io::Result<()> {
    let old = std::fs::File::open("/")?;
    crate::process::fchdir(root.as_fd())?;
    // Both names are the same directory: the old root ends up on top of the new
    // one and is taken off again, so that no directory has to be made for it.
    // SAFETY: strings that end with NUL.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // The old root must not carry the unmount to where it came from. "." would still
    // be the new one, whose volumes are to stay as they were asked for.
    crate::process::fchdir(old.as_fd())?;
    set_propagation_path(c".", libc::MS_SLAVE | libc::MS_REC)?;
    unmount(c".", libc::MNT_DETACH)?;
    crate::process::chdir(std::path::Path::new("/"))
}
