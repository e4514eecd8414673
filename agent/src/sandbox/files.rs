//! The files that a pod's containers share: hosts, hostname, resolv.conf.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use berth_proto::cri::DnsConfig;

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
        Some(dns) => resolv_conf(dns)?,
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

fn hosts(hostname: &str, address: Option<IpAddr>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\n\
                    ff00::0\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\n\
                    ff02::2\tip6-allrouters\n"
        .to_owned();
    match address {
        Some(address) => text.push_str(&format!("{address}\t{hostname}\n")),
        None => text.push_str(&format!("127.0.1.1\t{hostname}\n")),
    }
    text
}

/// resolv.conf(5), exactly as given. A line break inside a value would smuggle in
/// another line.
fn resolv_conf(dns: &DnsConfig) -> Result<String> {
    let given = [&dns.servers, &dns.searches, &dns.options];
    if let Some(bad) = given
        .into_iter()
        .flatten()
        .find(|value| value.chars().any(char::is_control))
    {
        return Err(Error::invalid(format!(
            "dns_config holds {bad:?}, which has control characters"
        )));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
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
    fn resolv_conf_has_each_value_as_given_and_nothing_else() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.1".into(), "::1".into()],
            searches: vec!["a.b".into(), "c".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns).unwrap(),
            "search a.b c\nnameserver 10.0.0.1\nnameserver ::1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()).unwrap(), "");
        let smuggled = DnsConfig {
            searches: vec!["a\nnameserver 6.6.6.6".into()],
            ..DnsConfig::default()
        };
        assert!(resolv_conf(&smuggled).is_err());
    }

    #[test]
    fn host_names_are_taken_or_made_of_the_pods_name() {
        assert_eq!(hostname("web-0", "x", false).unwrap(), "web-0");
        assert_eq!(hostname("", "my_pod.", false).unwrap(), "my-pod");
        assert_eq!(hostname("", "", false).unwrap(), "pod");
        assert!(hostname("a b", "x", false).is_err());
        assert!(hostname(&"a".repeat(65), "x", false).is_err());
    }
}
