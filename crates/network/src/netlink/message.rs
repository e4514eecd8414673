//! Building requests.

/// The flags of a request (NLM_F_*).
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const REPLACE: u16 = 0x100;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

pub(crate) const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// One netlink message under construction: header, the fixed part of its
/// family, attributes. The socket fills in length and sequence number.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    flags: u16,
}

impl Request {
    /// A request of type `kind` that the kernel must answer, be it with an
    /// acknowledgement only. `fixed` is the family's header.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self::unacknowledged(kind, flags | flags::ACK, fixed)
    }

    /// A request that is answered only if it asks for data or fails.
    pub(crate) fn unacknowledged(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let flags = flags | flags::REQUEST;
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut request = Self { bytes, flags };
        request.pad();
        request
    }

    pub(crate) fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
        self
    }

    /// A number in the machine's order, as routing messages carry it.
    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nftables messages carry it.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(crate) fn string(mut self, kind: u16, value: &str) -> Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.open(kind | NESTED);
        let mut request = inside(self);
        request.close(start);
        request
    }

    /// Bytes without a header of their own, such as the link header that opens
    /// the description of a veth's peer.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    pub(crate) fn wants_reply(&self) -> bool {
        self.flags & (flags::ACK | flags::DUMP) != 0
    }

    /// The finished message.
    pub(crate) fn encode(&mut self, sequence: u32) -> &[u8] {
        // Messages are built from validated names and fixed-size values: some
        // hundred bytes, never near a field's range.
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = self.bytes.len() - start;
        debug_assert!(u16::try_from(length).is_ok(), "attribute of {length} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let mut request = Request::new(16, 0, &[1, 2, 3, 4]).string(3, "ab");
        let bytes = request.encode(7).to_vec();
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(bytes[0..4], 28u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes());
        assert_eq!(bytes[20..22], 7u16.to_ne_bytes());
        assert_eq!(bytes[24..], *b"ab\0\0");
    }

    #[test]
    fn a_nest_spans_what_it_holds() {
        let mut request = Request::new(16, 0, &[]).nest(5, |r| r.u32(1, 9).u32(2, 8));
        let bytes = request.encode(0).to_vec();
        assert_eq!(bytes[16..18], 20u16.to_ne_bytes());
        assert_eq!(bytes[18..20], (5u16 | NESTED).to_ne_bytes());
        assert_eq!(bytes.len(), 36);
    }
}
