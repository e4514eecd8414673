//! Registries that are slow on purpose: each wait ends, and the message says at which step.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use std::time::{Duration, Instant};

use berth_image::{Digest, Kind, Patience, Registries, Store};
use ground::{
    Scratch,
    registry::{Answer, Registry},
};

/// A hundredth of what is usual, so that the test is quick.
const PATIENCE: Patience = Patience {
    headers: Duration::from_millis(300),
    silence: Duration::from_millis(300),
    least: 64 << 10,
    window: Duration::from_millis(600),
    retry_after: Duration::from_millis(100),
};

fn impatient(scratch: &Scratch) -> Store {
    scratch.store_with(ground::settings(Registries {
        patience: PATIENCE,
        ..Registries::default()
    }))
}

/// Sends pieces of 16 KiB with a pause before each.
fn dripping(mut answer: Answer, pause: u64) -> Answer {
    answer.pause = Some(Duration::from_millis(pause));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_trickles_end_at_every_step() {
    let hang = |mut answer: Answer| {
        answer.hang = true;
        answer
    };
    type Spoil = fn(Answer) -> Answer;
    let silent: Spoil = hang;
    // 16 KiB in each 250 ms: never silent for long, but only 38 KiB in each window.
    let slow: Spoil = |answer| dripping(answer, 250);
    let stalled: Spoil = |answer| dripping(answer, 100_000);
    let rows = [
        ("manifest", silent, "no progress", "manifest 1"),
        ("manifest", stalled, "no progress", "manifest 1"),
        ("config", silent, "no progress", "configuration sha256:"),
        ("layer", silent, "no progress", "layer sha256:"),
        ("layer", stalled, "no progress", "layer sha256:"),
        ("layer", slow, "sent only", "layer sha256:"),
    ];
    let mut running = tokio::task::JoinSet::new();
    for (which, spoil, why, step) in rows {
        running.spawn(async move {
            let (scratch, registry) = (Scratch::new(), Registry::start().await);
            let store = impatient(&scratch);
            let image = ground::image::Image::new(&[ground::large_layer("f", 800_000, 9)]);
            registry.image("a/b", "1", &image);
            let (part, honest) = match which {
                "manifest" => ("/manifests/".to_owned(), image.manifest.clone()),
                "config" => (Digest::of(&image.config).to_string(), image.config.clone()),
                _ => (
                    Digest::of(&image.layers[0]).to_string(),
                    image.layers[0].clone(),
                ),
            };
            let spoilt = spoil(Answer::ok(honest));
            registry.rule(move |seen, _| seen.path.contains(&part).then(|| spoilt.clone()));
            let began = Instant::now();
            let request = ground::request(&registry.reference("a/b:1"));
            let error = ground::pull(&store, request).await.unwrap_err();
            let (took, text) = (began.elapsed(), error.to_string());
            assert_eq!(error.kind(), Kind::Timeout, "{which}: {text}");
            for word in [why, step, &registry.host()] {
                assert!(text.contains(word), "{which}: no {word} in {text}");
            }
            // Four tries and the pauses between them.
            assert!(took < Duration::from_secs(10), "{which}: {took:?}");
            assert!(registry.seen().len() <= 6, "{which}");
            registry.clear_rules();
            let request = ground::request(&registry.reference("a/b:1"));
            ground::pull(&store, request).await.unwrap();
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_slow_but_fast_enough_is_waited_for() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let store = impatient(&scratch);
    let image = ground::image::Image::new(&[ground::large_layer("f", 800_000, 9)]);
    registry.image("a/b", "1", &image);
    let slow = dripping(Answer::ok(image.layers[0].clone()), 40);
    let part = Digest::of(&image.layers[0]).to_string();
    registry.rule(move |seen, _| seen.path.ends_with(&part).then(|| slow.clone()));
    let request = ground::request(&registry.reference("a/b:1"));
    ground::pull(&store, request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_trickle_do_not_keep_other_registries_waiting() {
    let (scratch, registry) = (Scratch::new(), Registry::start().await);
    let honest = Registry::start().await;
    let store = impatient(&scratch);
    let layers: Vec<_> = (0..8)
        .map(|n| ground::large_layer("f", 400_000, n * 2 + 1))
        .collect();
    let image = ground::image::Image::new(&layers);
    registry.image("a/b", "1", &image);
    let config = Digest::of(&image.config).to_string();
    registry.rule(move |seen, _| {
        let layer = seen.path.contains("/blobs/") && !seen.path.ends_with(&config);
        let mut answer = Answer::ok("");
        answer.hang = true;
        layer.then_some(answer)
    });
    let small = ground::image::Image::new(&[ground::large_layer("g", 1000, 99)]);
    honest.image("c", "1", &small);
    let reference = registry.reference("a/b:1");
    let slow = {
        let store = store.clone();
        tokio::spawn(async move { ground::pull(&store, ground::request(&reference)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(registry.seen().len() > 3, "the layers were not asked for");
    let began = Instant::now();
    ground::pull(&store, ground::request(&honest.reference("c:1")))
        .await
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    slow.abort();
}
