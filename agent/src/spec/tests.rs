//! Requests and images against the specifications that they must become.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::collections::BTreeMap;

use berth_plan::{
    Hierarchy, IoInputs, NamespaceKind, PlanInputs, RootInputs, Slot,
    seccomp::{FilterCache, Machine},
};
use berth_proto::cri::{
    Capability, Device, Int64Value, KeyValue, LinuxContainerConfig, LinuxContainerResources, Mount,
    MountPropagation, NamespaceMode, SecurityProfile, SupplementalGroupsPolicy,
    security_profile::ProfileType,
};
use proptest::prelude::*;

use super::*;

/// A request with its surroundings, changed by each test where it matters.
struct Case {
    config: ContainerConfig,
    context: Option<LinuxContainerSecurityContext>,
    resources: LinuxContainerResources,
    pod: NamespaceOption,
    pod_privileged: bool,
    image: ImageFacts,
    node: NodeFacts<'static>,
    in_image: BTreeMap<&'static str, String>,
    on_node: BTreeMap<&'static str, String>,
}

impl Case {
    fn new() -> Self {
        Self {
            config: ContainerConfig::default(),
            context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxContainerSecurityContext::default()
            }),
            resources: LinuxContainerResources::default(),
            pod: NamespaceOption {
                pid: NamespaceMode::Container.into(),
                ..NamespaceOption::default()
            },
            pod_privileged: false,
            image: ImageFacts {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["of-image".into()],
                ..ImageFacts::default()
            },
            node: NodeFacts {
                cgroup_v2: true,
                apparmor: false,
                selinux: false,
                recursive_read_only: true,
                capabilities: CapSet::all(),
                machine: Some(Machine::X86_64),
                default_pids: Some(1000),
                default_capabilities: default_capabilities(),
                rlimits: &[],
                trace: &[],
            },
            in_image: BTreeMap::new(),
            on_node: BTreeMap::new(),
        }
    }

    /// Changes the security context.
    fn secured(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.context.get_or_insert_default());
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn accounts(mut self, passwd: &str, group: &str) -> Self {
        self.in_image.insert("/etc/passwd", passwd.to_owned());
        self.in_image.insert("/etc/group", group.to_owned());
        self
    }

    fn build(&self) -> Result<Built> {
        let mut config = self.config.clone();
        config.linux = Some(LinuxContainerConfig {
            resources: Some(self.resources.clone()),
            security_context: self.context.clone(),
        });
        let files = PodFiles {
            hosts: "/run/pod/hosts".into(),
            hostname: "/run/pod/hostname".into(),
            resolv_conf: "/run/pod/resolv.conf".into(),
        };
        let find = |files: &BTreeMap<&str, String>, path: &Path| {
            let found = files.get(path.to_str().unwrap_or_default());
            found
                .map(|text| text.clone().into_bytes())
                .ok_or(io::Error::from(io::ErrorKind::NotFound))
        };
        build(&Inputs {
            config: &config,
            users: None,
            target_pid: None,
            pod_namespaces: &self.pod,
            pod_privileged: self.pod_privileged,
            pod_has_uts: true,
            hostname: "web-0",
            files: &files,
            image: &self.image,
            node: self.node,
            volume: &|number| format!("/state/volumes/{number}").into(),
            read_image: &|path| find(&self.in_image, path),
            read_node: &|path| find(&self.on_node, path),
            devices: &|path| {
                let of = |below: &str, minor| HostDevice {
                    below: below.into(),
                    block: false,
                    major: 10,
                    minor,
                    mode: 0o660,
                    uid: 0,
                    gid: 6,
                };
                match path.to_str() {
                    Some("/dev/fuse") => Ok(vec![of("", 229)]),
                    Some("/dev/snd") => Ok(vec![of("a", 1), of("b/c", 2)]),
                    Some("/dev") => Ok(vec![of("fuse", 229), of("pts/0", 0), of("console", 1)]),
                    Some("/dev/none") => Ok(Vec::new()),
                    _ => Err(io::ErrorKind::NotFound.into()),
                }
            },
        })
    }

    fn ok(&self) -> Built {
        self.build().unwrap()
    }

    /// Kind and message of the error.
    fn error(&self) -> (Kind, String) {
        let error = self.build().expect_err("should have been refused");
        (error.kind(), error.to_string())
    }
}

fn process(built: &Built) -> &Process {
    built.spec.process().as_ref().unwrap()
}

