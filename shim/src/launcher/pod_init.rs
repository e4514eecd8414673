//! Pid 1 of a pod that shares its PID namespace: reaps what the containers leave.
//!
//! It must be of no use to an attacker in one of them, who can name it as
//! `/proc/1`: an init left in the host's root would let a container list the
//! host through `/proc/1/root`. So it has an empty read-only root, no
//! descriptors, no capabilities, nothing to read (undumpable), and a filter that
//! leaves it only what waiting takes. The pod is not said to exist before that.

use std::{
    fs::File,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
};

use berth_sys::{
    credentials::{self, Capabilities},
    mount::{self, FsContext, attr},
    namespace, process,
};
use nix::{libc, sys::wait};

use crate::init;

/// Never returns: killed with the pod. `parent` closes when it has secluded itself.
pub(super) fn run(parent: OwnedFd) -> ! {
    let code = match seclude(parent) {
        Ok(()) => loop {
            // ECHILD returns at once, so sleep until there is something to reap:
            // any new child ends with a SIGCHLD, which ends the pause.
            if wait::wait().is_err() {
                pause();
            }
        },
        Err(_) => 1,
    };
    process::exit_now(code)
}

fn pause() {
    // rt_sigsuspend with an empty mask: SIGCHLD, blocked so far, ends it at once
    // if it is pending already, so that no child is overlooked.
    let none = nix::sys::signal::SigSet::empty();
    // EINTR is the only way back.
    none.suspend().ok();
}

fn seclude(parent: OwnedFd) -> std::io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn wake(_: libc::c_int) {}

    process::set_name(c"berth-pod-init")?;
    process::setsid()?;
    namespace::own_mount_namespace()?;
    let context = FsContext::open("tmpfs")?;
    context.string("size", "0")?;
    context.string("nr_inodes", "1")?;
    let root = context.mount(attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    mount::attach(&root, File::open(Path::new("/mnt"))?)?;
    mount::pivot_into(&root)?;
    drop(root);
    init::put(&parent, 0)?;
    drop(parent);
    #[allow(
        unsafe_code,
        reason = "every descriptor but one goes, whoever owned it"
    )]
    // SAFETY: this process only waits from here on; the owners of these never use them again.
    unsafe {
        process::close_from(1)?;
    }
    // A handler, since an ignored SIGCHLD would not end the pause.
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_NOCLDSTOP,
        SigSet::empty(),
    );
    #[allow(unsafe_code, reason = "installing a handler")]
    // SAFETY: the handler does nothing, which is async-signal-safe.
    unsafe {
        sigaction(Signal::SIGCHLD, &action)?;
    }
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_set_mask()?;
    process::set_no_new_privs()?;
    credentials::limit_bounding(0)?;
    // Nobody's: no file of any container is its own.
    credentials::set_ids(65_534, 65_534, &[])?;
    credentials::set_capabilities(&Capabilities::default())?;
    process::set_undumpable()?;
    process::install_seccomp(&filter(), 0)?;
    // The last descriptor: the parent sees its end and knows that all this is done.
    // SAFETY: as above.
    #[allow(unsafe_code, reason = "standard input has no owner here")]
    drop(unsafe { OwnedFd::from_raw_fd(0) });
    Ok(())
}

/// Allows wait4, waitid, rt_sigsuspend, rt_sigreturn, close, exit and exit_group of
/// this machine's own ABI, and kills for everything else.
fn filter() -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    const AUDIT_ARCH: u32 = 0xc000_003e;
    #[cfg(target_arch = "aarch64")]
    const AUDIT_ARCH: u32 = 0xc000_00b7;
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    let allowed = [
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_rt_sigsuspend,
        libc::SYS_rt_sigreturn,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    // Jump distances count from the next instruction.
    let to_kill = allowed.len() as u8;
    let mut program = vec![
        (LOAD, 0, 0, 4),
        (JUMP_EQUAL, 0, to_kill + 1, AUDIT_ARCH),
        (LOAD, 0, 0, 0),
    ];
    for (index, number) in allowed.iter().enumerate() {
        let to_allow = to_kill - index as u8;
        program.push((JUMP_EQUAL, to_allow, 0, *number as u32));
    }
    program.push((RETURN, 0, 0, KILL_PROCESS));
    program.push((RETURN, 0, 0, ALLOW));
    program
        .into_iter()
        .flat_map(|(code, jt, jf, k): (u16, u8, u8, u32)| {
            let [c0, c1] = code.to_ne_bytes();
            let [k0, k1, k2, k3] = k.to_ne_bytes();
            [c0, c1, jt, jf, k0, k1, k2, k3]
        })
        .collect()
}
