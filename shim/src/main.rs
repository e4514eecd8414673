//! One small process per container, and the launcher that starts them.
//!
//! The program has three roles, chosen by its first argument, none of them
//! meant to be typed:
//!
//! - `launcher RUN_DIR`: one per agent; creates and pins the namespaces of pods
//!   and starts shims. It speaks on its standard input and ends with it.
//! - `shim ID`: one per container; listens on descriptor 3, keeps its exit
//!   record in the directory behind descriptor 4, and ends with its container.
//! - `detached ID`: as `shim`, for a caller without an agent: in a slim mount
//!   namespace of its own, and gone once the container has started. `detached-whole`
//!   takes a copy of the node's mount table instead, which hooks of the container's
//!   namespaces want to see.
//! - `exec`: carries out one exec in a container that has no shim any more; it
//!   speaks on descriptor 3 and ends with it.
//! - `hold`: keeps a control group from being empty until its caller lets go.
//! - `pod-init`: pid 1 of a pod that shares its PID namespace. It is not
//!   executed but forked from the launcher, since it lives in an empty root.
//!
//! Every role is single-threaded: between clone and execve ordinary code runs.

mod attach;
mod child;
mod console;
mod container;
mod exec;
mod exit;
mod init;
mod label;
mod launcher;
mod listener;
mod log;
mod one_exec;
mod other;
mod process;
mod serve;
mod spawn;
mod stdio;
mod time;
mod trace;
mod wire;

use std::{env, ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let role = args.next().unwrap_or_default();
    let argument = args.next().unwrap_or_default();
    match run(&role, argument) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            wire::complain(&format!("{}: {error}", role.display()));
            ExitCode::FAILURE
        }
    }
}

/// Waits until whoever has started it closes the other end of descriptor 3.
fn hold() -> std::io::Result<()> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    // SAFETY: the caller passes exactly this one, and nothing has touched it.
    #[allow(unsafe_code, reason = "the connection is inherited by number")]
    let caller = unsafe { OwnedFd::from_raw_fd(3) };
    berth_sys::process::wait_readable(&caller, -1).map(drop)
}

fn run(role: &OsString, argument: OsString) -> std::io::Result<()> {
    // Before anything else: what this process holds is nobody else's business.
    berth_sys::process::set_undumpable()?;
    match role.to_str() {
        Some("launcher") => launcher::run(argument.as_ref()),
        Some("shim") => serve::run(&argument.to_string_lossy()),
        Some("detached") => {
            launcher::own_slim_namespace()?;
            serve::run(&argument.to_string_lossy())
        }
        Some("detached-whole") => {
            launcher::own_whole_namespace()?;
            serve::run(&argument.to_string_lossy())
        }
        Some("exec") => one_exec::run(),
        Some("hold") => hold(),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            concat!(
                "berth-shim ",
                env!("CARGO_PKG_VERSION"),
                " is started by berth-agent, not by hand"
            ),
        )),
    }
}
