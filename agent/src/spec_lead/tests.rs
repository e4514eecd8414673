use berth_proto::cri::{
    Capability as Caps, Int64Value, KeyValue, LinuxContainerConfig, Mount as CriMount,
};

use super::*;
use crate::error::Kind;

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n# x\nbroken\n";
const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\n";

fn facts() -> ImageFacts {
    ImageFacts {
        env: vec!["PATH=/bin".into(), "A=1".into()],
        entrypoint: vec!["/init".into()],
        cmd: vec!["run".into()],
        ..ImageFacts::default()
    }
}

fn with(config: ContainerConfig, image: &ImageFacts) -> Result<Built> {
    let files = PodFiles {
        hosts: "/f/hosts".into(),
        hostname: "/f/hostname".into(),
        resolv_conf: "/f/resolv.conf".into(),
    };
    let pod = NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    build(&Inputs {
        config: &config,
        pod_namespaces: &pod,
        pod_privileged: false,
        pod_has_uts: true,
        hostname: "host",
        files: &files,
        image,
        volume: &|n| PathBuf::from(format!("/v/{n}")),
        read: &|path| {
            Ok(match path.to_str() {
                Some("/etc/passwd") => Some(PASSWD.into()),
                Some("/etc/group") => Some(GROUP.into()),
                _ => None,
            })
        },
        cgroup_v2: false,
        default_pids: 0,
        localhost_seccomp: None,
    })
}

fn secured(change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut context = LinuxContainerSecurityContext {
        namespace_options: Some(NamespaceOption {
            pid: NamespaceMode::Container.into(),
            ..NamespaceOption::default()
        }),
        ..LinuxContainerSecurityContext::default()
    };
    change(&mut context);
    ContainerConfig {
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(context),
        }),
        ..ContainerConfig::default()
    }
}

fn plain() -> ContainerConfig {
    secured(|_| {})
}

#[test]
fn command_and_args_replace_what_the_image_says_as_kubernetes_has_it() {
    let args = |command: &[&str], args: &[&str]| {
        let own = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect();
        let config = ContainerConfig {
            command: own(command),
            args: own(args),
            ..plain()
        };
        let built = with(config, &facts()).unwrap();
        built
            .spec
            .process()
            .clone()
            .unwrap()
            .args()
            .clone()
            .unwrap()
    };
    assert_eq!(args(&[], &[]), ["/init", "run"]);
    assert_eq!(args(&[], &["x"]), ["/init", "x"]);
    assert_eq!(args(&["c"], &[]), ["c"]);
    assert_eq!(args(&["c"], &["x"]), ["c", "x"]);
    let error = with(plain(), &ImageFacts::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument);
}

#[test]
fn the_last_variable_wins_and_values_are_bytes() {
    let config = ContainerConfig {
        envs: vec![
            KeyValue {
                key: "A".into(),
                value: b"2".to_vec(),
            },
            KeyValue {
                key: "B".into(),
                value: vec![0xff],
            },
        ],
        ..plain()
    };
    let env = with(config, &facts()).unwrap().env;
    assert_eq!(
        env,
        [
            b"PATH=/bin".to_vec(),
            b"A=2".to_vec(),
            b"HOSTNAME=host".to_vec(),
            b"B=\xff".to_vec()
        ]
    );
}

#[test]
fn users_are_resolved_in_the_images_own_files() {
    let user = |config, image_user: &str| {
        let image = ImageFacts {
            user: image_user.into(),
            ..facts()
        };
        with(config, &image).map(|built| (built.user.uid, built.user.gid, built.user.groups))
    };
    assert_eq!(user(plain(), "").unwrap(), (0, 0, vec![0]));
    assert_eq!(user(plain(), "web").unwrap(), (33, 34, vec![34, 50]));
    assert_eq!(user(plain(), "33:7").unwrap(), (33, 7, vec![7, 50]));
    assert_eq!(user(plain(), "web:www").unwrap(), (33, 34, vec![34, 50]));
    assert_eq!(user(plain(), "1234").unwrap(), (1234, 0, vec![0]));
    for bad in [
        "nobody",
        "web:none",
        "4294967295",
        "99999999999999999999",
        "-1",
    ] {
        assert!(user(plain(), bad).is_err(), "{bad}");
    }
    let by_id = secured(|c| {
        c.run_as_user = Some(Int64Value { value: 33 });
        c.supplemental_groups = vec![9];
        c.set_supplemental_groups_policy(berth_proto::cri::SupplementalGroupsPolicy::Strict);
    });
    assert_eq!(user(by_id, "root").unwrap(), (33, 34, vec![34, 9]));
    let group_only = secured(|c| c.run_as_group = Some(Int64Value { value: 1 }));
    assert!(user(group_only, "").is_err());
}