fn linux(built: &Built) -> &Linux {
    built.spec.linux().as_ref().unwrap()
}

fn env(built: &Built) -> Vec<String> {
    built.env.iter().map(|pair| text(pair)).collect()
}

fn mount<'a>(built: &'a Built, at: &str) -> &'a oci_spec::runtime::Mount {
    let mounts = built.spec.mounts().as_ref().unwrap();
    mounts
        .iter()
        .find(|mount| mount.destination() == Path::new(at))
        .unwrap_or_else(|| panic!("nothing is mounted at {at}"))
}

fn options(built: &Built, at: &str) -> String {
    mount(built, at).options().as_ref().unwrap().join(",")
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&one| one.to_owned()).collect()
}

fn caps(set: &Option<std::collections::HashSet<oci_spec::runtime::Capability>>) -> CapSet {
    let set = set.iter().flatten();
    set.filter_map(|cap| berth_plan::capability::Cap::parse(&cap.to_string()))
        .collect()
}

#[test]
fn command_and_arguments_replace_the_images_by_cris_rule() {
    let entry_only = strings(&["/e"]);
    for (command, args, expected) in [
        (&[][..], &[][..], Some(vec!["/e", "c"])),
        (&[], &["a"], Some(vec!["/e", "a"])),
        (&["/x"], &["a"], Some(vec!["/x", "a"])),
        // Cmd is dropped together with Entrypoint.
        (&["/x"], &[], Some(vec!["/x"])),
        (&[""], &[], None),
        (&["/x\0"], &[], None),
    ] {
        let case = Case::new().with(|case| {
            case.image.entrypoint.clone_from(&entry_only);
            case.image.cmd = strings(&["c"]);
            case.config.command = strings(command);
            case.config.args = strings(args);
        });
        match expected {
            Some(words) => assert_eq!(*process(&case.ok()).args(), Some(strings(&words))),
            None => assert_eq!(case.error().0, Kind::InvalidArgument),
        }
    }
    let nothing = Case::new().with(|case| case.image = ImageFacts::default());
    assert!(nothing.error().1.contains("no command specified"));
}

#[test]
fn a_container_that_is_to_know_the_trace_may_still_set_its_own() {
    let trace = ["TRACEPARENT=00-a-b-01".to_owned(), "BAGGAGE=x=y".to_owned()];
    let trace: &'static [String] = Box::leak(Box::new(trace));
    let case = Case::new().with(|case| {
        case.node.trace = trace;
        case.config.envs = vec![KeyValue {
            key: "BAGGAGE".to_owned(),
            value: b"mine".to_vec(),
        }];
    });
    let env = env(&case.ok());
    assert!(env.contains(&"TRACEPARENT=00-a-b-01".to_owned()), "{env:?}");
    assert!(env.contains(&"BAGGAGE=mine".to_owned()), "{env:?}");
}

#[test]
fn the_environment_is_ordered_and_the_last_value_wins() {
    let case = Case::new().with(|case| {
        case.config.tty = true;
        case.image.env = strings(&["PATH=/image", "A=1", "EMPTY", "=x", "B=a=b", "N=\0"]);
        let pair = |key: &str, value: &[u8]| KeyValue {
            key: key.to_owned(),
            value: value.to_vec(),
        };
        case.config.envs = vec![pair("A", b"2"), pair("RAW", b"\xff")];
    });
    let built = case.ok();
    assert_eq!(
        env(&built),
        [
            "PATH=/image",
            "TERM=xterm",
            "A=2",
            "EMPTY=",
            "B=a=b",
            "HOSTNAME=web-0",
            "RAW=\u{fffd}"
        ]
    );
    assert_eq!(built.env.last().unwrap(), b"RAW=\xff");
    assert_eq!(built.provenance.of("process.env[A]"), Some(Source::Cri));
    assert_eq!(
        built.provenance.of("process.env[PATH]"),
        Some(Source::Image)
    );
    for key in ["", "A=B", "A\0"] {
        let bad = Case::new().with(|case| {
            case.config.envs = vec![KeyValue {
                key: key.to_owned(),
                value: Vec::new(),
            }];
        });
        assert_eq!(bad.error().0, Kind::InvalidArgument, "{key:?}");
    }
}

