//! The role that serves a single exec: the container's shim has left, and the new
//! process must descend from whoever asked for it.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
};

use berth_cgroup::{Dir, Group};
use berth_proto::shim::{Exec, ExecStarted, Failure, request::Verb, response::Body};
use berth_sys::process;

use crate::{
    exec,
    wire::{self, Answer, Slots, Step as _, invalid, unknown_verb},
};

/// The connection that the caller passes.
const CONNECTION: i32 = 3;

/// Serves the caller until it closes its end.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"berth-exec")?;
    // SAFETY: the caller passes exactly this one, and nothing has touched it.
    #[allow(unsafe_code, reason = "the connection is inherited by number")]
    let caller = unsafe { OwnedFd::from_raw_fd(CONNECTION) };
    process::cloexec_from(CONNECTION)?;
    while let Some(mut incoming) = wire::receive(&caller)? {
        let answer = match incoming.verb.take() {
            Some(Verb::Hello(hello)) => Ok(wire::hello(&hello, "exec").into()),
            Some(Verb::Exec(exec)) => start(&exec, &mut incoming.fds),
            _ => Err(unknown_verb()),
        };
        let answer = answer.unwrap_or_else(|failure| Body::Failure(failure).into());
        wire::send(&caller, incoming.id, answer.body, &answer.fds)?;
    }
    Ok(())
}

fn start(exec: &Exec, slots: &mut Slots) -> Result<Answer, Failure> {
    let target = exec
        .target
        .as_ref()
        .ok_or_else(|| invalid("the exec names no container"))?;
    let init = slots.take(target.init_slot)?;
    let mut dirs = Vec::new();
    for dir in &target.dirs {
        dirs.push(Dir {
            controllers: dir.controllers.clone(),
            v2: dir.v2,
            fd: slots.take(dir.slot)?,
        });
    }
    let group = Group::from_dirs(dirs);
    let groups = exec::Groups {
        tasks: group
            .tasks_files()
            .step("cgroup", || "opening the container's groups".to_owned())?,
        own: group
            .into_dirs()
            .into_iter()
            .find(|dir| dir.v2)
            .map(|dir| dir.fd),
    };
    let seccomp = exec.process.as_ref().map(|plan| plan.seccomp.clone());
    let target = exec::Target {
        init: &init,
        user_namespace: target.user_namespace,
        time_namespace: target.time_namespace,
        seccomp: &seccomp.unwrap_or_default(),
    };
    let started = exec::start(exec, &target, groups, slots)?;
    Ok(Answer {
        body: Body::ExecStarted(ExecStarted {
            pid: started.pid,
            notes: started.notes,
        }),
        // Its end is told to whoever inherits it as a child.
        fds: started.console.into_iter().collect(),
    })
}
