//! `exec`: a process in a running container.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail};
use berth_engine::{DetachedExec, DetachedTarget, ExecStreams, exec_detached};
use berth_plan::seccomp::{FilterCache, Machine};
use berth_proto::shim::ProcessPlan;
use berth_sys::process as kernel;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde_json::{Value, json};

use crate::{
    bundle, cli, console,
    container::Container,
    engine, foreground, group,
    verb::{
        Context,
        create::{kernel_capabilities, write_pid},
    },
};

pub(super) fn run(context: &Context<'_>, args: &cli::Exec) -> Result<i32> {
    let container = Container::find(context.root, &args.id)?;
    container.require_running(args.ignore_paused)?;
    let config = container.home.config()?;
    let process = process(&config, args)?;
    let spec = bundle::parse(&config)?;
    let plan = plan(&spec, &process)?;
    let foreground = !args.detach;
    match (plan.terminal, &args.console_socket) {
        (true, None) if args.detach => {
            bail!("a detached process with a terminal needs --console-socket")
        }
        (false, Some(_)) => bail!("--console-socket is given, but no terminal is asked for"),
        _ => {}
    }
    let group = match args.cgroup.as_slice() {
        [] => container.group()?,
        below => Some(group_below(&container, below)?),
    };
    let group = group.context("container not running")?;
    let init = container.init()?.context("container not running")?;
    let program = engine::program()?;
    let preserved = context.inherited.take(args.preserve_fds)?;
    if foreground {
        // The process must become this one's child when its helper ends.
        kernel::become_subreaper().context("becoming a subreaper")?;
    }
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = if plan.terminal {
        ExecStreams::default()
    } else {
        ExecStreams {
            stdin: Some(stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
        }
    };
    let target = DetachedTarget {
        init: init.as_fd(),
        group: &group,
        user_namespace: has(&spec, LinuxNamespaceType::User),
        time_namespace: has(&spec, LinuxNamespaceType::Time),
    };
    let started = engine::wait(exec_detached(&program, target, plan, streams, &preserved))?
        .map_err(engine::explain)?;
    finish(args, &started).inspect_err(|_| {
        // Nobody would ever know of it.
        drop(kernel::pidfd_send_signal(
            &started.pidfd,
            nix::libc::SIGKILL,
        ));
    })
}

fn finish(args: &cli::Exec, started: &DetachedExec) -> Result<i32> {
    if let Some(path) = &args.pid_file {
        write_pid(path, started.pid)?;
    }
    match (&started.console, &args.console_socket) {
        (Some(master), Some(socket)) => console::send(socket, master.as_fd())?,
        (Some(master), None) => {
            return console::with_raw_terminal(|| foreground::wait(&started.pidfd, Some(master)));
        }
        (None, _) => {}
    }
    if args.detach {
        return Ok(0);
    }
    foreground::wait(&started.pidfd, None)
}

/// The process of the file, or the container's own with another command.
fn process(config: &Value, args: &cli::Exec) -> Result<Process> {
    let mut value = match &args.process {
        Some(path) => {
            let file = if path == Path::new("-") {
                Path::new("/dev/stdin")
            } else {
                path
            };
            if !args.command.is_empty() {
                bail!("--process and a command exclude each other");
            }
            let bytes = fs::read(file).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?
        }
        None => {
            if args.command.is_empty() {
                bail!("no command to execute");
            }
            let mut value = config
                .get("process")
                .cloned()
                .context("the container's configuration has no process")?;
            value["args"] = json!(args.command);
            value["terminal"] = false.into();
            value
        }
    };
    apply_options(&mut value, args)?;
    serde_json::from_value(value).context("the process")
}

fn apply_options(process: &mut Value, args: &cli::Exec) -> Result<()> {
    if args.tty {
        process["terminal"] = true.into();
    }
    if let Some(cwd) = &args.cwd {
        process["cwd"] = cwd.as_str().into();
    }
    if args.no_new_privs {
        process["noNewPrivileges"] = true.into();
    }
    if let Some(label) = &args.process_label {
        process["selinuxLabel"] = label.as_str().into();
    }
    if let Some(profile) = &args.apparmor {
        process["apparmorProfile"] = profile.as_str().into();
    }
    for pair in &args.env {
        append(&mut process["env"], pair.as_str().into());
    }
    for cap in &args.cap {
        let upper = cap.to_ascii_uppercase();
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        for set in ["bounding", "effective", "permitted"] {
            append(&mut process["capabilities"][set], name.as_str().into());
        }
    }
    if let Some(user) = &args.user {
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (user.as_str(), None),
        };
        let number = |text: &str| -> Result<u32> {
            text.parse()
                .with_context(|| format!("--user {user}: expected UID[:GID] in numbers"))
        };
        process["user"]["uid"] = number(uid)?.into();
        if let Some(gid) = gid {
            process["user"]["gid"] = number(gid)?.into();
        }
    }
    for gid in &args.additional_gids {
        append(&mut process["user"]["additionalGids"], (*gid).into());
    }
    Ok(())
}

fn append(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) if items.contains(&item) => {}
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

fn plan(spec: &Spec, process: &Process) -> Result<ProcessPlan> {
    let mut plan = berth_plan::process(process, None, kernel_capabilities())?;
    let profile = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    if let Some(profile) = profile {
        let machine = Machine::native().context("this kind of machine is not supported")?;
        let filter = FilterCache::default()
            .get(profile, machine)
            .context("seccomp profile")?;
        plan.seccomp.clone_from(&filter.program);
        plan.seccomp_flags = filter.flags;
    }
    Ok(plan)
}

fn has(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == kind)
}

/// A group below the container's own, the same in every hierarchy.
fn group_below(container: &Container, given: &[String]) -> Result<berth_cgroup::Group> {
    let [below] = given else {
        bail!("--cgroup by controller is not supported yet; give one path");
    };
    if below.contains(':') {
        bail!("--cgroup {below}: by controller is not supported yet; give one path");
    }
    if below.split('/').any(|part| part == "..") {
        bail!("--cgroup {below}: must not contain ..");
    }
    let below = below.trim_matches('/');
    let path = format!("{}/{below}", container.record.cgroup);
    group::open(&path)?.with_context(|| format!("--cgroup {below}: there is no such group"))
}
