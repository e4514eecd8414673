use anyhow::Result;
use berth_integration::pod;
use berth_proto::cri;

use crate::fixture::{OBEYS, Shell};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_its_hostname_hosts_and_resolver_as_given() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("named", OBEYS).await?;
    assert_eq!(
        node.sh(&pod.container, "hostname; cat /etc/hostname")
            .await?,
        "named\nnamed\n"
    );
    let resolv = node.sh(&pod.container, "cat /etc/resolv.conf").await?;
    for line in [
        "search test.example",
        "nameserver 192.0.2.53",
        "options ndots:5",
    ] {
        assert!(resolv.lines().any(|l| l == line), "{resolv}");
    }
    let hosts = node.sh(&pod.container, "cat /etc/hosts").await?;
    let ip = node
        .pod_status(&pod.id)
        .await?
        .network
        .unwrap_or_default()
        .ip;
    assert!(hosts.contains("127.0.0.1"), "{hosts}");
    assert!(
        hosts
            .lines()
            .any(|l| l.contains(&ip) && l.contains("named")),
        "{hosts}"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_network_ipc_hostname_and_shm_but_not_processes() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("shared", OBEYS).await?;
    let second = shell.container("second", OBEYS);
    let second = node.run(&pod.id, &second, &pod.config).await?;
    let namespaces = "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done";
    let one = node.sh(&pod.container, namespaces).await?;
    let two = node.sh(&second, namespaces).await?;
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!(one[..3], two[..3]);
    assert_ne!(one[3], two[3]);
    assert_ne!(one[4], two[4]);
    for (name, inode) in ["net", "ipc", "uts"].iter().zip(&one) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}"))?;
        assert_ne!(host.to_string_lossy(), *inode, "{name} is the host's");
    }
    node.sh(&pod.container, "echo through >/dev/shm/note")
        .await?;
    assert_eq!(node.sh(&second, "cat /dev/shm/note").await?, "through\n");
    let shm = node
        .sh(&second, "grep ' /dev/shm ' /proc/self/mountinfo")
        .await?;
    for option in ["nosuid", "nodev", "noexec"] {
        assert!(shm.contains(option), "{shm}");
    }
    shell.finish().await
}

