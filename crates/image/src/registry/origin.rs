//! Which hosts are spoken to how, and what counts as the same host.

use std::{net::IpAddr, path::PathBuf};

use reqwest::Url;

use super::{Patience, Proxies};

/// Tells the names and values of headers.
pub type TraceHeaders = fn() -> Vec<(String, String)>;

/// How registries are reached.
///
/// Hosts are `HOST` or `HOST:PORT` as they stand in references. Without an
/// entry, hosts on the loopback address are spoken to in plain HTTP and all
/// others over TLS; there is never a fallback from one to the other.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    /// Hosts that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// Hosts on the loopback address that speak TLS.
    pub tls: Vec<String>,
    /// Files of additional certificate authorities, PEM.
    pub extra_ca: Vec<PathBuf>,
    /// Directories with a directory and `hosts.toml` for each registry; the first that
    /// has something for a registry decides. They need not exist.
    pub hosts_dirs: Vec<PathBuf>,
    /// What requests go through.
    pub proxies: Proxies,
    /// How long they may take.
    pub patience: Patience,
    /// Headers that say whose trace a request belongs to, asked for each request.
    pub trace: Option<TraceHeaders>,
}

impl Registries {
    /// `http` or `https` for the host of a reference.
    pub(crate) fn scheme(&self, host: &str) -> &'static str {
        let listed = |list: &[String]| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            list.iter().any(|entry| entry == host || entry == name)
        };
        if listed(&self.tls) {
            return "https";
        }
        let loopback = Url::parse(&format!("http://{host}/")).is_ok_and(|url| is_loopback(&url));
        if loopback || listed(&self.plain_http) {
            return "http";
        }
        "https"
    }
}

/// Whether a URL's host is this machine by name or address.
pub(super) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Scheme, host and port are equal.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// The hosts are equal, and so is whether they speak TLS; the ports need not be.
pub(super) fn same_host(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && a.host_str().is_some() && a.host_str() == b.host_str()
}

/// Whether `realm` may see the credentials of `registry`: the same origin, or,
/// over TLS, a host of the registry's own domain (registry-1.docker.io and
/// auth.docker.io, registry.gitlab.com and gitlab.com).
pub(super) fn may_see_credentials(registry: &Url, realm: &Url) -> bool {
    if same_origin(registry, realm) {
        return true;
    }
    if realm.scheme() != "https" || registry.scheme() != "https" {
        return false;
    }
    let (Some(registry), Some(realm)) = (registry.host_str(), realm.host_str()) else {
        return false;
    };
    let is_name = |host: &str| host.parse::<IpAddr>().is_err() && !host.starts_with('[');
    if !is_name(registry) || !is_name(realm) {
        return false;
    }
    if registry == realm {
        return true;
    }
    let Some((_, parent)) = registry.split_once('.') else {
        return false;
    };
    let domain = if is_public_suffix(parent) {
        registry
    } else {
        parent
    };
    realm == domain
        || realm
            .strip_suffix(domain)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// A cautious guess: one label, or a country's second level such as co.uk or com.au.
fn is_public_suffix(domain: &str) -> bool {
    match domain.split_once('.') {
        None => true,
        Some((second, top)) => {
            top.len() == 2 && second.len() <= 3 && !top.contains('.') && top != "io"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn plain_http_is_for_the_loopback_and_for_listed_hosts_alone() {
        let registries = Registries {
            plain_http: vec!["lab.example:5000".into()],
            tls: vec!["localhost:5443".into()],
            ..Registries::default()
        };
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "lab.example:5000",
        ] {
            assert_eq!(registries.scheme(host), "http", "{host}");
        }
        for host in [
            "localhost:5443",
            "lab.example",
            "lab.example:5001",
            "10.0.0.1:5000",
            "localhost.evil.example",
        ] {
            assert_eq!(registries.scheme(host), "https", "{host}");
        }
    }

    #[test]
    fn credentials_go_to_the_registrys_own_domain_over_tls_alone() {
        let yes = [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
            ),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("https://quay.io", "https://quay.io/v2/auth"),
            ("https://quay.io", "https://auth.quay.io/token"),
            ("http://localhost:5000", "http://localhost:5000/token"),
        ];
        let no = [
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
            ),
            ("https://registry-1.docker.io", "https://evil.example/token"),
            (
                "https://registry-1.docker.io",
                "https://evildocker.io/token",
            ),
            ("https://shop.co.uk", "https://evil.co.uk/token"),
            ("https://quay.io", "https://evil.io/token"),
            ("http://localhost:5000", "https://evil.example/token"),
            ("http://localhost:5000", "http://localhost:5001/token"),
            ("https://10.0.0.1", "https://11.0.0.1/token"),
        ];
        for (registry, realm) in yes {
            assert!(
                may_see_credentials(&url(registry), &url(realm)),
                "{registry} {realm}"
            );
        }
        for (registry, realm) in no {
            assert!(
                !may_see_credentials(&url(registry), &url(realm)),
                "{registry} {realm}"
            );
        }
    }
}
