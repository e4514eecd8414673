//! The files that a pod's containers share: hosts, hostname, resolv.conf.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use berth_proto::cri::DnsConfig;

use super::lines::{hosts, resolv_conf};
use crate::error::{Error, Result};

/// The longest that sethostname(2) takes on Linux is 64; RFC 1123 labels have 63.
const LONGEST_HOSTNAME: usize = 63;

/// Writes the files into `dir`, which is made.
///
/// # Errors
/// Internal if that fails; InvalidArgument for names that would write other lines.
pub(super) fn write(
    dir: &Path,
    hostname: &str,
    dns: Option<&DnsConfig>,
    address: Option<IpAddr>,
) -> Result<()> {
    let failed = |error: io::Error| {
        Error::io(
            format!("write the files of the pod in {}", dir.display()),
            error,
        )
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let resolv = match dns {
        Some(dns) => {
            resolv_conf(dns).map_err(|error| Error::invalid("dns_config").with_source(error))?
        }
        None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    for (name, content) in [
        ("hostname", format!("{hostname}\n")),
        ("hosts", hosts(hostname, address)),
        ("resolv.conf", resolv),
    ] {
        let path = dir.join(name);
        fs::write(&path, content).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(failed)?;
    }
    Ok(())
}

/// The pod's host name: as asked for, the node's for the node's network, else
/// made of the pod's name.
///
/// # Errors
/// InvalidArgument for what is no host name.
pub(super) fn hostname(asked: &str, pod_name: &str, host_network: bool) -> Result<String> {
    if host_network && asked.is_empty() {
        let name = nix::unistd::gethostname()
            .map_err(|errno| Error::io("read the node's host name", errno.into()))?;
        return Ok(name.to_string_lossy().into_owned());
    }
    if asked.is_empty() {
        let mut name: String = pod_name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .take(LONGEST_HOSTNAME)
            .collect();
        name = name.trim_matches('-').to_owned();
        return Ok(if name.is_empty() {
            "pod".to_owned()
        } else {
            name
        });
    }
    let valid = asked.len() <= LONGEST_HOSTNAME + 1
        && asked
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if valid {
        Ok(asked.to_owned())
    } else {
        Err(Error::invalid(format!(
            "hostname {asked:?}: expected at most 64 letters, digits, '-', '_' and '.'"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_taken_or_made_of_the_pods_name() {
        assert_eq!(hostname("web-0", "x", false).unwrap(), "web-0");
        assert_eq!(hostname("", "my_pod.", false).unwrap(), "my-pod");
        assert_eq!(hostname("", "", false).unwrap(), "pod");
        assert!(hostname("a b", "x", false).is_err());
        assert!(hostname(&"a".repeat(65), "x", false).is_err());
    }
}
