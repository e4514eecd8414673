use anyhow::Result;
use berth_integration::pod;
use berth_proto::cri;
use nix::mount::MsFlags;

use crate::fixture::{OBEYS, Shell};

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status";

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim_start_matches(':').trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_is_few_capabilities_and_masked_kernel_files() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "defaults");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", &format!("{STATUS}; {OBEYS}"));
    let context = pod::security(&mut container);
    context.masked_paths = vec![
        "/proc/kcore".into(),
        "/proc/keys".into(),
        "/sys/firmware".into(),
    ];
    context.readonly_paths = vec!["/proc/sys".into(), "/proc/sysrq-trigger".into()];
    context.seccomp = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    });
    let id = node.run(&pod, &container, &config).await?;
    let status = node.sh(&id, STATUS).await?;
    let effective = u64::from_str_radix(field(&status, "CapEff"), 16)?;
    let bounding = u64::from_str_radix(field(&status, "CapBnd"), 16)?;
    let (sys_admin, sys_ptrace, net_bind) = (21, 19, 10);
    assert_eq!(effective & (1 << sys_admin), 0, "{status}");
    assert_eq!(bounding & (1 << sys_ptrace), 0, "{status}");
    assert_ne!(effective & (1 << net_bind), 0, "{status}");
    assert_eq!(
        field(&status, "Seccomp"),
        "2",
        "an exec has the container's filter"
    );
    assert_eq!(node.sh(&id, "wc -c </proc/keys").await?.trim(), "0");
    assert_eq!(node.sh(&id, "ls /sys/firmware | wc -l").await?.trim(), "0");
    let writes = "echo 1 2>/dev/null >/proc/sys/kernel/domainname && exit 9; exit 0";
    node.sh(&id, writes).await?;
    let refused = "unshare -n true 2>/dev/null && exit 9; mount -t tmpfs x /tmp 2>/dev/null && exit 8; exit 0";
    node.sh(&id, refused).await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_the_groups_that_image_and_request_give() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "users");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("merge", OBEYS);
    let context = pod::security(&mut container);
    context.run_as_user = Some(cri::Int64Value { value: 1000 });
    context.supplemental_groups = vec![4242];
    let id = node.run(&pod, &container, &config).await?;
    assert_eq!(node.sh(&id, "id -u; id -g").await?, "1000\n1000\n");
    let status = node.sh(&id, STATUS).await?;
    let mut groups: Vec<u32> = field(&status, "Groups")
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    groups.sort_unstable();
    assert_eq!(groups, [1000, 4242, 50000]);
    assert_eq!(u64::from_str_radix(field(&status, "CapEff"), 16)?, 0);
    let user = node
        .status(&id)
        .await?
        .user
        .unwrap_or_default()
        .linux
        .unwrap_or_default();
    assert_eq!((user.uid, user.gid), (1000, 1000));
    assert!(user.supplemental_groups.contains(&50000));

    let mut named = shell.container("named", OBEYS);
    pod::security(&mut named).run_as_username = "www-data".into();
    let named = node.run(&pod, &named, &config).await?;
    assert_eq!(node.sh(&named, "id -u; id -g").await?, "33\n33\n");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_capabilities_are_those_that_the_agent_has_itself() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let own = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
    let mut config = pod::sandbox(node, "all");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = node.run_pod(&config).await?;
    let mut added = shell.container("added", OBEYS);
    pod::security(&mut added).capabilities = Some(cri::Capability {
        add_capabilities: vec!["ALL".into()],
        ..Default::default()
    });
    let mut privileged = shell.container("privileged", OBEYS);
    pod::security(&mut privileged).privileged = true;
    for container in [added, privileged] {
        let id = node.run(&pod, &container, &config).await?;
        let status = node.sh(&id, STATUS).await?;
        assert_eq!(field(&status, "CapEff"), field(&own, "CapBnd"), "{status}");
    }
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_new_privileges_makes_a_setuid_program_harmless() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "nnp");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::security(&mut container).no_new_privs = true;
    let id = node.run(&pod, &container, &config).await?;
    assert_eq!(field(&node.sh(&id, STATUS).await?, "NoNewPrivs"), "1");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_is_read_only_and_mounts_on_it_work() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let source = node.home().join("volume");
    std::fs::create_dir(&source)?;
    std::fs::write(source.join("note"), "from outside\n")?;
    let config = pod::sandbox(node, "readonly");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::security(&mut container).readonly_rootfs = true;
    for (path, readonly) in [("/writable", false), ("/deep/readable", true)] {
        container.mounts.push(cri::Mount {
            container_path: path.into(),
            host_path: source.display().to_string(),
            readonly,
            ..Default::default()
        });
    }
    let id = node.run(&pod, &container, &config).await?;
    node.sh(&id, "touch /new 2>/dev/null && exit 9; exit 0")
        .await?;
    node.sh(&id, "echo back >/writable/back").await?;
    assert_eq!(std::fs::read_to_string(source.join("back"))?, "back\n");
    assert_eq!(
        node.sh(&id, "cat /deep/readable/note").await?,
        "from outside\n"
    );
    node.sh(&id, "touch /deep/readable/x 2>/dev/null && exit 9; exit 0")
        .await?;
    let mounts = node.status(&id).await?.mounts;
    assert_eq!(mounts.len(), 2, "as many as were asked for: {mounts:?}");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oom_score_that_the_kernel_refuses_is_clamped_instead_of_failing_the_pod() -> Result<()>
{
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "oom-score");
    let pod = node.run_pod(&config).await?;
    let mut container = shell.container("main", OBEYS);
    pod::linux(&mut container).resources = Some(cri::LinuxContainerResources {
        oom_score_adj: -998,
        ..Default::default()
    });
    let id = node.run(&pod, &container, &config).await?;
    let got: i32 = node
        .sh(&id, "cat /proc/1/oom_score_adj")
        .await?
        .trim()
        .parse()?;
    assert!(got >= -998, "{got}");
    let status = node.status(&id).await?;
    let told = status
        .resources
        .unwrap_or_default()
        .linux
        .unwrap_or_default()
        .oom_score_adj;
    assert_eq!(told, i64::from(got), "the status says what was granted");
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_hosts_descriptors_or_environment_gets_in() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("clean", OBEYS).await?;
    let pid = node.pid(&pod.container).await?;
    let descriptors = berth_integration::leak::descriptors(pid)?;
    let odd: Vec<_> = descriptors
        .keys()
        .filter(|target| !target.starts_with("pipe") && *target != "/dev/null")
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    let environment = node
        .sh(&pod.container, "tr '\\0' '\\n' </proc/1/environ")
        .await?;
    assert!(environment.contains("PATH="), "{environment}");
    assert!(
        !environment.contains("CARGO") && !environment.contains("BERTH"),
        "{environment}"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_told_in_the_direction_that_was_asked_for() -> Result<()> {
    use cri::MountPropagation::{
        PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
    };
    let shell = Shell::start().await?;
    let node = &shell.node;
    let mut config = pod::sandbox(node, "propagation");
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let pod = node.run_pod(&config).await?;
    for (propagation, inwards, outwards) in [
        (PropagationPrivate, false, false),
        (PropagationHostToContainer, true, false),
        (PropagationBidirectional, true, true),
    ] {
        let name = format!("p{}", i32::from(propagation));
        let source = node.home().join(&name);
        for directory in ["", "in", "out"] {
            std::fs::create_dir(source.join(directory))?;
        }
        let bind = |to: &std::path::Path, flags| {
            nix::mount::mount(Some(to), to, None::<&str>, flags, None::<&str>)
        };
        bind(&source, MsFlags::MS_BIND)?;
        bind(&source, MsFlags::MS_SHARED)?;
        let mut container = shell.container(&name, OBEYS);
        pod::security(&mut container).privileged = true;
        container.mounts.push(cri::Mount {
            container_path: "/shown".into(),
            host_path: source.display().to_string(),
            propagation: propagation.into(),
            ..Default::default()
        });
        let id = node.run(&pod, &container, &config).await?;
        let (tmpfs, none) = (Some("tmpfs"), None::<&str>);
        nix::mount::mount(tmpfs, &source.join("in"), tmpfs, MsFlags::empty(), none)?;
        std::fs::write(source.join("in/file"), "")?;
        let seen = node.sh(&id, "ls /shown/in").await?;
        assert_eq!(seen == "file\n", inwards, "{propagation:?}: {seen:?}");
        node.sh(&id, "mount --bind /bin /shown/out").await?;
        let seen = std::fs::read_dir(source.join("out"))?.count();
        assert_eq!(seen > 0, outwards, "{propagation:?}");
        node.remove_container(&id).await?;
        nix::mount::umount2(&source, nix::mount::MntFlags::MNT_DETACH)?;
    }
    shell.finish().await
}
