//! `exec`: a process in a running container.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::{Dir, Group};
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
    listener::Answerer,
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
    let state = container.state(container.status()?);
    let answerer = Answerer::connect(&spec, plan.seccomp_listener, &state)?;
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
        listener: answerer.as_ref().map(Answerer::listener),
    };
    let started = engine::wait(exec_detached(&program, target, plan, streams, &preserved))?
        .map_err(engine::explain)?;
    for note in &started.notes {
        context.log.warn(note);
    }
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
        plan.seccomp_listener = filter.listener;
    }
    let linux = spec.linux().as_ref();
    let policy = linux.and_then(|linux| linux.memory_policy().as_ref());
    plan.memory_policy = policy.map(berth_plan::memory_policy).transpose()?;
    Ok(plan)
}

/// Whether the container's own filter hands calls over to a listener.
pub(super) fn filter_listens(spec: &Spec) -> Result<bool> {
    let linux = spec.linux().as_ref();
    let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(false);
    };
    let machine = Machine::native().context("this kind of machine is not supported")?;
    Ok(FilterCache::default().get(profile, machine)?.listener)
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

/// The container's group, or one below it: the same in every hierarchy, or for the
/// controllers that an argument names (`cpu,cpuacct:below`).
fn group_below(container: &Container, given: &[String]) -> Result<Group> {
    let mut group = container.group()?.context("container not running")?;
    let (named, everywhere): (Vec<&String>, Vec<&String>) =
        given.iter().partition(|argument| argument.contains(':'));
    let open = |below: &str| -> Result<Group> {
        if below.split('/').any(|part| part == "..") {
            bail!("--cgroup {below}: must not contain ..");
        }
        let below = below.trim_matches('/');
        if below.is_empty() {
            return container.group()?.context("container not running");
        }
        let path = format!("{}/{below}", container.record.cgroup);
        group::open(&path)?.with_context(|| format!("--cgroup {below}: there is no such group"))
    };
    match everywhere.as_slice() {
        [] => {}
        [below] => group = open(below)?,
        _ => bail!("--cgroup: one path for all controllers, or one for each"),
    }
    let mut dirs = group.into_dirs();
    for argument in named {
        let (controllers, below) = argument.split_once(':').unwrap_or_default();
        let has = |dir: &Dir, name: &str| dir.controllers.split(',').any(|one| one == name);
        for name in controllers.split(',') {
            if !dirs.iter().any(|dir| has(dir, name)) {
                bail!("--cgroup {argument}: no hierarchy of v1 has the controller {name:?}");
            }
        }
        // Controllers that share a hierarchy go together.
        let named = |dir: &Dir| controllers.split(',').any(|name| has(dir, name));
        let there = open(below)?.into_dirs();
        let wanted = dirs.iter().filter(|dir| named(dir)).count();
        let there: Vec<Dir> = there.into_iter().filter(named).collect();
        if there.len() != wanted {
            bail!("--cgroup {argument}: there is no such group");
        }
        dirs.retain(|dir| !named(dir));
        dirs.extend(there);
    }
    Ok(Group::from_dirs(dirs))
}
