//! Which registry a name belongs to, and under which keys credential files
//! have it.

/// The registry that a name without one means.
const HUB: &str = "docker.io";
/// The key under which everybody keeps the credentials of [`HUB`]: the address
/// of its index in the first version of the protocol.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names of [`HUB`] that are found in references and files.
const HUB_ALIASES: [&str; 3] = [
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
];

/// A registry: `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registry(String);

impl Registry {
    /// That of an image reference as people write it, and the repository in it.
    pub(crate) fn of_image(reference: &str) -> (Self, String) {
        let name = reference.split('@').next().unwrap_or(reference);
        // As the agent reads references: a first part that can be no part of a
        // repository's name is a host.
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest))
                if first.eq_ignore_ascii_case("localhost") || first.contains(['.', ':', '[']) =>
            {
                (Self::named(first), rest)
            }
            _ => (Self::named(HUB), name),
        };
        let repository = match rest.rsplit_once(':') {
            Some((repository, _tag)) => repository,
            None => rest,
        };
        let library = registry.0 == HUB && !repository.contains('/');
        let repository = match library {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        (registry, repository)
    }

    /// That of `login SERVER`, where people also write addresses; `None` if it is no registry.
    pub(crate) fn of_server(server: &str) -> Option<Self> {
        let key = Key::parse(server);
        let is_host = key.host == "localhost" || key.host.contains(['.', ':', '[']);
        let well_formed = is_host
            && key.path.is_empty()
            && key
                .host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte));
        well_formed.then_some(Self(key.host))
    }

    fn named(host: &str) -> Self {
        let host = host.to_ascii_lowercase();
        match HUB_ALIASES.contains(&host.as_str()) {
            true => Self(HUB.to_owned()),
            false => Self(host),
        }
    }

    /// As it stands in references.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// The key to write credentials under, and to ask helpers for.
    pub(crate) fn key(&self) -> &str {
        match self.0.as_str() {
            HUB => HUB_KEY,
            host => host,
        }
    }

    /// How well a key of a credential file fits a repository of this registry:
    /// the length of the path that it names. `None` if it is for something else.
    pub(crate) fn fit(&self, key: &str, repository: &str) -> Option<usize> {
        let key = Key::parse(key);
        if key.host != self.0 {
            return None;
        }
        let within = key.path.is_empty()
            || repository
                .strip_prefix(&key.path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        within.then_some(key.path.len())
    }
}

/// A key of a credential file: a host, perhaps with a path that narrows it.
struct Key {
    host: String,
    path: String,
}

impl Key {
    fn parse(key: &str) -> Self {
        let bare = key
            .strip_prefix("https://")
            .or_else(|| key.strip_prefix("http://"));
        let (host, path) = match bare.unwrap_or(key).split_once('/') {
            Some((host, path)) => (host, path.trim_matches('/')),
            None => (bare.unwrap_or(key), ""),
        };
        // An address names the registry's interface and no repository.
        let interface = bare.is_some() || matches!(path, "v1" | "v2");
        Self {
            host: Registry::named(host).0,
            path: if interface {
                String::new()
            } else {
                path.to_owned()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_its_registry_and_repository() {
        for (reference, registry, repository) in [
            ("busybox", "docker.io", "library/busybox"),
            ("me/app:1", "docker.io", "me/app"),
            ("index.docker.io/me/app", "docker.io", "me/app"),
            ("localhost/app:1", "localhost", "app"),
            ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000", "a/b"),
            ("[::1]:5000/a@sha256:00", "[::1]:5000", "a"),
            ("Reg.Example/a:1@sha256:00", "reg.example", "a"),
        ] {
            let (found, name) = Registry::of_image(reference);
            assert_eq!(
                (found.name(), name.as_str()),
                (registry, repository),
                "{reference}"
            );
        }
    }

    #[test]
    fn a_key_fits_its_own_registry_alone() {
        let (hub, repository) = Registry::of_image("me/app");
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io/v1/",
            "docker.io/me",
        ] {
            assert!(hub.fit(key, &repository).is_some(), "{key}");
        }
        for key in [
            "docker.io.evil.example",
            "docker.io/mean",
            "docker.io:443",
            "",
            "https://",
        ] {
            assert!(hub.fit(key, &repository).is_none(), "{key}");
        }
        let (own, repository) = Registry::of_image("reg.example:5000/team/app/web:1");
        assert_eq!(
            own.fit("https://reg.example:5000/v2/", &repository),
            Some(0)
        );
        assert!(
            own.fit("reg.example:5000/team", &repository)
                < own.fit("reg.example:5000/team/app", &repository)
        );
        assert_eq!(own.fit("reg.example", &repository), None);
    }

    #[test]
    fn a_server_may_be_written_as_an_address_but_not_as_a_repository() {
        let name = |server: &str| Registry::of_server(server).map(|r| r.name().to_owned());
        assert_eq!(name("https://reg.example/").as_deref(), Some("reg.example"));
        assert_eq!(
            name("https://index.docker.io/v1/").as_deref(),
            Some("docker.io")
        );
        assert_eq!(
            name("reg.example:5000").as_deref(),
            Some("reg.example:5000")
        );
        for bad in ["reg.example/team", "", "a b", "reg.example\n", "team"] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }
}
