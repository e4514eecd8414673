//! Pulls through `hosts.toml`: mirrors in their order, and what becomes of those
//! that do not help.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use std::time::{Duration, Instant};

use berth_image::{Auth, Error, Kind, Registries, Store};
use ground::{
    Scratch, pull,
    registry::{Answer, Registry},
    request,
};

const NAME: &str = "registry.test/some/image:1";

struct Bench {
    scratch: Scratch,
    store: Store,
    image: ground::image::Image,
}

impl Bench {
    fn new() -> Self {
        let scratch = Scratch::new();
        let registries = Registries {
            hosts_dirs: vec![scratch.path().join("hosts.d")],
            // Of whoever asks, which is found by the span.
            trace: Some(|| {
                let name = tracing::Span::current()
                    .metadata()
                    .map_or("none", |m| m.name());
                vec![("traceparent".to_owned(), name.to_owned())]
            }),
            ..Registries::default()
        };
        let store = scratch.store_with(ground::settings(registries));
        let layer = ground::large_layer("file", 200_000, 7);
        Self {
            scratch,
            store,
            image: ground::image::Image::new(&[layer]),
        }
    }

    async fn registry(&self) -> Registry {
        let registry = Registry::start().await;
        registry.image("some/image", "1", &self.image);
        registry
    }

