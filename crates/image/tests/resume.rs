//! Transfers that break, and those that share their bytes.

#![allow(
    clippy::unwrap_used,
    reason = "functions beside the tests are tests too"
)]

mod ground;

use std::time::Duration;

use berth_image::{Error, Kind, LayerState, PullProgress, Registries, Settings, Store};
use ground::{
    Scratch,
    image::Image,
    large_layer, names, pull,
    registry::{Answer, Registry},
    request,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LARGE: usize = 2 << 20;

fn image(seed: u64) -> Image {
    Image::new(&[large_layer("large", LARGE, seed)])
}

fn ranges(registry: &Registry, image: &Image) -> Vec<Option<String>> {
    let asked = registry.asked_for(&image.layers[0]);
    let range = |seen: ground::registry::Seen| seen.headers.get("range").cloned();
    asked.into_iter().map(range).collect()
}

/// The first answers to requests for the layer break after `at` bytes.
fn break_after(registry: &Registry, image: &Image, at: usize) {
    let (digest, body) = (
        berth_image::Digest::of(&image.layers[0]).to_string(),
        image.layers[0].clone(),
    );
    registry.rule(move |seen, _| {
        seen.path
            .ends_with(&digest)
            .then(|| match seen.headers.get("range") {
                None => Answer::ok(body.clone()).cut(at),
                Some(_) => Answer::status(503),
            })
    });
}

async fn watched(
    store: &Store,
    reference: &str,
    cancel: &CancellationToken,
) -> (
    tokio::task::JoinHandle<Result<berth_image::StoredImage, Error>>,
    watch::Receiver<PullProgress>,
) {
    let (sender, receiver) = watch::channel(PullProgress::default());
    let (store, request, cancel) = (store.clone(), request(reference), cancel.clone());
    let pulling = tokio::spawn(async move {
        let tracker = berth_phase::Tracker::unobserved("test-pull");
        store.pull(request, &tracker, sender, cancel).await
    });
    (pulling, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_on_where_an_earlier_agent_left_it() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(1);
    registry.image("a", "1", &image);
    break_after(&registry, &image, 1 << 20);
    let store = scratch.store();
    let reference = registry.reference("a:1");
    let error = pull(&store, request(&reference)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(names(&store, "layers").is_empty() && names(&store, "ingest").is_empty());
    assert_eq!(names(&store, "partial").len(), 1);
    assert!(store.usage().unwrap().bytes >= 1 << 20);
    drop(store);

    registry.clear_rules();
    registry.forget();
    // As a new agent opens it.
    let store = scratch.store();
    pull(&store, request(&reference)).await.unwrap();
    assert_eq!(
        ranges(&registry, &image),
        [Some(format!("bytes={}-", 1 << 20))]
    );
    assert!(names(&store, "partial").is_empty());
    let digest = berth_image::Digest::of(&image.layers[0]);
    let kept = store.open_blob(&digest).unwrap().unwrap();
    assert_eq!(kept.metadata().unwrap().len(), image.layers[0].len() as u64);
    assert_eq!(store.blob(&digest).unwrap().unwrap(), image.layers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_beginning_is_fetched_anew_once() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(2);
    registry.image("a", "1", &image);
    break_after(&registry, &image, 1 << 20);
    let store = scratch.store();
    let reference = registry.reference("a:1");
    for damage in [500_000, 2] {
        pull(&store, request(&reference)).await.unwrap_err();
        let file = store
            .path()
            .join("partial")
            .join(&names(&store, "partial")[0]);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[damage] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        registry.clear_rules();
        registry.forget();
        pull(&store, request(&reference)).await.unwrap();
        let asked = ranges(&registry, &image);
        assert!(
            asked[0].is_some() && asked[1].is_none() && asked.len() == 2,
            "{asked:?}"
        );
        // The damage must not be in the way for ever either.
        store.collect(&berth_image::LiveSet::default()).unwrap();
        break_after(&registry, &image, 1 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_wrong_to_the_end_leave_nothing() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(3);
    registry.image("a", "1", &image);
    let mut wrong = image.layers[0].clone();
    *wrong.last_mut().unwrap() ^= 1;
    let digest = berth_image::Digest::of(&image.layers[0]);
    registry.set(&format!("/v2/a/blobs/{digest}"), Answer::ok(wrong));
    let store = scratch.store();
    let error = pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss, "{error}");
    ground::assert_empty(&store);
}

fn slow(registry: &Registry, image: &Image, pause: u64) {
    let (digest, body) = (
        berth_image::Digest::of(&image.layers[0]).to_string(),
        image.layers[0].clone(),
    );
    registry.rule(move |seen, _| {
        let mut answer = Answer::ok(body.clone()).ranged(seen.headers.get("range"));
        answer.pause = Some(Duration::from_millis(pause));
        seen.path.ends_with(&digest).then_some(answer)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_fetched_once_however_many_pulls_want_it_and_all_see_how_far_it_is() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let shared = large_layer("shared", LARGE, 4);
    // Different images, which have their first layer in common.
    let images: Vec<_> = (0..4)
        .map(|n| Image::new(&[shared.clone(), large_layer("own", 1000, n)]))
        .collect();
    for (n, image) in images.iter().enumerate() {
        registry.image("a", &n.to_string(), image);
    }
    slow(&registry, &images[0], 2);
    let store = scratch.store();
    let cancel = CancellationToken::new();
    let mut pulls = Vec::new();
    for n in 0..4 {
        let reference = registry.reference(&format!("a:{n}"));
        pulls.push(watched(&store, &reference, &cancel).await);
    }
    for (_, progress) in &mut pulls {
        let moving = progress.wait_for(|progress| {
            progress
                .layers
                .first()
                .is_some_and(|layer| layer.state == LayerState::Fetching && layer.fetched > 100_000)
        });
        tokio::time::timeout(Duration::from_secs(20), moving)
            .await
            .unwrap()
            .unwrap();
    }
    for (pull, _) in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(registry.asked_for(&images[0].layers[0]).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_waiter_that_leaves_ends_a_transfer() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(5);
    registry.image("a", "1", &image);
    registry.image("b", "1", &image);
    slow(&registry, &image, 2);
    let store = scratch.store();
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let (one, mut seen) = watched(&store, &registry.reference("a:1"), &first).await;
    let begun = |progress: &PullProgress| {
        progress
            .layers
            .first()
            .is_some_and(|layer| layer.fetched > 100_000)
    };
    seen.wait_for(begun).await.unwrap();
    let (two, mut seen) = watched(&store, &registry.reference("b:1"), &second).await;
    seen.wait_for(begun).await.unwrap();
    first.cancel();
    assert_eq!(one.await.unwrap().unwrap_err().kind(), Kind::Cancelled);
    two.await.unwrap().unwrap();
    assert_eq!(registry.asked_for(&image.layers[0]).len(), 1);

    // Alone, it stops and leaves what it has.
    store.collect(&berth_image::LiveSet::default()).unwrap();
    registry.forget();
    let (alone, mut seen) = watched(&store, &registry.reference("a:1"), &second).await;
    seen.wait_for(begun).await.unwrap();
    second.cancel();
    assert_eq!(alone.await.unwrap().unwrap_err().kind(), Kind::Cancelled);
    assert!(names(&store, "ingest").is_empty());
    assert_eq!(names(&store, "partial").len(), 1);
    registry.clear_rules();
    pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap();
    let asked = ranges(&registry, &image);
    assert!(asked.len() == 2 && asked[1].is_some(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_joined_a_failed_transfer_tries_for_itself() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(6);
    registry.image("forbidden", "1", &image);
    registry.image("open", "1", &image);
    let digest = berth_image::Digest::of(&image.layers[0]).to_string();
    registry.rule(move |seen, _| {
        let refused = seen.path.ends_with(&digest) && seen.path.contains("forbidden");
        refused.then(|| Answer {
            delay: Duration::from_millis(600),
            ..Answer::status(403)
        })
    });
    let store = scratch.store();
    let cancel = CancellationToken::new();
    let (bad, _) = watched(&store, &registry.reference("forbidden:1"), &cancel).await;
    while registry.asked_for(&image.layers[0]).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (good, _) = watched(&store, &registry.reference("open:1"), &cancel).await;
    let error = bad.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden, "{error}");
    good.await.unwrap().unwrap();
    assert_eq!(registry.asked_for(&image.layers[0]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_asked_for_again() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(7);
    registry.image("a", "1", &image);
    let store = scratch.store();
    pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap();
    registry.forget();
    pull(&store, request(&registry.reference("a:1")))
        .await
        .unwrap();
    let asked: Vec<_> = registry.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/v2/a/manifests/1"]);
    registry.forget();
    let digest = berth_image::Digest::of(&image.manifest);
    let named = registry.reference(&format!("a@{digest}"));
    pull(&store, request(&named)).await.unwrap();
    assert_eq!(registry.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_layers_are_kept_only_if_the_node_wants_that() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let image = image(8);
    registry.image("a", "1", &image);
    let reference = registry.reference("a:1");
    let digest = berth_image::Digest::of(&image.layers[0]);
    let without = Settings {
        keep_blobs: false,
        ..ground::settings(Registries::default())
    };
    let store = scratch.store_with(without);
    pull(&store, request(&reference)).await.unwrap();
    assert!(store.open_blob(&digest).unwrap().is_none());
    assert!(names(&store, "partial").is_empty());
    registry.forget();
    pull(&store, request(&reference)).await.unwrap();
    assert_eq!(registry.asked_for(&image.layers[0]).len(), 0);
    drop(store);
    // Changed: the bytes come, the directory stays.
    let store = scratch.store();
    let stored = pull(&store, request(&reference)).await.unwrap();
    assert_eq!(store.blob(&digest).unwrap().unwrap(), image.layers[0]);
    // And the other way round.
    std::fs::remove_dir_all(store.path().join(&stored.layers[0])).unwrap();
    registry.forget();
    pull(&store, request(&reference)).await.unwrap();
    assert_eq!(registry.asked_for(&image.layers[0]).len(), 0);
    assert!(store.path().join(&stored.layers[0]).join("large").exists());
    // A blob that the disk has damaged is no help.
    std::fs::remove_dir_all(store.path().join(&stored.layers[0])).unwrap();
    let blob = store.path().join("blobs/sha256").join(digest.hex());
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[LARGE / 2] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    pull(&store, request(&reference)).await.unwrap();
    assert_eq!(registry.asked_for(&image.layers[0]).len(), 1);
    assert_eq!(store.blob(&digest).unwrap().unwrap(), image.layers[0]);
}
