//! Another OCI runtime in the place of our own init: the shim drives it through the OCI
//! command line and does what no such runtime does, namely stay.
//!
//! The runtime sees a copy of the node's mounts, in which the container's root, its
//! namespaces and the pod's shared memory are attached below the bundle. What it starts
//! becomes the shim's child as soon as the runtime itself has ended, since the shim is a
//! subreaper; signals, groups and streams are then as with our own.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use berth_proto::shim::{Exec, Failure, OtherRuntime, Plan, failure::Kind, namespace_target::Mode};
use berth_sys::{message, mount, namespace, process};
use nix::libc;

use crate::{
    exec::Started,
    init, launcher,
    spawn::mode,
    stdio::{self, Inside},
    wire::{Slots, Step as _, invalid},
};

/// Longest that one command of the runtime may take. Our own init has as much.
const COMMAND_LIMIT_MS: i32 = 120_000;
/// Most that is read of the runtime's log for the reason of a failure.
const LONGEST_LOG: usize = 16 * 1024;

/// The runtime and the container's bundle.
#[derive(Debug)]
pub(crate) struct Other {
    program: PathBuf,
    bundle: PathBuf,
    id: String,
}

/// A process that the runtime has started and left to the shim.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
}

impl Other {
    /// Makes what the bundle's configuration names, in a mount namespace of the shim's own.
    pub(crate) fn prepare(
        given: &OtherRuntime,
        plan: &Plan,
        slots: &mut Slots,
    ) -> Result<Self, Failure> {
        let other = Self {
            program: PathBuf::from(OsStr::from_bytes(&given.program)),
            bundle: PathBuf::from(OsStr::from_bytes(&given.bundle)),
            id: plan.id.clone(),
        };
        namespace::setns(slots.get(given.mounts_slot)?, libc::CLONE_NEWNS)
            .step("mount", || "entering the node's mounts".to_owned())?;
        launcher::own_whole_namespace().step("mount", || "copying the node's mounts".to_owned())?;
        init::rootfs::assemble(plan, slots)?;
        let targets = plan.namespaces.as_ref();
        let targets = targets.map(|all| {
            [
                (all.pid, "pid"),
                (all.net, "net"),
                (all.ipc, "ipc"),
                (all.uts, "uts"),
            ]
        });
        for (target, name) in targets.into_iter().flatten() {
            if mode(target.as_ref()) != Mode::Join {
                continue;
            }
            let slot = target.map(|target| target.slot).unwrap_or_default();
            let what = || format!("the {name} namespace in the bundle");
            let tree = mount::clone_tree(slots.get(slot)?, c"", false).step("mount", what)?;
            let place = File::open(other.bundle.join("ns").join(name)).step("mount", what)?;
            mount::attach(&tree, &place).step("mount", what)?;
        }
        if let Ok(slot) = u32::try_from(given.shm_slot) {
            let what = || "the pod's shared memory in the bundle".to_owned();
            let place = File::open(other.bundle.join("shm")).step("mount", what)?;
            mount::attach(slots.get(slot)?, &place).step("mount", what)?;
        }
        process::become_subreaper().step("clone", || "becoming a subreaper".to_owned())?;
        Ok(other)
    }

    /// Creates the container with these streams, or with a terminal.
    pub(crate) fn create(&self, inside: Option<Inside>) -> Result<Left, Failure> {
        let args = ["create", "--bundle", "."].map(OsString::from);
        self.leave("clone", args.into(), None, inside)
    }

