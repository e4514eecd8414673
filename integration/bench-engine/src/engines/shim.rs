//! The agent's way: a resident client, a launcher, a shim for each container.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use berth_cgroup::{DeviceKind, DeviceRule, Group, GroupPath, Layout, Resources};
use berth_engine::{Event, ExecStreams, Launcher, Program, Shim, ShimProcess};
use berth_plan::{
    CapSet, CgroupLimits, Hierarchy, IoInputs, PlanInputs, PlanOutput, RootInputs, Slot,
    seccomp::{FilterCache, Machine},
};
use berth_proto::shim::ProcessPlan;
use berth_sys::{credentials, mount, process};
use nix::libc;
use oci_spec::runtime::Spec;
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Engine, Exec, Life, Watch};
use crate::{Setting, bundle};

/// Longest wait for what takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);
/// Longest content of a log line, as in the agent.
const MAX_LINE: u32 = 16 * 1024;

pub(crate) struct ShimPath<'a> {
    setting: &'a Setting,
    runtime: Runtime,
    launcher: Launcher,
    layout: Layout,
    filters: FilterCache,
    settled: Option<Container>,
    execs: u64,
}

/// A container that runs.
pub(crate) struct Container {
    group: GroupPath,
    dir: PathBuf,
    process: ProcessPlan,
    shim: Shim,
    pub(crate) shim_process: ShimProcess,
    events: mpsc::UnboundedReceiver<Event>,
}

impl<'a> ShimPath<'a> {
    pub(crate) fn new(setting: &'a Setting, program: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let run_dir = setting.bundle.dir.join("run");
        fs::create_dir_all(&run_dir)?;
        Ok(Self {
            setting,
            runtime,
            launcher: Launcher::new(Program::load(program)?, &run_dir),
            layout: Layout::detect()?,
            filters: FilterCache::default(),
            settled: None,
            execs: 0,
        })
    }

    fn plan(&self, id: &str, program: &str) -> Result<PlanOutput> {
        let config = bundle::config(program, &self.setting.ground.group(id))?;
        let spec: Spec = serde_json::from_value(config)?;
        let hierarchies: Vec<Hierarchy> = self
            .layout
            .hierarchies()
            .iter()
            .map(|hierarchy| Hierarchy {
                controllers: hierarchy.controllers.clone(),
                v2: hierarchy.v2,
            })
            .collect();
        let output = berth_plan::plan(
            &spec,
            &PlanInputs {
                id,
                root: RootInputs::default(),
                cgroups: &hierarchies,
                pod_dir: None,
                stop_signal: libc::SIGTERM,
                io: IoInputs {
                    log: true,
                    max_line: MAX_LINE,
                    ..IoInputs::default()
                },
                env: None,
                kernel_capabilities: CapSet::from_bits(credentials::available_capabilities()),
                machine: Machine::native().context("no filters for this kind of machine")?,
                filters: &self.filters,
                is_file: &|path: &Path| fs::metadata(path).map(|metadata| !metadata.is_dir()),
            },
        )?;
        Ok(output)
    }

    /// Up to the point before the program.
    fn create(&self, id: &str, program: &str) -> Result<Container> {
        let output = self.plan(id, program)?;
        let group = GroupPath::parse(&self.setting.ground.group(id))?;
        let opened = Group::create(&self.layout, &group, &resources(&output.limits))?;
        let dir = self.setting.bundle.dir.join("shims").join(id);
        let (shim, shim_process, events) = self.runtime.block_on(async {
            let shim_process = self.launcher.launch(id, &dir).await?;
            let (sender, events) = mpsc::unbounded_channel();
            let shim = Shim::connect(&dir, sender).await?;
            let fds = self.open(&output.slots, &opened, &dir)?;
            shim.create(&output.plan, &fds).await?;
            anyhow::Ok((shim, shim_process, events))
        })?;
        Ok(Container {
            group,
            dir,
            process: output.plan.process.unwrap_or_default(),
            shim,
            shim_process,
            events,
        })
    }

    fn open(&self, slots: &[Slot], group: &Group, dir: &Path) -> Result<Vec<OwnedFd>> {
        let open = |slot: &Slot| -> Result<OwnedFd> {
            Ok(match slot {
                Slot::StateTree => {
                    let root = File::open(self.setting.bundle.rootfs())?;
                    mount::clone_tree(&root, c"", true)?
                }
                Slot::CgroupDir(number) => {
                    let dir = group.dirs().get(*number).context("no such group")?;
                    dir.fd.as_fd().try_clone_to_owned()?
                }
                Slot::LogFile => File::options()
                    .create(true)
                    .append(true)
                    .mode(0o640)
                    .open(dir.join("log"))?
                    .into(),
                other => bail!("the plan asks for {other:?}"),
            })
        };
        slots.iter().map(open).collect()
    }

