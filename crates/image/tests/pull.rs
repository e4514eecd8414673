//! Pulls that go well, and what they leave.

mod ground;

use ground::{Scratch, archive::Tar, image::Image, pull, registry::Registry, request};

fn base() -> Vec<u8> {
    Tar::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .file("usr/lib/libc.so", "libc")
        .symlink("lib", "usr/lib")
        .dir("tmp", 0o1777)
        .file_mode("etc/shadow", 0o640, 5, "secret")
        .file("etc/gone", "old")
        .dir("var/cache", 0o755)
        .file("var/cache/x", "x")
        .end()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_image_has_its_layers_uppermost_first_and_its_configuration() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let upper = Tar::new()
        .file("etc/.wh.gone", "")
        .file("etc/new", "new")
        .file("var/cache/.wh..wh..opq", "")
        .end();
    registry.image("a/b", "1", &Image::new(&[base(), upper]));
    let store = scratch.store();
    let image = pull(&store, request(&registry.reference("a/b:1")))
        .await
        .unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.config.user, "7:8");
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    assert_eq!(image.manifest, image.named);
    // Configuration, manifest and both layers as they came.
    assert_eq!(image.blobs.len(), 4);
    let layer = |at: usize| ground::listing(&store.path().join(&image.layers[at]));
    let lower = layer(1);
    assert_eq!(lower["etc/shadow"], "file \"secret\" 640 5:0");
    assert_eq!(lower["lib"], "-> usr/lib 777 0:0");
    assert_eq!(lower["tmp"], "dir 1777 0:0");
    let upper = layer(0);
    assert_eq!(upper["etc/gone"], "device 0 0 0:0");
    assert_eq!(upper["etc/new"], "file \"new\" 644 0:0");
    assert!(store.usage().unwrap().bytes > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_may_be_compressed_with_zstd_in_several_frames() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let archive = base();
    let (front, back) = archive.split_at(archive.len() / 2);
    let frames = [front, back].map(|part| zstd::encode_all(part, 3).unwrap());
    let plain = Image::new(std::slice::from_ref(&archive));
    let image = Image::of(plain.config, vec![frames.concat()]);
    registry.image("a", "zstd", &image);
    let store = scratch.store();
    let stored = pull(&store, request(&registry.reference("a:zstd")))
        .await
        .unwrap();
    let listing = ground::listing(&store.path().join(&stored.layers[0]));
    assert_eq!(listing["etc/shadow"], "file \"secret\" 640 5:0");
    // The same bytes as they came, so that they can be pushed under their digest.
    let digest = berth_image::Digest::of(&image.layers[0]);
    assert_eq!(store.blob(&digest).unwrap().unwrap(), image.layers[0]);
}
