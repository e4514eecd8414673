//! Memories that nobody can change: programs and messages.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::check_int;

/// F_SEAL_EXEC (Linux 6.3): the mode cannot be changed either.
const F_SEAL_EXEC: i32 = 0x20;
/// MFD_EXEC (Linux 6.3): the file may be executed.
const MFD_EXEC: u32 = 0x10;
/// MFD_NOEXEC_SEAL (Linux 6.3): it never may.
const MFD_NOEXEC_SEAL: u32 = 0x08;

const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

fn create(name: &CStr, flags: u32) -> io::Result<File> {
    // SAFETY: a string that ends with NUL and an integer.
    let fd = check_int(unsafe {
        libc::memfd_create(
            name.as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | flags,
        )
    })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn seal(file: &File, seals: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// A program that cannot be overwritten, not even by who can open
/// `/proc/PID/exe` (CVE-2019-5736). Before Linux 6.3 its mode is not sealed, so
/// that a chmod through that link could make it unstartable.
///
/// # Errors
/// EACCES where `vm.memfd_noexec` forbids it.
pub fn sealed_program(name: &CStr, program: &mut File) -> io::Result<OwnedFd> {
    let (mut file, seals) = match create(name, MFD_EXEC) {
        Ok(file) => (file, SEALS | F_SEAL_EXEC),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (create(name, 0)?, SEALS),
        Err(error) => return Err(error),
    };
    io::copy(program, &mut file)?;
    seal(&file, seals)?;
    // A descriptor open for writing makes execve fail with ETXTBSY.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(File::open(path)?.into())
}

/// A message too large for a datagram.
///
/// # Errors
/// The errno of memfd_create(2) or write(2).
pub fn sealed_message(bytes: &[u8]) -> io::Result<OwnedFd> {
    let name = c"berth-message";
    let mut file = match create(name, MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(name, 0)?,
        other => other?,
    };
    file.write_all(bytes)?;
    seal(&file, SEALS)?;
    Ok(file.into())
}

/// Reads a message that [`sealed_message`] made.
///
/// # Errors
/// InvalidData if it is not sealed (its sender could change it while it is read)
/// or larger than `limit` bytes.
pub fn read_sealed_message(fd: impl AsFd, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd.as_fd().try_clone_to_owned()?);
    // SAFETY: integers only.
    let seals = check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) })?;
    let length = file.metadata()?.len();
    if seals & SEALS != SEALS || length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("message memory of {length} bytes with seals {seals:#x} refused"),
        ));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether `fd` is a program memory sealed against every change.
///
/// # Errors
/// The errno of fcntl(2); EINVAL for what is no memfd.
pub fn is_sealed_program(fd: impl AsFd) -> io::Result<bool> {
    // SAFETY: integers only.
    let seals = check_int(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_GET_SEALS) })?;
    Ok(seals & SEALS == SEALS)
}
