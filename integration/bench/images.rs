//! The images that all runtimes pull from one registry.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use berth_integration::{
    image::{Entry, Image, Layer, push},
    node::Node,
    programs,
};
use serde_json::json;

/// What the pods' containers run, and nothing else.
pub(crate) const PAUSE: &str = "bench/pause:1";
/// busybox, and the program of [`PAUSE`] under the name `work`.
pub(crate) const WORK: &str = "bench/work:1";
/// Five layers of 200 MB.
pub(crate) const LARGE: &str = "bench/large:1";
/// The lower two of them: half of the bytes.
pub(crate) const HALF: &str = "bench/half:1";

/// Sizes of the layers of [`LARGE`] in MB, unpacked.
const LAYERS: [usize; 5] = [60, 40, 40, 30, 30];
/// Files as a system has them: many small, some large.
const FILE_SIZES: [usize; 8] = [
    1 << 10,
    4 << 10,
    2 << 10,
    16 << 10,
    8 << 10,
    48 << 10,
    128 << 10,
    1 << 20,
];

/// Makes the images and pushes them to the registry at `host`.
pub(crate) async fn publish(node: &Node, host: &str, large: bool) -> Result<()> {
    let mut images = vec![(PAUSE, pause(node)?), (WORK, work(node)?)];
    if large {
        let layers = large_layers()?;
        images.push((HALF, Image::new(&layers[..2], json!({"Cmd": ["/none"]}))?));
        images.push((LARGE, Image::new(&layers, json!({"Cmd": ["/none"]}))?));
    }
    for (name, image) in &images {
        let (repository, tag) = name.split_once(':').context("a name without a tag")?;
        push(image, node.netns(), host.parse()?, repository, tag).await?;
    }
    Ok(())
}

fn pause_program(node: &Node) -> Result<Vec<u8>> {
    let program = node.home().join("pause");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-s", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/pause.c"))
        .status()
        .context("run cc (package gcc)")?;
    ensure!(status.success(), "cc could not compile pause.c: {status}");
    Ok(std::fs::read(program)?)
}

fn pause(node: &Node) -> Result<Image> {
    let layer = Layer::gzip(&[Entry::file("pause", 0o755, pause_program(node)?)])?;
    Image::new(&[layer], json!({ "Entrypoint": ["/pause"] }))
}

fn work(node: &Node) -> Result<Image> {
    let busybox = std::fs::read(programs::tool("debian/bin/busybox")?)?;
    let mut entries = vec![
        Entry::directory("bin", 0o755),
        Entry::directory("data", 0o755),
        Entry::file("bin/busybox", 0o755, busybox),
        Entry::file("bin/work", 0o755, pause_program(node)?),
    ];
    for applet in ["sh", "true", "dd", "cat"] {
        entries.push(Entry::symlink(&format!("bin/{applet}"), "busybox"));
    }
    let config = json!({ "Cmd": ["/bin/work"], "Env": ["PATH=/bin"] });
    Image::new(&[Layer::gzip(&entries)?], config)
}

fn large_layers() -> Result<Vec<Layer>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut layers = Vec::new();
    for (number, megabytes) in LAYERS.into_iter().enumerate() {
        let mut entries = vec![Entry::directory(&format!("layer{number}"), 0o755)];
        let mut left = megabytes * 1_000_000;
        let mut count = 0;
        while left > 0 {
            if count % 100 == 0 {
                let directory = format!("layer{number}/d{}", count / 100);
                entries.push(Entry::directory(&directory, 0o755));
            }
            let size = FILE_SIZES[count % FILE_SIZES.len()].min(left);
            let path = format!("layer{number}/d{}/f{count}", count / 100);
            entries.push(Entry::file(&path, 0o644, random.bytes(size)));
            left -= size;
            count += 1;
        }
        layers.push(Layer::gzip(&entries)?);
    }
    Ok(layers)
}

/// The same bytes in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes of which gzip makes somewhat less than half, as of programs.
    fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 64);
        while bytes.len() < size {
            let word = self.next();
            bytes.extend(word.to_le_bytes());
            // Something that was there before, from not too far back.
            if word & 1 == 0 && bytes.len() > 512 {
                let from = bytes.len() - 64 - usize::try_from(word >> 56).unwrap_or(0);
                bytes.extend_from_within(from..from + 24);
            }
        }
        bytes.truncate(size);
        bytes
    }
}
