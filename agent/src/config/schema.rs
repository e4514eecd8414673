//! Every key: its type, what it may be, and where it goes.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use berth_network::NetworkConfig;
use toml::de::{DeTable, DeValue};

use super::{
    Config, LogFormat, Platform, Reserve, RuntimeHandler,
    reader::{File, Section},
};
use crate::{listen::Endpoint, telemetry::Filter};

/// A sane bound on a directory's path, well below PATH_MAX with all that lies below it.
const MAX_DIRECTORY: usize = 1024;

/// Applies the keys of `table` to `config`; reports what is wrong to `file`.
pub(super) fn apply(table: DeTable<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut root = Section::root(table);
    root.read(file, "root", &mut config.root, directory);
    root.read(file, "run_dir", &mut config.run_dir, directory);
    root.read(file, "listen", &mut config.listen, endpoints);
    cgroup(&mut root, config, file);
    runtime_handlers(&mut root, config, file);
    network(&mut root, config, file);
    image(&mut root, config, file);
    container(&mut root, config, file);
    streaming(&mut root, config, file);
    telemetry(&mut root, config, file);
    limits(&mut root, config, file);
    root.finish(file);
}

fn cgroup(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "cgroup");
    let cgroup = &mut config.cgroup;
    section.read(file, "driver", &mut (), |name: String| {
        match name.as_str() {
            "auto" | "cgroupfs" => Ok(()),
            "systemd" => Err(
                "the systemd driver is not there yet; use \"cgroupfs\", and \
             `cgroupDriver: cgroupfs` in the kubelet's configuration"
                    .to_owned(),
            ),
            other => Err(format!("{other:?}; allowed: \"auto\", \"cgroupfs\"")),
        }
    });
    section.read(file, "parent", &mut cgroup.parent, cgroup_parent);
    section.finish(file);
}

fn cgroup_parent(parent: String) -> Result<String, String> {
    let whole = parent.strip_prefix('/').is_some_and(|rest| {
        rest.split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
    });
    if whole && !parent.contains(|c: char| c.is_control()) {
        Ok(parent)
    } else {
        Err(format!(
            "{parent:?}; allowed: an absolute path below the root of the hierarchy, without `.`, `..` or `//`"
        ))
    }
}

fn runtime_handlers(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    for (name, value) in root.section(file, "runtime_handlers").entries() {
        let span = Some(value.span());
        // RuntimeClass: the handler is a DNS label (RFC 1123).
        let label = name.len() <= 63
            && !name.is_empty()
            && !name.starts_with('-')
            && !name.ends_with('-')
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !label {
            file.report(
                span.clone(),
                format!(
                    "runtime_handlers.{name:?}: allowed: 1 to 63 lower-case letters, digits and inner '-'"
                ),
            );
        }
        match value.into_inner() {
            DeValue::Table(table) => {
                let mut handler = RuntimeHandler::default();
                for (key, value) in table {
                    let path = value.get_ref().as_str().map(PathBuf::from);
                    match (key.get_ref().as_ref(), path) {
                        ("path", Some(path)) if path.is_absolute() => handler.path = Some(path),
                        ("path", _) => file.report(
                            Some(value.span()),
                            format!(
                                "runtime_handlers.{name}.path: allowed: the absolute path of an OCI runtime"
                            ),
                        ),
                        (other, _) => file.report(
                            Some(key.span()),
                            format!("runtime_handlers.{name}.{other}: unknown key; allowed: path"),
                        ),
                    }
                }
                config.runtime_handlers.insert(name, handler);
            }
            other => file.report(
                span,
                format!(
                    "runtime_handlers.{name}: expected `{{}}`, found {}",
                    other.type_str()
                ),
            ),
        }
    }
}

