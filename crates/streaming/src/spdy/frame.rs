//! Frames, as bytes and as values (SPDY protocol draft 3.1, section 2).

use bytes::{Buf as _, Bytes, BytesMut};

use super::ProtocolError;

/// Nothing in use needs a tenth of it; larger control frames end the connection.
const CONTROL_MAX: usize = 64 * 1024;
/// A data frame is handed on in pieces of at most this many bytes, so that a
/// frame of 16 MiB never has to be in memory at once.
const PIECE_MAX: usize = 64 * 1024;
const HEAD: usize = 8;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;

/// Why a stream was reset (draft 3.1, section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reset {
    /// The stream was used against the protocol.
    ProtocolError = 1,
    /// It was refused before anything was done.
    RefusedStream = 3,
    /// Nobody needs it any more.
    Cancel = 5,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream; the block must be read even if the stream is refused.
    SynStream {
        /// Odd from clients.
        id: u32,
        /// Nothing more will come on it.
        fin: bool,
        /// Compressed headers.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// Compressed headers.
        block: Bytes,
    },
    /// Ends a stream at once.
    Reset {
        /// The stream.
        id: u32,
    },
    /// Is to be sent back by whoever did not begin it.
    Ping {
        /// Odd from clients.
        id: u32,
    },
    /// No more streams are wanted.
    GoAway,
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// Compressed headers.
        block: Bytes,
        /// Nothing more will come on it.
        fin: bool,
    },
    /// A piece of a stream.
    Data {
        /// The stream.
        id: u32,
        /// At most 64 KiB; may be empty.
        bytes: Bytes,
        /// Nothing more will come on it.
        fin: bool,
    },
    /// Settings and windows, which nobody uses here.
    Ignored,
}

/// Cuts bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Of the data frame that is being handed on: stream, bytes left, FIN at its end.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    /// The next frame in `buffer`; `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`ProtocolError`]; what follows cannot be understood.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, ProtocolError> {
        if let Some((id, left, fin)) = self.data {
            return Ok(self.piece(buffer, id, left, fin));
        }
        let Some(head) = buffer.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        if first & 0x8000_0000 == 0 {
            buffer.advance(HEAD);
            return Ok(self.piece(buffer, first, length, flags & FIN != 0));
        }
        if (first >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(ProtocolError::Malformed("the version of a frame"));
        }
        if length > CONTROL_MAX {
            return Err(ProtocolError::TooLarge("a control frame"));
        }
        if buffer.len() < HEAD + length {
            buffer.reserve(HEAD + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEAD);
        let payload = buffer.split_to(length).freeze();
        control((first & 0xffff) as u16, flags, payload).map(Some)
    }

    fn piece(&mut self, buffer: &mut BytesMut, id: u32, left: usize, fin: bool) -> Option<Frame> {
        if left > 0 && buffer.is_empty() {
            self.data = Some((id, left, fin));
            return None;
        }
        let bytes = buffer
            .split_to(left.min(buffer.len()).min(PIECE_MAX))
            .freeze();
        let left = left - bytes.len();
        self.data = (left > 0).then_some((id, left, fin));
        Some(Frame::Data {
            id,
            bytes,
            fin: fin && left == 0,
        })
    }
}

fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, ProtocolError> {
    let length = payload.len();
    let number = |payload: &mut Bytes| {
        payload
            .try_get_u32()
            .map_err(|_short| ProtocolError::Malformed("the length of a frame"))
    };
    let fin = flags & FIN != 0;
    Ok(match kind {
        SYN_STREAM => {
            let id = number(&mut payload)? & 0x7fff_ffff;
            number(&mut payload)?;
            if payload.len() < 2 {
                return Err(ProtocolError::Malformed("the length of a frame"));
            }
            // Priority and slot: nobody uses them.
            payload.advance(2);
            Frame::SynStream {
                id,
                fin,
                block: payload,
            }
        }
        SYN_REPLY => Frame::SynReply {
            id: number(&mut payload)? & 0x7fff_ffff,
            block: payload,
        },
        RST_STREAM if length == 8 => Frame::Reset {
            id: number(&mut payload)? & 0x7fff_ffff,
        },
        PING if length == 4 => Frame::Ping {
            id: number(&mut payload)?,
        },
        GOAWAY if length == 8 => Frame::GoAway,
        HEADERS => Frame::Headers {
            id: number(&mut payload)? & 0x7fff_ffff,
            fin,
            block: payload,
        },
        SETTINGS | WINDOW_UPDATE => Frame::Ignored,
        RST_STREAM | PING | GOAWAY => {
            return Err(ProtocolError::Malformed("the length of a frame"));
        }
        _ => return Err(ProtocolError::Malformed("the type of a frame")),
    })
}

