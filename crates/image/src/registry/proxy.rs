//! Proxies on the way to registries, from the environment.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or the same in lower case, mean
//! what they mean to Go programs, since nodes are set up for those: `NO_PROXY`
//! lists hosts with the domains below them, `.domains` alone, addresses, CIDRs,
//! each with a port if it is for that alone, or `*`.

use std::{fmt, net::IpAddr, sync::Arc};

use reqwest::Url;

use super::origin::is_loopback;

/// Which proxy requests go through.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    except: Arc<[Except]>,
}

#[derive(Clone)]
enum Proxy {
    At(Url),
    /// The variable that does not hold a URL.
    Broken(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Except {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    All,
    Net(IpAddr, u8),
    /// The domain and those below it.
    Domain(String),
    /// Those below it alone.
    Below(String),
}

impl Proxies {
    /// What this process was started with.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Self {
        let first = |upper: &str, lower: &str| {
            let given = |name| get(name).filter(|value| !value.trim().is_empty());
            given(upper).or_else(|| given(lower))
        };
        let proxy = |name, text: Option<String>| Some(address(name, text?.trim()));
        let except = first("NO_PROXY", "no_proxy").unwrap_or_default();
        Self {
            https: proxy("HTTPS_PROXY", first("HTTPS_PROXY", "https_proxy")),
            http: proxy("HTTP_PROXY", first("HTTP_PROXY", "http_proxy")),
            except: except
                .split([',', ' '])
                .filter_map(|entry| exception(entry.trim()))
                .collect(),
        }
    }

    /// The proxy for `url`. This machine is never behind one.
    ///
    /// # Errors
    /// The name of the variable that holds no URL.
    pub(super) fn of(&self, url: &Url) -> Result<Option<&Url>, &'static str> {
        let proxy = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        let Some(proxy) = proxy else {
            return Ok(None);
        };
        if is_loopback(url) || self.except.iter().any(|except| except.fits(url)) {
            return Ok(None);
        }
        match proxy {
            Proxy::At(at) => Ok(Some(at)),
            Proxy::Broken(name) => Err(name),
        }
    }

    /// What is in effect, for people: a line for each variable, without passwords.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let one = |name: &str, proxy: &Option<Proxy>| match proxy {
            None => None,
            Some(Proxy::Broken(_)) => Some(format!("{name}: not a URL")),
            Some(Proxy::At(url)) => {
                let host = url.host_str().unwrap_or_default();
                let port = url.port().map_or(String::new(), |port| format!(":{port}"));
                Some(format!("{name}: {}://{host}{port}", url.scheme()))
            }
        };
        let lines = [
            one("HTTPS_PROXY", &self.https),
            one("HTTP_PROXY", &self.http),
        ];
        let mut lines: Vec<String> = lines.into_iter().flatten().collect();
        if !lines.is_empty() && !self.except.is_empty() {
            lines.push(format!("{} exceptions (NO_PROXY)", self.except.len()));
        }
        lines
    }
}

impl fmt::Debug for Proxies {
    // A proxy's URL may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.describe()).finish()
    }
}

fn address(name: &'static str, text: &str) -> Proxy {
    let full = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    match Url::parse(&full) {
        Ok(url)
            if matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h")
                && url.host_str().is_some_and(|host| !host.is_empty()) =>
        {
            Proxy::At(url)
        }
        _ => Proxy::Broken(name),
    }
}

fn exception(entry: &str) -> Option<Except> {
    let entry = entry.to_ascii_lowercase();
    if entry.is_empty() {
        return None;
    }
    if entry == "*" {
        return Some(Except {
            what: What::All,
            port: None,
        });
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        return (bits <= most).then_some(Except {
            what: What::Net(address, bits),
            port: None,
        });
    }
    // `::1` has colons and no port; `[::1]:5000` has one.
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host.to_owned(), Some(port.parse().ok()?))
        }
        _ => (entry, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let what = match bare.parse::<IpAddr>() {
        Ok(address) => What::Net(address, if address.is_ipv4() { 32 } else { 128 }),
        Err(_) => match host.strip_prefix('*').unwrap_or(&host).strip_prefix('.') {
            Some(below) => What::Below(below.to_owned()),
            None => What::Domain(host),
        },
    };
    Some(Except { what, port })
}

