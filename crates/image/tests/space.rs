//! Disks that are too small.

#![allow(
    clippy::unwrap_used,
    reason = "functions beside the tests are tests too"
)]

mod ground;

use std::{fs::File, io::Write as _, path::PathBuf};

use berth_image::{Error, Kind, Limits, LiveSet, Settings, Store};
use ground::{
    Scratch, archive::Tar, image::Image, large_layer, names, pull, registry::Registry, request,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A file system of its own, in memory.
struct Small {
    scratch: Scratch,
}

impl Small {
    fn new(bytes: u64) -> Self {
        let scratch = Scratch::new();
        let options = std::ffi::CString::new(format!("size={bytes},mode=700")).unwrap();
        mount(
            "tmpfs",
            scratch.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .unwrap();
        Self { scratch }
    }

    fn store(&self, reserve_bytes: u64) -> Store {
        let limits = Limits {
            reserve_bytes,
            reserve_inodes: 0,
            ..Limits::default()
        };
        self.scratch.store_with(Settings {
            limits,
            ..Settings::default()
        })
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.scratch.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Takes all but `left` bytes.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.scratch.path().join("hog");
        let size = self.free().saturating_sub(left);
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; usize::try_from(size).unwrap()])
            .unwrap();
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(self.scratch.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// Little to fetch, much to unpack.
fn inflating(bytes: usize) -> Image {
    Image::new(&[Tar::new().bytes("zeros", &vec![0; bytes]).end()])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_fit_is_refused_with_figures_before_a_layer_is_asked_for() {
    let (small, registry) = (Small::new(8 << 20), Registry::start().await);
    let image = Image::new(&[large_layer("large", 3 << 20, 1)]);
    registry.image("a", "1", &image);
    let store = small.store(1 << 20);
    let error = pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    let Error::NoRoom {
        needed, reserve, ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(needed > 9 << 20 && reserve == 1 << 20);
    assert!(registry.asked_for(&image.layers[0]).is_empty());
    ground::assert_empty(&store);

    // A third fits, and is not refused because of what is here already.
    let image = Image::new(&[large_layer("small", 1 << 20, 2)]);
    registry.image("a", "2", &image);
    pull(&store, request(&registry.reference("a:2")))
        .await
        .unwrap();
    let hog = small.fill(2 << 20);
    pull(&store, request(&registry.reference("a:2")))
        .await
        .unwrap();
    drop(hog);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_comes_to_the_reserve_is_undone() {
    let (small, registry) = (Small::new(40 << 20), Registry::start().await);
    registry.image("a", "1", &inflating(50 << 20));
    let store = small.store(4 << 20);
    let before = small.free();
    let error = pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace, "{error}");
    ground::assert_empty(&store);
    assert!(before - small.free() < 64 << 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_fit_alone_are_not_admitted_together() {
    let (small, registry) = (Small::new(24 << 20), Registry::start().await);
    let image = |n: u64| Image::new(&[large_layer("large", 4 << 20, n)]);
    let images = [image(1), image(3), image(5)];
    for (n, image) in images.iter().enumerate() {
        registry.image("a", &n.to_string(), image);
    }
    let name = |n: u32| registry.reference(&format!("a:{n}"));
    // 4 MiB and what they unpack to; one of them is on its way for as long as the test wants.
    let slow = berth_image::Digest::of(&images[0].layers[0]).to_string();
    registry.rule(move |seen, _| {
        let mut hang = ground::registry::Answer::ok("");
        hang.hang = true;
        seen.path.ends_with(&slow).then_some(hang)
    });
    let store = small.store(2 << 20);
    let first = {
        let (store, name) = (store.clone(), name(0));
        tokio::spawn(async move { pull(&store, request(&name)).await })
    };
    while registry.asked_for(&images[0].layers[0]).is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let error = pull(&store, request(&name(1))).await.unwrap_err();
    let Error::NoRoom { promised, free, .. } = error else {
        panic!("{error}");
    };
    assert!(promised > 10 << 20 && free > 20 << 20, "{promised} {free}");
    assert!(registry.asked_for(&images[1].layers[0]).is_empty());
    // The same image is promised nothing twice.
    let same = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        pull(&store, request(&name(0))),
    );
    assert!(same.await.is_err(), "it did not join the other pull");

    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    registry.clear_rules();
    let stored = pull(&store, request(&name(1))).await.unwrap();
    // What was promised and has been taken is not counted twice.
    drop(stored);
    store.collect(&LiveSet::default()).unwrap();
    pull(&store, request(&name(2))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_during_an_import_is_not_damaged() {
    let small = Small::new(24 << 20);
    let files = Tar::new()
        .bytes("noise", &ground::noise(3 << 20, 7))
        .dir("empty", 0o700)
        .end();
    let options = berth_image::ImportOptions {
        format: berth_image::ImportFormat::Rootfs,
        reference: None,
        config: None,
        platform: ground::amd64(),
        all_platforms: true,
    };
    let tracker = berth_phase::Tracker::unobserved("test-import");
    let cancel = tokio_util::sync::CancellationToken::new();
    let (mut refused, mut done) = (0, 0);
    for step in 0..40 {
        let store = small.store(0);
        let hog = small.fill(step * (256 << 10));
        match store.import(&files[..], &options, &tracker, &cancel) {
            Ok(images) => {
                done += 1;
                drop(images);
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
            }
        }
        assert!(names(&store, "ingest").is_empty());
        std::fs::remove_file(hog).unwrap();
        let (image, _) = store
            .import(&files[..], &options, &tracker, &cancel)
            .unwrap()
            .remove(0);
        let layer = store.path().join(&image.layers[0]);
        assert_eq!(
            std::fs::metadata(layer.join("noise")).unwrap().len(),
            3 << 20
        );
        drop(image);
        store.collect(&LiveSet::default()).unwrap();
        ground::assert_empty(&store);
    }
    assert!(refused > 10 && done > 2, "{refused} refused, {done} done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_never_damages_the_store() {
    let (small, registry) = (Small::new(24 << 20), Registry::start().await);
    // Implied directories and a link make the second layer one that is completed.
    let lower = Tar::new().dir("usr", 0o700).symlink("lib", "usr").end();
    let upper = Tar::new()
        .file("lib/x", "x")
        .bytes("zeros", &vec![0; 3 << 20])
        .end();
    // The last is small on its way, so that the disk is full only while it is unpacked.
    let image = Image::new(&[lower, large_layer("noise", 600_000, 3), upper]);
    registry.image("a", "1", &image);
    let reference = registry.reference("a:1");
    let (mut refused, mut begun, mut done) = (0, 0, 0);
    for step in 0..24 {
        // No reserve: the kernel itself says when it is full.
        let store = small.store(0);
        let hog = small.fill(step * (256 << 10));
        match pull(&store, request(&reference)).await {
            Ok(mut image) => {
                done += 1;
                image.release();
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), Kind::NoSpace, "{error:?}");
                begun += usize::from(!matches!(error, Error::NoRoom { .. }));
                assert!(names(&store, "ingest").is_empty());
            }
        }
        std::fs::remove_file(hog).unwrap();
        // Whatever is there now is whole: the pull goes on from it.
        let stored = pull(&store, request(&reference)).await.unwrap();
        let completed = stored.layers.iter().find(|layer| layer.contains("chain-"));
        let completed = store.path().join(completed.unwrap());
        assert_eq!(std::fs::read(completed.join("usr/x")).unwrap(), b"x");
        assert_eq!(
            std::fs::metadata(completed.join("zeros")).unwrap().len(),
            3 << 20
        );
        for digest in &stored.blobs {
            assert!(store.blob(digest).unwrap().is_some(), "{digest}");
        }
        drop(stored);
        store.collect(&LiveSet::default()).unwrap();
        ground::assert_empty(&store);
    }
    assert!(
        refused > begun && begun > 5 && done > 1,
        "{refused} refused, {begun} of them late, {done} done"
    );
}
