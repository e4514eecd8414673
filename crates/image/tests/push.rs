//! Pushes to a registry that takes part, and to some that do not.

#![allow(clippy::unwrap_used, reason = "a test")]

mod ground;

use std::{collections::HashMap, io::Write as _};

use berth_image::{
    Algorithm, Auth, BlobState, Digest, Error, ImportFormat, ImportOptions, Kind, PushProgress,
    PushRequest, Pushed, Recorded, Store,
};
use berth_phase::Tracker;
use ground::{Scratch, archive, image::Image, uploads::Uploads};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LAYER: usize = 300_000;

/// An image with one layer of incompressible bytes, in a store.
fn image(store: &Store) -> (Image, Recorded) {
    let mut noise = 1u64;
    let layer: Vec<u8> = (0..LAYER)
        .map(|_| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            noise.to_be_bytes()[0]
        })
        .collect();
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = Image::of(config.to_vec(), vec![layer]);
    let recorded = keep(store, &image);
    (image, recorded)
}

/// Puts an image's blobs into a store as a pull would.
fn keep(store: &Store, image: &Image) -> Recorded {
    let all = [&image.config, &image.manifest]
        .into_iter()
        .chain(&image.layers);
    let blobs = all
        .map(|bytes| {
            let mut blob = store.blob_writer(Algorithm::Sha256).unwrap();
            blob.write_all(bytes).unwrap();
            blob.commit(None).unwrap()
        })
        .collect();
    Recorded {
        id: Digest::of(&image.config),
        blobs,
        named: None,
        names: Vec::new(),
    }
}

fn request(registry: &Uploads, image: &Recorded) -> PushRequest {
    PushRequest {
        image: image.clone(),
        reference: format!("{}/team/app:1", registry.address).parse().unwrap(),
        auth: None,
        elsewhere: HashMap::new(),
        chunk: 1 << 20,
    }
}

async fn push(store: &Store, request: PushRequest) -> (Result<Pushed, Error>, PushProgress) {
    let (progress, seen) = watch::channel(PushProgress::default());
    let tracker = Tracker::unobserved("test-push");
    let result = store
        .push(request, &tracker, progress, CancellationToken::new())
        .await;
    (result, seen.borrow().clone())
}

async fn push_ok(store: &Store, request: PushRequest) -> (Pushed, Vec<BlobState>) {
    let (result, progress) = push(store, request).await;
    let states = progress.blobs.into_iter().map(|blob| blob.state).collect();
    (result.unwrap(), states)
}

#[tokio::test]
async fn only_what_is_missing_is_sent_and_the_manifest_last_byte_for_byte() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (image, recorded) = image(&store);
    let (pushed, states) = push_ok(&store, request(&registry, &recorded)).await;
    assert_eq!(states, [BlobState::Sent, BlobState::Sent]);
    assert_eq!(pushed.digest, Digest::of(&image.manifest));
    assert_eq!(pushed.size, image.manifest.len() as u64);
    let kept = registry.state.lock().unwrap().manifests["1"].clone();
    assert_eq!(
        kept,
        (
            "application/vnd.oci.image.manifest.v1+json".to_owned(),
            image.manifest
        )
    );
    let calls = registry.calls("");
    assert!(calls.last().unwrap().path.ends_with("/manifests/1"));

    let (_, states) = push_ok(&store, request(&registry, &recorded)).await;
    assert_eq!(states, [BlobState::Exists, BlobState::Exists]);
    assert!(
        registry
            .calls("")
            .iter()
            .all(|call| !call.path.contains("uploads"))
    );
}

#[tokio::test]
async fn a_large_blob_goes_in_chunks_as_long_as_the_registry_wants_them() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (_, recorded) = image(&store);
    for (chunk_min, expect) in [(None, 4), (Some(150_000), 2)] {
        registry.set(|state| {
            state.chunk_min = chunk_min;
            state.blobs.clear();
        });
        let chunked = PushRequest {
            chunk: 90_000,
            ..request(&registry, &recorded)
        };
        push_ok(&store, chunked).await;
        let calls = registry.calls("PATCH");
        let sizes: Vec<usize> = calls.iter().map(|call| call.received).collect();
        assert_eq!(
            (sizes.len(), sizes.iter().sum()),
            (expect, LAYER),
            "{sizes:?}"
        );
        let first = format!("0-{}", sizes[0] - 1);
        assert_eq!(calls[0].header("content-range"), first);
        assert_eq!(calls[0].header("content-length"), sizes[0].to_string());
    }
}