/// The lines of `/proc/PID/cgroup` of the process that is called `name` and has `mark`
/// in its command line or its groups; without those of hierarchies that are not used.
fn groups_of(name: &str, mark: &str) -> Result<Vec<String>> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let text = |file| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let (groups, command) = (text("cgroup"), text("cmdline"));
        if text("comm").trim() == name && (groups.contains(mark) || command.contains(mark)) {
            let used = groups.lines().filter(|line| !line.ends_with(":/"));
            return Ok(used.map(str::to_owned).collect());
        }
    }
    anyhow::bail!("no process {name} of {mark}")
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_are_in_a_group_of_their_own_outside_of_the_pods() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("one", OBEYS).await?;
    let groups = groups_of("berth-shim", &pod.container)?;
    assert!(!groups.is_empty());
    for line in groups {
        assert!(line.ends_with(&format!("/{}-shims", node.name())), "{line}");
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pid_namespace_has_an_init_that_reaps() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut config = pod::sandbox(node, "pids");
    pod::namespace_options(&mut config).pid = cri::NamespaceMode::Pod.into();
    let pod = node.run_pod(&config).await?;
    for line in groups_of("berth-pod-init", &pod)? {
        assert!(line.ends_with(&format!("/pids/{pod}")), "{line}");
    }
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut container = shell.container(name, OBEYS);
        let options = pod::security(&mut container).namespace_options.as_mut();
        options.unwrap().pid = cri::NamespaceMode::Pod.into();
        ids.push(node.run(&pod, &container, &config).await?);
    }
    let one = node.sh(&ids[0], "readlink /proc/self/ns/pid").await?;
    let two = node.sh(&ids[1], "readlink /proc/self/ns/pid").await?;
    assert_eq!(one, two);
    let pid = node.sh(&ids[0], "echo $$").await?;
    assert_ne!(pid.trim(), "1");
    // The pod's own init is process 1: a root of its own, and nothing of the host through it.
    let through = node.sh(&ids[0], "ls /proc/1/root/ 2>&1 || true").await?;
    assert!(
        !through.contains("home") && !through.contains("boot"),
        "{through}"
    );
    node.sh(&ids[0], "(sh -c 'sleep 0.1 & exit 0' &); sleep 1")
        .await?;
    let zombies = node
        .sh(&ids[0], "ps -o stat,comm | grep -c '^Z' || true")
        .await?;
    assert_eq!(zombies.trim(), "0");
    let status = node.pod_status(&pod).await?;
    let options = status
        .linux
        .unwrap_or_default()
        .namespaces
        .unwrap_or_default()
        .options;
    assert_eq!(options.unwrap_or_default().pid(), cri::NamespaceMode::Pod);
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_may_use_the_hosts_network_pid_and_ipc() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut config = pod::sandbox(node, "host");
    *pod::namespace_options(&mut config) = cri::NamespaceOption {
        network: cri::NamespaceMode::Node.into(),
        pid: cri::NamespaceMode::Node.into(),
        ipc: cri::NamespaceMode::Node.into(),
        ..Default::default()
    };
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::security(&mut container).namespace_options =
        pod::namespace_options(&mut config).clone().into();
    let id = node.run(&pod, &container, &config).await?;
    let inside = node.sh(&id, "readlink /proc/self/ns/net").await?;
    // The agent's, which here is not the machine's.
    assert_eq!(inside.trim(), format!("net:[{}]", node.netns().inode()));
    for name in ["pid", "ipc"] {
        let inside = node
            .sh(&id, &format!("readlink /proc/self/ns/{name}"))
            .await?;
        let host = std::fs::read_link(format!("/proc/self/ns/{name}"))?;
        assert_eq!(inside.trim(), host.to_string_lossy(), "{name}");
    }
    let status = node.pod_status(&pod).await?;
    let linux = status
        .linux
        .unwrap_or_default()
        .namespaces
        .unwrap_or_default();
    assert_eq!(
        linux.options.unwrap_or_default().network(),
        cri::NamespaceMode::Node
    );
    assert!(status.network.is_none_or(|network| network.ip.is_empty()));
    // Stopping must end the container and nothing else of the host's.
    node.stop_container(&id, 5).await?;
    node.version().await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sysctls_apply_in_the_pod_and_nowhere_else() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let host = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?;
    let mut config = pod::sandbox(node, "sysctls");
    let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
    sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
    let pod = node.run_pod(&config).await?;
    let id = node
        .run(&pod, &shell.container("main", OBEYS), &config)
        .await?;
    let read = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(node.sh(&id, read).await?, "1\n80\n");
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced")?,
        host
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_written_below_the_pods_cgroup_parent() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "limits");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        ..Default::default()
    });
    let id = node.run(&pod, &container, &config).await?;
    let pid = node.pid(&id).await?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let memory = groups
        .lines()
        .find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned()))
        .or_else(|| {
            groups
                .lines()
                .find_map(|l| l.strip_prefix("0::").map(str::to_owned))
        })
        .unwrap();
    let parent = format!("/{}/limits", node.name());
    assert!(memory.starts_with(&parent), "{memory}");
    let v1 = format!("/sys/fs/cgroup/memory{memory}/memory.limit_in_bytes");
    let v2 = format!("/sys/fs/cgroup{memory}/memory.max");
    let limit = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2))?;
    assert_eq!(limit.trim(), (64 << 20).to_string());
    let status = node.status(&id).await?;
    let linux = status
        .resources
        .unwrap_or_default()
        .linux
        .unwrap_or_default();
    assert_eq!(linux.memory_limit_in_bytes, 64 << 20);
    assert_eq!(linux.cpu_quota, 50_000);

    let request = cri::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = node
        .runtime()?
        .container_stats(request)
        .await?
        .into_inner()
        .stats
        .unwrap();
    assert_eq!(stats.attributes.as_ref().unwrap().id, id);
    assert!(stats.memory.as_ref().unwrap().timestamp > 0);
    assert!(
        stats
            .memory
            .unwrap()
            .working_set_bytes
            .unwrap_or_default()
            .value
            > 0
    );
    assert!(
        stats
            .cpu
            .unwrap()
            .usage_core_nano_seconds
            .unwrap_or_default()
            .value
            > 0
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pressure_is_told_where_the_kernel_measures_it() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let request = cri::StatusRequest { verbose: true };
    let status = node.runtime()?.status(request).await?.into_inner();
    let kernel: Vec<serde_json::Value> = serde_json::from_str(&status.info["kernel"])?;
    let measured = kernel
        .iter()
        .any(|feature| feature["name"] == "pressure" && feature["present"] == true);
    // Two that want the same half processor.
    let config = pod::sandbox(node, "pressure");
    let pod = node.run_pod(&config).await?;
    let busy = "while :; do :; done & while :; do :; done";
    let mut container = shell.container("main", busy);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    });
    let id = node.run(&pod, &container, &config).await?;
    let read = || async {
        let request = cri::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = node.runtime()?.container_stats(request).await?.into_inner();
        Ok::<_, anyhow::Error>(stats.stats.unwrap_or_default())
    };
    if measured {
        let limit = std::time::Duration::from_secs(30);
        let stats = berth_integration::wait::until("the pressure rises", limit, || async {
            let stats = read().await?;
            let some = stats.cpu.as_ref().and_then(|cpu| cpu.psi?.some);
            Ok(some.is_some_and(|some| some.total > 0).then_some(stats))
        })
        .await?;
        assert!(stats.memory.unwrap_or_default().psi.is_some());
        assert!(stats.io.unwrap_or_default().psi.is_some());
    } else {
        let stats = read().await?;
        assert!(stats.cpu.unwrap_or_default().psi.is_none());
        assert!(stats.io.is_none());
    }
    shell.finish().await
}
