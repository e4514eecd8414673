//! What a registry can answer, and what a caller is told then. The table is the
//! documentation: the code, and the words for the step; each message names the host too.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Image},
    registry::{Act, Registry, Rule},
};
use bytes::Bytes;
use serde_json::json;
use tonic::Code;

use crate::fixture::assert_refused;

/// Pauses between tries come to less than two seconds for each request.
const QUICK: Duration = Duration::from_secs(30);
/// More than the documents and buffers of one pull come to.
const GROWTH_KIB: u64 = 48 << 10;

/// Which request is answered so.
#[derive(Clone, Copy)]
enum Step {
    Manifest,
    Configuration,
    Layer,
}
use Step::{Configuration, Layer, Manifest};

impl Step {
    fn part(self, image: &Image) -> String {
        match self {
            Manifest => "/manifests/".to_owned(),
            Configuration => image.id.clone(),
            Layer => image.layers[0].clone(),
        }
    }

    /// How a message names it.
    fn word(self) -> &'static str {
        match self {
            Manifest => "manifest 1",
            Configuration => "configuration sha256:",
            Layer => "layer sha256:",
        }
    }
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Act {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Act::Answer {
        status,
        headers: headers.iter().map(own).collect(),
        body: body.into(),
    }
}

fn patience(status: u16, text: &str) -> Act {
    answer(status, &[("retry-after", text)], "")
}