#[tokio::test]
async fn a_broken_upload_goes_on_where_the_registry_has_got_to() {
    for chunk in [1 << 20, 120_000] {
        let (scratch, registry) = (Scratch::new(), Uploads::start().await);
        let store = scratch.store();
        let (image, recorded) = image(&store);
        registry.set(|state| (state.breaks, state.break_after) = (2, 70_000));
        let broken = PushRequest {
            chunk,
            ..request(&registry, &recorded)
        };
        push_ok(&store, broken).await;
        let calls = registry.calls("");
        let sent: usize = calls.iter().map(|call| call.received).sum();
        let once = LAYER + image.config.len() + image.manifest.len();
        assert_eq!(sent, once, "nothing is sent twice");
        let asked = calls.iter().filter(|call| call.method == "GET").count();
        assert_eq!(asked, 2);
    }
}

#[tokio::test]
async fn an_upload_that_the_registry_has_lost_begins_anew_but_not_for_ever() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (_, recorded) = image(&store);
    let chunked = PushRequest {
        chunk: 100_000,
        ..request(&registry, &recorded)
    };
    registry
        .set(|state| state.refusals = vec![("PATCH", 404, 1), ("PUT /v2/team/app/blobs", 500, 1)]);
    push_ok(&store, chunked.clone()).await;

    registry.set(|state| {
        state.blobs.clear();
        state.refusals = vec![("PATCH", 404, usize::MAX)];
    });
    registry.calls("");
    let (result, _) = push(&store, chunked.clone()).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let told = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    for part in [
        registry.address.to_string(),
        "team/app".into(),
        recorded.blobs[2].to_string(),
        "404".into(),
        "BLOB_UPLOAD_INVALID".into(),
    ] {
        assert!(told.contains(&part), "{part} is not in: {told}");
    }
    assert!(registry.calls("PATCH").len() <= 4);

    // What is not transient is not tried again.
    registry.set(|state| state.refusals = vec![("POST", 403, usize::MAX)]);
    let (result, _) = push(&store, chunked).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Forbidden);
    assert!(registry.calls("POST").len() <= 2);
    assert!(
        registry.state.lock().unwrap().manifests.len() == 1,
        "only that of the first push"
    );
}

#[tokio::test]
async fn a_blob_of_another_repository_is_taken_over_instead_of_sent() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (_, recorded) = image(&store);
    let layer = recorded.blobs[2].clone();
    let elsewhere = HashMap::from([(
        layer.clone(),
        vec!["team/gone".to_owned(), "team/base".to_owned()],
    )]);
    let mounting = PushRequest {
        elsewhere,
        ..request(&registry, &recorded)
    };
    // The first is refused without an upload being opened; the second has it.
    registry.set(|state| {
        state.mountable = vec![format!("team/base {layer}")];
        state.refusals = vec![("POST", 405, 1)];
    });
    let alone = PushRequest {
        elsewhere: HashMap::from([(layer.clone(), mounting.elsewhere[&layer].clone())]),
        ..mounting.clone()
    };
    // The configuration is there, so that the one refusal is for the layer.
    registry.set(|state| drop(state.blobs.insert(recorded.id.to_string(), Vec::new())));
    let (_, states) = push_ok(&store, alone).await;
    assert_eq!(states[0], BlobState::Mounted("team/base".to_owned()));
    assert!(registry.calls("P").iter().all(|call| call.received < LAYER));

    // A registry that does not have it there opens an upload, which is used.
    registry.set(|state| {
        state.blobs.clear();
        state.mountable.clear();
    });
    let (_, states) = push_ok(&store, mounting).await;
    assert_eq!(states[0], BlobState::Sent);
    assert_eq!(registry.calls("POST").len(), 2, "one for each blob");
}

#[tokio::test]
async fn a_token_is_asked_for_once_for_reading_and_writing() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (_, recorded) = image(&store);
    // What a registry asks for when it is only about looking.
    registry.set(|state| state.token_scope = Some("repository:team/app:pull"));
    let user = Auth {
        username: Some("me".into()),
        password: Some("secret".into()),
        ..Auth::default()
    };
    let authorized = PushRequest {
        auth: Some(user),
        ..request(&registry, &recorded)
    };
    push_ok(&store, authorized).await;
    let calls = registry.calls("");
    let tokens: Vec<_> = calls.iter().filter(|call| call.path == "/token").collect();
    // The two blobs that are looked for at the same time may both ask.
    assert!((1..=2).contains(&tokens.len()));
    assert!(
        tokens[0].query.contains("pull%2Cpush"),
        "{}",
        tokens[0].query
    );
}

