//! Makes `:authority` readable for the HTTP/2 library.
//!
//! Some gRPC clients send the path of the unix socket as `:authority`. That is
//! no valid authority (RFC 3986), and the `h2` crate resets such a stream with
//! PROTOCOL_ERROR before anybody could answer; it has no setting for it
//! (hyperium/h2#487). Nothing here looks at the authority, so its slashes are
//! replaced while the bytes pass.
//!
//! The replacement keeps the length, also in HPACK's Huffman code (RFC 7541,
//! appendix B), where `/` is 011000 and `3` is 011001: one bit is flipped, in
//! the byte at hand. So nothing is held back, copied or encoded anew, and the
//! sizes in the dynamic table stay what the client thinks they are. What does
//! not parse is passed on untouched for `h2` to judge.

/// RFC 9113, 3.4: what a client sends first.
const PREFACE: usize = 24;
/// RFC 9113, 4.1.
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// `:authority` in HPACK's static table, spelled out (as gRPC's C core does it,
/// which Python and others use), and in Huffman code.
const AUTHORITY: usize = 1;
const SPELLED: &[u8] = b":authority";
const CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

/// Reads what a client sends, and mends it.
#[derive(Debug)]
pub(super) struct Mender {
    at: At,
    block: Block,
}

/// Where in the stream of frames the next byte is.
#[derive(Debug)]
enum At {
    Preface {
        left: usize,
    },
    FrameHeader {
        seen: usize,
        header: [u8; FRAME_HEADER],
    },
    PadLength {
        left: usize,
        flags: u8,
    },
    Priority {
        left: usize,
        skip: usize,
        pad: usize,
        flags: u8,
    },
    Fragment {
        left: usize,
        pad: usize,
        flags: u8,
    },
    Skip {
        left: usize,
    },
    /// It is not HTTP/2 as we know it; hands off.
    Lost,
}

impl Default for Mender {
    fn default() -> Self {
        Self {
            at: At::Preface { left: PREFACE },
            block: Block::default(),
        }
    }
}

const NEXT_FRAME: At = At::FrameHeader {
    seen: 0,
    header: [0; FRAME_HEADER],
};

impl Mender {
    /// Mends the next bytes of the connection, in place.
    pub(super) fn mend(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let used = self.step(bytes);
            bytes = bytes.get_mut(used..).unwrap_or_default();
        }
    }

    /// Takes at least one byte; returns how many.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        let Some(&first) = bytes.first() else {
            return 0;
        };
        match &mut self.at {
            At::Lost => return bytes.len(),
            At::Preface { left } | At::Skip { left } => {
                let used = bytes.len().min(*left);
                *left -= used;
                if *left == 0 {
                    self.at = NEXT_FRAME;
                }
                return used;
            }
            At::FrameHeader { seen, header } => {
                if let Some(place) = header.get_mut(*seen) {
                    *place = first;
                }
                *seen += 1;
                if *seen == FRAME_HEADER {
                    let header = *header;
                    self.frame(header);
                }
            }
            At::PadLength { left, flags } => {
                let (left, flags, pad) = (*left - 1, *flags, usize::from(first));
                self.payload(left, pad, flags);
            }
            At::Priority {
                left,
                skip,
                pad,
                flags,
            } => {
                (*left, *skip) = (*left - 1, *skip - 1);
                if *skip == 0 {
                    let (left, pad, flags) = (*left, *pad, *flags);
                    self.fragment(left, pad, flags);
                }
            }
            At::Fragment { left, pad, flags } => {
                let used = bytes.len().min(*left);
                *left -= used;
                let (left, pad, flags) = (*left, *pad, *flags);
                let known = bytes
                    .iter_mut()
                    .take(used)
                    .all(|byte| self.block.mend(byte));
                if !known {
                    self.at = At::Lost;
                } else if left == 0 {
                    self.fragment(0, pad, flags);
                }
                return used;
            }
        }
        1
    }

    fn frame(&mut self, header: [u8; FRAME_HEADER]) {
        let [a, b, c, kind, flags, ..] = header;
        let left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS if flags & PADDED != 0 && left > 0 => self.at = At::PadLength { left, flags },
            HEADERS => self.payload(left, 0, flags),
            CONTINUATION => self.fragment(left, 0, flags),
            _ if left == 0 => self.at = NEXT_FRAME,
            _ => self.at = At::Skip { left },
        }
    }

    /// After the length of the padding; `left` includes the padding.
    fn payload(&mut self, left: usize, pad: usize, flags: u8) {
        let priority = if flags & PRIORITY == 0 {
            0
        } else {
            PRIORITY_BYTES
        };
        if left < pad + priority {
            self.at = At::Lost;
        } else if priority > 0 {
            self.at = At::Priority {
                left: left - pad,
                skip: priority,
                pad,
                flags,
            };
        } else {
            self.fragment(left - pad, pad, flags);
        }
    }

    /// The next `left` bytes belong to the block; then `pad` bytes do not.
    fn fragment(&mut self, left: usize, pad: usize, flags: u8) {
        if left > 0 {
            self.at = At::Fragment { left, pad, flags };
            return;
        }
        if flags & END_HEADERS != 0 {
            self.block = Block::default();
        }
        self.at = if pad > 0 {
            At::Skip { left: pad }
        } else {
            NEXT_FRAME
        };
    }
}

