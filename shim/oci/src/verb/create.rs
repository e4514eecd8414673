//! `create`: a container up to the point before its program.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::Group;
use berth_engine::{Holder, Shim, launch_detached};
use berth_plan::{
    CapSet, Hierarchy, IoInputs, PlanInputs, PlanOutput, RootInputs,
    seccomp::{FilterCache, Machine},
};
use berth_sys::{credentials, process};
use nix::libc;
use tokio::sync::mpsc;

use crate::{
    bundle::Bundle,
    cli, console,
    container::{Container, Status},
    engine,
    group::{self, Place},
    hooks::Hooks,
    net_devices::NetDevices,
    record::{Home, Record, check_id},
    slots::Sources,
    verb::Context,
};

/// Longest wait for a shim that was killed.
const KILL_LIMIT_MS: i32 = 10_000;

pub(super) fn run(context: &Context<'_>, args: &cli::Create) -> Result<()> {
    let made = make(context, args, Terminal::Socket).context("create failed")?;
    drop(made);
    Ok(())
}

/// Who gets the terminal's master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminal {
    /// Whoever listens on `--console-socket`.
    Socket,
    /// This program.
    Own,
}

/// A container that waits to be started.
pub(super) struct Made {
    pub(super) container: Container,
    pub(super) pidfd: OwnedFd,
    pub(super) console: Option<OwnedFd>,
}

/// Creates the container. After a failure nothing of it is left.
pub(super) fn make(context: &Context<'_>, args: &cli::Create, terminal: Terminal) -> Result<Made> {
    check_id(&args.id)?;
    let bundle = Bundle::read(&args.bundle)?;
    let hooks = Hooks::of(&bundle.spec)?;
    let place = group::place(&bundle.spec, &args.id, context.systemd)?;
    refuse_rdt(&bundle)?;
    let preserved = preserved(context, args)?;
    let output = plan(&bundle, &args.id, preserved.count, preserved.listen)?;
    check_console(output.plan.terminal, args, terminal)?;
    output.limits.validate().context("linux.resources")?;
    let program = engine::program()?;

    let home = Home::make(context.root, &args.id)?;
    let record = Record {
        oci_version: bundle.spec.version().clone(),
        id: args.id.clone(),
        pid: 0,
        start_ticks: 0,
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs.clone(),
        created: jiff::Timestamp::now().to_string(),
        annotations: bundle
            .spec
            .annotations()
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        cgroup: String::new(),
        scope: String::new(),
    };
    let mut undo = Undo {
        container: Container { home, record },
        shim: None,
        hooks,
        armed: true,
    };
    let built = undo.build(
        context,
        &Making {
            args,
            bundle: &bundle,
            output: &output,
            program: &program,
            place: &place,
            devices: NetDevices::of(&bundle.spec),
        },
    );
    let (pidfd, master) = match built {
        Ok(built) => built,
        Err(error) => {
            return Err(match undo.roll_back(context) {
                Ok(()) => error,
                Err(left) => error.context(format!("and not all could be undone: {left:#}")),
            });
        }
    };
    let console = match (terminal, master) {
        (Terminal::Own, master) => master,
        (Terminal::Socket, _) => None,
    };
    undo.armed = false;
    Ok(Made {
        container: Container {
            home: Home::find(context.root, &args.id)?,
            record: undo.container.record.clone(),
        },
        pidfd,
        console,
    })
}

/// Where the kernel divides caches and memory bandwidth, the plan has its say.
fn refuse_rdt(bundle: &Bundle) -> Result<()> {
    let linux = bundle.spec.linux().as_ref();
    let asked = linux.is_some_and(|linux| linux.intel_rdt().is_some());
    if asked && !Path::new("/sys/fs/resctrl/info").exists() {
        bail!("linux.intelRdt: no resctrl file system is mounted at /sys/fs/resctrl");
    }
    Ok(())
}