#[test]
fn what_only_resembles_a_number_is_no_user_whatever_passwd_says() {
    // An image whose passwd makes every such spelling root.
    let spellings = [
        "+0",
        "-1",
        "0x0",
        " 1",
        "1\n",
        "1 ",
        "4294967296",
        "4294967297",
        "2147483648",
        "18446744073709551616",
        "1:4294967296",
        "1:+0",
        "١",
    ];
    let passwd: String = spellings
        .iter()
        .map(|name| format!("{name}:x:0:0::/:/bin/sh\n"))
        .collect();
    for user in spellings {
        let case = Case::new()
            .accounts(&passwd, "")
            .with(|case| case.image.user = user.to_owned());
        assert_eq!(case.error().0, Kind::InvalidArgument, "{user:?}");
        let case = Case::new()
            .accounts(&passwd, "")
            .secured(|context| context.run_as_username = user.to_owned());
        assert_eq!(case.error().0, Kind::InvalidArgument, "{user:?}");
    }
    for (user, uid) in [
        ("0", 0),
        ("00", 0),
        ("2147483647", i32::MAX.unsigned_abs()),
        ("", 0),
    ] {
        let case = Case::new()
            .accounts("1000:x:0:0::/:\n", "")
            .with(|case| case.image.user = user.to_owned());
        assert_eq!(case.ok().user.uid, uid, "{user}");
    }
    let digits = Case::new()
        .accounts("1000:x:0:0::/:\n", "")
        .with(|case| case.image.user = "1000".to_owned());
    assert_eq!((digits.ok().user.uid, digits.ok().user.gid), (1000, 0));
    for uid in [-1, i64::from(i32::MAX) + 1, i64::MAX, i64::MIN] {
        let case =
            Case::new().secured(|context| context.run_as_user = Some(Int64Value { value: uid }));
        assert_eq!(case.error().0, Kind::InvalidArgument, "{uid}");
    }
}

#[test]
fn users_and_groups_come_from_request_image_and_the_images_files() {
    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nbad line\nweb:x:1000:1001::/:\nweb:x:0:0::/:\n";
    const GROUP: &str = "web:x:1001:\nadm:x:2000:other,web\nlog:x:3000:web\nother:x:4000:webb\nbig:x:9999999999:web\n";
    let user = |value| Some(Int64Value { value });
    let groups = |change: &dyn Fn(&mut LinuxContainerSecurityContext), image: &str| {
        let case = Case::new()
            .accounts(PASSWD, GROUP)
            .secured(|context| change(context))
            .with(|case| case.image.user = image.to_owned());
        let user = case.ok().user;
        (user.uid, user.gid, user.groups)
    };
    assert_eq!(groups(&|_| {}, "web"), (1000, 1001, vec![1001, 2000, 3000]));
    assert_eq!(
        groups(&|_| {}, "1000"),
        (1000, 1001, vec![1001, 2000, 3000])
    );
    assert_eq!(groups(&|_| {}, "web:adm"), (1000, 2000, vec![2000, 3000]));
    assert_eq!(groups(&|_| {}, "web:5"), (1000, 5, vec![5, 2000, 3000]));
    assert_eq!(groups(&|_| {}, "77"), (77, 0, vec![0]));
    // The request's user, not the image's group.
    assert_eq!(
        groups(&|c| c.run_as_user = user(77), "web:adm"),
        (77, 0, vec![0])
    );
    let merged = |context: &mut LinuxContainerSecurityContext| {
        context.run_as_user = user(1000);
        context.run_as_group = user(50);
        context.supplemental_groups = vec![3000, 60, 50];
    };
    assert_eq!(groups(&merged, ""), (1000, 50, vec![50, 2000, 3000, 60]));
    let strict = |context: &mut LinuxContainerSecurityContext| {
        merged(context);
        context.set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
    };
    assert_eq!(groups(&strict, ""), (1000, 50, vec![50, 3000, 60]));
    type Change<'a> = &'a dyn Fn(&mut LinuxContainerSecurityContext);
    let refused: [(Change<'_>, &str); 5] = [
        (&|c| c.run_as_group = user(1), ""),
        (&|c| c.run_as_username = "nobody".to_owned(), ""),
        (&|c| c.supplemental_groups = vec![-1], ""),
        (&|_| {}, "nobody"),
        (&|_| {}, "web:nogroup"),
    ];
    for (change, image) in refused {
        let case = Case::new()
            .accounts(PASSWD, GROUP)
            .secured(|context| change(context))
            .with(|case| case.image.user = image.to_owned());
        assert_eq!(case.error().0, Kind::InvalidArgument, "{image}");
    }
}

#[test]
fn a_huge_passwd_is_refused_and_not_parsed() {
    let case = Case::new()
        .accounts(&"x".repeat(1024 * 1024 + 1), "")
        .with(|case| case.image.user = "web".into());
    assert_eq!(case.error().0, Kind::InvalidArgument);
}

#[test]
fn capabilities_are_all_first_then_added_then_dropped() {
    let sets = |change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        let built = Case::new().secured(|context| change(context)).ok();
        let sets = process(&built).capabilities().clone().unwrap();
        assert_eq!(sets.inheritable(), sets.ambient());
        assert_eq!(sets.effective(), sets.permitted());
        (
            caps(sets.bounding()),
            caps(sets.effective()),
            caps(sets.ambient()),
        )
    };
    let named = |names: &[&str]| -> CapSet {
        names
            .iter()
            .map(|name| berth_plan::capability::Cap::parse(name).unwrap())
            .collect()
    };
    let given = |add: &[&str], drop: &[&str], ambient: &[&str]| {
        Some(Capability {
            add_capabilities: strings(add),
            drop_capabilities: strings(drop),
            add_ambient_capabilities: strings(ambient),
        })
    };
    let none = CapSet::EMPTY;
    let usual = default_capabilities();
    assert_eq!(sets(&|_| {}), (usual, usual, none));
    let only = named(&["NET_ADMIN"]);
    assert_eq!(
        sets(&|c| c.capabilities = given(&["NET_ADMIN"], &["ALL"], &[])),
        (only, only, none)
    );
    let all_but = CapSet::all().without(only);
    assert_eq!(
        sets(&|c| c.capabilities = given(&["all"], &["CAP_NET_ADMIN"], &[])),
        (all_but, all_but, none)
    );
    // Another user than root starts with what is ambient only.
    let user = |c: &mut LinuxContainerSecurityContext| {
        c.run_as_user = Some(Int64Value { value: 1000 });
        c.capabilities = given(&[], &["ALL"], &["NET_ADMIN"]);
    };
    assert_eq!(sets(&user), (only, only, only));
    assert_eq!(
        sets(&|c| c.run_as_user = Some(Int64Value { value: 5 })),
        (usual, none, none)
    );
    for bad in [
        given(&["NOPE"], &[], &[]),
        given(&[], &[""], &[]),
        given(&[], &[], &["ALL"]),
    ] {
        let case = Case::new().secured(|context| context.capabilities = bad.clone());
        assert_eq!(case.error().0, Kind::InvalidArgument, "{bad:?}");
    }
}

