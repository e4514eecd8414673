//! The 512-byte header block (POSIX.1-2017 pax, "ustar Interchange Format").

use super::{TarError, number, sparse};

pub(super) const BLOCK: usize = 512;

pub(super) type Block = [u8; BLOCK];

/// Which dialect the magic announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Old,
    Posix,
    Gnu,
}

/// The fields of one block, before any extension.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) dialect: Dialect,
    pub(super) flag: u8,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) device: (i64, i64),
    /// GNU's old sparse header: data segments so far, length, and whether more blocks follow.
    pub(super) gnu_sparse: Option<(Vec<sparse::Segment>, u64, bool)>,
}

pub(super) fn is_zero(block: &Block) -> bool {
    block.iter().all(|&b| b == 0)
}

pub(super) fn parse(block: &Block, offset: u64) -> Result<Header, TarError> {
    check_sum(block, offset)?;
    let field = |range: std::ops::Range<usize>, what| {
        number::parse(&block[range]).ok_or(TarError::Malformed { offset, what })
    };
    let dialect = match &block[257..265] {
        b"ustar\x0000" => Dialect::Posix,
        b"ustar  \0" => Dialect::Gnu,
        // Some writers leave the version empty.
        [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Posix,
        _ => Dialect::Old,
    };
    let flag = block[156];
    let mut path = text(&block[0..100]).to_vec();
    let prefix = text(&block[345..500]);
    // Only POSIX has a prefix there; GNU keeps times and the sparse map in those bytes.
    if dialect == Dialect::Posix && !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let size = field(124..136, "size")?;
    let gnu_sparse = match (dialect, flag) {
        (Dialect::Gnu, b'S') => Some(sparse::old_header(block, offset)?),
        (_, b'S') => {
            return Err(TarError::Malformed {
                offset,
                what: "sparse header of another dialect than GNU",
            });
        }
        _ => None,
    };
    let device = match flag {
        b'3' | b'4' => (
            field(329..337, "device number")?,
            field(337..345, "device number")?,
        ),
        _ => (0, 0),
    };
    Ok(Header {
        dialect,
        flag,
        path,
        link: text(&block[157..257]).to_vec(),
        mode: field(100..108, "mode")?,
        uid: field(108..116, "owner")?,
        gid: field(116..124, "group")?,
        size: u64::try_from(size).ok().ok_or(TarError::Malformed {
            offset,
            what: "size",
        })?,
        mtime: field(136..148, "time")?,
        device,
        gnu_sparse,
    })
}

/// Unsigned by the standard; some historic writers summed signed bytes.
fn check_sum(block: &Block, offset: u64) -> Result<(), TarError> {
    let stored = number::parse(&block[148..156]).ok_or(TarError::Checksum { offset })?;
    let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(at, &byte)| counted(at, byte))
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    if stored == unsigned || stored == signed {
        Ok(())
    } else {
        Err(TarError::Checksum { offset })
    }
}

/// Up to the first NUL or the field's end.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}
