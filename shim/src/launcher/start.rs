//! Starting a shim in the slim mount namespace.

use std::{
    ffi::CString,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use berth_proto::shim::{Failure, Launch, Launched, response::Body};
use berth_sys::{
    clone::{self, Request, Side},
    process,
};

use super::{Launcher, tree};
use crate::{
    init,
    wire::{Answer, Slots, Step as _, complain, invalid},
};

/// Starts the shim of `launch`; it owns its listening socket and directory from then on.
pub(super) fn shim(
    launcher: &Launcher,
    launch: &Launch,
    mut slots: Slots,
) -> Result<Answer, Failure> {
    let listener = slots.take(0)?;
    let directory = slots.take(1)?;
    let args = ["berth-shim", "shim", &launch.id]
        .map(CString::new)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| invalid(format!("container id: {error}")))?;
    process::assert_single_threaded().step("shim", || "counting threads".to_owned())?;
    // SAFETY: the line above proved that there is one thread.
    #[allow(unsafe_code, reason = "a shim is started by a clone")]
    let side = unsafe { clone::clone3(Request::default()) };
    match side.step("shim", || "cloning".to_owned())? {
        Side::Child => {
            let error = execute(launcher, &args, [listener, directory]);
            complain(&format!("starting the shim of {}: {error}", launch.id));
            process::exit_now(127)
        }
        Side::Parent { pid, pidfd } => Ok(Answer {
            body: Body::Launched(Launched { pid }),
            fds: vec![pidfd],
        }),
    }
}

/// Returns only on failure. The agent notices it when nobody answers on the socket.
fn execute(launcher: &Launcher, args: &[CString], pass: [OwnedFd; 2]) -> std::io::Error {
    let prepare = || -> std::io::Result<[OwnedFd; 3]> {
        process::reset_signals()?;
        tree::enter(&launcher.slim)?;
        let [listener, directory] = pass;
        // Out of the way of the numbers that are filled below, the program too.
        Ok([
            above(&listener)?,
            above(&directory)?,
            above(&launcher.program)?,
        ])
    };
    match prepare() {
        Ok([listener, directory, program]) => {
            for (fd, number) in [(&listener, 3), (&directory, 4)] {
                // SAFETY: this process is about to execute; what it still uses is above.
                #[allow(unsafe_code, reason = "descriptors are passed by number")]
                if let Err(error) = unsafe { process::dup_onto(fd, number) } {
                    return error;
                }
            }
            let null = std::fs::File::open("/dev/null");
            if let Ok(null) = null
                && let Err(error) = init::put(null.as_fd(), 0)
            {
                return error;
            }
            process::execveat(program.as_fd(), args, &[])
        }
        Err(error) => error,
    }
}

/// A duplicate, close-on-exec, with a number that is not one of the passed ones.
fn above(fd: &OwnedFd) -> std::io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    debug_assert!(raw >= 10 && raw != fd.as_raw_fd());
    use std::os::fd::FromRawFd as _;
    // SAFETY: F_DUPFD_CLOEXEC returned a fresh descriptor.
    #[allow(unsafe_code, reason = "nix returns the number only")]
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