#[test]
fn privileged_needs_a_privileged_pod_and_opens_everything() {
    let privileged = || {
        Case::new().secured(|context| {
            context.privileged = true;
            context.masked_paths = strings(&["/proc/kcore"]);
            context.seccomp = Some(SecurityProfile::default());
        })
    };
    assert_eq!(privileged().error().0, Kind::FailedPrecondition);
    let built = privileged().with(|case| case.pod_privileged = true).ok();
    assert_eq!(linux(&built).masked_paths().as_deref(), Some(&[][..]));
    assert!(linux(&built).seccomp().is_none());
    assert!(
        options(&built, "/sys").ends_with("rw")
            && options(&built, "/sys/fs/cgroup").ends_with("rw")
    );
    let nodes: Vec<_> = linux(&built)
        .devices()
        .iter()
        .flatten()
        .map(|d| d.path().clone())
        .collect();
    assert_eq!(nodes, [Path::new("/dev/fuse")]);
    let rules = linux(&built)
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert!(rules[0].allow());
    let bounding = caps(process(&built).capabilities().as_ref().unwrap().bounding());
    assert_eq!(bounding, CapSet::all());
}

#[test]
fn a_profile_is_what_was_asked_for_or_an_error() {
    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let conditional = PROFILE.replace(
        r#""action""#,
        r#""includes":{"caps":["CAP_SYS_ADMIN"]},"action""#,
    );
    let with = |kind: i32, reference: &str| {
        Case::new()
            .secured(|context| {
                context.seccomp = Some(SecurityProfile {
                    profile_type: kind,
                    localhost_ref: reference.to_owned(),
                });
            })
            .with(|case| {
                case.on_node.insert("/p.json", PROFILE.to_owned());
                case.on_node.insert("/bad.json", "{".to_owned());
                case.on_node.insert("/docker.json", conditional.clone());
            })
    };
    let (default, unconfined, localhost) = (
        ProfileType::RuntimeDefault.into(),
        ProfileType::Unconfined.into(),
        ProfileType::Localhost.into(),
    );
    assert!(
        linux(&Case::new().ok()).seccomp().is_none(),
        "nil is unconfined"
    );
    assert!(linux(&with(unconfined, "").ok()).seccomp().is_none());
    assert!(linux(&with(default, "").ok()).seccomp().is_some());
    for reference in ["/p.json", "localhost//p.json"] {
        let built = with(localhost, reference).ok();
        let profile = linux(&built).seccomp().clone().unwrap();
        assert_eq!(profile.syscalls().as_ref().unwrap().len(), 1);
    }
    for (kind, reference) in [
        (localhost, ""),
        (localhost, "p.json"),
        (localhost, "/../p.json"),
        (localhost, "/missing"),
        (localhost, "/bad.json"),
        // Its condition would be lost.
        (localhost, "/docker.json"),
        (default, "/p.json"),
        (unconfined, "/p.json"),
        (7, ""),
    ] {
        let (kind_of, message) = with(kind, reference).error();
        assert_eq!(kind_of, Kind::InvalidArgument, "{reference}: {message}");
    }
    let old = |text: &str| {
        Case::new().secured(|context| {
            #[expect(deprecated, reason = "older callers know only this field")]
            context.seccomp_profile_path.push_str(text);
        })
    };
    assert!(linux(&old("runtime/default").ok()).seccomp().is_some());
    assert_eq!(old("nonsense").error().0, Kind::InvalidArgument);
}

