//! Pulls from registries that lie, stall or refuse: the right code, a sentence
//! that says so, and nothing kept.

use std::time::{Duration, Instant};

use anyhow::Result;
use berth_integration::{
    Node,
    image::{self, Compression, Entry, Image, Layer},
    leak::{Kind, Snapshot},
    registry::{Act, Registry, Rule},
};
use serde_json::json;
use tonic::Code;

use crate::fixture::assert_refused;

struct Bench {
    node: Node,
    registry: Registry,
    image: Image,
    reference: String,
}

impl Bench {
    async fn start() -> Result<Self> {
        let node = Node::start().await?;
        let registry = Registry::start(node.netns())?;
        let image = image::busybox()?;
        let reference = registry.add("test/image", "1", &image);
        Ok(Self {
            node,
            registry,
            image,
            reference,
        })
    }

    fn objects(&self) -> Result<usize> {
        let counts = Snapshot::take(&self.node.scope())?.counts();
        Ok(counts.get(&Kind::File).copied().unwrap_or_default())
    }

    /// The pull is refused, nothing is listed, and an honest pull works afterwards.
    async fn refuses(&self, codes: &[Code], words: &[&str]) -> Result<()> {
        assert_refused(self.node.pull(&self.reference).await, codes, words);
        assert!(self.node.list_images().await?.is_empty());
        assert_eq!(self.node.image_status(&self.reference).await?, None);
        self.registry.clear_rules();
        Ok(())
    }

