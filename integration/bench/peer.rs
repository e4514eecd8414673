//! Other runtimes, each with directories, a mount namespace and control groups
//! of its own, in the network namespace of the node.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use berth_integration::{node::Node, programs, wait};

use crate::{client::Client, cri::Cri, group::Group, images, podman::Podman};

/// From the start of a daemon to its first answer.
const READY: Duration = Duration::from_secs(60);

/// Enters the group, keeps what is written to `/run` and `/var/lib/cni` to
/// itself, and becomes the daemon. All its mounts end with its last process.
const ENTER: &str = r#"
echo $$ >"$1"
mount --bind "$2" /var/lib
mount -t tmpfs tmpfs /run
if [ "$3" = hide ] && [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
shift 3
exec "$@"
"#;

/// A runtime that is measured.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    pub(crate) group: Group,
    /// Names of its processes that are not of a pod.
    pub(crate) daemons: &'static [&'static str],
    home: PathBuf,
    /// Its own, to be killed and waited for; Berth's belongs to the node.
    child: Option<Child>,
    /// The bridge that its network plugin makes.
    link: Option<&'static str>,
}

impl Peer {
    /// Berth, whose agent the node has started.
    pub(crate) fn berth(node: &Node, host: &str) -> Result<Self> {
        let group = Group::make(&format!("{}-berth", node.name()))?;
        group
            .admit(node.agent_pid()?)
            .context("move the agent into its group")?;
        let client = Cri::new(
            &node.socket(),
            node.home().join("logs"),
            group.parent(),
            format!("{host}/{}", images::WORK),
        )?;
        Ok(Self {
            name: "berth",
            client: Client::Cri(Box::new(client)),
            group,
            daemons: &["berth-agent", "berth-launcher"],
            home: node.home().to_owned(),
            child: None,
            link: None,
        })
    }

    /// containerd with runc and the bridge plugin.
    pub(crate) async fn containerd(node: &Node, host: &str) -> Result<Self> {
        let home = directories(node, "containerd")?;
        let group = Group::make(&format!("{}-containerd", node.name()))?;
        write_network(&home, "bbcontainerd0", "10.84.0.0/18")?;
        let tools = tools()?;
        let at = home.display();
        fs::write(
            home.join("config.toml"),
            format!(
                r#"version = 2
root = "{at}/root"
state = "{at}/state"
[grpc]
address = "{at}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{at}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{host}/{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{tools}/usr/lib/cni"
conf_dir = "{at}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{tools}/usr/sbin/runc"
"#,
                pause = images::PAUSE,
                tools = tools.display(),
            ),
        )?;
        let mut command = enter(&group, &home, false);
        command
            .arg(tools.join("usr/bin/containerd"))
            .arg("--config")
            .arg(home.join("config.toml"));
        let child = start(node, &home, &tools, command)?;
        let client = Cri::new(
            &home.join("containerd.sock"),
            home.join("logs"),
            group.parent(),
            format!("{host}/{}", images::WORK),
        )?;
        Self {
            name: "containerd",
            client: Client::Cri(Box::new(client)),
            group,
            daemons: &["containerd"],
            home,
            child: Some(child),
            link: Some("bbcontainerd0"),
        }
        .ready()
        .await
    }

