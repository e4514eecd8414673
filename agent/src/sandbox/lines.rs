//! The lines of a pod's hosts and resolv.conf.

use std::net::IpAddr;

use berth_proto::cri::DnsConfig;

/// Characters of a refused value that are shown.
const SHOWN: usize = 200;

/// A value that would have been more than itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it holds {0:?}, which has control characters")]
pub(crate) struct Smuggled(String);

/// `/etc/hosts` of a pod; `hostname` has been checked.
pub(crate) fn hosts(hostname: &str, address: Option<IpAddr>) -> String {
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
///
/// # Errors
/// [`Smuggled`].
pub(crate) fn resolv_conf(dns: &DnsConfig) -> Result<String, Smuggled> {
    let given = [&dns.servers, &dns.searches, &dns.options];
    if let Some(bad) = given
        .into_iter()
        .flatten()
        .find(|value| value.chars().any(char::is_control))
    {
        return Err(Smuggled(bad.chars().take(SHOWN).collect()));
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
}
