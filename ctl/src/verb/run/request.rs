//! From the flags of `run` to the request.

use std::{collections::BTreeMap, env, fs::File, io::Read as _, path::PathBuf};

use berth_proto::{berth::v1 as berth, cri};

use super::Args;
use crate::{
    failure::{Failure, Outcome},
    verb::limits,
};

/// Annotation of what `run` makes: such a pod goes with its container.
pub(in crate::verb) const MADE_BY_RUN: &str = "berth.v1/run";
/// The Kubernetes namespace that is told for pods of people.
const NAMESPACE: &str = "default";

/// What the container cannot read of the kernel, as Docker and the kubelet hide it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What the container cannot change of the kernel.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The request, or what is wrong with a flag.
pub(super) fn of(args: &Args) -> Outcome<berth::RunRequest> {
    let name = match &args.name {
        Some(name) => {
            check_name(name)?;
            name.clone()
        }
        None => random_name()?,
    };
    let network = network(&args.network)?;
    let mut words = args.image_and_command.iter().cloned();
    let image = words.next().unwrap_or_default();
    let (command, arguments) = command(args.entrypoint.as_deref(), words.collect())?;
    let labels: BTreeMap<String, String> = args.label.iter().cloned().collect();
    let annotations = BTreeMap::from([(MADE_BY_RUN.to_owned(), name.clone())]);
    let options = cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let seccomp = cri::SecurityProfile::default();

    let hostname = match (&args.hostname, network) {
        (Some(_), cri::NamespaceMode::Node) => {
            return Err(Failure::usage(
                "cannot use --hostname with --network host",
                "on the node's network the host name is the node's",
            ));
        }
        (Some(hostname), _) => hostname.clone(),
        (None, cri::NamespaceMode::Node) => String::new(),
        (None, _) => name.clone(),
    };
    let pod = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.clone(),
            uid: random_hex()?,
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        hostname,
        labels: labels.clone(),
        annotations: annotations.clone(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options.clone()),
                seccomp: Some(seccomp.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut security = cri::LinuxContainerSecurityContext {
        namespace_options: Some(options),
        readonly_rootfs: args.read_only,
        masked_paths: strings(MASKED),
        readonly_paths: strings(READ_ONLY),
        seccomp: Some(seccomp),
        ..Default::default()
    };
    if let Some(user) = &args.user {
        set_user(&mut security, user)?;
    }
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.clone(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: image.clone(),
            user_specified_image: image,
            ..Default::default()
        }),
        command,
        args: arguments,
        working_dir: args.workdir.clone().unwrap_or_default(),
        envs: args
            .env
            .iter()
            .filter_map(|given| variable(given).transpose())
            .collect::<Outcome<_>>()?,
        mounts: args
            .volume
            .iter()
            .map(|given| mount(given))
            .collect::<Outcome<_>>()?,
        labels,
        annotations,
        log_path: format!("{name}.log"),
        stdin: args.flags.interactive,
        // Without a terminal the end of what is piped in is the end of its stdin.
        stdin_once: args.flags.interactive && !args.flags.tty && !args.detach,
        tty: args.flags.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(args)?),
            security_context: Some(security),
        }),
        ..Default::default()
    };
    Ok(berth::RunRequest {
        pod: Some(pod),
        container: Some(container),
        runtime_handler: args.runtime.clone(),
        remove_after_exit: args.rm,
        hold: args.attaches(),
    })
}

fn strings(of: &[&str]) -> Vec<String> {
    of.iter().map(|&text| text.to_owned()).collect()
}

/// What can be the name of a file and, but for its length, of a host.
fn check_name(name: &str) -> Outcome<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(inner)
    {
        return Ok(());
    }
    Err(Failure::usage(
        format!("cannot use the name {name}"),
        "a name has at most 63 letters, digits, _, . and -, and begins with a letter or digit",
    ))
}

fn network(given: &str) -> Outcome<cri::NamespaceMode> {
    match given {
        "bridge" => Ok(cri::NamespaceMode::Pod),
        "host" => Ok(cri::NamespaceMode::Node),
        "none" => Err(Failure::usage(
            "cannot use --network none",
            "not yet: the CRI has no word for a pod without a network",
        )),
        other => Err(Failure::usage(
            format!("cannot use --network {other}"),
            "the networks are bridge and host",
        )),
    }
}

