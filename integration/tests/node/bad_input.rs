use anyhow::Result;
use berth_integration::{Node, pod};
use berth_proto::cri;
use tonic::Code;

use crate::fixture::{OBEYS, Shell, assert_refused};

#[tokio::test(flavor = "multi_thread")]
async fn references_that_cannot_be_are_refused_by_name() -> Result<()> {
    let node = Node::start().await?;
    for bad in [
        "",
        "lower/UPPER",
        "has space",
        "a:b:c/d e",
        "image@sha256:short",
        "image@md5:d41d8cd98f00b204e9800998ecf8427e",
        "-leading",
        "../../etc/passwd",
        "host/name:tag/with/slash:",
        "control\u{1b}[31m",
    ] {
        let word = if bad.is_empty() {
            "no image"
        } else {
            "reference"
        };
        assert_refused(node.pull(bad).await, &[Code::InvalidArgument], &[word]);
    }
    let long = format!("host/{}", "a".repeat(100_000));
    assert_refused(
        node.pull(&long).await,
        &[Code::InvalidArgument],
        &["reference"],
    );
    let nowhere = node.pull("registry.invalid/image:1").await;
    assert_refused(nowhere, &[Code::Unavailable], &["registry.invalid"]);
    // Nobody listens there.
    let refused = node.pull("127.0.0.1:1/image:1").await;
    assert_refused(refused, &[Code::Unavailable], &["127.0.0.1"]);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_cannot_be_are_refused_and_leave_nothing() -> Result<()> {
    let node = Node::start().await?;
    let good = pod::sandbox(&node, "bad");
    assert_refused(
        node.run_pod_with(&good, "no-such-handler").await,
        &[Code::InvalidArgument, Code::NotFound],
        &["no-such-handler"],
    );
    let change = |f: &dyn Fn(&mut cri::PodSandboxConfig)| {
        let mut config = good.clone();
        f(&mut config);
        config
    };
    let invalid = &[Code::InvalidArgument];
    let cases: Vec<(&str, cri::PodSandboxConfig)> = vec![
        ("metadata", change(&|c| c.metadata = None)),
        (
            "name",
            change(&|c| c.metadata.as_mut().unwrap().name.clear()),
        ),
        (
            "hostname",
            change(&|c| c.hostname = "no_such/host name".into()),
        ),
        ("hostname", change(&|c| c.hostname = "x".repeat(300))),
        ("log", change(&|c| c.log_directory = "relative/path".into())),
        (
            "cgroup",
            change(&|c| {
                c.linux.as_mut().unwrap().cgroup_parent = "/../../escape".into();
            }),
        ),
        (
            "sysctl",
            change(&|c| {
                let sysctls = &mut c.linux.as_mut().unwrap().sysctls;
                sysctls.insert("kernel.core_pattern".into(), "|/bin/evil".into());
            }),
        ),
        (
            "sysctl",
            change(&|c| {
                let sysctls = &mut c.linux.as_mut().unwrap().sysctls;
                sysctls.insert("net/../kernel.core_pattern".into(), "|/bin/evil".into());
            }),
        ),
        (
            "run_as_group",
            change(&|c| {
                let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                context.run_as_group = Some(cri::Int64Value { value: 5 });
            }),
        ),
    ];
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    for (word, config) in cases {
        assert_refused(node.run_pod(&config).await, invalid, &[word]);
    }
    assert_eq!(
        std::fs::read_to_string("/proc/sys/kernel/core_pattern")?,
        core_pattern
    );
    assert!(node.list_pods().await?.is_empty());
    // Nothing holds the name.
    node.run_pod(&good).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_cannot_be_are_refused_and_leave_nothing() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let config = pod::sandbox(node, "bad");
    let pod = node.run_pod(&config).await?;
    let before = node.traces()?;
    let good = shell.container("main", OBEYS);
    let change = |f: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut container = good.clone();
        f(&mut container);
        container
    };
    let resources =
        |r: cri::LinuxContainerResources| change(&|c| pod::linux(c).resources = Some(r.clone()));
    let user =
        |f: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| change(&|c| f(pod::security(c)));
    let invalid = &[Code::InvalidArgument, Code::FailedPrecondition][..];
    let missing = &[Code::NotFound, Code::InvalidArgument][..];
    let cases: Vec<(&str, &[Code], cri::ContainerConfig)> = vec![
        ("metadata", invalid, change(&|c| c.metadata = None)),
        ("image", invalid, change(&|c| c.image = None)),
        (
            "no-such-image",
            missing,
            change(&|c| {
                c.image = Some(cri::ImageSpec {
                    image: "no-such-image:1".into(),
                    ..Default::default()
                });
            }),
        ),
        (
            "log",
            invalid,
            change(&|c| c.log_path = "../../../../etc/cron.d/x".into()),
        ),
        (
            "memory",
            invalid,
            resources(cri::LinuxContainerResources {
                memory_limit_in_bytes: -5,
                ..Default::default()
            }),
        ),
        (
            "memory",
            invalid,
            resources(cri::LinuxContainerResources {
                memory_limit_in_bytes: 4096,
                ..Default::default()
            }),
        ),
        (
            "cpu",
            invalid,
            resources(cri::LinuxContainerResources {
                cpu_period: 5,
                cpu_quota: 5,
                ..Default::default()
            }),
        ),
        (
            "cpuset",
            invalid,
            resources(cri::LinuxContainerResources {
                cpuset_cpus: "0-".into(),
                ..Default::default()
            }),
        ),
        (
            "capabilit",
            invalid,
            user(&|s| {
                s.capabilities = Some(cri::Capability {
                    add_capabilities: vec!["NO_SUCH_CAPABILITY".into()],
                    ..Default::default()
                });
            }),
        ),
        (
            "run_as_group",
            invalid,
            user(&|s| {
                s.run_as_group = Some(cri::Int64Value { value: 5 });
            }),
        ),
        (
            "nobody-of-that-name",
            missing,
            user(&|s| {
                s.run_as_username = "nobody-of-that-name".into();
            }),
        ),
        ("privileged", invalid, user(&|s| s.privileged = true)),
        (
            "seccomp",
            invalid,
            user(&|s| {
                s.seccomp = Some(cri::SecurityProfile {
                    profile_type: cri::security_profile::ProfileType::Localhost.into(),
                    localhost_ref: "/no/such/profile.json".into(),
                });
            }),
        ),
        (
            "/no/such/volume",
            missing,
            change(&|c| {
                c.mounts = vec![cri::Mount {
                    container_path: "/volume".into(),
                    host_path: "/no/such/volume".into(),
                    ..Default::default()
                }];
            }),
        ),
        (
            "env",
            invalid,
            change(&|c| {
                c.envs = vec![cri::KeyValue {
                    key: "A=B".into(),
                    value: b"x".to_vec(),
                }];
            }),
        ),
        ("nul", invalid, change(&|c| c.command = vec!["sh\0".into()])),
    ];
    for (word, codes, container) in cases {
        let outcome = node.create(&pod, &container, &config).await;
        assert_refused(outcome, codes, &[word]);
    }
    assert_refused(
        node.create(&"cd".repeat(32), &good, &config).await,
        &[Code::NotFound],
        &["cdcd"],
    );
    assert!(node.list_containers().await?.is_empty());
    let mut left = node.traces()?;
    left.retain(|found| !before.contains(found));
    assert!(left.is_empty(), "half-made: {left:?}");
    // Nothing holds the name.
    node.create(&pod, &good, &config).await?;
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_use_is_refused_and_says_by_whom() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("taken", OBEYS).await?;
    let mut other = pod.config.clone();
    other.hostname = "another".into();
    let refused = node.run_pod(&other).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(status.message().contains(&pod.id[..12]), "{status:?}");
    let different = shell.container("main", "exit 1");
    let status = node
        .create(&pod.id, &different, &pod.config)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");
    assert!(
        status.message().contains(&pod.container[..12]),
        "{status:?}"
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_started_once_and_never_again() -> Result<()> {
    let shell = Shell::start().await?;
    let node = &shell.node;
    let pod = shell.pod("start", OBEYS).await?;
    // The same request again: its first answer could have been lost.
    node.start_container(&pod.container).await?;
    assert_refused(
        node.start_container(&"ef".repeat(32)).await,
        &[Code::NotFound],
        &["efef"],
    );
    assert_refused(
        node.start_container("").await,
        &[Code::InvalidArgument, Code::NotFound],
        &["id"],
    );
    node.stop_container(&pod.container, 5).await?;
    assert_refused(
        node.start_container(&pod.container).await,
        &[Code::FailedPrecondition],
        &["exited"],
    );
    shell.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_configuration_is_told_whole_with_line_numbers() -> Result<()> {
    let mut node = Node::prepare("no_such_key = 1\n\n[image]\nmax_image_bytes = \"many\"\n")?;
    node.spawn(&[])?;
    let status = node.died(std::time::Duration::from_secs(10)).await?;
    assert!(!status.success());
    let log = node.log()?;
    assert!(
        log.contains("no_such_key") && log.contains("max_image_bytes"),
        "{log}"
    );
    assert!(log.contains('1') && log.contains('4'), "{log}");
    assert!(!log.contains("panicked"), "{log}");

    node.configure("this is not toml")?;
    node.spawn(&[])?;
    assert!(
        !node
            .died(std::time::Duration::from_secs(10))
            .await?
            .success()
    );
    assert!(node.log()?.contains("config.toml"));

    node.configure("")?;
    node.launch(&[]).await?;
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_yet_says_so() -> Result<()> {
    let node = Node::start().await?;
    let mut runtime = node.runtime()?;
    let checkpoint = cri::CheckpointContainerRequest::default();
    let refused = runtime.checkpoint_container(checkpoint).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    node.finish().await
}
