//! What a request and an image say together, up to the plan that a shim gets.

use std::{io, path::Path};

use berth_plan::{
    CapSet, Hierarchy, IoInputs, PlanInputs, RootInputs,
    seccomp::{FilterCache, Machine, compile},
};
use berth_proto::cri::{
    ContainerConfig, LinuxContainerConfig, LinuxContainerSecurityContext, NamespaceMode,
    NamespaceOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use prost::Message as _;

use crate::spec::{self, Built, HostDevice, ImageFacts, Inputs, NodeFacts, PodFiles};

/// The kernel's limit for classic BPF, which is what a filter is.
const INSTRUCTIONS_MAX: usize = 4096;
/// Bytes of one of its instructions.
const INSTRUCTION: usize = 8;

/// USER of the image, its /etc/passwd and its /etc/group, each ended by a NUL: no
/// id is beyond what a signed number holds, and a name is never root by accident.
pub(crate) fn accounts(data: &[u8]) {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let user = String::from_utf8_lossy(part()).into_owned();
    let (passwd, group) = (part(), part());
    let config = ContainerConfig {
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                supplemental_groups_policy: SupplementalGroupsPolicy::Merge.into(),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    let facts = ImageFacts {
        user: user.clone(),
        entrypoint: vec!["/entry".to_owned()],
        ..ImageFacts::default()
    };
    let files: [(&str, &[u8]); 2] = [("/etc/passwd", passwd), ("/etc/group", group)];
    let Ok(built) = build(&config, &facts, &files, &[]) else {
        return;
    };
    let ids = built.user.groups.iter().chain([&built.user.uid]);
    assert!(ids.copied().all(|id| i32::try_from(id).is_ok()));
    assert_eq!(built.user.groups.first(), Some(&built.user.gid));
    let (name, _) = user.split_once(':').unwrap_or((&user, ""));
    if built.user.uid == 0 && !name.is_empty() && !name.bytes().all(|b| b == b'0') {
        let head = format!("{name}:");
        let listed = String::from_utf8_lossy(passwd).into_owned();
        assert!(
            listed.split('\n').any(|line| line.starts_with(&head)),
            "{user:?} became root"
        );
    }
}

/// The configuration of a container as protobuf: planned or refused.
pub(crate) fn request(data: &[u8]) {
    let Ok(config) = ContainerConfig::decode(data) else {
        return;
    };
    let facts = ImageFacts {
        entrypoint: vec!["/entry".to_owned()],
        ..ImageFacts::default()
    };
    let Ok(built) = build(&config, &facts, &[], b"{}") else {
        return;
    };
    plan(built);
}

/// A Localhost profile: a filter that the kernel could take, or refused.
pub(crate) fn seccomp(data: &[u8]) {
    if let Ok(profile) = serde_json::from_slice(data) {
        for machine in [Machine::X86_64, Machine::Aarch64] {
            if let Ok(filter) = compile(&profile, machine) {
                assert_eq!(filter.program.len() % INSTRUCTION, 0);
                assert!(filter.program.len() / INSTRUCTION <= INSTRUCTIONS_MAX);
            }
        }
    }
    let context = LinuxContainerSecurityContext {
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: "/profile.json".to_owned(),
        }),
        ..LinuxContainerSecurityContext::default()
    };
    let config = ContainerConfig {
        command: vec!["/entry".to_owned()],
        linux: Some(LinuxContainerConfig {
            security_context: Some(context),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    if let Ok(built) = build(&config, &ImageFacts::default(), &[], data) {
        plan(built);
    }
}

fn build(
    config: &ContainerConfig,
    image: &ImageFacts,
    in_image: &[(&str, &[u8])],
    profile: &[u8],
) -> Result<Built, spec::SpecError> {
    let of_pod = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    let files = PodFiles {
        hosts: "/run/pod/hosts".into(),
        hostname: "/run/pod/hostname".into(),
        resolv_conf: "/run/pod/resolv.conf".into(),
    };
    spec::build(&Inputs {
        config,
        users: None,
        target_pid: None,
        pod_namespaces: &of_pod,
        pod_privileged: true,
        pod_has_uts: true,
        hostname: "web-0",
        files: &files,
        image,
        node: NodeFacts {
            cgroup_v2: true,
            apparmor: false,
            selinux: false,
            recursive_read_only: true,
            capabilities: CapSet::all(),
            machine: Some(Machine::X86_64),
            default_pids: Some(1000),
            default_capabilities: spec::default_capabilities(),
            rlimits: &[],
            trace: &[],
        },
        volume: &|number| format!("/state/volumes/{number}").into(),
        read_image: &|path| {
            let found = in_image.iter().find(|(name, _)| Path::new(name) == path);
            found
                .map(|(_, bytes)| bytes.to_vec())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        },
        read_node: &|_| Ok(profile.to_vec()),
        devices: &|_| {
            Ok(vec![HostDevice {
                below: "".into(),
                block: false,
                major: 10,
                minor: 229,
                mode: 0o660,
                uid: 0,
                gid: 6,
            }])
        },
    })
}

fn plan(built: Built) {
    let planned = berth_plan::plan(
        &built.spec,
        &PlanInputs {
            id: "fuzz",
            root: RootInputs {
                layers: vec!["layers/a".to_owned()],
                upper: "containers/fuzz/upper".to_owned(),
                work: "containers/fuzz/work".to_owned(),
                volatile: true,
            },
            cgroups: &[Hierarchy {
                controllers: String::new(),
                v2: true,
            }],
            pod_dir: Some(Path::new(spec::POD_DIR)),
            stop_signal: built.stop_signal,
            io: IoInputs::default(),
            env: Some(built.env),
            kernel_capabilities: CapSet::all(),
            machine: Machine::X86_64,
            filters: &FilterCache::default(),
            is_file: &|_| Ok(false),
        },
    );
    if let Ok(planned) = planned {
        // What goes to the shim has as many descriptors as one message can carry, or
        // the sender refuses it; the encoding itself must hold whatever was planned.
        assert!(!planned.plan.encode_to_vec().is_empty());
    }
}