struct Preserved<'a> {
    count: u32,
    /// The caller activates sockets (sd_listen_fds(3)): what the container is told.
    listen: Option<u32>,
    fds: Vec<std::os::fd::BorrowedFd<'a>>,
}

fn preserved<'a>(context: &Context<'a>, args: &cli::Create) -> Result<Preserved<'a>> {
    let listen = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse::<u32>().ok())
        .filter(|&count| count > 0);
    let count = args.preserve_fds.saturating_add(listen.unwrap_or(0));
    Ok(Preserved {
        count,
        listen,
        fds: context.inherited.take(count)?,
    })
}

fn check_console(wanted: bool, args: &cli::Create, terminal: Terminal) -> Result<()> {
    match (wanted, terminal, &args.console_socket) {
        (true, Terminal::Socket, None) => {
            bail!("process.terminal is set: --console-socket is needed to pass the terminal on")
        }
        (false, _, Some(_)) => {
            bail!("--console-socket is given, but process.terminal is not set")
        }
        _ => Ok(()),
    }
}

fn plan(bundle: &Bundle, id: &str, preserved: u32, listen: Option<u32>) -> Result<PlanOutput> {
    let hierarchies: Vec<Hierarchy> = group::layout()?
        .hierarchies()
        .iter()
        .map(|hierarchy| Hierarchy {
            controllers: hierarchy.controllers.clone(),
            v2: hierarchy.v2,
        })
        .collect();
    let filters = FilterCache::default();
    let machine = Machine::native().context("this kind of machine is not supported")?;
    let mut output = berth_plan::plan(
        &bundle.spec,
        &PlanInputs {
            id,
            root: RootInputs::default(),
            cgroups: &hierarchies,
            pod_dir: None,
            stop_signal: libc::SIGTERM,
            io: IoInputs {
                given: true,
                preserved,
                ..IoInputs::default()
            },
            env: None,
            kernel_capabilities: kernel_capabilities(),
            machine,
            filters: &filters,
            is_file: &|path: &Path| fs::metadata(path).map(|metadata| !metadata.is_dir()),
        },
    )?;
    if !output.plan.create_container_hooks.is_empty()
        && let Some(root) = &mut output.plan.root
    {
        // Where those hooks look for it.
        root.staging = bundle.rootfs.to_string_lossy().into_owned();
    }
    if let (Some(count), Some(process)) = (listen, &mut output.plan.process) {
        for pair in [format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()] {
            process.env.push(pair.into_bytes());
        }
    }
    Ok(output)
}

pub(crate) fn kernel_capabilities() -> CapSet {
    CapSet::from_bits(credentials::available_capabilities())
}

struct Making<'a> {
    args: &'a cli::Create,
    bundle: &'a Bundle,
    output: &'a PlanOutput,
    program: &'a berth_engine::Program,
    place: &'a Place,
    devices: NetDevices,
}

/// What a failed creation takes back.
struct Undo {
    container: Container,
    shim: Option<OwnedFd>,
    hooks: Hooks,
    armed: bool,
}

