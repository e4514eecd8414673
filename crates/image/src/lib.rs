//! Images: references, registries, content, layers, archives and garbage.
//!
//! A [`Store`] is a directory. [`Store::pull`] turns a [`Reference`] into
//! unpacked layers below it, [`Store::import`] does so from an archive, and
//! [`Store::collect`] deletes what nobody uses. The records of which images
//! exist under which names are the caller's.
//!
//! Everything that comes from a registry or an archive is hostile until it has
//! passed through one of the types here.

mod contents;
mod document;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod import;
mod layer;
mod name;
mod pull;
mod push;
mod registry;
mod save;
mod store;
pub mod tar;
mod unpack;

pub use contents::Recorded;
pub use document::{DocumentError, HistoryEntry, ImageConfig};
pub use error::{Error, Kind};
pub use image::StoredImage;
pub use import::{ArchiveError, ImportFormat, ImportOptions, Imported};
pub use layer::{Exceeded, LayerError, Limits, Target, classify, remove_directory};
pub use name::{Algorithm, Digest, DigestError, Hasher, Platform, Reference, ReferenceError};
pub use pull::{LayerProgress, LayerState, PullProgress, PullRequest};
pub use push::{BlobProgress, BlobState, PushProgress, PushRequest, Pushed};
pub use registry::{Auth, Patience, Proxies, Registries, RegistryError, TraceHeaders};
pub use save::Archive;
pub use store::{BlobWriter, Collection, Freed, Hold, LiveSet, Settings, Store, Usage};