/// Where in a header block (RFC 7541, 6) the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum Block {
    /// At the beginning of a field.
    #[default]
    Field,
    /// Within an integer (5.1) that goes on; then comes what it is for.
    Integer {
        value: usize,
        shift: u32,
        then: Then,
    },
    /// At the length of a string.
    Length(Text),
    /// Within a string.
    Octets {
        left: usize,
        string: Text,
        code: Option<Code>,
    },
    /// Within a name; `rest` is what must follow for it to be `:authority`.
    Name {
        left: usize,
        rest: Option<&'static [u8]>,
    },
}

/// What an integer is for.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// An indexed field or a size: nothing follows.
    Nothing,
    /// The index of a name: a value follows, or name and value if it is 0.
    Name,
    /// The length of a string that is Huffman coded, or not.
    Text { string: Text, huffman: bool },
}

/// Which string of a field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Name,
    Value,
    Authority,
}

impl Block {
    /// Takes one byte of the block; false if it cannot be understood.
    fn mend(&mut self, byte: &mut u8) -> bool {
        let next = match *self {
            Self::Field => match *byte {
                b if b & 0x80 != 0 => integer(b, 7, Then::Nothing),
                b if b & 0x40 != 0 => integer(b, 6, Then::Name),
                b if b & 0x20 != 0 => integer(b, 5, Then::Nothing),
                b => integer(b, 4, Then::Name),
            },
            // No index or length that is in use needs more than three more bytes.
            Self::Integer { shift, .. } if shift > 14 => return false,
            Self::Integer { value, shift, then } => {
                let value = value + (usize::from(*byte & 0x7f) << shift);
                if *byte & 0x80 == 0 {
                    known(value, then)
                } else {
                    let shift = shift + 7;
                    Self::Integer { value, shift, then }
                }
            }
            Self::Length(string) => {
                let huffman = *byte & 0x80 != 0;
                integer(*byte, 7, Then::Text { string, huffman })
            }
            Self::Octets {
                left,
                string,
                mut code,
            } => {
                match &mut code {
                    Some(code) => code.mend(byte),
                    None if string == Text::Authority && *byte == b'/' => *byte = b'3',
                    None => {}
                }
                match left - 1 {
                    0 => Self::Field,
                    left => Self::Octets { left, string, code },
                }
            }
            Self::Name { left, rest } => {
                let rest = match rest.and_then(<[u8]>::split_first) {
                    Some((wanted, rest)) if wanted == byte => Some(rest),
                    _ => None,
                };
                match (left - 1, rest) {
                    (0, Some([])) => Self::Length(Text::Authority),
                    (0, _) => Self::Length(Text::Value),
                    (left, rest) => Self::Name { left, rest },
                }
            }
        };
        *self = next;
        true
    }
}