    /// podman with crun and the bridge plugin, by its REST service.
    pub(crate) async fn podman(node: &Node, host: &str) -> Result<Self> {
        let home = directories(node, "podman")?;
        let group = Group::make(&format!("{}-podman", node.name()))?;
        write_network(&home, "bbpodman0", "10.85.0.0/18")?;
        let tools = tools()?;
        let at = home.display();
        let text = tools.display();
        fs::write(
            home.join("containers.conf"),
            format!(
                "[containers]\ndefault_ulimits = []\n\
                 [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{text}/usr/lib/cni\"]\n\
                 network_config_dir = \"{at}/cni\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
                 runtime = \"crun\"\nconmon_path = [\"{text}/usr/bin/conmon\"]\n\
                 static_dir = \"{at}/root/libpod\"\ntmp_dir = \"{at}/state/libpod\"\n\
                 [engine.runtimes]\ncrun = [\"{text}/usr/bin/crun\"]\n"
            ),
        )?;
        fs::write(
            home.join("storage.conf"),
            format!(
                "[storage]\ndriver = \"overlay\"\ngraphroot = \"{at}/root\"\n\
                 runroot = \"{at}/state\"\n"
            ),
        )?;
        fs::write(
            home.join("registries.conf"),
            format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"),
        )?;
        fs::create_dir_all(home.join(".config/containers"))?;
        fs::write(
            home.join(".config/containers/policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        let mut command = enter(&group, &home, true);
        command
            .arg(tools.join("usr/bin/podman"))
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{at}/podman.sock"))
            .env("CONTAINERS_CONF", home.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", home.join("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", home.join("registries.conf"));
        let child = start(node, &home, &tools, command)?;
        let client = Podman {
            socket: home.join("podman.sock"),
            logs: home.join("logs"),
            parent: group.parent(),
            image: format!("{host}/{}", images::WORK),
            pause: format!("{host}/{}", images::PAUSE),
        };
        Self {
            name: "podman",
            client: Client::Podman(client),
            group,
            daemons: &["podman"],
            home,
            child: Some(child),
            link: Some("bbpodman0"),
        }
        .ready()
        .await
    }

    async fn ready(mut self) -> Result<Self> {
        let client = self.client.clone();
        let answered = wait::until("the daemon answers", READY, || async {
            Ok(client.clone().version().await.ok())
        })
        .await;
        if let Err(error) = answered {
            let last = self.client.version().await.err();
            let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(20)..].join("\n");
            bail!("{}: {error:#}: {last:?}\n{tail}", self.name);
        }
        Ok(self)
    }

    /// CPU time so far in milliseconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        self.group.cpu()
    }

    /// Ends what it runs, daemon included, and removes its groups and its link.
    pub(crate) fn end(&mut self, node: &Node) -> Result<()> {
        if self.link.is_none() {
            return Ok(());
        }
        let mut cleared = self.group.clear();
        if let Some(mut child) = self.child.take() {
            // Killed with the group, unless it never came that far.
            drop(child.kill());
            drop(child.wait());
            // What it had as children in its last moment.
            cleared = cleared.and_then(|()| self.group.clear());
        }
        if let Some(link) = self.link.take() {
            node.netns().enter(|| {
                // Not there if no pod was made.
                drop(
                    Command::new("ip")
                        .args(["link", "delete", link])
                        .stderr(Stdio::null())
                        .status(),
                );
                Ok(())
            })?;
        }
        cleared.with_context(|| format!("clear the groups of {}", self.name))
    }
}

fn tools() -> Result<PathBuf> {
    let program = programs::tool("debian/usr/bin/containerd")?;
    let root = program.ancestors().nth(3).context("no directory above")?;
    Ok(root.to_owned())
}

fn directories(node: &Node, name: &str) -> Result<PathBuf> {
    let home = node.home().join(name);
    for part in ["root", "state", "logs", "cni", "var-lib", "opt", "tmp"] {
        fs::create_dir_all(home.join(part))?;
    }
    Ok(home)
}

/// A bridge and nothing else: no packet filter, no host ports.
fn write_network(home: &Path, link: &str, subnet: &str) -> Result<()> {
    let state = home.join("state/addresses");
    let config = serde_json::json!({
        "cniVersion": "0.4.0",
        "name": "podman",
        "plugins": [{
            "type": "bridge", "bridge": link, "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": state,
                "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::write(
        home.join("cni/87-podman.conflist"),
        serde_json::to_vec_pretty(&config)?,
    )?;
    Ok(())
}

fn enter(group: &Group, home: &Path, hide_unified: bool) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-euc", ENTER, "sh"])
        .arg(group.door())
        .arg(home.join("var-lib"))
        .arg(if hide_unified { "hide" } else { "keep" });
    command
}

fn start(node: &Node, home: &Path, tools: &Path, mut command: Command) -> Result<Child> {
    let log = fs::File::create(home.join("log"))?;
    let inherited = std::env::var("PATH").unwrap_or_default();
    let own = tools.display();
    command
        .env("PATH", format!("{own}/usr/bin:{own}/usr/sbin:{inherited}"))
        .env("HOME", home)
        .env("TMPDIR", home.join("tmp"))
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C of the terminal is for the benchmark, which cleans up.
        .process_group(0);
    node.netns()
        .enter(|| command.spawn().context("start unshare (util-linux)"))
}
