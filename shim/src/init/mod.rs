//! The child's half: from the clone to execve.
//!
//! One file per step, in the order in which they happen:
//! `join` (groups and namespaces), `rootfs`, `mounts`, `devices`, `masks`, then
//! the working directory and the standard streams. Then it says "ready" and
//! waits; what follows (credentials, seccomp, execve) is in [`crate::process`],
//! which execs share.

mod copy_up;
mod devices;
mod hooks;
pub(crate) mod join;
mod masks;
mod mounts;
pub(crate) mod rootfs;

use std::{
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
};

use berth_proto::shim::{Failure, Plan, ProcessPlan};
use berth_sys::{
    credentials, mount, namespace, process,
    resolve::{self, Scope},
    terminal,
};
use nix::libc;

use crate::{
    child, console,
    label::Labels,
    process::{self as steps, Program},
    spawn,
    stdio::{Inside, Preserved},
    wire::{Slots, Step as _, invalid, system},
};

/// Never returns: either the program runs or the parent has been told why not. `root` is
/// the container's, if it had to be made before.
pub(crate) fn run(
    plan: &Plan,
    slots: &mut Slots,
    inside: Option<Inside>,
    parent: &OwnedFd,
    root: Option<OwnedFd>,
) -> ! {
    let preserved = match Preserved::take(slots, &plan.preserve_slots) {
        Ok(preserved) => preserved,
        Err(failure) => child::give_up(parent, &failure),
    };
    // Out of the way of the preserved descriptors' numbers.
    let parent = match process::above(parent.as_fd(), preserved.end()) {
        Ok(parent) => parent,
        Err(error) => child::give_up(parent, &system("clone", "moving the handshake", &error)),
    };
    let failure = match set_up(plan, slots, inside, &preserved, (&parent, root)) {
        Ok((process, program, labels)) => {
            let state = child::await_go(&parent);
            match hooks::run("startContainer", &plan.start_container_hooks, &state) {
                Ok(()) => finish(
                    process,
                    &process.seccomp,
                    &program,
                    (&preserved, labels),
                    &parent,
                ),
                Err(failure) => failure,
            }
        }
        Err(failure) => failure,
    };
    child::give_up(&parent, &failure)
}

/// From "go" to the program; returns only what went wrong.
pub(crate) fn finish(
    process: &ProcessPlan,
    seccomp: &[u8],
    program: &Program,
    (preserved, labels): (&Preserved, Labels),
    parent: &OwnedFd,
) -> Failure {
    // Before the filter, which may not allow it, and the labels before descriptors move
    // to where their files may be.
    let confined = labels
        .apply()
        .and_then(|()| {
            preserved
                .put()
                .and_then(|()| process::cloexec_from(preserved.end()))
                .step("exec", || "closing descriptors".to_owned())
        })
        .and_then(|()| steps::confine(process, seccomp, parent));
    match confined {
        Ok(()) => program.execute(),
        Err(failure) => failure,
    }
}

fn set_up<'plan>(
    plan: &'plan Plan,
    slots: &mut Slots,
    inside: Option<Inside>,
    preserved: &Preserved,
    (parent, root): (&OwnedFd, Option<OwnedFd>),
) -> Result<(&'plan ProcessPlan, Program, Labels), Failure> {
    let process = plan
        .process
        .as_ref()
        .ok_or_else(|| invalid("the plan has no process"))?;
    let program = Program::prepare(process)?;
    // Nodes and directories get exactly the mode that is asked for.
    process::umask(0);
    // A session of its own: no signal of the agent's terminal reaches it.
    process::setsid().step("clone", || "starting a session".to_owned())?;
    process::reset_signals().step("clone", || "resetting signals".to_owned())?;

    // The first as who the shim is: groups belong to the node's root.
    let helped = spawn::has_helper(plan);
    if !helped {
        join::as_root(plan, slots)?;
    }
    let new_users = spawn::has_new_users(plan);
    if new_users || helped {
        // The parent writes the maps, and takes hold of what a helper has cloned.
        child::await_go(parent);
    }
    if new_users {
        credentials::set_ids(0, 0, &[])
            .step("clone", || "becoming root of the user namespace".to_owned())?;
    }
    join::namespaces(plan, slots)?;

    let mut state = Vec::new();
    if plan.hold {
        child::say_ready(parent, &[], &[]).step("clone", || {
            "telling that the namespaces are there".to_owned()
        })?;
        state = child::await_go(parent);
    }

    let (cwd, console, labels) = if spawn::joins_mounts(plan) {
        enter_mounts(plan, process, slots)?
    } else {
        make_root(plan, process, slots, &state, root)?
    };
    let notes = steps::apply_limits(process)?;
    let size = (process.terminal_rows, process.terminal_columns);
    let masters = wire_streams(inside, console, size)?;
    process::fchdir(&cwd).step("mount", || "entering the working directory".to_owned())?;
    drop(cwd);
    let mut keep = child::raw(&masters);
    keep.extend(labels.raw());
    keep.push(parent.as_raw_fd());
    preserved
        .close_others(&keep)
        .step("clone", || "closing the shim's descriptors".to_owned())?;
    if plan.detached {
        // Callers of OCI runtimes want to hear of it from create, not from start.
        program.find()?;
    }
    child::say_ready(parent, &child::raw(&masters), &notes)
        .step("clone", || "telling that init is ready".to_owned())?;
    Ok((process, program, labels))
}