#[test]
fn capabilities_follow_all_then_add_then_drop() {
    let caps = |add: &[&str], drop: &[&str]| {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let config = secured(|c| {
            c.capabilities = Some(Caps {
                add_capabilities: own(add),
                drop_capabilities: own(drop),
                ..Caps::default()
            });
        });
        with(config, &facts()).map(|built| {
            let process = built.spec.process().clone().unwrap();
            let caps = process.capabilities().clone().unwrap();
            caps.bounding().clone().unwrap().len()
        })
    };
    assert_eq!(caps(&[], &[]).unwrap(), 14);
    assert_eq!(caps(&["SYS_ADMIN"], &[]).unwrap(), 15);
    assert_eq!(caps(&["CAP_NET_ADMIN"], &["ALL"]).unwrap(), 1);
    assert_eq!(caps(&["ALL"], &["CHOWN"]).unwrap(), 40);
    assert!(caps(&["NO_SUCH"], &[]).is_err());
}

#[test]
fn a_user_other_than_root_has_no_active_capabilities() {
    let config = secured(|c| c.run_as_user = Some(Int64Value { value: 33 }));
    let built = with(config, &facts()).unwrap();
    let caps = built
        .spec
        .process()
        .clone()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    assert!(caps.effective().clone().unwrap().is_empty());
    assert!(caps.permitted().clone().unwrap().is_empty());
    assert_eq!(caps.bounding().clone().unwrap().len(), 14);
}

#[test]
fn a_mount_of_the_request_takes_the_place_of_a_default_one() {
    let mount = |host: &str, inside: &str| CriMount {
        host_path: host.into(),
        container_path: inside.into(),
        ..CriMount::default()
    };
    let config = ContainerConfig {
        mounts: vec![
            mount("/x", "/a/b"),
            mount("/h", "/etc/hosts/"),
            mount("/y", "/a"),
        ],
        ..plain()
    };
    let image = ImageFacts {
        volumes: vec!["/data".into(), "/a".into()],
        ..facts()
    };
    let built = with(config, &image).unwrap();
    let mounts = built.spec.mounts().clone().unwrap();
    let at: Vec<_> = mounts
        .iter()
        .map(|m| m.destination().display().to_string())
        .collect();
    let hosts: Vec<_> = mounts
        .iter()
        .filter(|m| m.destination() == Path::new("/etc/hosts"))
        .collect();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].source().clone().unwrap(), Path::new("/h"));
    let place = |path: &str| at.iter().position(|p| p == path).unwrap();
    assert!(place("/a") < place("/a/b"));
    assert_eq!(built.volumes, 1);
    assert!(at.contains(&"/data".to_owned()));
}

#[test]
fn what_cannot_be_is_refused_with_its_name() {
    let mount = |inside: &str| ContainerConfig {
        mounts: vec![CriMount {
            host_path: "/x".into(),
            container_path: inside.into(),
            ..CriMount::default()
        }],
        ..plain()
    };
    for bad in ["", "a", "/", "/a/../b"] {
        assert!(with(mount(bad), &facts()).is_err(), "{bad}");
    }
    let privileged = secured(|c| c.privileged = true);
    assert_eq!(
        with(privileged, &facts()).unwrap_err().kind(),
        Kind::FailedPrecondition
    );
    let cwd = ContainerConfig {
        working_dir: "x".into(),
        ..plain()
    };
    assert!(with(cwd, &facts()).is_err());
}