#[test]
fn modules_that_the_node_lacks_are_not_ignored() {
    let apparmor = |kind: ProfileType, name: &str| {
        let profile = SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: name.to_owned(),
        };
        Case::new().secured(|context| context.apparmor = Some(profile))
    };
    apparmor(ProfileType::Unconfined, "").ok();
    assert_eq!(
        apparmor(ProfileType::Localhost, "mine").error().0,
        Kind::FailedPrecondition
    );
    assert_eq!(
        apparmor(ProfileType::RuntimeDefault, "").error().0,
        Kind::FailedPrecondition
    );
    let selinux = Case::new().secured(|context| {
        context.selinux_options.get_or_insert_default().level = "s0:c1".to_owned();
    });
    assert_eq!(selinux.error().0, Kind::FailedPrecondition);
    let there = selinux.with(|case| case.node.selinux = true);
    assert_eq!(there.error().0, Kind::Unimplemented);
}

fn asked(at: &str, host: &str) -> Mount {
    Mount {
        container_path: at.to_owned(),
        host_path: host.to_owned(),
        ..Mount::default()
    }
}

#[test]
fn mounts_of_the_request_take_the_place_of_defaults_and_parents_come_first() {
    let case = Case::new().with(|case| {
        case.config.mounts = vec![
            asked("/data/a/b", "/b"),
            asked("/etc//hosts/", "/kubelet/hosts"),
            asked("/data", "/d"),
            asked("/dev/shm", "/own"),
        ];
        case.image.volumes = strings(&["/data", "/cache", "/cache"]);
    });
    let built = case.ok();
    let places: Vec<_> = built
        .spec
        .mounts()
        .iter()
        .flatten()
        .map(|m| m.destination().clone())
        .collect();
    let place = |at: &str| places.iter().position(|p| p == Path::new(at)).unwrap();
    assert!(place("/data") < place("/data/a/b") && place("/sys") < place("/sys/fs/cgroup"));
    let mut unique = places.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), places.len(), "{places:?}");
    assert_eq!(
        mount(&built, "/etc/hosts").source().as_deref(),
        Some(Path::new("/kubelet/hosts"))
    );
    assert_eq!(
        mount(&built, "/dev/shm").source().as_deref(),
        Some(Path::new("/own"))
    );
    assert_eq!(built.volumes, 1);
    assert_eq!(built.provenance.of("mounts[/cache]"), Some(Source::Image));
}