/// What the rest of the birth needs of the root: the working directory, the terminal,
/// and the labels.
type Rooted = (OwnedFd, Option<console::Console>, Labels);

/// Makes the container's root and moves into it.
fn make_root(
    plan: &Plan,
    process: &ProcessPlan,
    slots: &mut Slots,
    state: &[u8],
    made: Option<OwnedFd>,
) -> Result<Rooted, Failure> {
    // While /proc is the shim's.
    let here = std::fs::File::open("/").step("exec", || "/".to_owned())?;
    let labels = Labels::open(process, &here)?;
    let root = match made {
        Some(made) => rootfs::stage_made(plan, made)?,
        None => rootfs::assemble(plan, slots)?,
    };
    mounts::attach_all(&plan.mounts, &root, slots)?;
    devices::make(plan, &root)?;
    let console = if plan.terminal {
        Some(console::open(&root)?)
    } else {
        None
    };
    hooks::run("createContainer", &plan.create_container_hooks, state)?;
    mount::pivot_into(&root).step("mount", || "pivoting into the root".to_owned())?;
    rootfs::set_propagation(plan)?;
    let root = resolve::open_path(
        std::fs::File::open("/").step("mount", || "opening the root".to_owned())?,
        Path::new(""),
        Scope::Beneath,
    )
    .step("mount", || "opening the root".to_owned())?;
    // The working directory may have to be made, so before the root is read-only.
    let cwd = steps::open_cwd(&root, &process.cwd)?;
    masks::apply(plan, &root)?;
    rootfs::make_readonly(plan)?;

    Ok((cwd, console, labels))
}

/// Enters a mount namespace that somebody else has made, and takes it as it is.
fn enter_mounts(plan: &Plan, process: &ProcessPlan, slots: &Slots) -> Result<Rooted, Failure> {
    let target = plan.namespaces.as_ref().and_then(|all| all.mount);
    let fd = slots.get(target.map(|target| target.slot).unwrap_or_default())?;
    namespace::setns(fd, libc::CLONE_NEWNS)
        .step("clone", || "joining the mount namespace".to_owned())?;
    let root: OwnedFd = std::fs::File::open("/")
        .step("mount", || "opening the root".to_owned())?
        .into();
    let labels = Labels::open(process, &root)?;
    let console = if plan.terminal {
        Some(console::open_pair(&root)?)
    } else {
        None
    };
    Ok((steps::open_cwd(&root, &process.cwd)?, console, labels))
}

/// Puts the streams onto 0, 1 and 2 and returns what the parent must get.
pub(crate) fn wire_streams(
    inside: Option<Inside>,
    console: Option<console::Console>,
    (rows, columns): (u32, u32),
) -> Result<Vec<OwnedFd>, Failure> {
    let step = || "connecting the standard streams".to_owned();
    if let Some(console) = console {
        console.resize(rows, columns).step("clone", step)?;
        terminal::set_controlling(&console.inside).step("clone", step)?;
        for number in 0..3 {
            put(&console.inside, number).step("clone", step)?;
        }
        return Ok(vec![console.master]);
    }
    let inside = inside.ok_or_else(|| invalid("neither pipes nor a terminal"))?;
    for (fd, number) in [(&inside.stdin, 0), (&inside.stdout, 1), (&inside.stderr, 2)] {
        put(fd, number).step("clone", step)?;
    }
    Ok(Vec::new())
}

/// Makes `fd` one of the three standard descriptors.
pub(crate) fn put(fd: impl AsFd, number: i32) -> std::io::Result<()> {
    // SAFETY: 0, 1 and 2 are owned by nobody in this program: std only borrows them.
    #[allow(unsafe_code, reason = "the standard descriptors have no owner")]
    unsafe {
        process::dup_onto(fd, number)
    }
}
