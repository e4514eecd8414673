//! Registries over TLS: who is believed, and who is not.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use berth_image::{Auth, Error, Kind, Registries, Store};
use ground::{
    Scratch, pull,
    registry::{Answer, Registry},
    request,
    tls::Authority,
};

const OWN: &str = "IP:127.0.0.1";

struct Bench {
    scratch: Scratch,
    store: Store,
    authority: Authority,
    clients: Authority,
}

impl Bench {
    fn new() -> Self {
        let scratch = Scratch::new();
        let registries = Registries {
            hosts_dirs: vec![scratch.path().join("hosts.d")],
            ..Registries::default()
        };
        Self {
            store: scratch.store_with(ground::settings(registries)),
            authority: Authority::new(&scratch.path().join("ca")),
            clients: Authority::new(&scratch.path().join("clients")),
            scratch,
        }
    }

    async fn registry(&self, names: &str, clients: bool) -> Registry {
        let clients = clients.then_some(&self.clients);
        let registry = Registry::start_tls(self.authority.server(names, clients)).await;
        let layer = ground::large_layer("f", 1000, 5);
        registry.image("a/b", "1", &ground::image::Image::new(&[layer]));
        registry
    }

    /// The directory of the registry, with `text` as its `hosts.toml`.
    fn hosts(&self, registry: &Registry, text: &str) -> std::path::PathBuf {
        let directory = self.scratch.path().join("hosts.d").join(registry.host());
        std::fs::create_dir_all(&directory).unwrap();
        let server = format!("server = \"https://{}\"\n{text}", registry.host());
        std::fs::write(directory.join("hosts.toml"), server).unwrap();
        directory
    }

