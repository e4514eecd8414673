//! Where images come from: `hosts.toml`, and credentials in all forms that CRI has.

use std::fs;

use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Image},
    registry::{Act, Registry, Rule},
};
use berth_proto::cri::AuthConfig;
use tonic::Code;

use crate::fixture::{assert_refused, ctl, ok};

const PAUSE: &str = "registry.k8s.io/pause:3.10";

struct Bench {
    node: Node,
    mirror: Registry,
    image: Image,
}

impl Bench {
    async fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let mut node = Node::prepare("")?;
        let hosts = node.home().join("hosts.d");
        node.configure(&format!("[image]\nhosts_dirs = [{hosts:?}]\n"))?;
        node.launch(environment).await?;
        let mirror = Registry::start(node.netns())?;
        let image = image::busybox()?;
        mirror.add("pause", "3.10", &image);
        Ok(Self {
            node,
            mirror,
            image,
        })
    }

    fn hosts(&self, registry: &str, text: &str) -> Result<()> {
        let directory = self.node.home().join("hosts.d").join(registry);
        fs::create_dir_all(&directory)?;
        Ok(fs::write(directory.join("hosts.toml"), text)?)
    }

    fn mirrored(&self) -> String {
        format!("[host.\"http://{}\"]\n", self.mirror.address())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_from_a_mirror_under_its_own_name_and_files_are_read_at_each_pull()
-> Result<()> {
    let bench = Bench::start(&[]).await?;
    bench.hosts(
        "registry.k8s.io",
        "\n\n[host.\"http://x\"]\nmirror = true\n",
    )?;
    assert_refused(
        bench.node.pull(PAUSE).await,
        &[Code::FailedPrecondition],
        &["registry.k8s.io/hosts.toml:4", "unknown key"],
    );
    let refused = ctl(&bench.node, &["pull", PAUSE])?;
    assert!(refused.err.contains("hosts.toml:4"), "{}", refused.err);

    // 192.0.2.1 is for documentation (RFC 5737): nobody answers there.
    let dead = "[host.\"https://192.0.2.1\"]\n";
    bench.hosts("registry.k8s.io", &format!("{dead}{}", bench.mirrored()))?;
    let began = std::time::Instant::now();
    assert_eq!(bench.node.pull(PAUSE).await?, bench.image.id);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    let seen = bench.mirror.seen();
    assert!(!seen.is_empty());
    for request in seen {
        assert!(request.path.ends_with("?ns=registry.k8s.io"), "{request:?}");
    }
    let status = bench.node.image_status(PAUSE).await?;
    let status = status.expect("it has the name that it was asked for by");
    assert_eq!(status.repo_tags, [PAUSE]);
    let digest = format!("registry.k8s.io/pause@{}", bench.image.digest());
    assert_eq!(status.repo_digests, [digest]);
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_host_helps_the_error_names_all_of_them() -> Result<()> {
    let bench = Bench::start(&[]).await?;
    let own = Registry::start(bench.node.netns())?;
    let server = format!("server = \"http://{}\"\n", own.address());
    bench.hosts("_default", &format!("{server}{}", bench.mirrored()))?;
    bench.mirror.rule(Rule::on("/manifests/", Act::status(418)));
    let hosts = [own.address(), bench.mirror.address()].map(|host| host.to_string());
    assert_refused(
        bench.node.pull("made.up/pause:3.10").await,
        &[Code::NotFound],
        &["made.up", &hosts[0], &hosts[1], "418", "manifest 3.10"],
    );
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_understood_in_every_form_and_not_sent_where_they_do_not_belong()
-> Result<()> {
    let bench = Bench::start(&[]).await?;
    let host = bench.mirror.address().to_string();
    let reference = format!("{host}/pause:3.10");
    // "user:pa:ss" in base64.
    const BASIC: &str = "dXNlcjpwYTpzcw==";
    let user = AuthConfig {
        username: "user".into(),
        password: "pa:ss".into(),
        ..Default::default()
    };
    let cases = [
        ("user and password", user.clone(), format!("Basic {BASIC}")),
        (
            "both at once",
            AuthConfig {
                auth: BASIC.into(),
                ..Default::default()
            },
            format!("Basic {BASIC}"),
        ),
        (
            "for this server",
            AuthConfig {
                server_address: format!("http://{host}/v1/"),
                ..user.clone()
            },
            format!("Basic {BASIC}"),
        ),
        (
            "identity token",
            AuthConfig {
                identity_token: "refresh".into(),
                ..Default::default()
            },
            "Bearer granted".to_owned(),
        ),
        (
            "registry token",
            AuthConfig {
                registry_token: "as-it-is".into(),
                ..Default::default()
            },
            "Bearer as-it-is".to_owned(),
        ),
    ];
    for (case, auth, wanted) in cases {
        let challenge = match wanted.starts_with("Basic") {
            true => "Basic realm=\"r\"".to_owned(),
            false => format!("Bearer realm=\"http://{host}/token\",service=\"s\""),
        };
        let refusal = Act::Answer {
            status: 401,
            headers: vec![("www-authenticate".into(), challenge)],
            body: Default::default(),
        };
        bench
            .mirror
            .rule(Rule::on("/v2/", refusal).unless("authorization", &wanted));
        let granted = Act::Answer {
            status: 200,
            headers: Vec::new(),
            body: "{\"token\":\"granted\"}".into(),
        };
        bench.mirror.rule(Rule::on("/token", granted));
        let id = bench.node.pull_as(&reference, Some(auth.clone())).await;
        assert_eq!(
            id.map_err(|status| anyhow::anyhow!("{case}: {status}"))?,
            bench.image.id
        );
        bench.node.remove_image(&reference).await?;

        // The same for another registry is as good as none.
        let elsewhere = AuthConfig {
            server_address: "https://registry.example".into(),
            ..auth
        };
        if !wanted.ends_with("granted") {
            let refused = bench.node.pull_as(&reference, Some(elsewhere)).await;
            assert_refused(refused, &[Code::Unauthenticated], &[&host, "anonymous"]);
        }
        bench.mirror.clear_rules();
    }
    for auth in ["!", "dXNlcg=="] {
        let broken = AuthConfig {
            auth: auth.into(),
            ..Default::default()
        };
        let refused = bench.node.pull_as(&reference, Some(broken)).await;
        assert_refused(refused, &[Code::InvalidArgument], &["base64"]);
    }
    let log = bench.node.log()?;
    for secret in [BASIC, "pa:ss", "as-it-is", "granted"] {
        assert!(!log.contains(secret), "{secret} is in the agent's log");
    }
    bench.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used_shown_and_left_out_where_it_should_be() -> Result<()> {
    let environment = [
        ("HTTP_PROXY", "http://user:hidden@127.0.0.1:9"),
        ("no_proxy", "direct.test"),
    ];
    let bench = Bench::start(&environment).await?;
    let shown = ok(&bench.node, &["info"])?.out;
    assert!(shown.contains("HTTP_PROXY: http://127.0.0.1:9"), "{shown}");
    assert!(!shown.contains("hidden"), "{shown}");
    // The loopback address is never behind a proxy.
    let own = format!("{}/pause:3.10", bench.mirror.address());
    bench.node.pull(&own).await?;
    bench.hosts("far.test", "server = \"http://far.test\"\n")?;
    // The proxy is not there, and is what is asked: else the name would not be known.
    assert_refused(
        bench.node.pull("far.test/pause:3.10").await,
        &[Code::Unavailable],
        &["cannot talk to far.test", "refused"],
    );
    bench.hosts("direct.test", "server = \"http://direct.test\"\n")?;
    assert_refused(
        bench.node.pull("direct.test/pause:3.10").await,
        &[Code::Unavailable],
        &["direct.test"],
    );
    bench.node.finish().await
}
