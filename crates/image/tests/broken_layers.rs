//! Layers that end, lie or mean nothing, each with the digest that it should have:
//! refused soon, and nothing of them stays, neither files nor descriptors nor threads.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use std::time::{Duration, Instant};

use berth_image::Digest;
use ground::{Scratch, archive::gzip, image::Image, registry::Registry};

fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// An image whose layer is `layer`, and whose configuration says that it is `tar`.
fn image(layer: Vec<u8>, tar: &[u8]) -> Image {
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(tar)]},
    });
    Image::of(config.to_string().into_bytes(), vec![layer])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_layer_is_refused_soon_and_leaves_nothing_behind() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let store = scratch.store();
    let tar = ground::large_layer("f", 3000, 11);
    let whole = gzip(&tar);
    let mut cases: Vec<(String, Image)> = Vec::new();
    for end in (512..tar.len() - 1024).step_by(512) {
        let cut = &tar[..end];
        cases.push((format!("{end} bytes"), image(gzip(cut), cut)));
    }
    for end in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
        let case = format!("{end} compressed bytes");
        cases.push((case, image(whole[..end].to_vec(), &tar)));
    }
    let noise = ground::noise(4096, 3);
    cases.push(("noise".to_owned(), image(noise.clone(), &noise)));
    cases.push(("noise, compressed".to_owned(), image(gzip(&noise), &noise)));
    cases.push(("another layer".to_owned(), image(whole.clone(), &noise)));
    let trailing = [&whole[..], b"trailing"].concat();
    cases.push(("something behind it".to_owned(), image(trailing, &tar)));

    let mut first = None;
    for (number, (case, image)) in cases.iter().enumerate() {
        let tag = number.to_string();
        registry.image("a", &tag, image);
        let began = Instant::now();
        let request = ground::request(&registry.reference(&format!("a:{tag}")));
        let refused = ground::pull(&store, request).await;
        assert!(refused.is_err(), "{case} was taken");
        assert!(began.elapsed() < Duration::from_secs(5), "{case}");
        for directory in ["layers", "ingest"] {
            assert!(ground::names(&store, directory).is_empty(), "{case}");
        }
        // Threads of the runtime come with the first pulls.
        if number == 8 {
            first = Some(count("/proc/self/fd"));
        }
    }
    // Connections may be open or not.
    let slack = 4;
    assert!(count("/proc/self/fd") <= first.unwrap() + slack);
}
