//! Deletion beside pulls and imports.

#![allow(
    clippy::unwrap_used,
    reason = "functions beside the tests are tests too"
)]

mod ground;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use berth_image::{ImportFormat, ImportOptions, LiveSet, Store, StoredImage};
use ground::{Scratch, archive::Tar, image::Image, pull, registry::Registry, request};
use tokio_util::sync::CancellationToken;

/// Who uses what, as a caller records it.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<HashMap<usize, StoredImage>>>);

impl Records {
    /// Records an image and looks whether all of it is there, then forgets it.
    fn use_once(&self, store: &Store, owner: usize, mut image: StoredImage, layers: usize) {
        self.0.lock().unwrap().insert(owner, image.clone());
        image.release();
        drop(image);
        let image = {
            let mut records = self.0.lock().unwrap();
            let image = records.get_mut(&owner).unwrap();
            image.release();
            image.clone()
        };
        std::thread::yield_now();
        assert_eq!(image.layers.len(), layers);
        for layer in &image.layers {
            let path = store.path().join(layer);
            assert!(path.join("file").exists(), "{layer} was collected");
        }
        for digest in &image.blobs {
            assert!(
                store.blob(digest).unwrap().is_some(),
                "{digest} was collected"
            );
        }
        self.0.lock().unwrap().remove(&owner);
    }

    fn live(&self) -> LiveSet {
        let records = self.0.lock().unwrap();
        LiveSet {
            layers: records
                .values()
                .flat_map(|image| image.layers.clone())
                .collect(),
            blobs: records
                .values()
                .flat_map(|image| image.blobs.clone())
                .collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_pulled_imported_or_recorded_is_ever_collected() {
    const TIME: Duration = Duration::from_secs(3);
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let layer = |n: usize| Tar::new().file("file", &n.to_string()).end();
    // Every two neighbours share a layer.
    let images: Vec<_> = (0..4)
        .map(|n| Image::new(&[layer(n), layer((n + 1) % 4)]))
        .collect();
    for (n, image) in images.iter().enumerate() {
        registry.image("a", &n.to_string(), image);
    }
    let (store, records) = (scratch.store(), Records::default());
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut pulls = Vec::new();
    for owner in 0..4 {
        let (store, records) = (store.clone(), records.clone());
        let reference = registry.reference(&format!("a:{owner}"));
        pulls.push(tokio::spawn(async move {
            let mut count = 0;
            while began.elapsed() < TIME {
                let image = pull(&store, request(&reference)).await.unwrap();
                records.use_once(&store, owner, image, 2);
                count += 1;
            }
            count
        }));
    }
    let importing = {
        let (store, records, bytes) = (store.clone(), records.clone(), layer(0));
        tokio::task::spawn_blocking(move || {
            let options = ImportOptions {
                format: ImportFormat::Rootfs,
                reference: None,
                config: None,
                platform: ground::amd64(),
                all_platforms: true,
            };
            let tracker = berth_phase::Tracker::unobserved("test-import");
            let mut count = 0;
            while began.elapsed() < TIME {
                let cancel = CancellationToken::new();
                let imported = store.import(&bytes[..], &options, &tracker, &cancel);
                let (image, _) = imported.unwrap().remove(0);
                records.use_once(&store, 99, image, 1);
                count += 1;
            }
            count
        })
    };
    let collecting = {
        let (store, records, over) = (store.clone(), records.clone(), over.clone());
        tokio::task::spawn_blocking(move || {
            let mut freed = 0;
            while !over.load(Ordering::Relaxed) {
                let collection = store.begin_collection();
                freed += collection.run(&records.live()).unwrap().layers;
            }
            freed
        })
    };
    let mut counts = Vec::new();
    for pull in pulls {
        counts.push(pull.await.unwrap());
    }
    counts.push(importing.await.unwrap());
    over.store(true, Ordering::Relaxed);
    let freed = collecting.await.unwrap();
    assert!(
        counts.iter().all(|count| *count > 3) && freed > 3,
        "{counts:?}, {freed} freed"
    );
    store.collect(&LiveSet::default()).unwrap();
    ground::assert_empty(&store);
}
