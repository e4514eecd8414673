//! Reading one `hosts.toml`.

use std::{collections::BTreeMap, io::Read as _, ops::Range, path::Path};

use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    Transport,
    entry::{self, Entry},
};
use crate::registry::RegistryError;

/// Far more than any list of mirrors needs.
const FILE_MAX: u64 = 256 << 10;
/// Each may cost a pull its connection time.
const HOSTS_MAX: usize = 32;

/// The keys that a host may have.
const KEYS: &str =
    "capabilities, ca, client, skip_verify, header, override_path, dial_timeout, server, host";

/// What a directory says about a registry.
#[derive(Debug, Default)]
pub(super) struct HostsFile {
    pub(super) server: Entry,
    pub(super) hosts: Vec<Entry>,
}

/// Reads the file at `path`; none if there is none.
///
/// # Errors
/// [`RegistryError::Hosts`].
pub(super) fn read(path: &Path) -> Result<Option<HostsFile>, RegistryError> {
    let whole = |why: String| RegistryError::Hosts {
        place: path.display().to_string(),
        why,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(whole(error.to_string())),
    };
    let mut text = String::new();
    file.take(FILE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| whole(error.to_string()))?;
    if text.len() as u64 > FILE_MAX {
        return Err(whole(format!("has more than {FILE_MAX} bytes")));
    }
    let parsed = parse(&text, path.parent().unwrap_or(Path::new("/")));
    parsed.map(Some).map_err(|mistake| RegistryError::Hosts {
        place: match mistake.at {
            Some(at) => format!("{}:{}", path.display(), line(&text, &at)),
            None => path.display().to_string(),
        },
        why: mistake.why,
    })
}

#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) at: Option<Range<usize>>,
    pub(super) why: String,
}

/// Counted from 1.
fn line(text: &str, at: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..at.start).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Reads `text`, whose relative paths are below `directory`.
pub(super) fn parse(text: &str, directory: &Path) -> Result<HostsFile, Mistake> {
    let table = DeTable::parse(text).map_err(|error| Mistake {
        at: error.span(),
        why: error.message().to_owned(),
    })?;
    let mut root = Keys(table.into_inner());
    let mut server = Entry::default();
    if let Some((text, at)) = root.take::<String>("server")? {
        server.url = Some(checked("server", entry::url(&text), &at)?);
    }
    let hosts = root.0.remove("host");
    root.fill(&mut server, directory)?;
    let mut named = Vec::new();
    if let Some(hosts) = hosts {
        let at = hosts.span();
        let DeValue::Table(hosts) = hosts.into_inner() else {
            return Err(Mistake {
                at: Some(at),
                why: "host: expected sections `[host.\"https://HOST\"]`".to_owned(),
            });
        };
        // As they stand in the file, which is the order in which they are asked.
        let mut hosts: Vec<_> = hosts.into_iter().collect();
        hosts.sort_by_key(|(name, _)| name.span().start);
        if let Some((name, _)) = hosts.get(HOSTS_MAX) {
            return Err(Mistake {
                at: Some(name.span()),
                why: format!("more than {HOSTS_MAX} hosts"),
            });
        }
        for (name, value) in hosts {
            let at = name.span();
            let url = checked("host", entry::url(name.get_ref()), &at)?;
            let DeValue::Table(table) = value.into_inner() else {
                return Err(Mistake {
                    at: Some(at),
                    why: format!("host.{:?}: expected a section", name.get_ref()),
                });
            };
            let mut host = Entry {
                url: Some(url),
                ..Entry::default()
            };
            Keys(table).fill(&mut host, directory)?;
            named.push(host);
        }
    }
    Ok(HostsFile {
        server,
        hosts: named,
    })
}

fn checked<T>(key: &str, value: Result<T, String>, at: &Range<usize>) -> Result<T, Mistake> {
    value.map_err(|why| Mistake {
        at: Some(at.clone()),
        why: format!("{key}: {why}"),
    })
}

/// A section of which keys are taken one by one.
struct Keys<'i>(DeTable<'i>);

impl<'i> Keys<'i> {
    fn take<T: DeserializeOwned>(
        &mut self,
        key: &str,
    ) -> Result<Option<(T, Range<usize>)>, Mistake> {
        let Some(value): Option<Spanned<DeValue<'i>>> = self.0.remove(key) else {
            return Ok(None);
        };
        let at = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(value) => Ok(Some((value, at))),
            // The parser's message may repeat the value, and that of `header` is a secret.
            Err(_) => Err(Mistake {
                at: Some(at),
                why: format!("{key}: {}", wanted(key)),
            }),
        }
    }

    /// Takes the keys of a host; any other is a mistake.
    fn fill(mut self, host: &mut Entry, directory: &Path) -> Result<(), Mistake> {
        if let Some((names, at)) = self.take("capabilities")? {
            host.capabilities = checked("capabilities", entry::capabilities(names), &at)?;
        }
        let mut transport = Transport::default();
        if let Some((skip, _)) = self.take("skip_verify")? {
            transport.skip_verify = skip;
        }
        if let Some((files, at)) = self.take("ca")? {
            transport.ca = checked("ca", entry::authorities(directory, files), &at)?;
        }
        if let Some((files, at)) = self.take("client")? {
            transport.client = checked("client", entry::clients(directory, files), &at)?;
        }
        if let Some((text, at)) = self.take("dial_timeout")? {
            transport.dial = checked("dial_timeout", entry::duration(text), &at)?;
        }
        host.transport = transport;
        if let Some((headers, at)) = self.take::<BTreeMap<_, _>>("header")? {
            host.headers = checked("header", entry::headers(headers), &at)?;
        }
        if let Some((literally, _)) = self.take("override_path")? {
            host.override_path = literally;
        }
        match self.0.keys().min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => Err(Mistake {
                at: Some(key.span()),
                why: format!("{}: unknown key; known are {KEYS}", key.get_ref()),
            }),
        }
    }
}

