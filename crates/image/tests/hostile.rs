//! Whatever a registry answers: a bounded time, a precise error, nothing kept.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use std::time::{Duration, Instant};

use berth_image::{Digest, Kind, Store};
use ground::{
    Scratch,
    registry::{Answer, Registry},
};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Pauses between tries come to less than two seconds; the machine may be busy.
const QUICK: Duration = Duration::from_secs(20);

struct Bench {
    _scratch: Scratch,
    store: Store,
    registry: Registry,
    image: ground::image::Image,
}

impl Bench {
    async fn new() -> Self {
        let (scratch, registry) = (Scratch::new(), Registry::start().await);
        let image = ground::image::Image::new(&[ground::large_layer("f", 100_000, 9)]);
        registry.image("a/b", "1", &image);
        Self {
            store: scratch.store(),
            _scratch: scratch,
            registry,
            image,
        }
    }

    /// The pull fails so, and an honest one works afterwards.
    async fn refuses(&self, case: &str, kinds: &[Kind], words: &[&str], requests: usize) {
        let began = Instant::now();
        let request = ground::request(&self.registry.reference("a/b:1"));
        let error = ground::pull(&self.store, request).await.unwrap_err();
        assert!(began.elapsed() < QUICK, "{case}: {:?}", began.elapsed());
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(at) = cause {
            text.push_str(": ");
            text.push_str(&at.to_string());
            cause = at.source();
        }
        assert!(
            kinds.contains(&error.kind()),
            "{case}: {:?} {text}",
            error.kind()
        );
        for word in words {
            assert!(text.contains(word), "{case}: {word} is not in {text}");
        }
        assert!(
            text.len() < 2000,
            "{case}: an error of {} bytes",
            text.len()
        );
        let count = self.registry.seen().len();
        assert!(count <= requests, "{case}: {count} requests");
        for seen in self.registry.seen() {
            assert!(
                seen.path.starts_with("/v2/a/b/") || seen.path.starts_with("/loop"),
                "{case}: {seen:?}"
            );
        }
        assert_nothing(&self.store, case);
        self.registry.clear_rules();
        self.registry.image("a/b", "1", &self.image);
        let request = ground::request(&self.registry.reference("a/b:1"));
        ground::pull(&self.store, request)
            .await
            .unwrap_or_else(|error| panic!("{case}: afterwards: {error}"));
    }
}

/// No image, no layer, nothing in the making. Bytes that may still be right stay for
/// the next try.
fn assert_nothing(store: &Store, case: &str) {
    for directory in ["layers", "ingest", "blobs/sha256", "blobs/sha512"] {
        let names = ground::names(store, directory);
        assert!(names.is_empty(), "{case}: {directory} holds {names:?}");
    }
}

fn host(registry: &Registry) -> String {
    registry.host()
}