fn network(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "network");
    section.read(file, "mode", &mut (), |name: String| match name.as_str() {
        "builtin" => Ok(()),
        "cni" => Err("CNI plugins are not supported yet; allowed: \"builtin\"".to_owned()),
        other => Err(format!("{other:?}; allowed: \"builtin\"")),
    });
    let net = &mut config.network.builtin;
    section.read(file, "bridge", &mut net.bridge, |bridge: String| {
        check_network(|c| c.bridge.clone_from(&bridge))?;
        Ok(bridge)
    });
    section.read(file, "subnet", &mut net.subnet, |text: String| {
        let subnet = text
            .parse()
            .map_err(|error| format!("{text:?}: {error}; allowed: ADDRESS/PREFIX (IPv4)"))?;
        check_network(|c| c.subnet = subnet)?;
        Ok(subnet)
    });
    section.read(file, "mtu", &mut net.mtu, |mtu: u32| {
        check_network(|c| c.mtu = Some(mtu))?;
        Ok(Some(mtu))
    });
    section.read(file, "masquerade", &mut net.masquerade, Ok);
    section.finish(file);
}

/// The network crate's own rules, applied to one key at a time so that a
/// finding gets that key's line.
fn check_network(change: impl FnOnce(&mut NetworkConfig)) -> Result<(), String> {
    let mut config = NetworkConfig::default();
    change(&mut config);
    config.validate().map_err(|found| {
        let all: Vec<_> = found.iter().map(ToString::to_string).collect();
        all.join("; ")
    })
}

fn image(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "image");
    let image = &mut config.image;
    section.read(
        file,
        "insecure_registries",
        &mut image.insecure_registries,
        hosts,
    );
    section.read(file, "tls_registries", &mut image.tls_registries, hosts);
    section.read(file, "extra_ca", &mut image.extra_ca, absolute);
    section.read(file, "hosts_dirs", &mut image.hosts_dirs, absolute);
    section.read(file, "platform", &mut image.platform, |text: String| {
        let platform: Platform = text.parse().map_err(|()| {
            format!("{text:?}; allowed: OS/ARCHITECTURE[/VARIANT], such as \"linux/arm64\"")
        })?;
        Ok(Some(platform))
    });
    section.read(
        file,
        "max_image_bytes",
        &mut image.max_image_bytes,
        |n: i64| number(n, 1 << 20..=i64::MAX),
    );
    section.read(
        file,
        "push_chunk_bytes",
        &mut image.push_chunk_bytes,
        |n: i64| number(n, 1 << 10..=i64::MAX),
    );
    section.read(
        file,
        "collect_seconds",
        &mut image.collect_seconds,
        |n: i64| number(n, 1..=30 * 24 * 3600),
    );
    section.read(file, "keep_blobs", &mut image.keep_blobs, Ok);
    section.read(
        file,
        "disk_reserve",
        &mut image.disk_reserve,
        |text: String| {
            text.parse::<Reserve>()
                .map_err(|()| format!("{text:?}; allowed: \"N%\" up to 90%, \"NMiB\" or \"NGiB\""))
        },
    );
    section.finish(file);
}

fn absolute(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, String> {
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(format!("{}: the path must be absolute", path.display())),
        None => Ok(paths),
    }
}

fn hosts(given: Vec<String>) -> Result<Vec<String>, String> {
    for host in &given {
        let authority = host.parse::<http::uri::Authority>();
        if !authority.is_ok_and(|a| !a.as_str().contains('@')) {
            return Err(format!(
                "{host:?}; allowed: HOST or HOST:PORT, without scheme and path"
            ));
        }
    }
    Ok(given)
}

fn container(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "container");
    let container = &mut config.container;
    // The kernel's PID_MAX_LIMIT.
    section.read(file, "pids_limit", &mut container.pids_limit, |n: i64| {
        number(n, 0..=4 << 20)
    });
    section.read(
        file,
        "max_log_line",
        &mut container.max_log_line,
        |n: i64| number(n, 512..=1 << 20),
    );
    section.read(file, "shm_bytes", &mut container.shm_bytes, |n: i64| {
        number(n, 4096..=1 << 44)
    });
    section.finish(file);
}

