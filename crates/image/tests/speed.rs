//! How fast a pull is, and how much memory it takes; run by hand:
//! `cargo test --release -p berth-image --test speed -- --ignored --nocapture --test-threads=1`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement for people"
)]

mod ground;

use std::time::{Duration, Instant};

use berth_image::LiveSet;
use ground::{Scratch, archive::Tar, image::Image, noise, pull, registry::Registry, request};

/// Text that compresses to about a third, as programs do.
fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let words: Vec<_> = noise(4096 * 8, 99).chunks(8).map(<[u8]>::to_vec).collect();
    let picks = noise(bytes / 4, seed);
    let picks = picks.chunks_exact(2).map(|pair| {
        let pick = usize::from(u16::from_le_bytes([pair[0], pair[1]]));
        &words[pick % words.len()]
    });
    let mut content: Vec<u8> = picks.flatten().copied().collect();
    content.truncate(bytes);
    content
}

/// `files` files of `bytes` bytes each.
fn layer(files: usize, bytes: usize, seed: u64) -> Vec<u8> {
    let mut tar = Tar::new();
    for n in 0..files {
        let directory = format!("d{}", n / 50);
        if n % 50 == 0 {
            tar = tar.dir(&directory, 0o755);
        }
        let content = content(bytes, seed * 1_000_000 + n as u64);
        tar = tar.bytes(&format!("{directory}/f{n}"), &content);
    }
    tar.end()
}

/// Five layers of 200 MB together, all compressed: a base of many files, a large one of few.
fn image() -> Image {
    let archives = [
        layer(4_000, 20_000, 1),
        layer(10, 6_000_000, 2),
        layer(1_000, 30_000, 3),
        layer(3, 8_000_000, 4),
        layer(50, 100_000, 5),
    ];
    let gzipped = archives
        .iter()
        .map(|tar| ground::archive::gzip(tar))
        .collect();
    let plain = Image::new(&archives);
    Image::of(plain.config, gzipped)
}

/// User and system time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11..13]
        .iter()
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 on all of Linux' machines.
    Duration::from_millis(ticks * 10)
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a test"]
async fn five_layers_of_200_mb() {
    let registry = Registry::start().await;
    let image = image();
    registry.image("a", "1", &image);
    let compressed: usize = image.layers.iter().map(Vec::len).sum();
    println!("{} MB compressed", compressed / 1_000_000);
    let reference = registry.reference("a:1");
    for _ in 0..5 {
        let scratch = Scratch::new();
        let store = scratch.store();
        let (began, used) = (Instant::now(), cpu());
        let stored = pull(&store, request(&reference)).await.unwrap();
        let (wall, used) = (began.elapsed(), cpu() - used);
        let began = Instant::now();
        pull(&store, request(&reference)).await.unwrap();
        println!(
            "{wall:?} wall, {used:?} CPU with the registry; again {:?}",
            began.elapsed()
        );
        drop(stored);
        store.collect(&LiveSet::default()).unwrap();
    }
    println!(
        "{} MiB at most, with the registry and the image itself",
        peak_mib()
    );
}
