//! Containers that belong to whoever runs a command, not to an agent: their init and
//! their execs become children of the caller, and no shim stays beside them.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use berth_cgroup::Group;
use berth_proto::shim::{CgroupDir, Exec, ExecTarget, ProcessPlan, request::Verb, response::Body};
use berth_sys::{message, process};

use crate::{
    Connection, Error, ExecStreams, Listener, Program,
    launcher::{listen_in, open_directory},
    shim::EXECUTE,
};

/// Starts the shim of container `id`, which listens in `shim_dir`, as a child of the
/// caller, who must be single-threaded. Returns its pidfd.
///
/// The shim leaves when the container has started ([`crate::Shim::start`]). With
/// `whole` it sees a copy of all the node's mounts, not a few of its own.
///
/// # Errors
/// [`Error::System`] if it cannot be started.
pub fn launch_detached(
    program: &Program,
    id: &str,
    shim_dir: &Path,
    whole: bool,
) -> Result<OwnedFd, Error> {
    let role = if whole { "detached-whole" } else { "detached" };
    let dir = open_directory(shim_dir)?;
    let listener = listen_in(&dir, shim_dir)?;
    spawn(
        program,
        &["berth-shim", role, id],
        &[listener.as_fd(), dir.as_fd()],
    )
}

/// A process that does nothing: systemd takes a group away that has none. It ends when
/// this is dropped.
#[derive(Debug)]
pub struct Holder {
    pidfd: OwnedFd,
    line: Option<OwnedFd>,
}

impl Holder {
    /// Starts one as a child of the caller, who must be single-threaded.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn start(program: &Program) -> Result<Self, Error> {
        let (ours, theirs) = message::pair().map_err(Error::system("making a socket pair"))?;
        let pidfd = spawn(program, &["berth-shim", "hold"], &[theirs.as_fd()])?;
        Ok(Self {
            pidfd,
            line: Some(ours),
        })
    }

    /// Its process id.
    ///
    /// # Errors
    /// [`Error::System`] if it has ended.
    pub fn pid(&self) -> Result<i32, Error> {
        process::pid_of(&self.pidfd).map_err(Error::system("reading the pid of a holder"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.line.take());
        // It has nothing to do but end; somebody else's reaping it is as good.
        drop(process::wait_pidfd(&self.pidfd));
    }
}

/// Where an exec goes.
#[derive(Debug)]
pub struct DetachedTarget<'a> {
    /// Refers to the container's init.
    pub init: BorrowedFd<'a>,
    /// The groups that the process enters.
    pub group: &'a Group,
    /// The container has a user namespace of its own.
    pub user_namespace: bool,
    /// And a time namespace.
    pub time_namespace: bool,
    /// Who answers for the process's system calls, if its filter asks.
    pub listener: Option<Listener<'a>>,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct DetachedExec {
    /// Its process id.
    pub pid: i32,
    /// Refers to it.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one.
    pub console: Option<OwnedFd>,
    /// Wishes that the kernel did not grant in full, a sentence each.
    pub notes: Vec<String>,
}

/// Runs a process in a container that has no shim. It ends up as a child of the caller,
/// if that is a subreaper, or of the caller's own reaper; the caller must be
/// single-threaded. `preserve` become its descriptors 3, 4, ...
///
/// # Errors
/// [`Error::Remote`] if it could not be executed.
pub async fn exec_detached(
    program: &Program,
    target: DetachedTarget<'_>,
    process: ProcessPlan,
    streams: ExecStreams<'_>,
    preserve: &[BorrowedFd<'_>],
) -> Result<DetachedExec, Error> {
    let (ours, theirs) = message::pair().map_err(Error::system("making a socket pair"))?;
    let helper = spawn(program, &["berth-shim", "exec"], &[theirs.as_fd()])?;
    drop(theirs);
    let connection = Connection::open(ours, "the helper of an exec".to_owned(), None).await?;

    let mut raw = vec![target.init.as_raw_fd()];
    let mut add = |fd: BorrowedFd<'_>| {
        raw.push(fd.as_raw_fd());
        u32::try_from(raw.len() - 1).unwrap_or(u32::MAX)
    };
    let dirs = target.group.dirs().iter().map(|dir| CgroupDir {
        slot: add(dir.fd.as_fd()),
        controllers: dir.controllers.clone(),
        v2: dir.v2,
    });
    let dirs = dirs.collect();
    let mut stream =
        |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| i32::try_from(add(fd)).unwrap_or(i32::MAX));
    let (stdin_slot, stdout_slot, stderr_slot) = (
        stream(streams.stdin),
        stream(streams.stdout),
        stream(streams.stderr),
    );
    let preserve_slots = preserve.iter().map(|fd| add(*fd)).collect();
    let listener = target.listener.map(|one| {
        let slot = add(one.socket);
        one.at(slot)
    });
    let verb = Verb::Exec(Exec {
        exec_id: "exec".to_owned(),
        process: Some(process),
        stdin_slot,
        stdout_slot,
        stderr_slot,
        preserve_slots,
        target: Some(ExecTarget {
            init_slot: 0,
            dirs,
            user_namespace: target.user_namespace,
            time_namespace: target.time_namespace,
        }),
        listener,
    });
    let answer = connection.call("Exec", verb, &raw, EXECUTE).await;
    let (started, fds) = match answer {
        Ok((Body::ExecStarted(started), fds)) => (started, fds),
        Ok(_) => return Err(connection.unexpected("Exec")),
        Err(error) => {
            connection.hang_up();
            reap(&helper)?;
            return Err(error);
        }
    };
    // While the helper lives the process is its child and cannot be reaped.
    let pidfd =
        process::pidfd_open(started.pid).map_err(Error::system("opening the exec'd process"))?;
    connection.hang_up();
    reap(&helper)?;
    Ok(DetachedExec {
        pid: started.pid,
        pidfd,
        console: fds.into_iter().next(),
        notes: started.notes,
    })
}

/// The helper ends with its connection; only then is its child somebody else's.
fn reap(helper: &OwnedFd) -> Result<(), Error> {
    process::wait_pidfd(helper)
        .map(drop)
        .map_err(Error::system("waiting for the helper of an exec"))
}

fn spawn(program: &Program, args: &[&str], fds: &[BorrowedFd<'_>]) -> Result<OwnedFd, Error> {
    let args = args.iter().map(|arg| CString::new(*arg));
    let args = args
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::from)
        .map_err(Error::system("a container id with a zero byte"))?;
    process::spawn(program.fd(), &args, fds).map_err(Error::system("starting a shim"))
}
