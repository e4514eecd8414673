//! What people and kubelets write: credential files, and what becomes files of pods.

use std::net::IpAddr;

use berth_proto::cri::{AuthConfig, DnsConfig};

use crate::{
    credentials::{Content, Registry},
    lines,
};

/// Images whose credentials a file is asked for.
const IMAGES: [&str; 4] = [
    "busybox",
    "registry.example/team/app:1",
    "registry.example:5000/app",
    "localhost/x@sha256:00",
];

/// A file of any bytes has credentials for a registry or not, and what is found is for that
/// one. What is put into it is found again, and nothing of another registry is lost by it.
pub(crate) fn credentials(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(mut content) = Content::parse(text) else {
        return;
    };
    for image in IMAGES {
        let (registry, repository) = Registry::of_image(image);
        if let Some(found) = content.find(&registry, &repository) {
            assert_eq!(found.server_address, registry.key());
        }
    }
    let before = IMAGES.map(|image| {
        let (registry, repository) = Registry::of_image(image);
        content.find(&registry, &repository)
    });
    let (other, _) = Registry::of_image("fuzz.example/x");
    let auth = AuthConfig {
        username: "me".to_owned(),
        password: "pa55:word".to_owned(),
        ..AuthConfig::default()
    };
    content.put(&other, &auth);
    let written = content.text().unwrap_or_default();
    let Ok(mut again) = Content::parse(&written) else {
        panic!("what was written cannot be read");
    };
    let found = again.find(&other, "").unwrap_or_default();
    assert_eq!(
        (found.username, found.password),
        (auth.username, auth.password)
    );
    assert!(again.remove(&other));
    assert!(
        again
            .find(&other, "")
            .is_none_or(|left| left.username != "me")
    );
    for (image, before) in IMAGES.iter().zip(before) {
        let (registry, repository) = Registry::of_image(image);
        assert_eq!(again.find(&registry, &repository), before);
    }
}

/// However a name server, a search list or an option is written, the file has a line for each
/// kind and server and no other; and a pod's hosts file one line more than every pod's.
pub(crate) fn resolver(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('|').map(|part| {
        let values = part.split(';').filter(|value| !value.is_empty());
        values.map(str::to_owned).collect::<Vec<_>>()
    });
    let mut next = || parts.next().unwrap_or_default();
    let dns = DnsConfig {
        servers: next(),
        searches: next(),
        options: next(),
    };
    if let Ok(file) = lines::resolv_conf(&dns) {
        let kinds = [&dns.searches, &dns.options];
        let expect = dns.servers.len() + kinds.iter().filter(|kind| !kind.is_empty()).count();
        assert_eq!(file.lines().count(), expect, "{file:?}");
        let begins = ["search ", "nameserver ", "options "];
        assert!(
            file.lines()
                .all(|line| begins.iter().any(|word| line.starts_with(word)))
        );
    }
    let address = dns
        .servers
        .first()
        .and_then(|server| server.parse::<IpAddr>().ok());
    let file = lines::hosts("pod-1", address);
    assert_eq!(file.lines().count(), 7);
    assert!(file.ends_with("\tpod-1\n"));
}