/// An integer whose first byte has `bits` bits for it.
fn integer(byte: u8, bits: u32, then: Then) -> Block {
    let mask = (1u16 << bits) - 1;
    let value = usize::from(u16::from(byte) & mask);
    if value == usize::from(mask) {
        Block::Integer {
            value,
            shift: 0,
            then,
        }
    } else {
        known(value, then)
    }
}

fn known(value: usize, then: Then) -> Block {
    match then {
        Then::Nothing => Block::Field,
        Then::Name => Block::Length(match value {
            0 => Text::Name,
            AUTHORITY => Text::Authority,
            _ => Text::Value,
        }),
        Then::Text {
            string: Text::Name,
            huffman,
        } => match value {
            0 => Block::Length(Text::Value),
            left => Block::Name {
                left,
                rest: Some(if huffman { CODED } else { SPELLED }),
            },
        },
        Then::Text { .. } if value == 0 => Block::Field,
        Then::Text { string, huffman } => Block::Octets {
            left: value,
            string,
            code: (huffman && string == Text::Authority).then(Code::default),
        },
    }
}

/// How many codes there are of each length in bits (RFC 7541, appendix B). The
/// code is canonical: codes of one length are consecutive numbers, and the
/// first of the next length follows the last, so that this is enough to tell
/// where a code ends.
const CODES: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];

/// `/`, which is 6 bits long.
const SLASH: u32 = 0b01_1000;

/// The part of a Huffman code that has been read.
#[derive(Clone, Copy, Debug, Default)]
struct Code {
    bits: u32,
    len: usize,
    /// The first code of this length.
    first: u32,
}

