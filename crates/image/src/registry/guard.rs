//! Addresses inside the node's own walls, where no registry may send it.
//!
//! A redirect or the name of a token service is a stranger's word. Followed to
//! the loopback address or a link-local one, it would make the agent ask the
//! node's own services, or a cloud's metadata service, on the stranger's behalf.

use std::{fmt, net::IpAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::origin::{is_loopback, same_host};

/// Where a name or URL leads that must not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner(IpAddr);

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(address) = self;
        write!(
            f,
            "is an address of the node itself or its link ({address}), which is not followed"
        )
    }
}

impl std::error::Error for Inner {}

impl Inner {
    /// Whether `from` must not lead to `to`, and why.
    pub(super) fn forbidden(from: &Url, to: &Url) -> Option<String> {
        if same_host(from, to) || (is_loopback(from) && is_loopback(to)) {
            return None;
        }
        if to.host_str() == Some("localhost") {
            return Some("which is the node itself and is not followed".to_owned());
        }
        let host = to.host_str()?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse().ok()?;
        is_inner(address).then(|| format!("which {}", Self(address)))
    }
}

fn is_inner(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// Resolves names as the node does, without addresses inside its walls.
#[derive(Debug)]
pub(super) struct Guard;

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let all = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refused = None;
            let mut fit = Vec::new();
            for address in all {
                match is_inner(address.ip()) {
                    true => refused = Some(Inner(address.ip())),
                    false => fit.push(address),
                }
            }
            match refused.filter(|_| fit.is_empty()) {
                Some(inner) => Err(inner.into()),
                None => Ok(Box::new(fit.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_registry_leads_to_the_node_or_its_link() {
        let url = |text: &str| Url::parse(text).unwrap();
        let registry = url("https://registry.example");
        for to in [
            "http://169.254.169.254/latest/meta-data",
            "https://127.0.0.1:6443/",
            "https://localhost/",
            "https://[::1]/",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://0.0.0.0/",
            "https://2130706433/",
        ] {
            assert!(Inner::forbidden(&registry, &url(to)).is_some(), "{to}");
        }
        for to in ["https://storage.example/", "https://10.0.0.5:9000/"] {
            assert_eq!(Inner::forbidden(&registry, &url(to)), None, "{to}");
        }
        let own = url("http://127.0.0.1:5000");
        assert_eq!(Inner::forbidden(&own, &url("http://localhost:1/")), None);
        let metadata = url("http://169.254.169.254/");
        assert!(Inner::forbidden(&own, &metadata).is_some());
    }
}