/// What is done to every answer whose path has `part` in it.
fn spoil(
    bench: &Bench,
    part: &'static str,
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) {
    bench.registry.rule(move |seen, n| {
        let ours = seen.path.contains(part) || seen.path.contains("/loop");
        ours.then(|| answer(n))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_none_end_with_host_step_and_digest() {
    let layer = |bench: &Bench| Digest::of(&bench.image.layers[0]).to_string();
    type Make = fn() -> Answer;
    let cases: [(&str, Make, Kind, &str, usize); 14] = [
        ("500", || Answer::status(500), Kind::Unavailable, "500", 8),
        ("503", || Answer::status(503), Kind::Unavailable, "503", 8),
        ("418", || Answer::status(418), Kind::Unavailable, "418", 3),
        ("403", || Answer::status(403), Kind::Forbidden, "forbids", 3),
        (
            "404",
            || Answer::status(404),
            Kind::NotFound,
            "is not at",
            3,
        ),
        ("204", || Answer::status(204), Kind::Unavailable, "204", 3),
        (
            "429 at once",
            || Answer::status(429).header("retry-after", "0"),
            Kind::RateLimited,
            "rate",
            8,
        ),
        (
            "429 for an hour",
            || Answer::status(429).header("retry-after", "3600"),
            Kind::RateLimited,
            "3600 s",
            3,
        ),
        (
            "429 until 2099",
            || Answer::status(429).header("retry-after", "Thu, 01 Jan 2099 00:00:00 GMT"),
            Kind::RateLimited,
            "of patience",
            3,
        ),
        (
            "429 in words",
            || Answer::status(429).header("retry-after", "never"),
            Kind::RateLimited,
            "rate",
            8,
        ),
        (
            "a redirect to nowhere",
            || Answer::status(307),
            Kind::Unsupported,
            "redirects to nowhere",
            3,
        ),
        (
            "a redirect to a file",
            || Answer::status(307).header("location", "file:///etc/shadow"),
            Kind::Unsupported,
            "not HTTP",
            3,
        ),
        (
            "a redirect to the cloud's metadata",
            || Answer::status(307).header("location", "https://169.254.169.254/latest/"),
            Kind::Unsupported,
            "its link (169.254.169.254)",
            3,
        ),
        (
            "redirects in a circle",
            || Answer::status(307).header("location", "/loop"),
            Kind::Unsupported,
            "more than 5 times",
            9,
        ),
    ];
    // Side by side, since most of them are pauses between tries.
    let mut running = tokio::task::JoinSet::new();
    for (case, make, kind, word, requests) in cases {
        for part in ["/manifests/", "/blobs/"] {
            running.spawn(async move {
                let bench = Bench::new().await;
                spoil(&bench, part, move |_| make());
                let host = host(&bench.registry);
                let config = Digest::of(&bench.image.config).to_string();
                let mut words = vec![host.as_str(), word];
                if matches!(kind, Kind::Unavailable | Kind::NotFound) {
                    words.push(match part {
                        "/manifests/" => "manifest 1",
                        _ => &config,
                    });
                }
                let case = format!("{case} for {part}");
                bench.refuses(&case, &[kind], &words, requests).await;
            });
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    // The layer alone, by its digest.
    for (case, answer, word) in [
        ("500", Answer::status(500), "500"),
        ("404", Answer::status(404), "is not at"),
        (
            "early close",
            Answer::ok(vec![0; 5000]).cut(700),
            "layer sha256:",
        ),
    ] {
        let bench = Bench::new().await;
        let digest = layer(&bench);
        let asked = digest.clone();
        bench
            .registry
            .rule(move |seen, _| seen.path.ends_with(&asked).then(|| answer.clone()));
        let host = host(&bench.registry);
        let request = ground::request(&bench.registry.reference("a/b:1"));
        let error = ground::pull(&bench.store, request).await.unwrap_err();
        let text = error.to_string();
        for word in [word, &digest, &host] {
            assert!(text.contains(word), "{case}: {word}: {text}");
        }
        assert_nothing(&bench.store, case);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_that_is_asked_for_is_given() {
    let bench = Bench::new().await;
    bench.registry.rule(|seen, n| {
        let limited = seen.path.contains("/manifests/") && n == 0;
        limited.then(|| Answer::status(429).header("retry-after", "1"))
    });
    let began = Instant::now();
    let request = ground::request(&bench.registry.reference("a/b:1"));
    ground::pull(&bench.store, request).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_was_named_is_refused() {
    type Make = fn(&[u8]) -> Answer;
    let cases: [(&str, Make, &str); 5] = [
        (
            "a byte changed",
            |bytes| {
                let mut bytes = bytes.to_vec();
                bytes[0] ^= 1;
                Answer::ok(bytes)
            },
            "digest",
        ),
        (
            "a byte more",
            |bytes| Answer::ok([bytes, b"x"].concat()),
            "sha256:",
        ),
        (
            "a byte less",
            |bytes| Answer::ok(bytes[1..].to_vec()),
            "sha256:",
        ),
        ("nothing", |_| Answer::ok(""), "sha256:"),
        ("another blob", |_| Answer::ok("{}"), "sha256:"),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (case, make, word) in cases {
        for which in ["config", "layer"] {
            running.spawn(async move {
                let bench = Bench::new().await;
                let bytes = match which {
                    "config" => bench.image.config.clone(),
                    _ => bench.image.layers[0].clone(),
                };
                let digest = Digest::of(&bytes).to_string();
                bench
                    .registry
                    .rule(move |seen, _| seen.path.ends_with(&digest).then(|| make(&bytes)));
                let request = ground::request(&bench.registry.reference("a/b:1"));
                let error = ground::pull(&bench.store, request).await.unwrap_err();
                let kinds = [Kind::DataLoss, Kind::InvalidImage];
                let case = format!("{case} in the {which}");
                assert!(kinds.contains(&error.kind()), "{case}: {error}");
                assert!(error.to_string().contains(word), "{case}: {error}");
                assert_nothing(&bench.store, &case);
            });
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

/// What it is, its media type, its bytes, and what it is refused as.
type Case = (&'static str, &'static str, Vec<u8>, Vec<Kind>);

/// Documents in place of the image's own.
fn documents() -> Vec<Case> {
    let zeros = format!("sha256:{}", "0".repeat(64));
    let child = |digest: &str| {
        json!({"mediaType": MANIFEST, "digest": digest, "size": 2,
               "platform": {"os": "linux", "architecture": "amd64"}})
    };
    let index = |children: Vec<Value>| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children}).to_string()
    };
    let manifest = |config: Value, layers: Vec<Value>| {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers})
            .to_string()
    };
    let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": zeros, "size": 2});
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                       "digest": zeros, "size": 2});
    let invalid = vec![Kind::InvalidImage, Kind::TooLarge, Kind::Unsupported];
    let mut cases = vec![
        (
            "64 MiB",
            MANIFEST,
            vec![b' '; 64 << 20],
            vec![Kind::TooLarge],
        ),
        ("no JSON", MANIFEST, b"<html>".to_vec(), invalid.clone()),
        (
            "deep",
            MANIFEST,
            "[".repeat(1 << 20).into(),
            invalid.clone(),
        ),
        (
            "deep inside",
            MANIFEST,
            format!("{{\"annotations\":{}", "{\"a\":".repeat(100_000)).into(),
            invalid.clone(),
        ),
        (
            "20,000 children",
            INDEX,
            index(vec![child(&zeros); 20_000]).into(),
            invalid.clone(),
        ),
        (
            "5,000 layers",
            MANIFEST,
            manifest(config.clone(), vec![layer.clone(); 5000]).into(),
            invalid.clone(),
        ),
        (
            "both kinds",
            MANIFEST,
            json!({"schemaVersion": 2, "manifests": [], "layers": [], "config": config})
                .to_string()
                .into(),
            invalid.clone(),
        ),
        (
            "an index that says it is a manifest",
            MANIFEST,
            index(vec![child(&zeros)]).into(),
            invalid.clone(),
        ),
        ("a page", "text/html", b"{}".to_vec(), invalid.clone()),
    ];
    for digest in [
        "sha256:../../../../etc/shadow",
        "sha256:",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        &zeros.to_uppercase(),
        &"a".repeat(1 << 20),
    ] {
        let mut bad = layer.clone();
        bad["digest"] = json!(digest);
        let text = manifest(config.clone(), vec![bad]);
        cases.push(("a layer's digest", MANIFEST, text.into(), invalid.clone()));
        let mut bad = config.clone();
        bad["digest"] = json!(digest);
        let text = manifest(bad, vec![layer.clone()]);
        cases.push((
            "a configuration's digest",
            MANIFEST,
            text.into(),
            invalid.clone(),
        ));
        let text = index(vec![child(digest)]);
        cases.push(("a child's digest", INDEX, text.into(), invalid.clone()));
    }
    for digest in [Value::Null, json!(7)] {
        let mut bad = layer.clone();
        bad["digest"] = digest;
        let text = manifest(config.clone(), vec![bad]);
        cases.push(("no digest", MANIFEST, text.into(), invalid.clone()));
    }
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                         "digest": zeros, "size": 2, "urls": ["http://127.0.0.1:9/x"]});
    let text = manifest(config, vec![foreign]);
    cases.push(("a foreign layer", MANIFEST, text.into(), invalid));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_none_are_refused_before_anything_else_is_asked_for() {
    for (case, media_type, bytes, kinds) in documents() {
        let bench = Bench::new().await;
        bench.registry.manifest("a/b", "1", media_type, &bytes);
        bench.refuses(case, &kinds, &[], 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_indexes_end() {
    let bench = Bench::new().await;
    // Each names the next, without end as far as the client can know.
    let mut child =
        json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", "0".repeat(64)), "size": 2});
    for _ in 0..50 {
        let text =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).to_string();
        bench.registry.manifest("a/b", "1", INDEX, text.as_bytes());
        child =
            json!({"mediaType": INDEX, "digest": Digest::of(text.as_bytes()), "size": text.len()});
    }
    bench
        .refuses("nested", &[Kind::InvalidImage], &["nested too deep"], 5)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_bounds() {
    for (case, answer) in [
        (
            "many",
            (0..2000).fold(Answer::ok("{}"), |answer, n| {
                answer.header(&format!("x-{n}"), "y")
            }),
        ),
        ("large", Answer::ok("{}").header("x", &"y".repeat(2 << 20))),
        (
            "a challenge of 100,000 bytes",
            Answer::status(401).header(
                "www-authenticate",
                &format!("Bearer realm=\"http://127.0.0.1/{}\"", "y".repeat(100_000)),
            ),
        ),
    ] {
        let bench = Bench::new().await;
        spoil(&bench, "/manifests/", move |_| answer.clone());
        let host = host(&bench.registry);
        let kinds = [Kind::Unavailable, Kind::Unsupported, Kind::Unauthorized];
        bench.refuses(case, &kinds, &[&host], 8).await;
    }
}