#[test]
fn access_and_propagation_of_mounts_follow_the_request() {
    let with = |change: &dyn Fn(&mut Mount)| {
        let mut mount = asked("/m", "/host");
        change(&mut mount);
        Case::new().with(|case| case.config.mounts = vec![mount])
    };
    assert_eq!(options(&with(&|_| {}).ok(), "/m"), "rbind,rprivate");
    let listening = with(&|m| {
        m.set_propagation(MountPropagation::PropagationHostToContainer);
        m.readonly = true;
        m.mount_options = strings(&["noexec"]);
    });
    assert_eq!(options(&listening.ok(), "/m"), "rbind,rslave,ro,noexec");
    assert_eq!(
        linux(&listening.ok()).rootfs_propagation().as_deref(),
        Some("rslave")
    );
    let recursive = |m: &mut Mount| {
        m.readonly = true;
        m.recursive_read_only = true;
    };
    assert_eq!(options(&with(&recursive).ok(), "/m"), "rbind,rprivate,rro");
    let lacking = with(&recursive).with(|case| case.node.recursive_read_only = false);
    assert!(lacking.error().1.starts_with("RROUnsupported"));
    for change in [
        (&|m: &mut Mount| m.recursive_read_only = true) as &dyn Fn(&mut Mount),
        &|m| {
            recursive(m);
            m.set_propagation(MountPropagation::PropagationBidirectional);
        },
        &|m| m.mount_options = strings(&["suid"]),
        &|m| m.host_path = "relative".to_owned(),
        &|m| m.host_path = String::new(),
        &|m| m.container_path = "/a/../b".to_owned(),
        &|m| m.container_path = "/".to_owned(),
        &|m| m.container_path = "relative".to_owned(),
    ] {
        assert_eq!(with(change).error().0, Kind::InvalidArgument);
    }
    let image = with(&|m| m.image.get_or_insert_default().image = "x".to_owned());
    assert!(image.error().1.starts_with("ImageVolumeMountFailed"));
}

#[test]
fn nothing_of_ours_is_mounted_into_a_tree_that_the_node_shares() {
    let mut dev = asked("/dev", "/dev");
    dev.set_propagation(MountPropagation::PropagationBidirectional);
    let built = Case::new().with(|case| case.config.mounts = vec![dev]).ok();
    let below: Vec<_> = built
        .spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.destination().starts_with("/dev"))
        .collect();
    assert_eq!(below.len(), 1);
}

#[test]
fn an_images_volumes_cannot_climb_or_hide_the_kernels_files() {
    for volume in [
        "/../../etc",
        "/a/../..",
        "/",
        "relative",
        "",
        "/proc/sys",
        "/sys/kernel",
        "/dev/x",
        "/v\0",
    ] {
        let case = Case::new().with(|case| case.image.volumes = strings(&[volume]));
        assert_eq!(case.error().0, Kind::InvalidArgument, "{volume:?}");
    }
    // There is something already; no empty directory hides it.
    let covered = Case::new().with(|case| case.image.volumes = strings(&["/proc", "/./proc//"]));
    assert_eq!(covered.ok().volumes, 0);
}

#[test]
fn namespaces_follow_pod_and_request() {
    let kinds = |case: Case| {
        let built = case.ok();
        let mut list: Vec<String> = linux(&built)
            .namespaces()
            .iter()
            .flatten()
            .map(|namespace| {
                let path = namespace.path().as_ref();
                format!(
                    "{}{}",
                    namespace.typ(),
                    path.map_or(String::new(), |p| format!("={}", p.display()))
                )
            })
            .collect();
        list.sort();
        list.join(" ")
    };
    assert_eq!(
        kinds(Case::new()),
        "cgroup ipc=/berth/pod/ipc mnt net=/berth/pod/net pid uts=/berth/pod/uts"
    );
    let host = Case::new()
        .secured(|context| {
            context
                .namespace_options
                .get_or_insert_default()
                .set_pid(NamespaceMode::Node)
        })
        .with(|case| {
            case.pod.set_network(NamespaceMode::Node);
            case.pod.set_ipc(NamespaceMode::Node);
        });
    assert_eq!(
        mount(&host.ok(), "/dev/shm").source().as_deref(),
        Some(Path::new("/dev/shm"))
    );
    assert_eq!(kinds(host), "cgroup mnt uts=/berth/pod/uts");
    let pid = |mode| {
        Case::new().secured(move |c| c.namespace_options.get_or_insert_default().set_pid(mode))
    };
    let shared = pid(NamespaceMode::Pod).with(|case| case.pod.set_pid(NamespaceMode::Pod));
    assert!(kinds(shared).contains("pid=/berth/pod/pid"));
    assert_eq!(pid(NamespaceMode::Pod).error().0, Kind::FailedPrecondition);
    assert_eq!(pid(NamespaceMode::Target).error().0, Kind::InvalidArgument);
    let stray =
        Case::new().secured(|c| c.namespace_options.get_or_insert_default().target_id = "x".into());
    assert_eq!(stray.error().0, Kind::InvalidArgument);
}