/// The entry point and its arguments as CRI has them: an empty list leaves the
/// image's. An entry point set to nothing makes the first word the command.
fn command(entrypoint: Option<&str>, words: Vec<String>) -> Outcome<(Vec<String>, Vec<String>)> {
    match entrypoint {
        None => Ok((Vec::new(), words)),
        Some("") if words.is_empty() => Err(Failure::usage(
            "cannot run nothing",
            "with an empty --entrypoint the command must follow the image",
        )),
        Some("") => Ok((words, Vec::new())),
        Some(entrypoint) => Ok((vec![entrypoint.to_owned()], words)),
    }
}

/// `NAME=VALUE`, or `NAME` for ours, which is left out if we have none.
fn variable(given: &str) -> Outcome<Option<cri::KeyValue>> {
    let (key, value) = match given.split_once('=') {
        Some((key, value)) => (key, Some(value.as_bytes().to_vec())),
        None => (
            given,
            env::var_os(given).map(std::os::unix::ffi::OsStringExt::into_vec),
        ),
    };
    if key.is_empty() {
        return Err(Failure::usage(
            format!("cannot use -e {given}"),
            "a variable has a name: NAME=VALUE",
        ));
    }
    Ok(value.map(|value| cri::KeyValue {
        key: key.to_owned(),
        value,
    }))
}

fn mount(given: &str) -> Outcome<cri::Mount> {
    let wrong = |why: &str| {
        Failure::usage(format!("cannot use -v {given}"), why)
            .next("-v /on/this/machine:/in/the/container[:ro]")
    };
    let mut parts = given.split(':');
    let (Some(host), Some(container)) = (parts.next(), parts.next()) else {
        return Err(wrong("it needs a path here and a path in the container"));
    };
    let options = parts.next().unwrap_or("");
    if parts.next().is_some() {
        return Err(wrong("it has too many colons"));
    }
    if !container.starts_with('/') {
        return Err(wrong("the path in the container must begin with /"));
    }
    if !host.starts_with('/') && !host.starts_with('.') {
        return Err(wrong(
            "not yet: volumes by name are not built; a path here begins with / or .",
        ));
    }
    let host_path = std::fs::canonicalize(PathBuf::from(host))
        .map_err(|error| wrong(&format!("{host}: {error}")))?;
    let host_path = host_path
        .into_os_string()
        .into_string()
        .map_err(|path| wrong(&format!("{} is not UTF-8", path.display())))?;
    let mut mount = cri::Mount {
        container_path: container.to_owned(),
        host_path,
        ..Default::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.readonly = true,
            "rw" => mount.readonly = false,
            "rro" => {
                mount.readonly = true;
                mount.recursive_read_only = true;
            }
            "rprivate" | "private" => {
                mount.set_propagation(cri::MountPropagation::PropagationPrivate);
            }
            "rslave" | "slave" => {
                mount.set_propagation(cri::MountPropagation::PropagationHostToContainer);
            }
            "rshared" | "shared" => {
                mount.set_propagation(cri::MountPropagation::PropagationBidirectional);
            }
            "z" | "Z" => mount.selinux_relabel = true,
            _ => {
                return Err(wrong(
                    "the options are ro, rw, rro, rprivate, rslave, rshared, z",
                ));
            }
        }
    }
    Ok(mount)
}

/// `USER[:GROUP]`. CRI has users by name and number, and groups by number.
fn set_user(security: &mut cri::LinuxContainerSecurityContext, given: &str) -> Outcome<()> {
    let wrong = |why: &str| Failure::usage(format!("cannot use -u {given}"), why);
    let id = |text: &str| {
        text.parse::<u32>()
            .ok()
            .filter(|&id| id != u32::MAX)
            .map(|id| cri::Int64Value { value: id.into() })
    };
    let (user, group) = match given.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (given, None),
    };
    if user.is_empty() {
        return Err(wrong("the user is missing"));
    }
    if user.bytes().all(|byte| byte.is_ascii_digit()) {
        security.run_as_user = Some(id(user).ok_or_else(|| wrong("there is no such user id"))?);
    } else {
        user.clone_into(&mut security.run_as_username);
    }
    if let Some(group) = group {
        let group = id(group).ok_or_else(|| wrong("the group must be a number"))?;
        security.run_as_group = Some(group);
    }
    Ok(())
}

fn resources(args: &Args) -> Outcome<cri::LinuxContainerResources> {
    let mut resources = cri::LinuxContainerResources::default();
    if let Some(text) = &args.memory {
        resources.memory_limit_in_bytes = limits::memory("-m", text)?;
    }
    if let Some(text) = &args.cpus {
        resources.cpu_period = limits::CPU_PERIOD;
        resources.cpu_quota = limits::cpu_quota(text)?;
    }
    Ok(resources)
}

fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new("cannot read /dev/urandom", error.to_string()))?;
    Ok(bytes)
}

fn random_hex() -> Outcome<String> {
    let bytes: [u8; 16] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A name that people can say: `calm-heron-3f`.
fn random_name() -> Outcome<String> {
    const MOODS: &[&str] = &[
        "brisk", "calm", "dawn", "eager", "fair", "gentle", "keen", "lucky", "mellow", "nimble",
        "quiet", "ready", "silver", "steady", "swift", "warm",
    ];
    const THINGS: &[&str] = &[
        "anchor", "beacon", "buoy", "cutter", "gull", "harbour", "heron", "keel", "lantern",
        "mast", "pier", "pilot", "rudder", "schooner", "tern", "tide",
    ];
    let [mood, thing, a, b] = random()?;
    Ok(format!(
        "{}-{}-{a:02x}{b:02x}",
        MOODS[usize::from(mood) % MOODS.len()],
        THINGS[usize::from(thing) % THINGS.len()],
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn request(flags: &[&str]) -> Outcome<berth::RunRequest> {
        let all = ["berthctl", "run"].iter().chain(flags);
        let Verb::Run(args) = Cli::try_parse_from(all).unwrap().verb else {
            panic!("not run");
        };
        of(&args)
    }

    fn container(flags: &[&str]) -> cri::ContainerConfig {
        request(flags).unwrap().container.unwrap()
    }

    #[test]
    fn limits_are_read_exactly() {
        let config = container(&["-m", "64m", "--cpus", "1.5", "alpine"]);
        let resources = config.linux.unwrap().resources.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 64 << 20);
        assert_eq!(
            (resources.cpu_quota, resources.cpu_period),
            (150_000, 100_000)
        );
    }

    #[test]
    fn the_entry_point_is_replaced_only_by_its_flag() {
        let of = |flags: &[&str]| {
            let config = container(flags);
            (config.command, config.args)
        };
        let words = |text: &[&str]| strings(text);
        assert_eq!(of(&["i", "a", "b"]), (vec![], words(&["a", "b"])));
        assert_eq!(
            of(&["--entrypoint", "sh", "i", "-c", "x"]),
            (words(&["sh"]), words(&["-c", "x"]))
        );
        assert_eq!(of(&["--entrypoint", "", "i", "a"]), (words(&["a"]), vec![]));
        assert!(request(&["--entrypoint", "", "i"]).is_err());
    }

    #[test]
    fn a_volume_is_a_path_that_exists() {
        let config = container(&["-v", "/etc:/x:ro,rslave", "i"]);
        let mount = &config.mounts[0];
        assert_eq!(
            (mount.host_path.as_str(), mount.container_path.as_str()),
            ("/etc", "/x")
        );
        assert!(mount.readonly);
        assert_eq!(
            mount.propagation(),
            cri::MountPropagation::PropagationHostToContainer
        );
        for wrong in [
            "/etc",
            "data:/x",
            "/etc:x",
            "/etc:/x:hot",
            "/etc:/x:ro:ro",
            "/no/such:/x",
        ] {
            assert!(request(&["-v", wrong, "i"]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_and_groups_are_told_apart() {
        let security = |user: &str| {
            request(&["-u", user, "i"]).map(|request| {
                let linux = request.container.unwrap().linux.unwrap();
                linux.security_context.unwrap()
            })
        };
        let both = security("1000:50").unwrap();
        assert_eq!(both.run_as_user.unwrap().value, 1000);
        assert_eq!(both.run_as_group.unwrap().value, 50);
        assert_eq!(security("web").unwrap().run_as_username, "web");
        for wrong in ["", ":5", "web:staff", "4294967295", "99999999999"] {
            assert!(security(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks_and_names_that_cannot_be_are_refused() {
        assert!(request(&["--network", "none", "i"]).is_err());
        assert!(request(&["--network", "host", "--hostname", "x", "i"]).is_err());
        for name in ["../x", "", "a b", "-x", &"x".repeat(64)] {
            assert!(
                request(&[&format!("--name={name}"), "i"]).is_err(),
                "{name}"
            );
        }
        let pod = request(&["--name", "web", "i"]).unwrap().pod.unwrap();
        assert_eq!(pod.hostname, "web");
        let random = request(&["i"]).unwrap().pod.unwrap().metadata.unwrap().name;
        assert!(check_name(&random).is_ok());
    }
}
