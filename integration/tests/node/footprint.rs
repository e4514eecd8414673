//! How much memory the agent takes while it has much to do.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use berth_integration::{
    Node,
    distribution::{Distribution, Wants},
    image::{self, Entry, Image, Layer},
};
use serde_json::json;

/// What the agent may have taken at its highest while it pulled ten images.
const PEAK_KIB: u64 = 64 << 10;
/// What the pulls themselves may take. A program with debug information takes 41 MiB by
/// itself, one that is optimised 16.
const GROWTH_KIB: u64 = 32 << 10;
const OPTIMISED_KIB: u64 = 24 << 10;
const IMAGES: u64 = 10;
const LAYERS: u64 = 5;
const FILES: u64 = 60;

/// A quarter of it does not compress; the rest does well, as programs do.
fn content(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let noise: Vec<u8> = std::iter::repeat_with(step).take(2048).flatten().collect();
    [noise.clone(), noise[..1024].repeat(48)].concat()
}

fn layer(image: u64, layer: u64) -> Result<Layer> {
    let file = |n: u64| {
        let seed = (image * LAYERS + layer) * FILES + n;
        Entry::file(&format!("d{layer}/file-{n}"), 0o644, content(seed))
    };
    let files = (0..FILES).map(file);
    let directory = Entry::directory(&format!("d{layer}"), 0o755);
    let entries: Vec<Entry> = std::iter::once(directory).chain(files).collect();
    Layer::gzip(&entries)
}

/// `VmHWM` of the agent in KiB.
fn peak(node: &Node) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.context("no VmHWM")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_images_at_once_take_less_than_64_mib() -> Result<()> {
    let node = Arc::new(Node::start().await?);
    let registry = Distribution::start(node.netns(), 5000, Wants::default()).await?;
    let address = registry.host().parse()?;
    let mut references = Vec::new();
    let mut bytes = 0;
    for number in 0..IMAGES {
        let layers = (0..LAYERS).map(|n| layer(number, n));
        let image = Image::new(&layers.collect::<Result<Vec<_>>>()?, json!({}))?;
        bytes += image.blobs.values().map(Vec::len).sum::<usize>();
        let repository = format!("test/image-{number}");
        image::push(&image, node.netns(), address, &repository, "1").await?;
        references.push(format!("{}/{repository}:1", registry.host()));
    }
    let before = peak(&node)?;
    let mut pulls = tokio::task::JoinSet::new();
    for reference in references.clone() {
        let node = Arc::clone(&node);
        pulls.spawn(async move { node.pull(&reference).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        pulled??;
    }
    let after = peak(&node)?;
    println!(
        "{IMAGES} images of {LAYERS} layers, {} MiB compressed: VmHWM {before} KiB before, {after} KiB after",
        bytes >> 20
    );
    assert!(after - before < GROWTH_KIB, "{before} KiB became {after}");
    if before < OPTIMISED_KIB {
        assert!(after < PEAK_KIB, "the agent took {after} KiB");
    }
    for reference in &references {
        node.remove_image(reference).await?;
    }
    drop(registry);
    let node = Arc::into_inner(node).context("the node is still in use")?;
    node.finish().await
}