    async fn pull(&self, registry: &Registry) -> Result<(), Error> {
        let mut request = request(&registry.reference("a/b:1"));
        request.auth = Some(Auth {
            username: Some("user".into()),
            password: Some("secret".into()),
            ..Auth::default()
        });
        pull(&self.store, request).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_verified_is_told_nothing() {
    let bench = Bench::new();
    for (case, names, text) in [
        ("an authority that is not known", OWN, String::new()),
        (
            "another name",
            "DNS:else.test",
            format!("ca = {:?}", bench.authority.certificate()),
        ),
        (
            "another authority",
            OWN,
            format!("ca = {:?}", bench.clients.certificate()),
        ),
    ] {
        let registry = bench.registry(names, false).await;
        bench.hosts(&registry, &text);
        let error = bench.pull(&registry).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Configuration, "{case}: {error}");
        assert!(error.to_string().contains("not trusted"), "{case}: {error}");
        assert!(
            error.to_string().contains(&registry.host()),
            "{case}: {error}"
        );
        assert!(registry.seen().is_empty(), "{case}");
    }
    // Plain HTTP where TLS was expected is no reason to do without it.
    let plain = Registry::start().await;
    bench.hosts(&plain, "");
    let error = bench.pull(&plain).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(plain.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_a_client_certificate_and_no_verification_are_as_the_file_says() {
    let bench = Bench::new();
    let (certificate, key) = bench.clients.sign("node", "DNS:node");
    let both = [&certificate, &key].map(|file| std::fs::read(file).unwrap());
    let ca = bench.authority.certificate();
    let stranger = bench.authority.sign("stranger", "DNS:stranger");

    let registry = bench.registry(OWN, false).await;
    bench.hosts(&registry, &format!("ca = [{ca:?}]"));
    bench.pull(&registry).await.unwrap();
    bench.hosts(&registry, "skip_verify = true");
    bench.pull(&registry).await.unwrap();

    let registry = bench.registry("DNS:else.test", false).await;
    bench.hosts(&registry, "skip_verify = true");
    bench.pull(&registry).await.unwrap();

    let wanting = bench.registry(OWN, true).await;
    bench.hosts(&wanting, &format!("ca = {ca:?}"));
    assert_eq!(
        bench.pull(&wanting).await.unwrap_err().kind(),
        Kind::Unavailable
    );
    for text in [
        format!("client = [[{certificate:?}, {key:?}]]"),
        "client = \"both.pem\"".to_owned(),
        "client = [[\"both.pem\", \"\"]]".to_owned(),
        // The one that the server can check is taken.
        format!(
            "client = [[{:?}, {:?}], \"both.pem\"]",
            stranger.0, stranger.1
        ),
    ] {
        let directory = bench.hosts(&wanting, &format!("ca = {ca:?}\n{text}"));
        std::fs::write(directory.join("both.pem"), both.concat()).unwrap();
        bench
            .pull(&wanting)
            .await
            .unwrap_or_else(|error| panic!("{text}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_certificates_is_used_as_docker_does() {
    let bench = Bench::new();
    let registry = bench.registry(OWN, true).await;
    let directory = bench.hosts(&registry, "");
    std::fs::remove_file(directory.join("hosts.toml")).unwrap();
    let (certificate, key) = bench.clients.sign("node", "DNS:node");
    for (from, to) in [
        (bench.authority.certificate(), "ca.crt"),
        (certificate, "node.cert"),
        (key, "node.key"),
    ] {
        std::fs::copy(from, directory.join(to)).unwrap();
    }
    // On the loopback address TLS must be asked for, which such a directory cannot.
    let registries = Registries {
        tls: vec![registry.host()],
        hosts_dirs: vec![bench.scratch.path().join("hosts.d")],
        ..Registries::default()
    };
    let other = Scratch::new();
    let store = other.store_with(ground::settings(registries));
    pull(&store, request(&registry.reference("a/b:1")))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renewed_or_missing_is_noticed_at_the_next_pull() {
    let bench = Bench::new();
    let registry = bench.registry(OWN, false).await;
    let directory = bench.hosts(&registry, "ca = \"mine.crt\"");
    let error = bench.pull(&registry).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Configuration);
    assert!(error.to_string().contains("mine.crt"), "{error}");
    let mine = directory.join("mine.crt");
    std::fs::copy(bench.clients.certificate(), &mine).unwrap();
    let error = bench.pull(&registry).await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error}");
    std::fs::copy(bench.authority.certificate(), &mine).unwrap();
    bench.pull(&registry).await.unwrap();
    std::fs::write(&mine, "no certificate").unwrap();
    let error = bench.pull(&registry).await.unwrap_err();
    assert!(
        error.to_string().contains("no certificate in it"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_is_trusted_with_its_redirects_are_not() {
    let bench = Bench::new();
    let (registry, other) = (
        bench.registry(OWN, false).await,
        bench.registry(OWN, false).await,
    );
    let there = other.host();
    // The same address and another port: certificates are for hosts, secrets for origins.
    registry.rule(move |seen, _| {
        let place = format!("https://{there}{}", seen.path);
        let blob = seen.path.contains("/blobs/");
        blob.then(|| Answer::status(307).header("location", &place))
    });
    bench.hosts(
        &registry,
        "skip_verify = true\n[header]\nx-team = \"secret\"",
    );
    bench.pull(&registry).await.unwrap();
    assert!(!other.seen().is_empty());
    for seen in other.seen() {
        assert_eq!(seen.header("x-team"), None, "{seen:?}");
    }
    for seen in registry.seen() {
        assert_eq!(seen.header("x-team"), Some("secret"), "{seen:?}");
    }
    // Another host, by the name that it has in this namespace.
    let port = other.address.port();
    registry.clear_rules();
    registry.rule(move |seen, _| {
        let place = format!("https://localhost:{port}{}", seen.path);
        let blob = seen.path.contains("/blobs/");
        blob.then(|| Answer::status(307).header("location", &place))
    });
    let fresh = Scratch::new();
    let registries = Registries {
        hosts_dirs: vec![bench.scratch.path().join("hosts.d")],
        ..Registries::default()
    };
    let store = fresh.store_with(ground::settings(registries));
    let before = other.seen().len();
    let error = pull(&store, request(&registry.reference("a/b:1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Configuration, "{error}");
    assert_eq!(other.seen().len(), before);
    let plain = registry.host();
    registry.clear_rules();
    registry.rule(move |seen, _| {
        let place = format!("http://{plain}{}", seen.path);
        Some(Answer::status(307).header("location", &place))
    });
    let error = pull(&store, request(&registry.reference("a/b:1")))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("plain HTTP"), "{error}");
}