#[test]
fn devices_are_looked_up_and_only_what_was_granted_is_allowed() {
    let with = |host: &str, inside: &str, permissions: &str| {
        Case::new().with(|case| {
            case.config.devices = vec![Device {
                host_path: host.to_owned(),
                container_path: inside.to_owned(),
                permissions: permissions.to_owned(),
            }];
        })
    };
    let built = with("/dev/snd", "/dev/sound", "rw").ok();
    let nodes: Vec<_> = linux(&built)
        .devices()
        .iter()
        .flatten()
        .map(|d| d.path().clone())
        .collect();
    assert_eq!(
        nodes,
        [Path::new("/dev/sound/a"), Path::new("/dev/sound/b/c")]
    );
    let rules = linux(&built)
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert!(!rules[0].allow(), "everything is denied first");
    assert_eq!(rules[1].access().as_deref(), Some("rw"));
    assert_eq!(
        with("/dev/fuse", "", "rwm")
            .ok()
            .spec
            .linux()
            .as_ref()
            .unwrap()
            .devices()
            .as_ref()
            .unwrap()
            .len(),
        1
    );
    for (host, inside, permissions) in [
        ("/dev/fuse", "", ""),
        ("/dev/fuse", "", "rx"),
        ("/dev/fuse", "/etc/fuse", "r"),
        ("/dev/fuse", "/dev/../fuse", "r"),
        ("/dev/fuse", "/dev", "r"),
        ("fuse", "/dev/fuse", "r"),
        ("/dev/none", "", "r"),
        ("/dev/gone", "", "r"),
    ] {
        assert_eq!(
            with(host, inside, permissions).error().0,
            Kind::InvalidArgument,
            "{host} {inside}"
        );
    }
}

#[test]
fn limits_outside_their_range_are_named() {
    let with = |change: &dyn Fn(&mut LinuxContainerResources)| {
        Case::new().with(|case| change(&mut case.resources))
    };
    let built = with(&|r| {
        r.cpu_quota = -1;
        r.memory_limit_in_bytes = 1 << 30;
        r.oom_score_adj = -998;
        r.unified.insert("memory.oom.group".into(), "1".into());
    })
    .ok();
    assert_eq!(process(&built).oom_score_adj(), Some(-998));
    let resources = linux(&built).resources().clone().unwrap();
    assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(-1));
    assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(1 << 30));
    assert_eq!(resources.pids().unwrap().limit(), 1000);
    assert_eq!(
        built.provenance.of("linux.resources.pids.limit"),
        Some(Source::Handler)
    );
    type Change<'a> = &'a dyn Fn(&mut LinuxContainerResources);
    let refused: [(&str, Change<'_>); 6] = [
        ("cpu_shares", &|r| r.cpu_shares = -1),
        ("cpu_period", &|r| r.cpu_period = i64::MIN),
        ("cpu_quota", &|r| r.cpu_quota = -2),
        ("memory_limit_in_bytes", &|r| {
            r.memory_limit_in_bytes = i64::MIN
        }),
        ("oom_score_adj", &|r| r.oom_score_adj = 1001),
        ("oom_score_adj", &|r| r.oom_score_adj = i64::MAX),
    ];
    for (field, change) in refused {
        let (kind, message) = with(change).error();
        assert_eq!(kind, Kind::InvalidArgument);
        assert!(message.starts_with(field), "{message}");
    }
}

#[test]
fn paths_are_hidden_exactly_as_asked_and_by_default_where_nothing_was_said() {
    let exact = Case::new()
        .secured(|context| context.masked_paths = strings(&["/proc/x"]))
        .ok();
    assert_eq!(*linux(&exact).masked_paths(), Some(strings(&["/proc/x"])));
    assert_eq!(*linux(&exact).readonly_paths(), Some(Vec::new()));
    let silent = Case::new().with(|case| {
        case.context = None;
        case.pod.set_pid(NamespaceMode::Pod);
    });
    let masked = linux(&silent.ok()).masked_paths().clone().unwrap();
    assert!(masked.contains(&"/proc/kcore".to_owned()));
    let bad = Case::new().secured(|context| context.readonly_paths = strings(&["/proc/../x"]));
    assert_eq!(bad.error().0, Kind::InvalidArgument);
}