impl Undo {
    fn build(
        &mut self,
        context: &Context<'_>,
        making: &Making<'_>,
    ) -> Result<(OwnedFd, Option<OwnedFd>)> {
        let home = &self.container.home;
        home.save_config(&making.bundle.config)?;
        // On record before it is made: a crash leaves nothing that nobody knows.
        let record = &mut self.container.record;
        match making.place {
            Place::Path(path) => path.as_str().clone_into(&mut record.cgroup),
            Place::Unit(unit) => {
                unit.path()?.as_str().clone_into(&mut record.cgroup);
                record.scope.clone_from(&unit.name);
            }
        }
        home.save(record)?;
        let (group, holder) = match self.make_group(making) {
            Ok(made) => made,
            Err(error) => {
                // It removed what it had made; what is there is somebody else's.
                self.container.record.cgroup.clear();
                self.container.record.scope.clear();
                return Err(error).context("making the control group");
            }
        };
        let home = &self.container.home;
        let preserved = preserved(context, making.args)?;
        let sources = Sources {
            rootfs: &making.bundle.rootfs,
            group: &group,
            preserved: &preserved.fds,
        };
        let fds = sources.open(&making.output.slots)?;
        context.log.debug("starting the shim");
        self.shim = Some(launch_detached(
            making.program,
            &making.args.id,
            home.path(),
            // Hooks of the container's namespaces expect the node's files around them.
            !making.output.plan.create_container_hooks.is_empty(),
        )?);
        let created = engine::wait(async {
            let (events, _) = mpsc::unbounded_channel();
            let shim = Shim::connect(home.path(), events).await?;
            shim.create(&making.output.plan, &fds).await
        })?
        .map_err(engine::explain)?;
        drop(fds);
        if created.oom_score_adj_clamped {
            context.log.warn(&format!(
                "oom_score_adj is {}: the kernel allows no less",
                created.oom_score_adj
            ));
        }
        for note in &created.notes {
            context.log.warn(note);
        }
        let record = &mut self.container.record;
        record.pid = created.pid;
        record.start_ticks = created.start_ticks;
        self.container.home.save(&self.container.record)?;
        // The init is in it now.
        drop(holder);
        let mut console = created.console;
        if making.output.plan.hold {
            console = self.assemble(context, making)?;
        }
        if let (Some(socket), Some(master)) = (&making.args.console_socket, &console) {
            console::send(socket, master.as_fd())?;
        }
        if let Some(path) = &making.args.pid_file {
            write_pid(path, created.pid)?;
        }
        Ok((created.pidfd, console))
    }

    /// The group, and what keeps systemd from taking it away.
    fn make_group(&mut self, making: &Making<'_>) -> Result<(Group, Option<Holder>)> {
        let limits = &making.output.limits;
        match making.place {
            Place::Path(path) => Ok((Group::create(&group::layout()?, path, limits)?, None)),
            Place::Unit(unit) => {
                let (group, path, holder) = unit.make(making.program, limits)?;
                path.as_str().clone_into(&mut self.container.record.cgroup);
                Ok((group, Some(holder)))
            }
        }
    }

    /// Runs the hooks that come before the root is made, and has it made.
    fn assemble(&self, context: &Context<'_>, making: &Making<'_>) -> Result<Option<OwnedFd>> {
        making.devices.move_to(self.container.record.pid)?;
        let state = self.container.state(Status::Creating);
        self.hooks.before_root(&state)?;
        let state = serde_json::to_vec(&state)?;
        let (console, notes) = engine::wait(async {
            let (events, _) = mpsc::unbounded_channel();
            let shim = Shim::connect(self.container.home.path(), events).await?;
            shim.assemble(state).await
        })?
        .map_err(engine::explain)?;
        for note in &notes {
            context.log.warn(note);
        }
        Ok(console)
    }

    fn roll_back(&mut self, context: &Context<'_>) -> Result<()> {
        let taken = self.take_back();
        let state = self.container.state(Status::Stopped);
        self.hooks.poststop(&state, context.log);
        taken
    }

    fn take_back(&mut self) -> Result<()> {
        self.armed = false;
        if let Some(shim) = self.shim.take() {
            // The init ends when the shim's end of their socket closes.
            drop(process::pidfd_send_signal(&shim, libc::SIGKILL));
            process::wait_readable(&shim, KILL_LIMIT_MS).context("waiting for the shim")?;
        }
        // Where that fails the record stays, so that `delete --force` can try again.
        group::destroy(&self.container.record)?;
        self.container.home.remove()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // Only where a library panics, as the event loop does without descriptors.
        if self.armed {
            drop(self.take_back());
        }
    }
}

/// Writes `pid` whole or not at all: somebody may be waiting for the file.
pub(super) fn write_pid(path: &Path, pid: i32) -> Result<()> {
    let what = || format!("writing {}", path.display());
    let name = path.file_name().with_context(what)?.to_string_lossy();
    let new = path.with_file_name(format!(".{name}.new"));
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .with_context(what)
}

/// A moment for a process that was killed to go.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);
