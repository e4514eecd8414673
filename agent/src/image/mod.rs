//! Images: the library's store with the records of what is in it.
//!
//! An image's id is the digest of its configuration. Names (tags and digests)
//! belong to one image each; an image may have none. Layers and blobs without an
//! owner are deleted after each removal, and at the start.

mod facts;
mod pull;
mod pulling;
mod push;
mod remove;
mod save;
mod settings;
mod tag;
mod view;
mod writable;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
};

use berth_image::{Hold, Reference};

use crate::{
    error::{Error, Kind, Result},
    ids,
    store::{ContainerRecord, ImageRecord},
};

pub(crate) use facts::facts;
pub(crate) use pull::{Machines, import, parse, pull};
pub(crate) use push::{check_login, push};
pub(crate) use remove::{collect, collect_after, collect_at_intervals, remove};
pub(crate) use save::{Sink, export};
pub(crate) use tag::{Untag, tag, untag};
pub(crate) use view::{fs_usage, list, status};
pub(crate) use writable::Counted;

/// The images of this node.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) store: Arc<berth_image::Store>,
    records: RwLock<BTreeMap<String, Arc<ImageRecord>>>,
    /// Held while records change together with what they own.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// How far pulls are, by the full name of what they pull.
    pub(crate) pulling: pulling::Pulling,
    /// What containers' writable layers occupy.
    pub(crate) writable: writable::Writable,
    /// Something may lie in the store that nobody owns.
    pub(crate) garbage: AtomicBool,
}

impl Images {
    /// Of a content store and the records that the store holds.
    pub(crate) fn new(store: berth_image::Store, records: Vec<ImageRecord>) -> Self {
        Self {
            store: Arc::new(store),
            records: RwLock::new(
                records
                    .into_iter()
                    .map(|record| (record.id.clone(), Arc::new(record)))
                    .collect(),
            ),
            turn: tokio::sync::Mutex::new(()),
            pulling: pulling::Pulling::default(),
            writable: writable::Writable::default(),
            garbage: AtomicBool::new(true),
        }
    }

    /// Every image.
    pub(crate) fn all(&self) -> Vec<Arc<ImageRecord>> {
        self.records().values().cloned().collect()
    }

    /// The image that `name` stands for: an id, a prefix of one, or any of its names,
    /// in full or as people write it.
    ///
    /// # Errors
    /// InvalidArgument for what is neither; ambiguous prefixes too.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Arc<ImageRecord>>> {
        let records = self.records();
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = hex.len() >= 6 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(record) = records.get(&format!("sha256:{hex}")) {
            return Ok(Some(record.clone()));
        }
        // A tag may look like a prefix of an id; the name wins, as people mean it.
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference {
            let full = full_name(reference);
            let named = records.values().find(|record| record.names.contains(&full));
            if let Some(record) = named {
                return Ok(Some(record.clone()));
            }
        }
        if is_hex {
            let ids = records.keys().map(|id| id.trim_start_matches("sha256:"));
            return match ids::resolve(hex, ids) {
                ids::Resolved::One(id) => Ok(records.get(&format!("sha256:{id}")).cloned()),
                ids::Resolved::None => Ok(None),
                ids::Resolved::Ambiguous => Err(Error::invalid(format!(
                    "several images have ids that begin with {name:?}"
                ))
                .with_remedy("give more digits")),
            };
        }
        match reference {
            Ok(_) => Ok(None),
            Err(error) => Err(Error::invalid("image reference").with_source(error)),
        }
    }

    /// As [`Images::find`], with the image's layers kept from deletion, also if the image
    /// is removed, until the hold is dropped.
    ///
    /// # Errors
    /// As [`Images::find`].
    pub(crate) fn hold(&self, name: &str) -> Result<Option<(Arc<ImageRecord>, Hold)>> {
        let Some(image) = self.find(name)? else {
            return Ok(None);
        };
        let hold = self.store.hold_layers(&image.layers);
        // Removed before it was held: its layers may be gone.
        let there = self.records().contains_key(&image.id);
        Ok(there.then_some((image, hold)))
    }

    /// The name that a container's status shows: a tag, else what was asked for.
    pub(crate) fn shown_name(&self, container: &ContainerRecord) -> String {
        let asked = container
            .config
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .unwrap_or_default();
        self.records()
            .get(&container.image_id)
            .and_then(|record| {
                record
                    .names
                    .iter()
                    .find(|name| !name.contains('@'))
                    .cloned()
            })
            .unwrap_or(asked)
    }

    /// Puts a record in the place of the one with its id; its names leave others.
    pub(crate) fn put(&self, record: ImageRecord) {
        let mut records = self.write();
        for other in records.values_mut() {
            if other.id != record.id && other.names.iter().any(|n| record.names.contains(n)) {
                let mut changed = ImageRecord::clone(other);
                changed.names.retain(|name| !record.names.contains(name));
                *other = Arc::new(changed);
            }
        }
        records.insert(record.id.clone(), Arc::new(record));
    }

    pub(crate) fn drop_image(&self, id: &str) {
        self.write().remove(id);
    }

    fn records(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<ImageRecord>>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<ImageRecord>>> {
        self.records.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name under which a record keeps a reference: with its digest if it has one,
/// else with its tag.
pub(crate) fn full_name(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => reference.repo_digest(digest),
        None => reference.to_string(),
    }
}

/// `repository@digest` where it is known, else the id.
pub(crate) fn reference_of(image: &ImageRecord) -> String {
    image
        .names
        .iter()
        .find(|name| name.contains('@'))
        .cloned()
        .unwrap_or_else(|| image.id.clone())
}

/// The library's errors in the agent's words.
pub(crate) fn convert(error: berth_image::Error) -> Error {
    convert_about("image".to_owned(), error)
}

/// As [`convert`], for one image: what is wrong with its content names no registry by itself.
pub(crate) fn convert_about(what: String, error: berth_image::Error) -> Error {
    use berth_image::Kind as K;
    let kind = match error.kind() {
        K::InvalidReference => Kind::InvalidArgument,
        K::UnknownHost | K::Unavailable => Kind::Unavailable,
        K::Unauthorized => Kind::Unauthenticated,
        K::Forbidden => Kind::PermissionDenied,
        K::NotFound => Kind::NotFound,
        K::RateLimited | K::TooLarge | K::NoSpace => Kind::ResourceExhausted,
        K::DataLoss => Kind::DataLoss,
        K::InvalidImage | K::Unsupported => Kind::InvalidArgument,
        K::Incomplete | K::Configuration => Kind::FailedPrecondition,
        K::Timeout => Kind::DeadlineExceeded,
        K::Cancelled => Kind::Cancelled,
        K::Internal => Kind::Internal,
    };
    let incomplete = error.kind() == K::Incomplete;
    let error = Error::new(kind, what).with_source(error);
    match incomplete {
        true => error.with_remedy(
            "image.keep_blobs must be true in the node's configuration when it is pulled",
        ),
        false => error,
    }
}
