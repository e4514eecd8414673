//! Reading replies. Nothing here trusts a length: what does not fit ends the
//! iteration, and a value of the wrong size reads as absent.

use super::message::HEADER;

const TYPE_MASK: u16 = 0x3fff;

/// One message of the kernel: its type and what follows the netlink header.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

impl Reply {
    /// The family's fixed header of `length` bytes and the attributes after it.
    pub(crate) fn split(&self, length: usize) -> Option<(&[u8], Attributes<'_>)> {
        let (fixed, rest) = self.payload.split_at_checked(length)?;
        Some((fixed, Attributes(rest)))
    }
}

/// The header of a message and its bytes after the header.
pub(crate) struct Raw<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let header = self.0.get(..HEADER)?;
        let length = usize::try_from(u32_of(&header[0..4])?).ok()?;
        let payload = self.0.get(HEADER..length)?;
        let raw = Raw {
            kind: u16_of(&header[4..6])?,
            flags: u16_of(&header[6..8])?,
            sequence: u32_of(&header[8..12])?,
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(raw)
    }
}

/// The attributes in a stretch of bytes: type without flags, and value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_of(self.0.get(0..2)?)?);
        let kind = u16_of(self.0.get(2..4)?)? & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

fn u16_of(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_ne_bytes)
}

/// A number in the machine's order.
pub(crate) fn u32_of(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// A string without the NUL that ends it.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_below_the_header_ends_the_iteration() {
        assert_eq!(Attributes(&[3, 0, 1, 0, 9, 9]).count(), 0);
        assert_eq!(Attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(Messages(&[0; 64]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(
            bytes in proptest::collection::vec(any::<u8>(), 0..512)
        ) {
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
            prop_assert!(Messages(&bytes).count() <= bytes.len());
        }
    }
}
