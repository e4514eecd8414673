//! Where the data of a sparse file lies, in the four notations in use.

use super::{
    TarError,
    header::{BLOCK, Block},
    number,
};

/// More pieces than this make a file that is cheap to send and dear to handle.
pub(super) const SEGMENTS_MAX: usize = 65_536;

/// One run of data in a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// GNU's old form: four pairs in the header itself, the length, and a mark that blocks follow.
pub(super) fn old_header(
    block: &Block,
    offset: u64,
) -> Result<(Vec<Segment>, u64, bool), TarError> {
    let segments = old_pairs(&block[386..482], offset)?;
    let size = value(&block[483..495], offset)?;
    Ok((segments, size, block[482] != 0))
}

/// A following block of the old form: 21 pairs and the mark.
pub(super) fn old_extension(
    block: &[u8; BLOCK],
    offset: u64,
) -> Result<(Vec<Segment>, bool), TarError> {
    Ok((old_pairs(&block[..504], offset)?, block[504] != 0))
}

fn old_pairs(bytes: &[u8], offset: u64) -> Result<Vec<Segment>, TarError> {
    let mut segments = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        segments.push(Segment {
            offset: value(&pair[..12], offset)?,
            length: value(&pair[12..], offset)?,
        });
    }
    Ok(segments)
}

fn value(field: &[u8], offset: u64) -> Result<u64, TarError> {
    number::parse(field)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(malformed(offset))
}

/// From numbers in pairs: offset, length, offset, length.
pub(super) fn from_numbers(numbers: &[u64], offset: u64) -> Result<Vec<Segment>, TarError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(malformed(offset));
    }
    if numbers.len() / 2 > SEGMENTS_MAX {
        return Err(too_many(offset));
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| Segment {
            offset: pair[0],
            length: pair[1],
        })
        .collect())
}

/// Ascending, apart, inside the file, and together exactly the data that is there.
pub(super) fn check(
    segments: &[Segment],
    size: u64,
    stored: u64,
    offset: u64,
) -> Result<(), TarError> {
    let (mut end, mut sum) = (0u64, 0u64);
    for segment in segments {
        if segment.offset < end {
            return Err(malformed(offset));
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .ok_or(malformed(offset))?;
        sum = sum.checked_add(segment.length).ok_or(malformed(offset))?;
    }
    if end > size || sum != stored {
        return Err(malformed(offset));
    }
    Ok(())
}

pub(super) fn malformed(offset: u64) -> TarError {
    TarError::Malformed {
        offset,
        what: "sparse map",
    }
}

pub(super) fn too_many(offset: u64) -> TarError {
    TarError::TooLarge {
        offset,
        what: "sparse map",
        limit: SEGMENTS_MAX as u64,
    }
}
