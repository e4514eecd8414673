//! Who is told a secret, and who is not.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use berth_image::{Auth, Error, Kind, Store, StoredImage};
use ground::{
    Scratch,
    registry::{Answer, Registry, Seen},
};

const SECRETS: [&str; 4] = ["pa:ss", "refresh-me", "registry-token", "dXNlcjpwYTpzcw=="];

fn user() -> Auth {
    Auth {
        username: Some("user".into()),
        password: Some("pa:ss".into()),
        ..Auth::default()
    }
}

fn identity() -> Auth {
    Auth {
        identity_token: Some("refresh-me".into()),
        ..Auth::default()
    }
}

struct Bench {
    _scratch: Scratch,
    store: Store,
    registry: Registry,
}

impl Bench {
    async fn new() -> Self {
        let (scratch, registry) = (Scratch::new(), Registry::start().await);
        registry.image("a/b", "1", &image());
        Self {
            store: scratch.store(),
            _scratch: scratch,
            registry,
        }
    }

    /// Everything but `/token` wants `Bearer good`, which is to be had at `realm`.
    fn wants_token(&self, realm: &str, scope: &str) {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"{scope}\"");
        self.registry.rule(move |seen, _| {
            let refused = seen.path.starts_with("/v2/")
                && seen.header("authorization") != Some("Bearer good");
            refused.then(|| Answer::status(401).header("www-authenticate", &challenge))
        });
    }

    fn own_realm(&self) -> String {
        format!("http://{}/token", self.registry.host())
    }

    async fn pull(&self, auth: Auth) -> Result<StoredImage, Error> {
        let mut request = ground::request(&self.registry.reference("a/b:1"));
        request.auth = Some(auth);
        ground::pull(&self.store, request).await
    }

    fn tokens(&self) -> Vec<Seen> {
        let mut seen = self.registry.seen();
        seen.retain(|seen| seen.path.starts_with("/token"));
        seen
    }
}

fn image() -> ground::image::Image {
    ground::image::Image::new(&[ground::large_layer("f", 1000, 5)])
}

fn token(text: &str) -> Answer {
    Answer::ok(format!("{{\"token\":\"{text}\",\"expires_in\":300}}"))
}