#[tokio::test]
async fn an_upload_that_is_sent_elsewhere_takes_no_credentials_along() {
    let (scratch, registry, other) = (
        Scratch::new(),
        Uploads::start().await,
        Uploads::start().await,
    );
    let store = scratch.store();
    let (_, recorded) = image(&store);
    registry.set(|state| {
        state.token_scope = Some("repository:team/app:pull,push");
        state.elsewhere = Some(format!("http://{}", other.address));
    });
    other.set(|state| {
        for id in ["1", "2"] {
            state.uploads.insert(id.to_owned(), Vec::new());
        }
    });
    let authorized = PushRequest {
        auth: Some(Auth {
            registry_token: Some("for repository:team/app:pull,push".into()),
            ..Auth::default()
        }),
        ..request(&registry, &recorded)
    };
    push_ok(&store, authorized).await;
    let calls = other.calls("");
    assert_eq!(calls.len(), 2);
    assert!(
        calls
            .iter()
            .all(|call| call.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn an_image_without_its_layers_is_not_pushed_by_halves() {
    let (scratch, registry) = (Scratch::new(), Uploads::start().await);
    let store = scratch.store();
    let (_, recorded) = image(&store);
    let layer = scratch
        .path()
        .join("store/blobs/sha256")
        .join(recorded.blobs[2].hex());
    // Damaged without a trace in its size: the registry finds out, and so do we.
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes[LAYER / 2] ^= 1;
    std::fs::write(&layer, &bytes).unwrap();
    let (result, _) = push(&store, request(&registry, &recorded)).await;
    assert_eq!(result.unwrap_err().kind(), Kind::DataLoss);
    assert!(registry.state.lock().unwrap().manifests.is_empty());

    std::fs::remove_file(&layer).unwrap();
    registry.calls("");
    let (result, _) = push(&store, request(&registry, &recorded)).await;
    assert_eq!(result.unwrap_err().kind(), Kind::Incomplete);
    assert!(registry.calls("").is_empty());
    assert_eq!(
        store.archive(&[recorded]).unwrap_err().kind(),
        Kind::Incomplete
    );
}

#[test]
fn an_archive_brings_the_same_image_into_another_store() {
    let (here, there) = (Scratch::new(), Scratch::new());
    let (from, to) = (here.store(), there.store());
    let tar = archive::Tar::new().file("hello", "hi").end();
    let image = Image::new(&[tar.clone(), archive::Tar::new().file("more", "").end()]);
    let mut recorded = keep(&from, &image);
    recorded.names = vec![
        "app:1".parse().unwrap(),
        "reg.example/app:2".parse().unwrap(),
    ];
    let tracker = Tracker::unobserved("test-save");
    let cancel = CancellationToken::new();
    let archive = from.archive(&[recorded.clone()]).unwrap();
    let mut bytes = Vec::new();
    archive.write(&mut bytes, &tracker, &cancel).unwrap();
    assert_eq!(bytes.len() as u64, archive.size());

    for format in [ImportFormat::Auto, ImportFormat::DockerArchive] {
        let options = ImportOptions {
            format,
            reference: None,
            config: None,
            platform: ground::amd64(),
            all_platforms: true,
        };
        let imported = to.import(&*bytes, &options, &tracker, &cancel).unwrap();
        assert!(imported.iter().all(|(stored, _)| stored.id == recorded.id));
        let names = imported.iter().flat_map(|(_, names)| names.clone());
        let names: Vec<_> = names.collect();
        assert_eq!(names, recorded.names, "{format:?}");
        if format == ImportFormat::Auto {
            assert!(
                imported
                    .iter()
                    .all(|(stored, _)| stored.manifest == recorded.blobs[1])
            );
        }
    }
    // Equal images and names make equal archives.
    let mut again = Vec::new();
    from.archive(&[recorded])
        .unwrap()
        .write(&mut again, &tracker, &cancel)
        .unwrap();
    assert!(bytes == again);
}