    fn hosts(&self, name: &str, text: &str) {
        let directory = self.scratch.path().join("hosts.d").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    async fn pull(&self) -> Result<(), Error> {
        pull(&self.store, request(NAME)).await.map(drop)
    }
}

/// The error with its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(at) = cause {
        text.push_str(": ");
        text.push_str(&at.to_string());
        cause = at.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_the_order_of_the_file_and_told_for_whom() {
    let bench = Bench::new();
    let (first, second) = (bench.registry().await, bench.registry().await);
    bench.hosts(
        "registry.test",
        &format!(
            "[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
            second.host(),
            first.host()
        ),
    );
    bench.pull().await.unwrap();
    assert!(first.seen().is_empty());
    let seen = second.seen();
    assert_eq!(seen.len(), 3, "{seen:?}");
    for request in seen {
        assert!(request.path.ends_with("?ns=registry.test"), "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_does_not_help_falls_through_to_the_next() {
    type Spoil = fn(&Registry);
    let spoils: [(&str, Spoil); 9] = [
        ("404", |r| r.rule(|_, _| Some(Answer::status(404)))),
        ("500", |r| r.rule(|_, _| Some(Answer::status(500)))),
        ("401", |r| r.rule(|_, _| Some(Answer::status(401)))),
        ("wrong configuration and layer", |r| {
            r.rule(|seen, _| seen.path.contains("/blobs/").then(|| Answer::ok("{}")));
        }),
        ("blobs of noise", |r| {
            r.rule(|seen, _| {
                let blob = seen.path.contains("/blobs/");
                blob.then(|| Answer::ok(ground::noise(500_000, 3)))
            });
        }),
        ("502 once", |r| {
            r.rule(|seen, n| {
                let blob = seen.path.contains("/blobs/") && n == 0;
                blob.then(|| Answer::status(502))
            });
        }),
        ("cut layer", |r| {
            r.rule(|seen, _| {
                (seen.path.contains("/blobs/")).then(|| Answer::ok(vec![0; 100]).cut(50))
            });
        }),
        ("other document", |r| {
            r.rule(|seen, _| {
                let digest = format!("sha256:{}", "0".repeat(64));
                let lie = Answer::ok("{}").header("docker-content-digest", &digest);
                seen.path.contains("/manifests/").then_some(lie)
            });
        }),
        ("huge", |r| {
            r.rule(|seen, _| {
                seen.path
                    .contains("/manifests/")
                    .then(|| Answer::ok(vec![b' '; 5 << 20]))
            });
        }),
    ];
    for (name, spoil) in spoils {
        let bench = Bench::new();
        let (bad, good) = (bench.registry().await, bench.registry().await);
        spoil(&bad);
        bench.hosts(
            "_default",
            &format!(
                "server = \"http://{}\"\n[host.\"http://{}\"]\n",
                good.host(),
                bad.host()
            ),
        );
        bench
            .pull()
            .await
            .unwrap_or_else(|error| panic!("{name}: {}", told(&error)));
        assert!(!bad.seen().is_empty(), "{name}");
        assert!(!good.seen().is_empty(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mirror_costs_a_second_once() {
    let bench = Bench::new();
    let good = bench.registry().await;
    // Documentation addresses (RFC 5737) answer nobody; where the network refuses them
    // at once, this is quicker still.
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://192.0.2.1:5000\"]\n[host.\"http://127.0.0.1:1\"]\n",
            good.host()
        ),
    );
    let began = Instant::now();
    bench.pull().await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(2500), "{took:?}");
    let began = Instant::now();
    pull(&bench.store, request(NAME)).await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(900), "remembered: {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_helps_every_host_is_named() {
    let bench = Bench::new();
    let (mirror, own) = (Registry::start().await, Registry::start().await);
    mirror.rule(|_, _| Some(Answer::status(418)));
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            own.host(),
            mirror.host()
        ),
    );
    let error = bench.pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let text = told(&error);
    for word in [
        &mirror.host(),
        &own.host(),
        "418",
        "registry.test",
        "manifest 1",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    ground::assert_empty(&bench.store);
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_say_who_is_asked_for_what() {
    let bench = Bench::new();
    let (blobs, own) = (bench.registry().await, bench.registry().await);
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n",
            own.host(),
            blobs.host()
        ),
    );
    bench.pull().await.unwrap();
    let paths = |registry: &Registry| -> Vec<bool> {
        let seen = registry.seen();
        seen.iter().map(|s| s.path.contains("/blobs/")).collect()
    };
    assert_eq!(paths(&own), [false], "the tag is resolved by the registry");
    assert_eq!(paths(&blobs), [true, true]);

    let bench = Bench::new();
    bench.hosts("registry.test", "capabilities = [\"push\"]");
    let error = bench.pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Configuration);
    assert!(told(&error).contains("resolve"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_paths_are_sent_as_the_file_says() {
    let bench = Bench::new();
    let mirror = Registry::start().await;
    let image = &bench.image;
    mirror.image("some/image", "1", image);
    let host = mirror.host();
    // Only below this path, which is taken as it is.
    mirror.rule(|seen, _| (!seen.path.starts_with("/v2/cache/")).then(|| Answer::status(404)));
    mirror.image("cache/some/image", "1", image);
    bench.hosts(
        "registry.test",
        &format!(
            "[host.\"http://{host}/v2/cache\"]\noverride_path = true\n\
             [host.\"http://{host}/v2/cache\".header]\nauthorization = \"Basic eDp5\"\nx-a = [\"1\"]\n"
        ),
    );
    bench.pull().await.unwrap();
    for seen in mirror.seen() {
        assert_eq!(seen.headers["authorization"], "Basic eDp5");
        assert_eq!(seen.headers["x-a"], "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_pull_says_whose_trace_it_belongs_to() {
    use tracing::Instrument as _;
    tracing::subscriber::set_global_default(tracing_subscriber::registry()).unwrap();
    let bench = Bench::new();
    let own = bench.registry().await;
    bench.hosts(
        "registry.test",
        &format!("server = \"http://{}\"\n", own.host()),
    );
    bench
        .pull()
        .instrument(tracing::error_span!("caller"))
        .await
        .unwrap();
    let seen = own.seen();
    assert!(
        seen.iter().any(|seen| seen.path.contains("/blobs/")),
        "{seen:?}"
    );
    for seen in seen {
        assert_eq!(seen.headers["traceparent"], "caller", "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_given_no_credentials() {
    let bench = Bench::new();
    let (mirror, own) = (bench.registry().await, bench.registry().await);
    for registry in [&mirror, &own] {
        registry.rule(|seen, _| {
            let refused = !seen.headers.contains_key("authorization");
            refused.then(|| Answer::status(401).header("www-authenticate", "Basic realm=\"x\""))
        });
    }
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            own.host(),
            mirror.host()
        ),
    );
    let mut request = request(NAME);
    request.auth = Some(Auth {
        username: Some("user".into()),
        password: Some("secret".into()),
        ..Auth::default()
    });
    pull(&bench.store, request).await.unwrap();
    assert!(!mirror.seen().is_empty());
    for seen in mirror.seen() {
        assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_breaks_its_own_registry_until_it_is_mended() {
    let bench = Bench::new();
    let good = bench.registry().await;
    bench.hosts("registry.test", "\n[host.\"http://x\"]\nmirror = true\n");
    let error = bench.pull().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Configuration);
    let text = told(&error);
    for word in ["registry.test/hosts.toml:3", "mirror", "unknown key"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let other = good.reference("some/image:1");
    pull(&bench.store, request(&other)).await.unwrap();
    let text = format!("[host.\"http://{}\"]", good.host());
    bench.hosts("registry.test", &text);
    bench.pull().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_its_file_names_as_a_host_too_is_itself() {
    let bench = Bench::new();
    let (own, mirror) = (bench.registry().await, Registry::start().await);
    own.rule(|seen, _| {
        let known = seen.header("authorization").is_some();
        (!known).then(|| Answer::status(401).header("www-authenticate", "Basic realm=\"x\""))
    });
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{0}\"\n[host.\"http://{0}\"]\ncapabilities = [\"pull\"]\n\
             [host.\"http://{1}\"]\n",
            own.host(),
            mirror.host()
        ),
    );
    let mut request = request(NAME);
    request.auth = Some(Auth {
        username: Some("user".into()),
        password: Some("secret".into()),
        ..Auth::default()
    });
    pull(&bench.store, request).await.unwrap();
    for seen in own.seen() {
        assert!(!seen.path.contains("ns="), "{seen:?}");
    }
    assert!(mirror.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_limits_the_rate_is_not_waited_for() {
    let bench = Bench::new();
    let (own, mirror) = (bench.registry().await, Registry::start().await);
    mirror.rule(|_, _| Some(Answer::status(429).header("retry-after", "9")));
    bench.hosts(
        "registry.test",
        &format!(
            "server = \"http://{}\"\n[host.\"http://{}\"]\n",
            own.host(),
            mirror.host()
        ),
    );
    let began = Instant::now();
    bench.pull().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}
