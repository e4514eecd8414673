//! What no image owns goes: at the start, at intervals, and never from under a pull.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use berth_integration::{
    Node,
    image::{Entry, Image, Layer},
    registry::{Act, Registry, Rule},
    wait,
};
use serde_json::json;

/// Longer than two of the intervals that the tests set.
const SOON: Duration = Duration::from_secs(10);

fn store(node: &Node) -> PathBuf {
    node.home().join("root/images")
}

/// Layers and blobs.
fn kept(store: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for directory in ["layers", "blobs/sha256"] {
        for entry in fs::read_dir(store.join(directory))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

fn image(texts: &[&str]) -> Result<Image> {
    let layer = |text: &&str| Layer::gzip(&[Entry::file("file", 0o644, *text)]);
    let layers = texts.iter().map(layer).collect::<Result<Vec<_>>>()?;
    Image::new(&layers, json!({}))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_pull_or_a_crash_has_left_goes_at_intervals_and_at_the_start() -> Result<()> {
    let mut node = Node::start_with("[image]\ncollect_seconds = 2\n", &[]).await?;
    let registry = Registry::start(node.netns())?;
    let image = image(&["whole", "never comes"])?;
    let reference = registry.add("test/image", "1", &image);
    registry.rule(Rule::on(&image.layers[1], Act::status(404)));
    assert!(node.pull(&reference).await.is_err());
    wait::until_true("the layer that came is collected", SOON, || {
        Ok(kept(&store(&node))?.is_empty())
    })
    .await?;

    node.kill()?;
    let stray = "0".repeat(64);
    let layer = store(&node).join("layers").join(&stray);
    fs::create_dir_all(layer.join("root"))?;
    fs::write(store(&node).join("blobs/sha256").join(&stray), "stray")?;
    fs::create_dir_all(store(&node).join("ingest/work-1"))?;
    node.launch(&[]).await?;
    ensure!(
        kept(&store(&node))?.is_empty(),
        "{:?}",
        kept(&store(&node))?
    );
    ensure!(fs::read_dir(store(&node).join("ingest"))?.next().is_none());
    registry.clear_rules();
    node.pull(&reference).await?;
    node.remove_image(&reference).await?;
    node.finish().await
}

/// Pulls, removals and collections at once: whatever is recorded is there as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_listed_is_whole_whatever_is_removed_and_collected_meanwhile() -> Result<()>
{
    const TIME: Duration = Duration::from_secs(5);
    let node = Arc::new(Node::start_with("[image]\ncollect_seconds = 1\n", &[]).await?);
    let registry = Registry::start(node.netns())?;
    // Neighbours share layers, so that each removal is of something that another one wants.
    let texts = ["a", "b", "c", "d"];
    let mut references = Vec::new();
    for n in 0..texts.len() {
        let image = image(&[texts[n], texts[(n + 1) % 4], texts[(n + 2) % 4]])?;
        references.push(registry.add("test/shared", &n.to_string(), &image));
    }
    let mut running = tokio::task::JoinSet::new();
    for reference in references.clone() {
        let (node, began) = (Arc::clone(&node), Instant::now());
        running.spawn(async move {
            let mut rounds = 0;
            while began.elapsed() < TIME {
                node.pull(&reference).await.context("pull")?;
                // Everything of it is read and its digests compared.
                let mut berth = node.berth()?;
                let request = berth_proto::berth::v1::ExportRequest {
                    images: vec![reference.clone()],
                };
                let mut archive = berth.export(request).await?.into_inner();
                while archive.message().await.context("save")?.is_some() {}
                node.remove_image(&reference).await.context("remove")?;
                rounds += 1;
            }
            Ok::<_, anyhow::Error>(rounds)
        });
    }
    let mut rounds = Vec::new();
    while let Some(done) = running.join_next().await {
        rounds.push(done??);
    }
    ensure!(rounds.iter().all(|&count| count > 2), "{rounds:?}");
    wait::until_true("nothing is left", SOON, || {
        Ok(kept(&store(&node))?.is_empty())
    })
    .await?;
    let gone = node.image_status(&references[0]).await?;
    ensure!(gone.is_none());
    drop(registry);
    Arc::into_inner(node)
        .context("the node is still in use")?
        .finish()
        .await
}
