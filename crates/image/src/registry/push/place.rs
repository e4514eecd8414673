//! Where an upload is.

use reqwest::{Response, Url, header::RANGE};

/// An upload that the registry has opened.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where it goes on.
    pub(super) location: Url,
    /// Bytes that the registry has.
    pub(super) offset: u64,
    /// Fewest bytes of a chunk that is not the last.
    pub(super) chunk_min: u64,
    /// A request failed: what the registry has must be asked for.
    pub(super) unsure: bool,
}

impl Place {
    pub(super) fn new(location: Url, answer: &Response) -> Self {
        let header = answer.headers().get("oci-chunk-min-length");
        let chunk_min = header.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Self {
            location,
            offset: 0,
            chunk_min: chunk_min.unwrap_or(0),
            unsure: false,
        }
    }
}

/// How many bytes an answer says that the registry has.
pub(super) fn received(answer: &Response) -> Option<u64> {
    parse_range(answer.headers().get(RANGE)?.to_str().ok()?)
}

/// `0-LAST`. Registries answer `0-0` for nothing, too; who takes one byte for
/// nothing sends it again and is told so.
fn parse_range(text: &str) -> Option<u64> {
    let range = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    match last {
        0 => Some(0),
        last => last.checked_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_how_much_is_there() {
        for (text, expect) in [
            ("0-0", Some(0)),
            ("0-999", Some(1000)),
            ("bytes=0-999", Some(1000)),
            ("0-18446744073709551615", None),
            ("5-9", None),
            ("", None),
            ("0--1", None),
        ] {
            assert_eq!(parse_range(text), expect, "{text}");
        }
    }
}
