//! Configurations as a kubelet would send them, small.

use berth_proto::cri;

use crate::Node;

/// A pod sandbox called `name`: private network, IPC shared by its containers,
/// a PID namespace for each of them, logs below the node's directory. Its
/// control group is made, as a kubelet would.
///
/// # Panics
/// If the control group cannot be made.
#[must_use]
pub fn sandbox(node: &Node, name: &str) -> cri::PodSandboxConfig {
    let uid = format!("{name}-{}", node.name());
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: uid.clone(),
            namespace: "test".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: node.home().join("logs").join(name).display().to_string(),
        dns_config: Some(cri::DnsConfig {
            servers: vec!["192.0.2.53".into()],
            searches: vec!["test.example".into()],
            options: vec!["ndots:5".into()],
        }),
        labels: [("io.kubernetes.pod.uid".to_owned(), uid)].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: node.pod_group(name).expect("make the pod's control group"),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What Kubernetes asks for unless a pod says otherwise.
#[must_use]
pub fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: cri::NamespaceMode::Pod.into(),
        pid: cri::NamespaceMode::Container.into(),
        ipc: cri::NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

/// The sandbox's namespace options, to be changed.
///
/// # Panics
/// If `config` was not made by [`sandbox`].
pub fn namespace_options(config: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut())
        .and_then(|context| context.namespace_options.as_mut())
        .expect("made by sandbox()")
}

/// A container that runs `sh -c SCRIPT`.
#[must_use]
pub fn shell(name: &str, image: &str, script: &str) -> cri::ContainerConfig {
    program(name, image, &["sh", "-c", script])
}

/// A container that runs `command`.
#[must_use]
pub fn program(name: &str, image: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.into(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        command: command.iter().map(ToString::to_string).collect(),
        log_path: format!("{name}/0.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The container's Linux part, to be changed.
///
/// # Panics
/// If `config` was not made here.
pub fn linux(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerConfig {
    config.linux.as_mut().expect("made by program()")
}

/// The container's security context, to be changed.
///
/// # Panics
/// If `config` was not made here.
pub fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let context = linux(config).security_context.as_mut();
    context.expect("made by program()")
}