fn assert_no_secret(registry: &Registry) {
    for seen in registry.seen() {
        let all = format!("{seen:?}");
        assert_eq!(seen.header("authorization"), None, "{all}");
        for secret in SECRETS {
            assert!(!all.contains(secret), "{all}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_this_repository_alone_and_kept() {
    let bench = Bench::new().await;
    bench.wants_token(
        &bench.own_realm(),
        "repository:a/b:pull,push repository:c:delete",
    );
    bench.registry.set("/token", token("good"));
    bench.pull(user()).await.unwrap();
    let asked = bench.tokens();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let path = &asked[0].path;
    assert!(path.contains("scope=repository%3Aa%2Fb%3Apull"), "{path}");
    assert!(!path.contains("push") && !path.contains("delete"), "{path}");
    assert!(path.contains("service=s"), "{path}");
    assert_eq!(
        asked[0].header("authorization"),
        Some("Basic dXNlcjpwYTpzcw==")
    );

    // The manifest is asked for again, the token is not.
    bench.pull(user()).await.unwrap();
    assert_eq!(bench.tokens().len(), 1);
    // Other credentials get a token of their own.
    bench.pull(Auth::default()).await.unwrap();
    assert_eq!(bench.tokens().len(), 2);
    assert_eq!(bench.tokens()[1].header("authorization"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_is_asked_for_anew() {
    let bench = Bench::new().await;
    bench.wants_token(&bench.own_realm(), "");
    bench.registry.rule(|seen, n| {
        let old = seen.path.starts_with("/token") && n == 0;
        old.then(|| token("old"))
    });
    bench.registry.set("/token", token("good"));
    bench.pull(user()).await.unwrap();
    assert_eq!(bench.tokens().len(), 2);

    // One that was kept may have been withdrawn meanwhile.
    bench.registry.clear_rules();
    bench.registry.rule(|seen, _| {
        let refused =
            seen.path.starts_with("/v2/") && seen.header("authorization") != Some("Bearer newer");
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            seen.headers["host"]
        );
        refused.then(|| Answer::status(401).header("www-authenticate", &challenge))
    });
    bench.registry.set("/token", token("newer"));
    bench.pull(user()).await.unwrap();
    assert_eq!(bench.tokens().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_credentials_is_sent_as_its_kind_is() {
    let bench = Bench::new().await;
    bench.wants_token(&bench.own_realm(), "repository:a/b:pull");
    bench
        .registry
        .set("/token", Answer::ok("{\"access_token\":\"good\"}"));
    bench.pull(identity()).await.unwrap();
    let asked = &bench.tokens()[0];
    assert_eq!(asked.method, "POST");
    assert_eq!(asked.header("authorization"), None);
    assert!(!asked.path.contains("refresh-me"), "{asked:?}");
    for part in [
        "grant_type=refresh_token",
        "refresh_token=refresh-me",
        "service=s",
        "scope=repository%3Aa%2Fb%3Apull",
        "client_id=",
    ] {
        assert!(asked.body.contains(part), "{part}: {asked:?}");
    }

    let bench = Bench::new().await;
    bench.registry.rule(|seen, _| {
        let known = seen.header("authorization") == Some("Bearer registry-token");
        (!known).then(|| Answer::status(401))
    });
    let auth = Auth {
        registry_token: Some("registry-token".into()),
        ..Auth::default()
    };
    bench.pull(auth).await.unwrap();
    let error = bench.pull(user()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(
        error.to_string().contains(&bench.registry.host()),
        "{error}"
    );

    let bench = Bench::new().await;
    bench.registry.rule(|seen, _| {
        let known = seen.header("authorization") == Some("Basic dXNlcjpwYTpzcw==");
        (!known).then(|| Answer::status(401).header("www-authenticate", "Basic realm=\"r\""))
    });
    bench.pull(user()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_the_registry_names_learns_nothing() {
    // Another port is another origin.
    for auth in [user(), identity()] {
        let (bench, evil) = (Bench::new().await, Registry::start().await);
        evil.set("/token", token("good"));
        bench.wants_token(&format!("http://{}/token", evil.host()), "");
        // Asked anonymously, it is no help to who steals.
        bench.pull(auth).await.unwrap();
        assert_eq!(evil.seen().len(), 1);
        assert_no_secret(&evil);
    }
    for realm in [
        "http://192.0.2.7/token",
        "http://169.254.169.254/token",
        "https://169.254.169.254/token",
        "file:///etc/shadow",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "",
        "https://",
    ] {
        let bench = Bench::new().await;
        bench.wants_token(realm, "");
        let error = bench.pull(user()).await.unwrap_err();
        assert!(
            error.to_string().contains("token service"),
            "{realm}: {error}"
        );
        assert!(!error.to_string().contains("pa:ss"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_no_secret_along() {
    let (bench, evil) = (Bench::new().await, Registry::start().await);
    evil.image("a/b", "1", &image());
    let to = evil.host();
    bench
        .registry
        .rule(move |seen, _| match seen.header("authorization") {
            None => Some(Answer::status(401).header("www-authenticate", "Basic realm=\"r\"")),
            Some(_) if seen.path.contains("/blobs/") => {
                let place = format!("http://{to}{}", seen.path);
                Some(Answer::status(307).header("location", &place))
            }
            Some(_) => None,
        });
    bench.pull(user()).await.unwrap();
    assert_eq!(evil.seen().len(), 2);
    assert_no_secret(&evil);

    // What the storage behind it refuses is not the registry's word.
    let (bench, evil) = (Bench::new().await, Registry::start().await);
    let to = evil.host();
    evil.rule(|_, _| Some(Answer::status(401).header("www-authenticate", "Basic realm=\"r\"")));
    bench.registry.rule(move |seen, _| {
        let place = format!("http://{to}{}", seen.path);
        (seen.path.contains("/blobs/")).then(|| Answer::status(302).header("location", &place))
    });
    assert_eq!(
        bench.pull(user()).await.unwrap_err().kind(),
        Kind::Unauthorized
    );
    assert_no_secret(&evil);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_misbehaves_is_refused_and_nothing_is_kept() {
    let long = "x".repeat(20_000);
    let huge = "x".repeat(3 << 20);
    for (answer, word) in [
        (token(&long), "20000 bytes"),
        (token(&huge), "more than"),
        (token("a\\nb"), "malformed"),
        (token(""), "gives none"),
        (Answer::ok("<html>"), "JSON"),
        (Answer::ok("[".repeat(100_000)), "JSON"),
        (Answer::ok("{\"token\":7}"), "JSON"),
        (Answer::status(500), "500"),
        (Answer::status(401), "token service refused"),
        (Answer::status(302).header("location", "/elsewhere"), "302"),
    ] {
        let bench = Bench::new().await;
        bench.wants_token(&bench.own_realm(), "");
        bench.registry.set("/token", answer);
        let error = bench.pull(user()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(word), "{word}: {text}");
        assert!(text.contains(&bench.registry.host()), "{text}");
        assert!(bench.tokens().len() <= 4, "tries have a bound");
        ground::assert_empty(&bench.store);
    }
}