#[test]
fn a_specification_becomes_a_plan() {
    let case = Case::new()
        .secured(|context| {
            context.seccomp = Some(SecurityProfile::default());
            context.masked_paths = strings(&["/proc/kcore"]);
        })
        .with(|case| {
            case.config.mounts = vec![asked("/m", "/host")];
            case.config.tty = true;
        });
    let built = case.ok();
    let filters = FilterCache::default();
    let output = berth_plan::plan(
        &built.spec,
        &PlanInputs {
            id: "c1",
            root: RootInputs {
                layers: strings(&["images/a"]),
                ..RootInputs::default()
            },
            cgroups: &[Hierarchy {
                controllers: String::new(),
                v2: true,
            }],
            pod_dir: Some(Path::new(POD_DIR)),
            stop_signal: built.stop_signal,
            io: IoInputs {
                log: true,
                ..IoInputs::default()
            },
            env: Some(built.env.clone()),
            kernel_capabilities: CapSet::all(),
            machine: Machine::X86_64,
            filters: &filters,
            is_file: &|path| Ok(path.starts_with("/run/pod")),
        },
    )
    .unwrap();
    for kind in [NamespaceKind::Net, NamespaceKind::Ipc, NamespaceKind::Uts] {
        assert!(output.slots.contains(&Slot::PodNamespace(kind)), "{kind:?}");
    }
    assert!(output.slots.contains(&Slot::PodShm));
    let process = output.plan.process.unwrap();
    assert!(process.terminal && !process.seccomp.is_empty());
    assert_eq!(process.env, built.env);
    let hosts = output
        .plan
        .mounts
        .iter()
        .find(|step| step.destination == "/etc/hosts")
        .unwrap();
    assert!(hosts.file && hosts.bind);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(strings(&[
            "",
            "/",
            "/a",
            "/dev",
            "/proc",
            "/a/..",
            "a:b",
            ":",
            "0",
            "ALL",
            "NET_ADMIN",
            "\0",
            "SIGTERM",
            "+1"
        ])),
        ".{0,8}",
    ]
}

proptest! {
    #[test]
    fn no_request_and_no_image_is_a_panic(
        words in prop::collection::vec(any_text(), 16),
        numbers in prop::collection::vec(any::<i64>(), 8),
        flags in prop::collection::vec(any::<bool>(), 6),
        passwd in ".{0,40}",
    ) {
        let enumerated = |at: usize| i32::try_from(numbers[at].rem_euclid(9) - 2).unwrap();
        let case = Case::new()
            .accounts(&passwd, &passwd)
            .secured(|c| {
                c.run_as_user = flags[0].then_some(Int64Value { value: numbers[0] });
                c.run_as_group = flags[1].then_some(Int64Value { value: numbers[1] });
                c.run_as_username.clone_from(&words[0]);
                c.supplemental_groups = vec![numbers[2]];
                c.supplemental_groups_policy = enumerated(3);
                c.capabilities = Some(Capability {
                    add_capabilities: vec![words[1].clone()],
                    drop_capabilities: vec![words[2].clone()],
                    add_ambient_capabilities: vec![words[3].clone()],
                });
                c.seccomp = Some(SecurityProfile { profile_type: enumerated(4), localhost_ref: words[4].clone() });
                c.privileged = flags[2];
            })
            .with(|case| {
                case.pod_privileged = flags[3];
                case.pod.pid = enumerated(5);
                case.image.user.clone_from(&words[5]);
                case.image.env = vec![words[6].clone()];
                case.image.volumes = vec![words[7].clone()];
                case.image.stop_signal.clone_from(&words[8]);
                case.image.working_dir.clone_from(&words[9]);
                case.config.args = vec![words[10].clone()];
                case.config.stop_signal = enumerated(6);
                case.config.mounts = vec![Mount {
                    container_path: words[11].clone(),
                    host_path: words[12].clone(),
                    propagation: enumerated(7),
                    readonly: flags[4],
                    recursive_read_only: flags[5],
                    ..Mount::default()
                }];
                case.config.devices = vec![Device {
                    container_path: words[13].clone(),
                    host_path: words[14].clone(),
                    permissions: words[15].clone(),
                }];
                case.resources.cpu_shares = numbers[3];
                case.resources.oom_score_adj = numbers[4];
                case.resources.memory_limit_in_bytes = numbers[5];
            });
        match case.build() {
            Ok(built) => prop_assert!(built.user.uid <= i32::MAX.unsigned_abs()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