/// The head of a data frame with `length` bytes, at most 2^24 - 1.
pub(super) fn data_head(id: u32, length: usize, fin: bool) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(id & 0x7fff_ffff).to_be_bytes());
    head[4..].copy_from_slice(&(length as u32 & 0x00ff_ffff).to_be_bytes());
    head[4] = if fin { FIN } else { 0 };
    head
}

fn control_frame(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(length as u32 & 0x00ff_ffff).to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}

/// SYN_STREAM with compressed headers.
pub(super) fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    control_frame(SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], block])
}

/// SYN_REPLY with compressed headers.
pub(super) fn syn_reply(id: u32, block: &[u8]) -> Vec<u8> {
    control_frame(SYN_REPLY, &[&id.to_be_bytes(), block])
}

/// RST_STREAM.
pub(super) fn rst_stream(id: u32, why: Reset) -> Vec<u8> {
    control_frame(
        RST_STREAM,
        &[&id.to_be_bytes(), &(why as u32).to_be_bytes()],
    )
}

/// PING.
pub(super) fn ping(id: u32) -> Vec<u8> {
    control_frame(PING, &[&id.to_be_bytes()])
}

/// GOAWAY without an error.
pub(super) fn goaway(last: u32) -> Vec<u8> {
    control_frame(GOAWAY, &[&last.to_be_bytes(), &[0; 4]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(decoder: &mut Decoder, buffer: &mut BytesMut) -> Result<Vec<Frame>, ProtocolError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// What `pieces` of one stream come to.
    fn joined(frames: &[Frame]) -> (Vec<u8>, bool) {
        let mut whole = Vec::new();
        let mut ended = false;
        for frame in frames {
            if let Frame::Data { bytes, fin, .. } = frame {
                assert!(!ended, "nothing comes after FIN");
                whole.extend_from_slice(bytes);
                ended = *fin;
            }
        }
        (whole, ended)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn frames_are_the_same_wherever_the_bytes_are_cut(
            payload in proptest::collection::vec(any::<u8>(), 0..200_000),
            cut in 0_usize..200_000,
        ) {
            let mut wire = syn_stream(7, b"block");
            wire.extend_from_slice(&data_head(7, payload.len(), true));
            wire.extend_from_slice(&payload);
            wire.extend_from_slice(&ping(3));
            let (a, b) = wire.split_at(cut.min(wire.len()));
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(a));
            let mut frames = all(&mut decoder, &mut buffer).unwrap();
            buffer.extend_from_slice(b);
            frames.extend(all(&mut decoder, &mut buffer).unwrap());
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(joined(&frames), (payload, true));
            prop_assert_eq!(frames.last(), Some(&Frame::Ping { id: 3 }));
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            drop(all(&mut Decoder::default(), &mut buffer));
        }
    }

    #[test]
    fn a_settings_frame_that_lies_about_its_count_costs_nothing() {
        let mut buffer = BytesMut::from(&control_frame(SETTINGS, &[&[0xff; 4]])[..]);
        assert_eq!(
            Decoder::default().decode(&mut buffer),
            Ok(Some(Frame::Ignored))
        );
    }

    #[test]
    fn a_control_frame_that_is_too_large_or_of_another_version_ends_it() {
        let mut buffer = BytesMut::from(&[0x80, 3, 0, 4, 0, 0xff, 0xff, 0xff][..]);
        assert!(Decoder::default().decode(&mut buffer).is_err());
        let mut buffer = BytesMut::from(&[0x80, 2, 0, 4, 0, 0, 0, 4][..]);
        assert!(Decoder::default().decode(&mut buffer).is_err());
    }
}
