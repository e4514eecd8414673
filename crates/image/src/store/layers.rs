//! Unpacked layers under their final names.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, OFlags, RenameFlags},
    io::Errno,
};

use super::{Inner, Work};
use crate::{
    Error,
    layer::{LayerMeta, ROOT, open_beneath, read_names, remove_tree},
    name::{Algorithm, Digest, Hasher},
};

/// A sidecar larger than this was not written by this program.
const META_MAX: u64 = 1 << 30;

/// The name of a layer that was unpacked alone.
pub(crate) fn layer_key(diff_id: &Digest) -> String {
    match diff_id.algorithm() {
        Algorithm::Sha256 => diff_id.hex().to_owned(),
        // 128 digits would be half of what a mount option may hold for all layers.
        Algorithm::Sha512 => format!("512-{}", &Digest::of(diff_id.hex().as_bytes()).hex()),
    }
}

/// The names of layers that were completed, for each of `diff_ids`, lowest first
/// (ChainID of the OCI image specification).
pub(crate) fn chain_keys(diff_ids: &[Digest]) -> Vec<String> {
    let mut chain: Option<Digest> = None;
    diff_ids
        .iter()
        .map(|diff_id| {
            let next = match chain.take() {
                None => diff_id.clone(),
                Some(below) => {
                    let mut hasher = Hasher::new(Algorithm::Sha256);
                    hasher.update(format!("{below} {diff_id}").as_bytes());
                    hasher.finish()
                }
            };
            let key = format!("chain-{}", layer_key(&next));
            chain = Some(next);
            key
        })
        .collect()
}

/// A complete, verified blob that has no name yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a str,
    pub(crate) digest: &'a Digest,
}

impl Inner {
    /// What is known of the layer `key`; `None` if it is not here.
    ///
    /// A layer without a readable sidecar is removed: it can be had again.
    pub(crate) fn layer(&self, key: &str) -> Result<Option<LayerMeta>, Error> {
        match fs::statat(&self.layers, key, fs::AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(Error::store("look at", format!("layers/{key}")))?,
        };
        let meta = self.read_meta(key);
        if meta.is_none() {
            tracing::warn!(key, "a layer has no readable sidecar and is removed");
            self.discard_layer(key)?;
        }
        Ok(meta)
    }

    pub(super) fn read_meta(&self, key: &str) -> Option<LayerMeta> {
        let name = format!("{key}.meta");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let file = open_beneath(&self.layers, name.as_bytes(), flags).ok()?;
        let mut bytes = Vec::new();
        File::from(file)
            .take(META_MAX)
            .read_to_end(&mut bytes)
            .ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    pub(crate) fn open_layer(&self, key: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        open_beneath(&self.layers, key.as_bytes(), flags)
            .map_err(Error::store("open", format!("layers/{key}")))
    }

    /// Syncs what is in `work` and makes it the layer `key`, and `blob` the blob of its
    /// name. If another was faster, theirs stays.
    pub(crate) fn publish_layer(
        self: &Arc<Self>,
        work: &Work,
        key: &str,
        meta: &LayerMeta,
        blob: Option<Kept<'_>>,
    ) -> Result<(), Error> {
        const SIDECAR: &str = "meta";
        let shown = format!("layers/{key}");
        let text = serde_json::to_vec(meta)
            .map_err(|error| Error::store_io("describe", &shown)(error.into()))?;
        super::blob::create_file(work, SIDECAR)?
            .write_all(&text)
            .map_err(Error::store_io("write", &shown))?;
        // One call for all files; an fsync of each costs a journal commit apiece.
        fs::syncfs(work.fd()).map_err(Error::store("sync", &shown))?;
        if let Some(blob) = &blob {
            self.name_blob(blob.directory, blob.name, blob.digest)?;
        }
        // The sidecar before the directory, whose name is what makes the layer exist.
        fs::renameat(work.fd(), SIDECAR, &self.layers, format!("{key}.meta"))
            .map_err(Error::store("name", format!("{shown}.meta")))?;
        let flags = RenameFlags::NOREPLACE;
        match fs::renameat_with(work.fd(), ROOT, &self.layers, key, flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::store("name", &shown)(errno)),
        }
        fs::fsync(&self.layers).map_err(Error::store("sync", "layers"))?;
        if let Some(blob) = blob {
            self.sync_blobs(blob.digest)?;
        }
        self.usage_changed();
        Ok(())
    }

    /// Removes a layer: first its name, in one step, then its files.
    pub(super) fn discard_layer(&self, key: &str) -> Result<(), Error> {
        let grave = self.bury_layer(key)?;
        self.remove_grave(&grave)
    }

    /// Takes a layer's name away; its files are then for [`Self::remove_grave`].
    pub(super) fn bury_layer(&self, key: &str) -> Result<String, Error> {
        let shown = format!("layers/{key}");
        let grave = super::work::unique("dead");
        match fs::renameat(&self.layers, key, &self.ingest, &*grave) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::store("remove", &shown)(errno)),
        }
        match fs::unlinkat(&self.layers, format!("{key}.meta"), fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::store("remove", format!("{shown}.meta"))(errno)),
        }
        self.usage_changed();
        Ok(grave)
    }

    pub(super) fn remove_grave(&self, grave: &str) -> Result<(), Error> {
        let shown = format!("ingest/{grave}");
        remove_tree(&self.ingest, grave.as_bytes()).map_err(Error::store("remove", shown))
    }

    /// A sidecar without its layer is what a crash between the two leaves.
    pub(super) fn forget_orphaned_meta(&self) -> Result<(), Error> {
        for name in read_names(&self.layers).map_err(Error::store("list", "layers"))? {
            let Some(key) = name.strip_suffix(b".meta") else {
                continue;
            };
            let there = fs::statat(&self.layers, key, fs::AtFlags::SYMLINK_NOFOLLOW);
            if matches!(there, Err(Errno::NOENT)) {
                fs::unlinkat(&self.layers, &name[..], fs::AtFlags::empty())
                    .map_err(Error::store("remove leftovers", "layers"))?;
            }
        }
        Ok(())
    }
}