    async fn finish(self) -> Result<()> {
        self.registry.clear_rules();
        assert_eq!(self.node.pull(&self.reference).await?, self.image.id);
        self.node.finish().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_keep_their_meaning() -> Result<()> {
    let bench = Bench::start().await?;
    let tells = |status: u16| Rule::on("/v2/test", Act::status(status));
    bench.registry.rule(tells(404));
    bench.refuses(&[Code::NotFound], &["test/image"]).await?;
    bench.registry.rule(tells(403));
    bench
        .refuses(&[Code::PermissionDenied], &["test/image"])
        .await?;
    bench.registry.rule(Rule::on(
        "/v2/",
        Act::unauthorized("http://127.0.0.1:1/token"),
    ));
    bench
        .refuses(&[Code::Unauthenticated, Code::Unavailable], &["127.0.0.1"])
        .await?;
    bench.registry.rule(Rule::on("/v2/", Act::status(401)));
    bench
        .refuses(&[Code::Unauthenticated], &["test/image"])
        .await?;
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_recovers_is_asked_again_and_one_that_does_not_is_given_up() -> Result<()> {
    let bench = Bench::start().await?;
    bench
        .registry
        .rule(Rule::on("/blobs/", Act::status(503)).times(1));
    bench.node.pull(&bench.reference).await?;
    bench.node.remove_image(&bench.reference).await?;

    bench.registry.rule(Rule::on("/v2/", Act::status(503)));
    let before = bench.registry.count("/v2/");
    let began = Instant::now();
    bench.refuses(&[Code::Unavailable], &["503"]).await?;
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    assert!(
        bench.registry.count("/v2/") - before <= 12,
        "retries have no bound"
    );
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_the_ones_named_are_never_kept() -> Result<()> {
    let bench = Bench::start().await?;
    let layer = bench.image.layers[0].clone();
    let config = bench.image.id.clone();
    let wrong = [Code::DataLoss, Code::InvalidArgument, Code::Unavailable];
    for (part, act) in [
        (layer.as_str(), Act::Corrupt),
        (&layer, Act::Extend(17)),
        (&layer, Act::Truncate(1000)),
        (&config, Act::Corrupt),
        (&config, Act::Truncate(10)),
    ] {
        let before = bench.objects()?;
        let told = format!("{act:?} of {part}");
        // Of a connection that breaks off, only the host can be blamed.
        let word = match act {
            Act::Truncate(_) => "127.0.0.1",
            _ => "sha256:",
        };
        bench.registry.rule(Rule::on(part, act));
        bench.refuses(&wrong, &[word]).await?;
        assert!(bench.objects()? <= before + 1, "{told}: something was kept");
    }
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_changes_under_its_digest_is_refused() -> Result<()> {
    let bench = Bench::start().await?;
    let by_digest = format!(
        "{}/test/image@{}",
        bench.registry.address(),
        bench.image.digest()
    );
    bench.registry.rule(Rule::on("/manifests/", Act::Corrupt));
    assert_refused(
        bench.node.pull(&by_digest).await,
        &[Code::DataLoss, Code::InvalidArgument],
        &["sha256:"],
    );
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_once_goes_on() -> Result<()> {
    let bench = Bench::start().await?;
    let layer = bench.image.layers[0].clone();
    bench
        .registry
        .rule(Rule::on(&layer, Act::Truncate(100_000)).times(1));
    assert_eq!(bench.node.pull(&bench.reference).await?, bench.image.id);
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_followed_but_not_for_ever_and_not_to_a_file() -> Result<()> {
    let bench = Bench::start().await?;
    let layer = bench.image.layers[0].clone();
    let elsewhere = Registry::start(bench.node.netns())?;
    elsewhere.add("other/place", "1", &bench.image);
    let target = format!(
        "http://{}/v2/other/place/blobs/{layer}",
        elsewhere.address()
    );
    bench
        .registry
        .rule(Rule::on(&layer, Act::redirect(&target)));
    bench.node.pull(&bench.reference).await?;
    assert_eq!(elsewhere.count(&layer), 1);
    bench.node.remove_image(&bench.reference).await?;
    bench.registry.clear_rules();

    let own = format!(
        "http://{}/v2/test/image/blobs/{layer}",
        bench.registry.address()
    );
    bench.registry.rule(Rule::on(&layer, Act::redirect(&own)));
    let before = bench.registry.count(&layer);
    bench
        .refuses(
            &[
                Code::Unavailable,
                Code::InvalidArgument,
                Code::FailedPrecondition,
            ],
            &["redirect"],
        )
        .await?;
    assert!(bench.registry.count(&layer) - before <= 40);
    bench
        .registry
        .rule(Rule::on(&layer, Act::redirect("file:///etc/passwd")));
    assert!(bench.node.pull(&bench.reference).await.is_err());
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_registry_is_given_up_and_the_node_goes_on_meanwhile() -> Result<()> {
    let bench = Bench::start().await?;
    let layer = bench.image.layers[0].clone();
    bench.registry.rule(Rule::on(&layer, Act::Stall(1000)));
    let mut images = bench.node.images()?;
    let mut request = tonic::Request::new(berth_proto::cri::PullImageRequest {
        image: Some(berth_proto::cri::ImageSpec {
            image: bench.reference.clone(),
            ..Default::default()
        }),
        ..Default::default()
    });
    // The caller's patience ends first here; the pull must end with its last waiter.
    request.set_timeout(Duration::from_secs(2));
    let pull = tokio::spawn(async move { images.pull_image(request).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    bench.node.version().await?;
    assert!(bench.node.list_images().await?.is_empty());
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let status = pull.await?.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    berth_integration::wait::until("the pull is given up", Duration::from_secs(10), || async {
        let request = berth_proto::berth::v1::ListOperationsRequest {};
        let mut berth = bench.node.berth()?;
        let operations = berth.list_operations(request).await?.into_inner();
        Ok(operations.operations.is_empty().then_some(()))
    })
    .await?;
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cannot_climb_out_of_its_root() -> Result<()> {
    let bench = Bench::start().await?;
    let canary = bench.node.home().join("escaped");
    let outside = canary.display().to_string();
    let up = format!("{}{}", "../".repeat(12), outside.trim_start_matches('/'));
    let through = Layer::gzip(&[
        Entry::symlink("way", "/"),
        Entry::file(&format!("way{outside}"), 0o644, "escaped\n"),
    ])?;
    let linked = Layer::gzip(&[Entry::hard_link("shadow", "../../../../../../etc/shadow")])?;
    let images = [
        ("up", image::climbing(&up)?),
        ("absolute", image::climbing(&outside)?),
        ("symlink", Image::new(&[through], json!({}))?),
        ("hardlink", Image::new(&[linked], json!({}))?),
    ];
    for (name, image) in images {
        let reference = bench.registry.add("test/climb", name, &image);
        // Refused, or kept inside; both are right, outside is not.
        if let Err(status) = bench.node.pull(&reference).await {
            assert!(
                matches!(
                    status.code(),
                    Code::InvalidArgument | Code::DataLoss | Code::FailedPrecondition
                ),
                "{name}: {status:?}"
            );
        } else {
            bench.node.remove_image(&reference).await?;
        }
        assert!(!canary.exists(), "{name} escaped");
    }
    bench.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_defused() -> Result<()> {
    // 64 MiB of zeros in 64 KiB, under a limit of 16 MiB for an image.
    let node = Node::start_with("[image]\nmax_image_bytes = 16777216\n", &[]).await?;
    let registry = Registry::start(node.netns())?;
    let reference = registry.add("test/bomb", "1", &image::bomb(64 << 20)?);
    assert_refused(
        node.pull(&reference).await,
        &[Code::ResourceExhausted, Code::InvalidArgument],
        &["bytes"],
    );
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonsensical_image_is_refused_with_the_reason() -> Result<()> {
    let bench = Bench::start().await?;
    let layer = Layer::gzip(&[Entry::file("f", 0o644, "x")])?;
    let base = json!({ "architecture": image::architecture(), "os": "linux", "config": {} });
    let mut wrong_diff = base.clone();
    wrong_diff["rootfs"] = json!({ "type": "layers", "diff_ids": [image::digest(b"else")] });
    let mut too_few = base.clone();
    too_few["rootfs"] = json!({ "type": "layers", "diff_ids": [] });
    let own = std::slice::from_ref(&layer);
    let invalid = [
        Code::InvalidArgument,
        Code::DataLoss,
        Code::FailedPrecondition,
    ];
    let cases = [
        ("no-rootfs", Image::with_configuration(own, base)?, "rootfs"),
        ("diff", Image::with_configuration(own, wrong_diff)?, "diff"),
        ("few", Image::with_configuration(own, too_few)?, "layers"),
        (
            "platform",
            Image::for_platform(own, json!({}), "s390x")?,
            "s390x",
        ),
    ];
    for (name, image, word) in cases {
        let reference = bench.registry.add("test/nonsense", name, &image);
        assert_refused(bench.node.pull(&reference).await, &invalid, &[word]);
    }
    let not_gzip = Layer {
        tar: b"this is no archive at all".to_vec(),
        compression: Compression::Gzip,
    };
    let garbage = Image::new(&[not_gzip], json!({}))?;
    let reference = bench.registry.add("test/nonsense", "garbage", &garbage);
    assert!(bench.node.pull(&reference).await.is_err());

    for (tag, word, bytes) in [
        ("empty", "manifest", &b""[..]),
        ("no-json", "manifest", b"{\"schemaVersion\":"),
        ("deep", "manifest", "[".repeat(100_000).as_bytes()),
        ("other", "schema 1", br#"{"schemaVersion":1,"name":"old"}"#),
    ] {
        bench
            .registry
            .add_manifest("test/manifest", tag, image::MANIFEST, bytes);
        let reference = format!("{}/test/manifest:{tag}", bench.registry.address());
        assert_refused(bench.node.pull(&reference).await, &invalid, &[word]);
    }
    assert!(bench.node.list_images().await?.is_empty());
    bench.finish().await
}
