//! Which file speaks for a registry.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    ClientPair,
    file::{self, HostsFile},
};
use crate::registry::RegistryError;

/// The first directory of `roots` that has something for `registry` decides,
/// its `_default` included.
///
/// # Errors
/// [`RegistryError::Hosts`].
pub(super) fn find(roots: &[PathBuf], registry: &str) -> Result<Option<HostsFile>, RegistryError> {
    for root in roots {
        for name in names(registry) {
            if let Some(found) = directory(&root.join(name))? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// `HOST_PORT_` comes first, as containerd has it: it is for file systems without colons.
fn names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names
}

/// What the directory of one registry says; none if there is no such directory.
fn directory(path: &Path) -> Result<Option<HostsFile>, RegistryError> {
    if let Some(file) = file::read(&path.join("hosts.toml"))? {
        return Ok(Some(file));
    }
    certificates(path).map_err(|error| RegistryError::Hosts {
        place: path.display().to_string(),
        why: error.to_string(),
    })
}

/// A directory without `hosts.toml` holds certificates, as Docker's do: `*.crt` are
/// authorities, `NAME.cert` with `NAME.key` this client's.
fn certificates(path: &Path) -> io::Result<Option<HostsFile>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        files.push(entry?.path());
    }
    files.sort();
    let mut found = HostsFile::default();
    let transport = &mut found.server.transport;
    for file in files {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => transport.ca.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                transport.client.push(ClientPair {
                    certificate: file,
                    key: Some(key),
                });
            }
            _ => {}
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_directory_that_knows_the_registry_decides() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one"), root.path().join("two"));
        let put = |root: &Path, name: &str, mark: &str| {
            let directory = root.join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("hosts.toml"), format!("server = \"{mark}\"")).unwrap();
        };
        put(&one, "a.example:5000", "colon");
        put(&one, "b.example_5000_", "under");
        put(&one, "c.example", "name");
        put(&two, "c.example", "second");
        put(&two, "_default", "default");
        let roots = [one, root.path().join("missing"), two];
        for (registry, expect) in [
            ("a.example:5000", "colon"),
            ("b.example:5000", "under"),
            ("c.example", "name"),
            // Another port is another registry.
            ("c.example:5000", "default"),
            ("a.example", "default"),
        ] {
            let found = find(&roots, registry).unwrap().unwrap();
            let url = found.server.url.unwrap();
            assert_eq!(url.host_str(), Some(expect), "{registry}");
        }
        assert!(find(&roots[..2], "d.example").unwrap().is_none());
    }

    #[test]
    fn a_directory_of_certificates_alone_is_dockers() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("a.example");
        fs::create_dir(&own).unwrap();
        for name in ["ca.crt", "me.cert", "me.key", "README"] {
            fs::write(own.join(name), "").unwrap();
        }
        let found = find(&[root.path().to_owned()], "a.example").unwrap();
        let transport = found.unwrap().server.transport;
        assert_eq!(transport.ca, [own.join("ca.crt")]);
        let pair = ClientPair {
            certificate: own.join("me.cert"),
            key: Some(own.join("me.key")),
        };
        assert_eq!(transport.client, [pair]);
    }
}
