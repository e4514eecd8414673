//! Archives of images under every compression: read, or refused by name.

#![allow(clippy::unwrap_used, reason = "tests")]

mod ground;

use berth_image::{Error, ImportFormat, ImportOptions, Kind, Store};
use berth_phase::Tracker;
use ground::{Scratch, archive::Tar};
use tokio_util::sync::CancellationToken;

fn import(store: &Store, bytes: &[u8]) -> Result<String, Error> {
    let options = ImportOptions {
        format: ImportFormat::Auto,
        reference: None,
        config: None,
        platform: ground::amd64(),
        all_platforms: true,
    };
    let (tracker, cancel) = (Tracker::unobserved("test"), CancellationToken::new());
    let images = store.import(bytes, &options, &tracker, &cancel)?;
    Ok(images[0].0.id.to_string())
}

fn refused(store: &Store, bytes: &[u8], kind: Kind, word: &str) {
    let error = import(store, bytes).unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(at) = cause {
        text.push_str(&format!(": {at}"));
        cause = at.source();
    }
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.contains(word), "{text}");
    ground::assert_empty(store);
}

#[test]
fn plain_gzip_and_zstd_archives_make_the_same_image() {
    let scratch = Scratch::new();
    let store = scratch.store();
    // Its first member's name is the beginning of another format.
    let tar = Tar::new().file("BZhello", "x").end();
    let id = import(&store, &tar).unwrap();
    assert_eq!(import(&store, &ground::archive::gzip(&tar)).unwrap(), id);
    for level in [1, 3, 19] {
        let zstd = zstd::encode_all(&tar[..], level).unwrap();
        assert_eq!(import(&store, &zstd).unwrap(), id);
    }
    let frames: Vec<u8> = tar
        .chunks(700)
        .flat_map(|part| zstd::encode_all(part, 3).unwrap())
        .collect();
    assert_eq!(import(&store, &frames).unwrap(), id);
}

#[test]
fn what_cannot_be_read_is_named_and_leaves_nothing() {
    let scratch = Scratch::new();
    let store = scratch.store();
    for (head, word) in [
        (&b"\xfd7zXZ\0\0\x04"[..], "compressed with xz"),
        (b"BZh91AY&SY", "compressed with bzip2"),
        (b"\x04\x22\x4d\x18dv", "compressed with lz4"),
        (b"PK\x03\x04\x14", "compressed with unzip"),
    ] {
        refused(
            &store,
            &[head, &[7; 5000]].concat(),
            Kind::Unsupported,
            word,
        );
    }
    let tar = Tar::new().bytes("noise", &ground::noise(50_000, 3)).end();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    refused(&store, &zstd[..20_000], Kind::DataLoss, "decompressed");
    let mut broken = zstd.clone();
    broken[100] ^= 0xff;
    broken[5] ^= 0xff;
    assert!(import(&store, &broken).is_err());
    // A frame that wants a window of 2 GiB.
    let mut wide = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3];
    wide.extend([0; 100]);
    refused(&store, &wide, Kind::TooLarge, "MiB of memory");
    let gzip = ground::archive::gzip(&tar);
    refused(&store, &gzip[..20_000], Kind::DataLoss, "decompressed");
}
