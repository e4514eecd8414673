//! Whether there is room for a pull, found out before anything is fetched.

use std::{collections::HashSet, sync::Arc};

use super::{
    layer::{LayerJob, Missing},
    promise::Promise,
};
use crate::{Error, store::Inner, unpack::Compression};

/// Bytes on disk per compressed byte, at least: ordinary layers inflate to two or three
/// times their size. What is larger ends at the reserve while it is unpacked.
const INFLATES_TO: u64 = 2;

/// Which layers are to be fetched or unpacked, and the room for that, which is promised
/// to nobody else until the promise is dropped. Blocks.
///
/// # Errors
/// [`Error::NoRoom`] if they will not fit.
pub(super) fn admit(
    store: &Arc<Inner>,
    jobs: &[Arc<LayerJob>],
) -> Result<(Vec<bool>, Promise), Error> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    let mut needs = Vec::new();
    for job in jobs {
        let missing = job.missing()?;
        wanted.push(missing != Missing::Nothing);
        if !seen.insert((job.diff_id(), &job.layer.digest)) {
            continue;
        }
        let size = job.layer.size;
        let arriving = size.saturating_sub(store.partial_length(&job.layer.digest));
        let unpacked = match Compression::of_media_type(&job.layer.media_type) {
            Compression::Plain => size,
            Compression::Gzip | Compression::Zstd => size.saturating_mul(INFLATES_TO),
        };
        let bytes = match missing {
            Missing::Nothing => continue,
            Missing::Blob => arriving,
            Missing::Directory => unpacked,
            Missing::Both => arriving.saturating_add(unpacked),
        };
        needs.push((job.key(), bytes));
    }
    if let Ok(promise) = Promise::make(store, needs.clone()) {
        return Ok((wanted, promise));
    }
    let ours: Vec<_> = jobs.iter().map(|job| &job.layer.digest).collect();
    store.drop_partials(&ours)?;
    Ok((wanted, Promise::make(store, needs)?))
}
