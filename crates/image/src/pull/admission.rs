//! Whether there is room for a pull, found out before anything is fetched.

use std::{collections::HashSet, sync::Arc};

use super::layer::{LayerJob, Missing};
use crate::{Error, layer::Room, store::Inner, unpack::Compression};

/// Bytes on disk per compressed byte, at least: ordinary layers inflate to two or three
/// times their size. What is larger ends at the reserve while it is unpacked.
const INFLATES_TO: u64 = 2;

/// Which layers are to be fetched or unpacked. Blocks.
///
/// # Errors
/// [`Error::NoRoom`] if they will not fit.
pub(super) fn admit(store: &Arc<Inner>, jobs: &[Arc<LayerJob>]) -> Result<Vec<bool>, Error> {
    let mut needed = 0u64;
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
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
        needed = needed.saturating_add(match missing {
            Missing::Nothing => 0,
            Missing::Blob => arriving,
            Missing::Directory => unpacked,
            Missing::Both => arriving.saturating_add(unpacked),
        });
    }
    // What nothing must be written for fits on a full disk too.
    if needed == 0 || fits(store, needed).is_ok() {
        return Ok(wanted);
    }
    let ours: Vec<_> = jobs.iter().map(|job| &job.layer.digest).collect();
    store.drop_partials(&ours)?;
    fits(store, needed)?;
    Ok(wanted)
}

fn fits(store: &Inner, needed: u64) -> Result<(), Error> {
    match store.limits.space(&store.layers) {
        Some(Room { free, reserve }) if free.saturating_sub(reserve) < needed => {
            Err(Error::NoRoom {
                needed,
                free,
                reserve,
            })
        }
        // One that cannot say answers ENOSPC when it is full.
        _ => Ok(()),
    }
}
