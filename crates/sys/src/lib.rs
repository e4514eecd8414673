//! The kernel as Berth uses it: clone3, mounts by descriptor, namespaces,
//! credentials, resolution below a root, sealed memories and message sockets.
//!
//! This crate is the only ordinary home of `unsafe`. It knows nothing of
//! containers: every function is one system call or one short fixed sequence,
//! takes descriptors rather than paths wherever the kernel lets it, and returns
//! the errno as [`std::io::Error`].
#![allow(
    unsafe_code,
    reason = "the one crate that talks to the kernel; every block says why it is sound"
)]

pub mod bounded;
pub mod bpf;
pub mod clone;
pub mod credentials;
pub mod memfd;
pub mod message;
pub mod mount;
pub mod namespace;
pub mod probe;
pub mod process;
pub mod resolve;
pub mod sampler;
pub mod terminal;

use std::io;

/// Turns the result of a raw system call into a `Result` with its errno.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`check`], for the `int` that libc functions return.
fn check_int(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A path as C wants it; a NUL inside is EINVAL, as the kernel would say if it could see it.
fn c_string(bytes: impl AsRef<[u8]>) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(bytes.as_ref()).map_err(io::Error::from)
}

/// Position of the first `byte` in `bytes`, by libc's vectorised search.
#[must_use]
pub fn find_byte(bytes: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: pointer and length belong to one slice.
    let found = unsafe { libc::memchr(bytes.as_ptr().cast(), byte.into(), bytes.len()) };
    (!found.is_null()).then(|| found as usize - bytes.as_ptr() as usize)
}