impl Except {
    fn fits(&self, url: &Url) -> bool {
        if self.port.is_some() && self.port != url.port_or_known_default() {
            return false;
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let below = |domain: &str| {
            host.strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        match &self.what {
            What::All => true,
            What::Domain(domain) => host == domain || below(domain),
            What::Below(domain) => below(domain),
            What::Net(net, bits) => {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                bare.parse()
                    .is_ok_and(|address| in_net(address, *net, *bits))
            }
        }
    }
}

fn in_net(address: IpAddr, net: IpAddr, bits: u8) -> bool {
    // All are compared as IPv6; an IPv4 net is one of the mapped addresses.
    let wide = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let bits = u32::from(bits) + if net.is_ipv4() { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    (wide(address) ^ wide(net)) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        Proxies::from(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn of(proxies: &Proxies, url: &str) -> Option<String> {
        let url = Url::parse(url).unwrap();
        proxies.of(&url).unwrap().map(ToString::to_string)
    }

    #[test]
    fn each_scheme_has_its_proxy_and_upper_case_wins() {
        let both = proxies(&[
            ("HTTPS_PROXY", "p.example:3128"),
            ("https_proxy", "http://other"),
            ("http_proxy", "http://plain:1"),
        ]);
        let https = of(&both, "https://registry.example/v2/");
        assert_eq!(https.as_deref(), Some("http://p.example:3128/"));
        let http = of(&both, "http://registry.example/v2/");
        assert_eq!(http.as_deref(), Some("http://plain:1/"));
        for own in [
            "http://127.0.0.1:5000",
            "https://localhost",
            "http://[::1]:1",
        ] {
            assert_eq!(of(&both, own), None, "{own}");
        }
        assert_eq!(of(&proxies(&[]), "https://registry.example"), None);
    }

    #[test]
    fn no_proxy_has_hosts_domains_addresses_cidrs_and_ports() {
        let list = "a.example, .b.example,*.c.example 10.0.0.0/8,192.168.1.7,d.example:5000,fd00::/8,[fe80::1]:80,bad/99";
        let some = proxies(&[("HTTPS_PROXY", "http://p"), ("no_proxy", list)]);
        for (host, direct) in [
            ("a.example", true),
            ("x.a.example", true),
            ("A.Example.", true),
            ("xa.example", false),
            ("b.example", false),
            ("x.b.example", true),
            ("c.example", false),
            ("x.y.c.example", true),
            ("10.1.2.3:5000", true),
            ("11.1.2.3", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("d.example:5000", true),
            ("d.example", false),
            ("[fd12::1]", true),
            ("[fe80::1]:80", true),
            ("[fe80::1]", false),
        ] {
            let used = of(&some, &format!("https://{host}/"));
            assert_eq!(used.is_none(), direct, "{host}");
        }
        let none = proxies(&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")]);
        assert_eq!(of(&none, "https://a.example"), None);
    }

    #[test]
    fn a_proxys_password_is_not_shown_and_a_broken_url_is_not_ignored() {
        let secret = proxies(&[("HTTPS_PROXY", "http://user:secret@p:1")]);
        assert_eq!(secret.describe(), ["HTTPS_PROXY: http://p:1"]);
        assert!(!format!("{secret:?}").contains("secret"));
        let broken = proxies(&[("HTTPS_PROXY", "ftp://p")]);
        let url = Url::parse("https://a.example").unwrap();
        assert_eq!(broken.of(&url), Err("HTTPS_PROXY"));
    }
}