/// Where, what is answered, which code it gives, and a word of why.
type Row = (Step, Act, Code, &'static str);

fn table() -> Vec<Row> {
    let json = |kind: &str, text: String| answer(200, &[("content-type", kind)], text);
    let index = "application/vnd.oci.image.index.v1+json";
    let deep = format!("{{\"a\":{}", "[".repeat(2 << 20));
    let child = json!({"mediaType": image::MANIFEST, "size": 2,
        "digest": format!("sha256:{}", "0".repeat(64))});
    let many = json!({"schemaVersion": 2, "manifests": vec![child; 15_000]}).to_string();
    let huge = vec![b' '; 32 << 20];
    vec![
        // Statuses.
        (Manifest, Act::status(500), Code::Unavailable, "500"),
        (Configuration, Act::status(502), Code::Unavailable, "502"),
        (Layer, Act::status(503), Code::Unavailable, "503"),
        (Layer, Act::status(404), Code::NotFound, "is not at"),
        (Layer, Act::status(416), Code::Unavailable, "416"),
        // Patience that is asked for: given up to ten seconds, reported beyond.
        (
            Manifest,
            patience(429, "0"),
            Code::ResourceExhausted,
            "rate",
        ),
        (
            Manifest,
            patience(429, "3600"),
            Code::ResourceExhausted,
            "3600 s of patience",
        ),
        (
            Manifest,
            patience(503, "3600"),
            Code::Unavailable,
            "3600 s of patience",
        ),
        (Layer, patience(503, "3600"), Code::Unavailable, "3600 s"),
        (
            Layer,
            patience(503, "Thu, 01 Jan 2099 00:00:00 GMT"),
            Code::Unavailable,
            "of patience",
        ),
        (Layer, patience(503, "0"), Code::Unavailable, "503"),
        // Redirects: in circles, to files, to addresses of the node's own network.
        (
            Layer,
            Act::redirect("file:///etc/passwd"),
            Code::InvalidArgument,
            "redirect",
        ),
        (
            Layer,
            Act::redirect("http://192.0.2.1/x"),
            Code::InvalidArgument,
            "plain http",
        ),
        (
            Manifest,
            Act::redirect("https://169.254.169.254/x"),
            Code::InvalidArgument,
            "169.254.169.254",
        ),
        // Bytes: too many, too few, others, none.
        (Layer, Act::HangUp, Code::Unavailable, ""),
        (Layer, Act::Truncate(1000), Code::Unavailable, ""),
        (Layer, Act::Corrupt, Code::DataLoss, "sha256:"),
        (Configuration, Act::Corrupt, Code::DataLoss, "sha256:"),
        // After it the layer is here but for its end, which the next pull would go on from.
        (Layer, Act::Extend(1), Code::DataLoss, "more than"),
        // Documents.
        (
            Manifest,
            answer(200, &[], huge),
            Code::ResourceExhausted,
            "4194304 bytes",
        ),
        (
            Manifest,
            json(image::MANIFEST, deep),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            Manifest,
            json(index, many.clone()),
            Code::ResourceExhausted,
            "1024 entries",
        ),
        (
            Manifest,
            json(image::MANIFEST, many),
            Code::InvalidArgument,
            "type",
        ),
        (
            Manifest,
            json("text/html", "<html>".into()),
            Code::InvalidArgument,
            "no json object",
        ),
    ]
}

fn resident_kib(node: &Node) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| anyhow::anyhow!("no VmHWM"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_gives_its_code_and_a_message_with_host_and_step() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/image", "1", &image);
    let host = registry.address().to_string();
    // What the first pull needs once: TLS, threads, the client.
    node.pull(&reference).await?;
    node.remove_image(&reference).await?;
    let before = resident_kib(&node)?;
    for (step, act, code, why) in table() {
        let case: String = format!("{act:?}").chars().take(120).collect();
        registry.rule(Rule::on(&step.part(&image), act));
        let (began, asked) = (Instant::now(), registry.seen().len());
        let refused = node.pull(&reference).await;
        // What was read whole is named by its digest.
        let about = matches!(code, Code::Unavailable | Code::NotFound);
        let step = if about { step.word() } else { "" };
        assert_refused(refused, &[code], &[&host, step, why]);
        assert!(began.elapsed() < QUICK, "{case}: {:?}", began.elapsed());
        let asked = registry.seen().len() - asked;
        assert!(asked <= 12, "{case}: {asked} requests");
        assert!(node.list_images().await?.is_empty(), "{case}");
        registry.clear_rules();
    }
    let grown = resident_kib(&node)?.saturating_sub(before);
    assert!(grown < GROWTH_KIB, "the agent has grown by {grown} KiB");
    assert_eq!(node.pull(&reference).await?, image.id);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_sends_megabytes_nonsense_or_nothing_is_named() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/image", "1", &image);
    let host = registry.address().to_string();
    let realm = format!("http://{host}/token");
    let token = |text: String| answer(200, &[("content-type", "application/json")], text);
    let rows = [
        (
            token(json!({"token": "x".repeat(3 << 20)}).to_string()),
            Code::ResourceExhausted,
            "token",
        ),
        (
            token(json!({"token": "x".repeat(50_000)}).to_string()),
            Code::InvalidArgument,
            "50000 bytes",
        ),
        (token("[".repeat(100_000)), Code::InvalidArgument, "json"),
        (token("{}".into()), Code::InvalidArgument, "gives none"),
        (
            token(json!({"token": "a\r\nb"}).to_string()),
            Code::InvalidArgument,
            "malformed",
        ),
        (Act::status(500), Code::Unavailable, "a token"),
        (Act::status(401), Code::Unauthenticated, "token service"),
        (
            Act::redirect("http://127.0.0.1:1/"),
            Code::Unavailable,
            "a token",
        ),
        (Act::HangUp, Code::Unavailable, "a token"),
    ];
    for (act, code, why) in rows {
        registry.rule(Rule::on("/token", act));
        registry.rule(Rule::on("/v2/", Act::unauthorized(&realm)));
        assert_refused(node.pull(&reference).await, &[code], &[&host, why]);
        registry.clear_rules();
    }
    assert_eq!(node.pull(&reference).await?, image.id);
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_that_a_failing_registry_asks_for_is_given() -> Result<()> {
    let node = Node::start().await?;
    let registry = Registry::start(node.netns())?;
    let image = image::busybox()?;
    let reference = registry.add("test/image", "1", &image);
    let layer = image.layers[0].clone();
    registry.rule(Rule::on(&layer, patience(503, "2")).times(1));
    let began = Instant::now();
    assert_eq!(node.pull(&reference).await?, image.id);
    assert!(
        began.elapsed() >= Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    node.finish().await
}
