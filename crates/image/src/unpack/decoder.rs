//! From compressed bytes to plain ones.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use super::Fault;
use crate::layer::Exceeded;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// A zstd stream may begin with frames of other programs' data (RFC 8878, section 3.1.2).
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// What `zstd` itself accepts without being told otherwise: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;
/// What a layer may use without waiting for its turn: as the highest ordinary level.
pub(super) const WINDOW_LOG_FREE: u32 = 23;
/// Enough for a frame's header.
const HEAD: u64 = 18;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// As a layer's media type says, which may be wrong; good for an estimate.
    pub(crate) fn of_media_type(kind: &str) -> Self {
        let ends = |with: &str| kind.trim_end().ends_with(with);
        match () {
            () if ends("gzip") => Self::Gzip,
            () if ends("zstd") => Self::Zstd,
            () => Self::Plain,
        }
    }

    /// What a layer's media type ends with.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

/// The first bytes of a stream, which say how it is compressed.
pub(crate) struct Head(Vec<u8>);

impl Head {
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = Vec::new();
        stream.take(HEAD).read_to_end(&mut head)?;
        Ok(Self(head))
    }

    pub(super) fn compression(&self) -> Compression {
        let head = &self.0;
        if head.starts_with(&GZIP) {
            Compression::Gzip
        } else if head.starts_with(&ZSTD)
            || (head.get(1..4) == Some(&ZSTD_SKIPPABLE) && head[0] & 0xf0 == 0x50)
        {
            Compression::Zstd
        } else {
            Compression::Plain
        }
    }

    /// As a power of two, the memory that a zstd stream's first frame needs (RFC 8878,
    /// section 3.1.1.1); the smallest possible where that cannot be seen.
    pub(super) fn window_log(&self) -> u32 {
        let head = &self.0;
        if !head.starts_with(&ZSTD) {
            return 0;
        }
        let byte = |at: usize| u64::from(head.get(at).copied().unwrap_or(0));
        let descriptor = byte(4);
        let window = if descriptor & 0x20 == 0 {
            let base = 1u64 << (10 + (byte(5) >> 3));
            base + base / 8 * (byte(5) & 7)
        } else {
            // One segment: the window is the content, whose size follows the dictionary's id.
            let dictionary = [0, 1, 2, 4][(descriptor & 3) as usize];
            let length = [1, 2, 4, 8][(descriptor >> 6) as usize];
            let field = (0..length).map(|at| byte(5 + dictionary + at) << (8 * at));
            field.sum::<u64>() + if length == 2 { 256 } else { 0 }
        };
        // Rounded up; a size may claim to be beyond the largest power that a number holds.
        u64::BITS - window.saturating_sub(1).leading_zeros()
    }
}

/// Plain bytes of a stream.
pub(crate) enum Decoder<R: BufRead> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<Whole<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Whole<R>>>),
}

pub(crate) type Whole<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

impl<R: BufRead> Decoder<R> {
    pub(crate) fn new(head: Head, stream: R) -> io::Result<Self> {
        let (compression, window) = (head.compression(), head.window_log());
        if window > WINDOW_LOG_MAX {
            let exceeded = Exceeded::Window {
                mebibytes: 1 << window.saturating_sub(20).min(44),
                limit: 1 << (WINDOW_LOG_MAX - 20),
            };
            return Err(Fault::Exceeded(exceeded).into());
        }
        let whole = io::Cursor::new(head.0).chain(stream);
        Ok(match compression {
            Compression::Plain => Self::Plain(whole),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(whole))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
                decoder.window_log_max(window.max(WINDOW_LOG_FREE))?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    pub(super) fn into_inner(self) -> R {
        match self {
            Self::Plain(whole) => whole,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
        .into_inner()
        .1
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self {
            Self::Plain(stream) => return stream.read(buffer),
            Self::Gzip(stream) => stream.read(buffer),
            Self::Zstd(stream) => stream.read(buffer),
        };
        match count {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            other => Ok(other.map_err(Fault::Inflate)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn head(bytes: &[u8]) -> Head {
        Head::read(&mut &bytes[..]).unwrap()
    }

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = bytes;
        let head = Head::read(&mut stream)?;
        let mut out = Vec::new();
        Decoder::new(head, stream)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_frame_that_claims_any_size_is_refused_or_taken() {
        // One segment, a size of eight bytes.
        let claims =
            |size: u64| [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &size.to_le_bytes()].concat();
        for (size, log) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (1 << 27, 27),
            ((1 << 27) + 1, 28),
        ] {
            assert_eq!(head(&claims(size)).window_log(), log, "{size}");
        }
        assert_eq!(head(&claims(u64::MAX)).window_log(), 64);
        assert!(plain(&claims(u64::MAX)).is_err());
    }

    #[test]
    fn several_frames_or_members_are_one_stream() {
        for pack in [zstd as fn(&[u8]) -> Vec<u8>, gzip] {
            let two = [pack(b"one "), pack(b"two")].concat();
            assert_eq!(plain(&two).unwrap(), b"one two");
            let cut = &two[..two.len() - 2];
            assert!(
                plain(cut).is_err(),
                "a cut stream was taken for a whole one"
            );
            let more = [&two[..], b"more"].concat();
            assert!(plain(&more).is_err(), "something after the end was ignored");
        }
    }

    #[test]
    fn skippable_frames_are_skipped_wherever_they_are() {
        let skip = b"\x53\x2a\x4d\x18\x03\x00\x00\x00xyz";
        let stream = [skip, &zstd(b"one")[..], skip, &zstd(b"two"), skip].concat();
        assert_eq!(plain(&stream).unwrap(), b"onetwo");
    }

    #[test]
    fn a_window_larger_than_the_bound_is_refused_before_it_is_allocated() {
        let frame = |log: u8| {
            // No single segment, no checksum, no size; then one raw block of a byte.
            let mut frame = ZSTD.to_vec();
            frame.extend([0x00, (log - 10) << 3, 0x09, 0x00, 0x00, b'x']);
            frame
        };
        assert_eq!(head(&frame(23)).window_log(), 23);
        for log in [20, 23, 27] {
            assert_eq!(plain(&frame(log)).unwrap(), b"x");
        }
        let error = plain(&frame(28)).unwrap_err().to_string();
        assert!(error.contains("256 MiB"), "{error}");
        // A later frame has what the first one asked for, or what all may have.
        assert!(plain(&[frame(23), frame(24)].concat()).is_err());
        assert!(plain(&[frame(25), frame(25)].concat()).is_ok());
    }

    #[test]
    fn the_window_of_a_single_segment_is_its_size() {
        let single = |flags: u8, rest: &[u8]| head(&[&ZSTD[..], &[flags], rest].concat());
        assert_eq!(single(0x20, &[200]).window_log(), 8);
        assert_eq!(single(0x60, &[0, 0]).window_log(), 8);
        assert_eq!(single(0xa0, &[0, 0, 0, 0x10]).window_log(), 28);
        assert_eq!(
            single(0xe3, &[9, 9, 9, 9, 0, 0, 0, 0, 0, 1]).window_log(),
            40
        );
    }
}
