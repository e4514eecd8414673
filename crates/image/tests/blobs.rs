//! Blobs that are written and read by themselves.

mod ground;

use std::io::{Read as _, Write as _};

use berth_image::{Algorithm, Digest, Error, LiveSet};
use ground::Scratch;

#[test]
fn a_blob_has_its_name_only_after_its_digest_was_found_right() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let (right, wrong) = (Digest::of(b"bytes of it"), Digest::of(b"others"));
    let write = || {
        let mut blob = store.blob_writer(Algorithm::Sha256).unwrap();
        blob.write_all(b"bytes ").unwrap();
        blob.write_all(b"of it").unwrap();
        blob
    };
    assert!(matches!(
        write().commit(Some(&wrong)),
        Err(Error::BlobDigest { .. })
    ));
    drop(write());
    for digest in [&right, &wrong] {
        assert!(store.open_blob(digest).unwrap().is_none());
    }
    assert_eq!(write().commit(Some(&right)).unwrap(), right);
    // Again is no error.
    assert_eq!(write().commit(None).unwrap(), right);
    let mut text = String::new();
    let mut file = store.open_blob(&right).unwrap().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "bytes of it");
    let ingest = std::fs::read_dir(store.path().join("ingest")).unwrap();
    assert_eq!(ingest.count(), 0);
}

#[test]
fn a_held_blob_is_not_collected_until_it_is_let_go() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let digest = Digest::of(b"x");
    let hold = store.hold([&digest]);
    let mut blob = store.blob_writer(Algorithm::Sha256).unwrap();
    blob.write_all(b"x").unwrap();
    blob.commit(Some(&digest)).unwrap();
    assert_eq!(store.collect(&LiveSet::default()).unwrap().blobs, 0);
    drop(hold);
    assert_eq!(store.collect(&LiveSet::default()).unwrap().blobs, 1);
    assert!(store.open_blob(&digest).unwrap().is_none());
}