fn streaming(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "streaming");
    let streaming = &mut config.streaming;
    section.read(file, "listen", &mut streaming.listen, |text: String| {
        text.parse()
            .map_err(|error| format!("{text:?}: {error}; allowed: ADDRESS:PORT, port 0 takes any"))
    });
    section.read(
        file,
        "advertise",
        &mut streaming.advertise,
        |host: String| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            if !host.is_empty() && host.chars().all(plain) {
                Ok(Some(host))
            } else {
                Err(format!("{host:?}; allowed: HOST:PORT"))
            }
        },
    );
    section.read(file, "certificate", &mut streaming.certificate, pem_file);
    section.read(file, "key", &mut streaming.key, pem_file);
    if streaming.certificate.is_some() != streaming.key.is_some() {
        let message = "streaming: `certificate` and `key` come together".to_owned();
        file.report(None, message);
    }
    section.finish(file);
}

fn pem_file(path: PathBuf) -> Result<Option<PathBuf>, String> {
    if path.is_absolute() {
        Ok(Some(path))
    } else {
        Err(format!("{}: the path must be absolute", path.display()))
    }
}

fn telemetry(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "telemetry");
    let telemetry = &mut config.telemetry;
    section.read(file, "listen", &mut telemetry.listen, |text: String| {
        if text == "off" {
            return Ok(None);
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|error| format!("{text:?}: {error}; allowed: ADDRESS:PORT, or \"off\""))?;
        Ok(Some(address))
    });
    section.read(
        file,
        "log_format",
        &mut telemetry.log_format,
        |text: String| match text.as_str() {
            "auto" => Ok(LogFormat::Auto),
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            "journald" => Ok(LogFormat::Journald),
            other => Err(format!(
                "{other:?}; allowed: \"auto\", \"text\", \"json\", \"journald\""
            )),
        },
    );
    section.read(file, "log_level", &mut telemetry.log_level, log_level);
    section.read(file, "resource", &mut telemetry.resource, attributes);
    section.read(
        file,
        "trace_containers",
        &mut telemetry.trace_containers,
        |on: bool| Ok(on),
    );
    section.finish(file);
}

/// `key=value` each.
fn attributes(given: Vec<String>) -> Result<Vec<(String, String)>, String> {
    given
        .into_iter()
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("{pair:?}; expected \"key=value\"")),
        })
        .collect()
}

/// Checks a log level, wherever it comes from.
pub(super) fn log_level(text: String) -> Result<String, String> {
    match Filter::check(&text) {
        Ok(()) => Ok(text),
        Err(error) => Err(format!(
            "{text:?}: {error}; allowed: error, warn, info, debug, trace, \
             or directives such as \"info,berth_agent=debug\""
        )),
    }
}

fn limits(root: &mut Section<'_>, config: &mut Config, file: &mut File<'_>) {
    let mut section = root.section(file, "limits");
    let limits = &mut config.limits;
    section.read(
        file,
        "max_message_bytes",
        &mut limits.max_message_bytes,
        |n: i64| number(n, 1 << 20..=1 << 30),
    );
    section.read(
        file,
        "max_concurrent_calls",
        &mut limits.max_concurrent_calls,
        |n: i64| number(n, 16..=1 << 20),
    );
    section.finish(file);
}

/// Checks a directory, wherever it comes from.
pub(super) fn directory(path: PathBuf) -> Result<PathBuf, String> {
    let plain = path
        .components()
        .all(|part| !matches!(part, std::path::Component::ParentDir));
    let sane = path.is_absolute()
        && path != Path::new("/")
        && plain
        && path.as_os_str().len() <= MAX_DIRECTORY;
    if sane {
        Ok(path)
    } else {
        Err(format!(
            "{}: allowed: an absolute path other than `/`, without `..`",
            path.display()
        ))
    }
}

/// Checks endpoints, wherever they come from.
pub(super) fn endpoints(given: Vec<String>) -> Result<Vec<String>, String> {
    for text in &given {
        if let Err(error) = text.parse::<Endpoint>() {
            return Err(error.to_string());
        }
    }
    Ok(given)
}

fn number<T: TryFrom<i64>>(n: i64, allowed: RangeInclusive<i64>) -> Result<T, String> {
    match T::try_from(n) {
        Ok(value) if allowed.contains(&n) => Ok(value),
        _ => Err(format!(
            "{n} is out of range; allowed: {} to {}",
            allowed.start(),
            allowed.end()
        )),
    }
}
