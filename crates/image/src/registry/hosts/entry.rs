//! One host as a file describes it.

use std::{collections::BTreeMap, path::Path, str::FromStr as _, time::Duration};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;

use super::{Capabilities, ClientPair, Host, Transport};

/// Longer times are no patience but a mistake in the unit.
const DIAL_MAX: Duration = Duration::from_secs(600);

/// The keys of a host, before anything is filled in.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// None for the registry's usual place.
    pub(super) url: Option<Url>,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) transport: Transport,
    pub(super) headers: HeaderMap,
    pub(super) override_path: bool,
}

impl Entry {
    /// The host for `registry`, whose usual place is `own`.
    pub(super) fn into_host(self, own: &Url, registry: &str, mirror: bool) -> Host {
        let mut base = self.url.unwrap_or_else(|| own.clone());
        // The registry of that name answers elsewhere, and files name it so.
        if base.host_str() == Some("docker.io") && registry == "docker.io" {
            base = own.clone();
        }
        let mut path = base.path().trim_end_matches('/').to_owned();
        if !self.override_path && !path.ends_with("/v2") {
            path.push_str("/v2");
        }
        path.push('/');
        base.set_path(&path);
        let elsewhere = base.authority() != own.authority();
        Host {
            // A push goes to a mirror only if the file says so.
            capabilities: self.capabilities.unwrap_or(Capabilities {
                push: !mirror,
                ..Capabilities::ALL
            }),
            transport: self.transport,
            headers: self.headers,
            mirror,
            namespace: elsewhere.then(|| registry.to_owned()),
            base,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Clients {
    One(String),
    Many(Vec<Client>),
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Client {
    Whole(String),
    Pair(Vec<String>),
}

/// `https://HOST[:PORT][/PATH]`, or the same without the scheme.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let wrong =
        |why: &str| format!("{text:?} {why}; allowed: https://HOST[:PORT][/PATH], or http://");
    let full = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let url = Url::parse(&full).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is not http or https"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong("has no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // The text is a secret now, so it is not repeated.
        return Err("credentials do not belong into a URL; use `header`".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment"));
    }
    Ok(url)
}

pub(super) fn capabilities(names: Vec<String>) -> Result<Option<Capabilities>, String> {
    if names.is_empty() {
        return Ok(None);
    }
    let mut set = Capabilities::NONE;
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => set.pull = true,
            "resolve" => set.resolve = true,
            "push" => set.push = true,
            // Known to containerd; nothing here asks for referrers.
            "referrers" => {}
            _ => {
                return Err(format!(
                    "{name:?}; allowed: \"pull\", \"resolve\", \"push\""
                ));
            }
        }
    }
    Ok(Some(set))
}

pub(super) fn authorities(
    directory: &Path,
    files: OneOrMany,
) -> Result<Vec<std::path::PathBuf>, String> {
    let files = files.into_vec();
    let known = |name: &String| match name.is_empty() {
        true => Err("a file has no name".to_owned()),
        false => Ok(directory.join(name)),
    };
    files.iter().map(known).collect()
}

pub(super) fn clients(directory: &Path, clients: Clients) -> Result<Vec<ClientPair>, String> {
    let wrong = || {
        "allowed: a PEM file with certificate and key, or a list of those and of pairs \
         [CERTIFICATE, KEY]"
            .to_owned()
    };
    let pair = |certificate: &str, key: &str| match certificate.is_empty() {
        true => Err(wrong()),
        false => Ok(ClientPair {
            certificate: directory.join(certificate),
            key: (!key.is_empty()).then(|| directory.join(key)),
        }),
    };
    let list = match clients {
        Clients::One(one) => vec![Client::Whole(one)],
        Clients::Many(many) => many,
    };
    let one = |client: &Client| match client {
        Client::Whole(file) => pair(file, ""),
        Client::Pair(files) => match files.as_slice() {
            [certificate] => pair(certificate, ""),
            [certificate, key] => pair(certificate, key),
            _ => Err(wrong()),
        },
    };
    list.iter().map(one).collect()
}

pub(super) fn headers(given: BTreeMap<String, OneOrMany>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in given {
        let parsed = HeaderName::from_str(&name)
            .map_err(|_invalid| format!("{name:?} is not a header's name"))?;
        for value in values.into_vec() {
            // Values are often tokens: never repeated, and sensitive for every log.
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_invalid| format!("the value of {name:?} cannot stand in a header"))?;
            value.set_sensitive(true);
            headers.append(parsed.clone(), value);
        }
    }
    Ok(headers)
}

/// A duration as Go writes it: `300ms`, `3s`, `1m30s`.
pub(super) fn duration(text: String) -> Result<Option<Duration>, String> {
    let wrong = || format!("{text:?}; allowed: a time such as \"500ms\", \"3s\" or \"1m30s\"");
    let mut total = 0.0_f64;
    let mut rest = text.as_str();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_not_a_number| wrong())?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    let time = Duration::try_from_secs_f64(total).map_err(|_too_long| wrong())?;
    match time {
        // None, as everywhere where Go reads a time-out.
        Duration::ZERO => Ok(None),
        time if time <= DIAL_MAX => Ok(Some(time)),
        _ => Err(format!(
            "{text:?}; allowed: at most {} s",
            DIAL_MAX.as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_path_ends_in_v2_unless_it_is_to_be_taken_as_it_is() {
        let own = Url::parse("https://registry-1.docker.io/v2/").unwrap();
        for (text, literally, expect) in [
            ("https://m.example", false, "https://m.example/v2/"),
            ("https://m.example/", false, "https://m.example/v2/"),
            ("m.example:1/a", false, "https://m.example:1/a/v2/"),
            ("http://m.example/v2/a", true, "http://m.example/v2/a/"),
            ("http://m.example/v2", false, "http://m.example/v2/"),
            ("https://docker.io", false, own.as_str()),
        ] {
            let entry = Entry {
                url: Some(url(text).unwrap()),
                override_path: literally,
                ..Entry::default()
            };
            let host = entry.into_host(&own, "docker.io", true);
            assert_eq!(host.base.as_str(), expect, "{text}");
            let elsewhere = expect != own.as_str();
            assert_eq!(host.namespace.is_some(), elsewhere, "{text}");
            assert!(!host.capabilities.push);
        }
    }

    #[test]
    fn times_are_read_as_go_reads_them() {
        let read = |text: &str| duration(text.to_owned());
        assert_eq!(read("300ms").unwrap(), Some(Duration::from_millis(300)));
        assert_eq!(read("1m1.5s").unwrap(), Some(Duration::from_millis(61_500)));
        assert_eq!(read("0s").unwrap(), None);
        for bad in ["", "3", "s", "3 s", "-1s", "11m", "1e3s", "3s4", "..s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