fn wanted(key: &str) -> &'static str {
    match key {
        "capabilities" => "expected a list such as [\"pull\", \"resolve\"]",
        "skip_verify" | "override_path" => "expected true or false",
        "ca" => "expected a file or a list of files",
        "client" => "expected a file, a list of files, or a list of pairs [CERTIFICATE, KEY]",
        "header" => "expected a section of texts or lists of texts",
        "dial_timeout" => "expected a time such as \"3s\"",
        _ => "expected a text",
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::registry::hosts::{Capabilities, ClientPair};

    fn read(text: &str) -> HostsFile {
        parse(text, Path::new("/d")).unwrap()
    }

    #[test]
    fn every_key_is_read_and_hosts_keep_their_order() {
        let file = read(
            r#"
server = "https://registry.example/base"
ca = "server.crt"

[host."https://z.example:5000"]
  capabilities = ["Pull", "resolve"]
  ca = ["a.pem", "/abs/b.pem"]
  client = [["c.cert", "c.key"], ["whole.pem", ""], "other.pem"]
  skip_verify = true
  dial_timeout = "2s"
  override_path = true
  [host."https://z.example:5000".header]
    x-one = "1"
    x-two = ["2", "3"]

[host."a.example"]
  client = "whole.pem"

[host."http://127.0.0.1:5000/mirror"]
"#,
        );
        assert_eq!(file.server.transport.ca, [PathBuf::from("/d/server.crt")]);
        let urls: Vec<_> = file.hosts.iter().map(|h| h.url.clone().unwrap()).collect();
        let urls: Vec<_> = urls.iter().map(|url| url.as_str()).collect();
        let expect = [
            "https://z.example:5000/",
            "https://a.example/",
            "http://127.0.0.1:5000/mirror",
        ];
        assert_eq!(urls, expect);
        let first = &file.hosts[0];
        let no_push = Capabilities {
            push: false,
            ..Capabilities::ALL
        };
        assert_eq!(first.capabilities, Some(no_push));
        let ca = ["/d/a.pem", "/abs/b.pem"].map(PathBuf::from);
        assert_eq!(first.transport.ca, ca);
        let pair = |certificate: &str, key: Option<&str>| ClientPair {
            certificate: certificate.into(),
            key: key.map(Into::into),
        };
        let expect = [
            pair("/d/c.cert", Some("/d/c.key")),
            pair("/d/whole.pem", None),
            pair("/d/other.pem", None),
        ];
        assert_eq!(first.transport.client, expect);
        assert!(first.transport.skip_verify && first.override_path);
        assert_eq!(first.transport.dial, Some(Duration::from_secs(2)));
        assert_eq!(first.headers.get_all("x-two").iter().count(), 2);
        assert_eq!(file.hosts[1].transport.client, [expect[1].clone()]);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_without_secrets() {
        for (text, at, word) in [
            ("server = \n", 1, ""),
            ("\nserver = \"ftp://x\"", 2, "http"),
            ("\n\nmirror = 1", 3, "mirror: unknown key"),
            (
                "[host.\"https://a\"]\nskip_verify = \"yes\"",
                2,
                "true or false",
            ),
            (
                "[host.\"https://a\"]\ncapabilities = [\"fly\"]",
                2,
                "\"fly\"",
            ),
            ("[host.\"https://a\"]\nca = 1", 2, "a file"),
            (
                "[host.\"https://a\"]\nclient = [[\"a\",\"b\",\"c\"]]",
                2,
                "pairs",
            ),
            ("[host.\"https://a\"]\ndial_timeout = \"3\"", 2, "3s"),
            ("[host.\"https://u:secret@a\"]", 1, "header"),
            (
                "[host.\"https://a\".header]\nx = \"secret\\u0000\"",
                1,
                "header",
            ),
            (
                "[host.\"https://a\".header]\nx = {a = \"secret\"}",
                1,
                "texts",
            ),
            ("host = 3", 1, "sections"),
        ] {
            let mistake = parse(text, Path::new("/d")).unwrap_err();
            assert!(mistake.why.contains(word), "{text}: {mistake:?}");
            assert!(!mistake.why.contains("secret"), "{mistake:?}");
            assert_eq!(line(text, &mistake.at.unwrap()), at, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\\PC\n]{0,200}") {
            drop(parse(&text, Path::new("/d")));
        }

        #[test]
        fn no_near_text_panics(text in "(server|\\[host\\.\"a\"\\]|ca|client|header|=|\"|\\[|\\]|\n|1|true|\\.|,| ){0,40}") {
            drop(parse(&text, Path::new("/d")));
        }
    }
}