impl Code {
    /// Reads eight bits; turns each `/` that ends in them into `3`.
    fn mend(&mut self, byte: &mut u8) {
        for bit in (0..8).rev() {
            let before = CODES.get(self.len).copied().unwrap_or(0);
            self.first = (self.first + before) << 1;
            self.bits = self.bits << 1 | u32::from(*byte >> bit & 1);
            self.len += 1;
            let codes = CODES.get(self.len).copied();
            if codes.is_some_and(|codes| self.bits.wrapping_sub(self.first) < codes) {
                if self.len == 6 && self.bits == SLASH {
                    *byte |= 1 << bit;
                }
                *self = Self::default();
            } else if codes.is_none() {
                // No code is that long; the decoder will say so.
                *self = Self::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Enough of appendix B for the path of a socket.
    fn huffman(text: &str) -> Vec<u8> {
        let mut bits = String::new();
        for c in text.chars() {
            bits.push_str(match c {
                '/' => "011000",
                '3' => "011001",
                '.' => "010111",
                'a' => "00011",
                'c' => "00100",
                'e' => "00101",
                'g' => "100110",
                'k' => "1110101",
                'n' => "101010",
                'o' => "00111",
                'r' => "101100",
                's' => "01000",
                't' => "01001",
                'u' => "101101",
                '~' => "1111111111101",
                _ => panic!("{c}"),
            });
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |chunk: &[u8]| u8::from_str_radix(std::str::from_utf8(chunk).unwrap(), 2);
        bits.as_bytes()
            .chunks(8)
            .map(|c| byte(c).unwrap())
            .collect()
    }

    fn field(first: u8, value: &[u8], coded: bool) -> Vec<u8> {
        let length = u8::try_from(value.len()).unwrap() | if coded { 0x80 } else { 0 };
        [&[first, length], value].concat()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [len[1], len[2], len[3], kind, flags, 0, 0, 0, 1];
        [&head, payload].concat()
    }

    /// A whole connection: preface, settings, a request in two frames with
    /// padding and priority, data, and a request that repeats by index.
    fn connection(authority: &[u8], coded: bool) -> Vec<u8> {
        let mut block = vec![0x83, 0x3f, 0xe1, 0x1f];
        block.extend(field(0x04, b"/runtime.v1.RuntimeService/Version", false));
        block.extend(field(0x41, authority, coded));
        block.extend([0x40, 1, b'x']);
        block.extend(field(0, b"/a/b", false).split_off(1));
        let (one, two) = block.split_at(block.len() / 2);
        let padded = [&[3, 0, 0, 0, 0, 16], one, &[b'/'; 3]].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[]),
            frame(HEADERS, PADDED | PRIORITY, &padded),
            frame(CONTINUATION, END_HEADERS, two),
            frame(0, 1, b"/data/"),
            frame(HEADERS, END_HEADERS, &[0x83, 0xbe]),
            frame(HEADERS, END_HEADERS, &field(0x01, authority, coded)),
        ]
        .concat()
    }

    fn mended(bytes: &[u8], chunk: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut mender = Mender::default();
        for part in bytes.chunks_mut(chunk) {
            mender.mend(part);
        }
        bytes
    }

    #[test]
    fn only_the_slashes_of_the_authority_are_replaced_however_the_bytes_arrive() {
        for chunk in [1, 2, 7, 10_000] {
            let plain = mended(&connection(b"/run/a.sock", false), chunk);
            assert_eq!(plain, connection(b"3run3a.sock", false), "{chunk}");
            let coded = mended(&connection(&huffman("/run/a~/agent.sock/"), true), chunk);
            let wanted = connection(&huffman("3run3a~3agent.sock3"), true);
            assert_eq!(coded, wanted, "{chunk}");
        }
    }

    #[test]
    fn a_name_that_is_spelled_out_is_recognised_and_a_similar_one_is_not() {
        for (name, coded, mended_too) in [
            (SPELLED, false, true),
            (CODED, true, true),
            (b":authoritx", false, false),
            (b":author", false, false),
            (b":authority2", false, false),
            (b"x", false, false),
        ] {
            let request = |value: &[u8]| {
                let named = [
                    field(0x40, name, coded),
                    field(0, value, false).split_off(1),
                ];
                let block = [named.concat(), vec![0x83]].concat();
                let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
                [&preface[..], &frame(HEADERS, END_HEADERS, &block)].concat()
            };
            let wanted = request(if mended_too { b"3a3b" } else { b"/a/b" });
            for chunk in [1, 3, 1000] {
                assert_eq!(mended(&request(b"/a/b"), chunk), wanted, "{name:?}");
            }
        }
    }

    #[test]
    fn an_authority_without_slashes_stays_as_it_is() {
        // "www.example.com", RFC 7541, C.4.1.
        let www = b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        for (authority, coded) in [(&b"localhost"[..], false), (&www[..], true), (b"", false)] {
            let bytes = connection(authority, coded);
            assert_eq!(mended(&bytes, 5), bytes);
        }
    }

    #[test]
    fn the_code_is_complete() {
        let sum: f64 = CODES
            .iter()
            .zip(0i32..)
            .map(|(count, len)| f64::from(*count) * 2f64.powi(-len))
            .sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(CODES.iter().sum::<u32>(), 257);
    }

    proptest! {
        #[test]
        fn anything_may_come_and_chunks_make_no_difference(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            chunk in 1usize..40,
        ) {
            let mut whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            whole.extend(&bytes);
            prop_assert_eq!(mended(&whole, chunk), mended(&whole, 10_000));
            // A block of headers made of anything.
            let framed = [&whole[..24], &frame(HEADERS, END_HEADERS, &bytes)].concat();
            prop_assert_eq!(mended(&framed, chunk), mended(&framed, 10_000));
        }
    }
}
