//! Extended headers: records of the form `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

use super::{TarError, Time, number, sparse};

/// All records of one header; honest ones have a few hundred bytes, with large xattrs some 64 KiB.
pub(super) const HEADER_MAX: u64 = 1 << 20;
/// The kernel's own limit for one attribute (XATTR_SIZE_MAX).
const XATTR_VALUE_MAX: usize = 65_536;
/// The kernel's limit for a name (XATTR_NAME_MAX).
const XATTR_NAME_MAX: usize = 255;
/// More attributes than any file system stores beside one file.
const XATTRS_MAX: usize = 1_024;

/// What one extended header says; absent means the header block decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Sparse,
}

/// The GNU.sparse.* records.
#[derive(Clone, Debug, Default)]
pub(super) struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    size: Option<u64>,
    blocks: Option<u64>,
    numbers: Vec<u64>,
    map: Option<Vec<u64>>,
}

/// Which pax notation of sparse files a member uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notation {
    None,
    /// The map is in the records.
    Records(Vec<u64>),
    /// The map begins the data (version 1.0).
    Data,
}

impl Sparse {
    pub(super) fn notation(&self, offset: u64) -> Result<Notation, TarError> {
        let none = self.major.is_none()
            && self.minor.is_none()
            && self.map.is_none()
            && self.numbers.is_empty()
            && self.blocks.is_none();
        match (self.major, self.minor) {
            (Some(1), Some(0)) if self.map.is_none() && self.numbers.is_empty() => {
                Ok(Notation::Data)
            }
            (None | Some(0), None | Some(0 | 1)) => {
                if none && self.size.is_none() && self.real_size.is_none() && self.name.is_none() {
                    return Ok(Notation::None);
                }
                match (&self.map, self.numbers.as_slice()) {
                    (Some(map), []) => Ok(Notation::Records(map.clone())),
                    (None, numbers) if self.size.is_some() => {
                        Ok(Notation::Records(numbers.to_vec()))
                    }
                    _ => Err(sparse::malformed(offset)),
                }
            }
            _ => Err(TarError::Unsupported {
                offset,
                what: "a sparse file in an unknown notation".to_owned(),
            }),
        }
    }

    /// Length of the file when extracted.
    pub(super) fn length(&self) -> Option<u64> {
        self.real_size.or(self.size)
    }
}

/// Reads the records of one header.
pub(super) fn parse(mut bytes: &[u8], offset: u64) -> Result<Records, TarError> {
    let mut records = Records::default();
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let (key, value, rest) = split(bytes).ok_or(TarError::Malformed {
            offset,
            what: "extended record",
        })?;
        bytes = rest;
        // Only this notation repeats its keys, and in a fixed order.
        let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
        if !repeats && seen.contains(&key) {
            return Err(TarError::Ambiguous {
                offset,
                what: "an extended header has one key twice",
            });
        }
        if !repeats {
            if seen.len() >= XATTRS_MAX {
                return Err(TarError::TooLarge {
                    offset,
                    what: "extended header",
                    limit: XATTRS_MAX as u64,
                });
            }
            seen.push(key);
        }
        records.take(key, value, offset)?;
    }
    Ok(records)
}

/// Key, value and what follows the first record.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // A length of more than 7 digits exceeds what is accepted as a whole.
    let space = bytes.iter().take(8).position(|&b| b == b' ')?;
    let length = usize::try_from(number::decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let count = |what| number::decimal(value).ok_or(malformed(what));
        let text = |what| match value.contains(&0) {
            true => Err(malformed(what)),
            false => Ok(Some(value.to_vec())),
        };
        match key {
            // An empty value takes the record back: the header block decides.
            b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" if value.is_empty() => {}
            b"path" => self.path = text("path record")?,
            b"linkpath" => self.link = text("linkpath record")?,
            b"size" => self.size = Some(count("size record")?),
            b"uid" => self.uid = Some(count("uid record")?),
            b"gid" => self.gid = Some(count("gid record")?),
            b"mtime" => self.mtime = Some(time(value).ok_or(malformed("mtime record"))?),
            b"GNU.sparse.major" => self.sparse.major = Some(count("sparse record")?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(count("sparse record")?),
            b"GNU.sparse.name" => self.sparse.name = text("sparse name")?,
            b"GNU.sparse.realsize" => self.sparse.real_size = Some(count("sparse record")?),
            b"GNU.sparse.size" => self.sparse.size = Some(count("sparse record")?),
            b"GNU.sparse.numblocks" => self.sparse.blocks = Some(count("sparse record")?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let wants_offset = self.sparse.numbers.len().is_multiple_of(2);
                if (key == b"GNU.sparse.offset") != wants_offset {
                    return Err(sparse::malformed(offset));
                }
                self.sparse.numbers.push(count("sparse record")?);
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|&b| b == b',').map(number::decimal);
                let numbers: Option<Vec<u64>> = numbers.collect();
                self.sparse.map = Some(numbers.ok_or(sparse::malformed(offset))?);
            }
            _ => {
                if key.starts_with(b"GNU.sparse.") {
                    return Err(TarError::Unsupported {
                        offset,
                        what: "a sparse file in an unknown notation".to_owned(),
                    });
                }
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(name, value, offset)?;
                }
                // Others (atime, ctime, uname, comment, vendors') do not concern an image.
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8], offset: u64) -> Result<(), TarError> {
        let too_large = |what, limit: usize| TarError::TooLarge {
            offset,
            what,
            limit: limit as u64,
        };
        if name.is_empty() || name.contains(&0) {
            return Err(TarError::Malformed {
                offset,
                what: "attribute name",
            });
        }
        if name.len() > XATTR_NAME_MAX {
            return Err(too_large("attribute name", XATTR_NAME_MAX));
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err(too_large("attribute value", XATTR_VALUE_MAX));
        }
        self.xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }
}

/// Decimal seconds, perhaps negative, perhaps with a fraction; finer than nanoseconds is cut.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|&b| b == b'.') {
        Some(at) => (&value[..at], &value[at + 1..]),
        None => (value, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
        nanoseconds = nanoseconds * 10 + digit;
    }
    let seconds = i64::try_from(number::decimal(whole)?).ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_backwards() {
        let t = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(t("1.5"), Some((1, 500_000_000)));
        assert_eq!(t("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(t("-3"), Some((-3, 0)));
        assert_eq!(t("1.0000000009"), Some((1, 0)));
        assert_eq!(t("1.x"), None);
        assert_eq!(t(""), None);
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 =bc\n",
            b"99999999999 a=b\n",
            b"6 a=bX",
            b"x",
        ] {
            assert!(parse(bad, 0).is_err(), "{bad:?}");
        }
        assert!(parse(b"6 a=b\n", 0).is_ok());
        assert!(parse(b"12 path=abc\n12 path=abc\n", 0).is_err());
        assert!(parse(b"13 path=a\0b\n", 0).is_err());
    }
}