    /// Lets the program run.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let mut command = self.command(&["start".into(), self.id.clone().into()]);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.run("exec", "start", command)
    }

    /// Runs a process in the container. It has the user, environment and capabilities of
    /// the container's own.
    pub(crate) fn exec(&self, exec: &Exec, slots: &mut Slots) -> Result<Started, Failure> {
        let plan = exec
            .process
            .as_ref()
            .ok_or_else(|| invalid("the exec has no process"))?;
        let inside = if plan.terminal {
            None
        } else {
            Some(Inside {
                stdin: stdio::given(slots, exec.stdin_slot)?,
                stdout: stdio::given(slots, exec.stdout_slot)?,
                stderr: stdio::given(slots, exec.stderr_slot)?,
            })
        };
        let args = ["exec", "--detach"].map(OsString::from);
        let process = plan.args.iter().map(|arg| OsStr::from_bytes(arg));
        let process: Vec<_> = process.map(OsStr::to_owned).collect();
        let left = self
            .leave("exec", args.into(), Some(&process), inside)
            // Whether it was the runtime or the program that could not, it does not say.
            .map_err(|failure| Failure {
                kind: Kind::Execute.into(),
                ..failure
            })?;
        Ok(Started {
            pid: left.pid,
            pidfd: left.pidfd,
            console: left.console,
            notes: Vec::new(),
        })
    }

    /// Forgets the container, whose init has ended.
    pub(crate) fn delete(&self) -> Result<(), Failure> {
        let args = ["delete", "--force"].map(OsString::from);
        let mut command = self.command(&[args[0].clone(), args[1].clone(), self.id.clone().into()]);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.run("cgroup", "delete", command)
    }

    /// A command that leaves a process behind. `process` comes after the container's name.
    fn leave(
        &self,
        step: &str,
        mut args: Vec<OsString>,
        process: Option<&[OsString]>,
        inside: Option<Inside>,
    ) -> Result<Left, Failure> {
        let pid_file = self.bundle.join("pid");
        forget(&pid_file).step(step, || "removing an old pid file".to_owned())?;
        args.extend(["--pid-file".into(), "pid".into()]);
        let verb = args[0].to_string_lossy().into_owned();
        let console = if inside.is_none() {
            if verb == "exec" {
                args.push("--tty".into());
            }
            args.extend(["--console-socket".into(), CONSOLE.into()]);
            Some(
                self.listen()
                    .step(step, || "listening for the terminal".to_owned())?,
            )
        } else {
            None
        };
        args.push(self.id.clone().into());
        args.extend(process.unwrap_or_default().iter().cloned());
        let mut command = self.command(&args);
        match inside {
            Some(inside) => command
                .stdin(inside.stdin)
                .stdout(inside.stdout)
                .stderr(inside.stderr),
            None => command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        };
        self.run(step, &verb, command)?;
        let pid = fs::read_to_string(&pid_file)
            .and_then(|text| text.trim().parse::<i32>().map_err(io::Error::other))
            .step(step, || "reading the runtime's pid file".to_owned())?;
        let pidfd = process::pidfd_open(pid)
            // It is not where a runtime stays beside its container.
            .and_then(|pidfd| process::has_child(&pidfd).map(|()| pidfd))
            .step(step, || format!("taking over process {pid} of the runtime"))?;
        let taken = console
            .map(|socket| take_terminal(&socket))
            .transpose()
            .step(step, || "taking over the terminal".to_owned());
        match taken {
            Ok(console) => Ok(Left {
                pid,
                pidfd,
                console,
            }),
            Err(failure) => {
                drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
                Err(failure)
            }
        }
    }

    /// In the bundle's directory: names of sockets are short.
    fn command(&self, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(&self.bundle)
            .arg("--root")
            .arg(self.bundle.join("state"))
            .args(["--log", LOG])
            .args(args);
        command
    }

    fn run(&self, step: &str, verb: &str, mut command: Command) -> Result<(), Failure> {
        let name = self.program.display();
        let log = self.bundle.join(LOG);
        forget(&log).step(step, || "removing an old log".to_owned())?;
        let what = || format!("running {name} {verb}");
        let mut child = command.spawn().step(step, what)?;
        // The streams in it would keep theirs from ending.
        drop(command);
        let pidfd = i32::try_from(child.id())
            .map_err(io::Error::other)
            .and_then(process::pidfd_open)
            .step(step, what)?;
        let in_time = process::wait_readable(&pidfd, COMMAND_LIMIT_MS).step(step, what)?;
        if !in_time {
            drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
        }
        let status = child.wait().step(step, what)?;
        if in_time && status.success() {
            return Ok(());
        }
        let said = if in_time {
            last_words(&log).unwrap_or_else(|| status.to_string())
        } else {
            format!("no answer within {} s", COMMAND_LIMIT_MS / 1000)
        };
        Err(Failure {
            kind: Kind::System.into(),
            step: step.to_owned(),
            errno: 0,
            detail: format!("{name} {verb}: {said}"),
        })
    }

    fn listen(&self) -> io::Result<UnixListener> {
        forget(&self.bundle.join(CONSOLE))?;
        let directory = File::open(&self.bundle)?;
        let short = format!("/proc/self/fd/{}/{CONSOLE}", directory.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

const CONSOLE: &str = "console";
const LOG: &str = "log";

fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The runtime has sent it before it ended.
fn take_terminal(socket: &UnixListener) -> io::Result<OwnedFd> {
    let (connection, _) = socket.accept()?;
    connection.set_nonblocking(true)?;
    let datagram = message::receive(&connection)?;
    datagram
        .and_then(|datagram| datagram.fds.into_iter().next())
        .ok_or_else(|| io::Error::other("the runtime sent no terminal"))
}

/// The last line of a runtime's log: what it says of its own failure.
fn last_words(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LONGEST_LOG)..]);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    // logfmt, as runc writes it; others write the message alone.
    let message = line
        .split_once("msg=\"")
        .and_then(|(_, rest)| rest.strip_suffix('"'))
        .map(|message| message.replace("\\\"", "\""));
    Some(message.unwrap_or_else(|| line.trim().to_owned()))
}