    fn start(&self, container: &Container) -> Result<()> {
        self.runtime.block_on(container.shim.start())?;
        Ok(())
    }

    /// A container that runs until it is killed.
    pub(crate) fn run(&self, id: &str) -> Result<Container> {
        let container = self.create(id, "/bin/pause")?;
        self.start(&container)?;
        Ok(container)
    }

    /// Waits for the end of the container and of its shim.
    fn wait(&self, container: &mut Container) -> Result<()> {
        self.runtime.block_on(async {
            loop {
                let event = tokio::time::timeout(LIMIT, container.events.recv()).await?;
                match event {
                    Some(Event::Exited(_)) => return Ok(()),
                    None | Some(Event::Closed) => bail!("the shim ended without a word"),
                    Some(_) => {}
                }
            }
        })
    }

    fn delete(&self, container: Container) -> Result<()> {
        let limit = i32::try_from(LIMIT.as_millis())?;
        process::wait_readable(&container.shim_process.pidfd, limit)?;
        Group::remove(&self.layout, &container.group, LIMIT)?;
        fs::remove_dir_all(&container.dir)?;
        Ok(())
    }

    /// Kills and removes it.
    pub(crate) fn end(&self, mut container: Container) -> Result<()> {
        self.runtime
            .block_on(container.shim.stop(Duration::ZERO, 0))?;
        self.wait(&mut container)?;
        self.delete(container)
    }

    /// Ends the launcher, too.
    pub(crate) fn shut_down(self) -> Result<()> {
        self.runtime.block_on(self.launcher.shut_down())?;
        Ok(())
    }
}

/// Limits as the plan has them.
fn resources(limits: &CgroupLimits) -> Resources {
    let devices = limits.devices.iter().map(|rule| DeviceRule {
        allow: rule.allow,
        kind: match rule.kind {
            berth_plan::DeviceKind::All => DeviceKind::All,
            berth_plan::DeviceKind::Block => DeviceKind::Block,
            berth_plan::DeviceKind::Char => DeviceKind::Char,
        },
        major: rule.major,
        minor: rule.minor,
        read: rule.read,
        write: rule.write,
        mknod: rule.mknod,
    });
    Resources {
        devices: devices.collect(),
        ..Resources::default()
    }
}

impl Engine for ShimPath<'_> {
    fn name(&self) -> &'static str {
        "berth-shim"
    }

    fn life(&mut self) -> Result<Life> {
        let mut whole = Watch::start();
        let mut watch = Watch::start();
        let mut container = self.create("shim-life", "/bin/true")?;
        let create = watch.lap();
        self.start(&container)?;
        let start = watch.lap();
        self.wait(&mut container)?;
        let wait = watch.lap();
        self.delete(container)?;
        Ok(Life {
            create,
            start,
            wait,
            delete: watch.lap(),
            whole: whole.lap(),
        })
    }

    fn settle(&mut self) -> Result<()> {
        self.settled = Some(self.run("shim-exec")?);
        Ok(())
    }

    fn exec(&mut self) -> Result<Exec> {
        let container = self.settled.as_mut().context("nothing runs")?;
        self.execs += 1;
        let id = format!("e{}", self.execs);
        let process = ProcessPlan {
            args: vec![b"/bin/true".to_vec()],
            seccomp: Vec::new(),
            inherit_seccomp: true,
            ..container.process.clone()
        };
        self.runtime.block_on(async {
            let mut watch = Watch::start();
            let streams = ExecStreams::default();
            container.shim.exec(&id, process, streams).await?;
            let running = watch.lap();
            loop {
                let event = tokio::time::timeout(LIMIT, container.events.recv()).await?;
                match event.context("the shim has ended")? {
                    Event::ExecExited(exited) if exited.exec_id == id => break,
                    Event::Closed | Event::Exited(_) => bail!("the container has ended"),
                    _ => {}
                }
            }
            Ok(Exec {
                running: Some(running),
                ended: running + watch.lap(),
            })
        })
    }

    fn unsettle(&mut self) -> Result<()> {
        match self.settled.take() {
            Some(container) => self.end(container),
            None => Ok(()),
        }
    }
}
