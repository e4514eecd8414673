//! From blocks to members.

use std::io::{self, Read};

use super::{
    Entry, Kind, Segment, TarError, Time,
    header::{self, BLOCK, Block, Dialect, Header},
    pax::{self, Notation, Records},
    sparse,
};

/// The longest path the kernel takes, with its NUL.
const NAME_MAX: u64 = 4096;

/// Reads the members of an archive one after the other.
///
/// Between two calls of [`Reader::next`] the present member's bytes are read
/// through [`Read`]; what is not read is skipped.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    offset: u64,
    /// Bytes of the present member that are left, and of its padding.
    left: u64,
    padding: u64,
    global: Records,
    ended: bool,
}

/// What the extension headers before a member said.
#[derive(Debug, Default)]
struct Extensions {
    records: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// A reader at the beginning of an archive.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            offset: 0,
            left: 0,
            padding: 0,
            global: Records::default(),
            ended: false,
        }
    }

    /// How many bytes of the archive were read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The stream below, for what its wrappers have counted.
    pub fn into_inner(self) -> R {
        self.stream
    }

    /// The next member; `None` at the end, which has then been read to the stream's end.
    ///
    /// # Errors
    /// [`TarError`]; the reader cannot go on after one.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not lend the reader for the member's bytes between two calls"
    )]
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        if self.ended {
            return Ok(None);
        }
        let mut extensions = Extensions::default();
        loop {
            let at = self.offset;
            let Some(block) = self.header_block(&extensions)? else {
                self.ended = true;
                return Ok(None);
            };
            let header = header::parse(&block, at)?;
            match header.flag {
                b'x' => {
                    let bytes = self.extension(header.size, pax::HEADER_MAX, "extended header")?;
                    set_once(&mut extensions.records, pax::parse(&bytes, at)?, at)?;
                }
                b'g' => {
                    let bytes = self.extension(header.size, pax::HEADER_MAX, "global header")?;
                    self.merge_global(pax::parse(&bytes, at)?, at)?;
                }
                b'L' => {
                    let name = self.long_text(header.size, at)?;
                    set_once(&mut extensions.name, name, at)?;
                }
                b'K' => {
                    let link = self.long_text(header.size, at)?;
                    set_once(&mut extensions.link, link, at)?;
                }
                _ => return self.member(header, extensions, at).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: Header,
        extensions: Extensions,
        at: u64,
    ) -> Result<Entry, TarError> {
        let records = extensions.records.unwrap_or_default();
        let path = one_of(records.path, extensions.name, at)?.unwrap_or(header.path);
        let link = one_of(records.link, extensions.link, at)?.unwrap_or(header.link);
        // The record wins over the block, always: readers that disagreed were the hole.
        let stored = records.size.unwrap_or(header.size);
        self.set_left(stored, at)?;

        let notation = records.sparse.notation(at)?;
        let (mut path, mut size, mut segments) = (path, stored, None);
        if let Some((first, length, more)) = header.gnu_sparse {
            if notation != Notation::None {
                return Err(sparse::malformed(at));
            }
            segments = Some(self.old_map(first, more)?);
            size = length;
        }
        match notation {
            Notation::None => {}
            Notation::Records(numbers) => segments = Some(sparse::from_numbers(&numbers, at)?),
            Notation::Data => segments = Some(self.data_map(at)?),
        }
        if header.flag != b'S' && segments.is_some() {
            size = records.sparse.length().ok_or(sparse::malformed(at))?;
            path = records.sparse.name.unwrap_or(path);
        }
        if let Some(segments) = &segments {
            sparse::check(segments, size, self.left, at)?;
        }

        let kind = kind(header.flag, header.dialect, link, header.device, &path, at)?;
        if kind != Kind::File && (stored != 0 || segments.is_some()) {
            // Old writers put a link's target size there and no data; others put data.
            return Err(TarError::Ambiguous {
                offset: at,
                what: "a member without content claims a size",
            });
        }
        if path.is_empty() || path.len() as u64 >= NAME_MAX {
            return Err(name_error(&path, at));
        }
        let id = |record: Option<u64>, global: Option<u64>, field: i64| {
            // 2^32-1 means "leave it" to chown(2), so it cannot be an owner.
            record
                .or(global)
                .map_or(u32::try_from(field).ok(), |n| u32::try_from(n).ok())
                .filter(|&n| n != u32::MAX)
                .ok_or(TarError::Malformed {
                    offset: at,
                    what: "owner",
                })
        };
        let mtime = records.mtime.or(self.global.mtime).unwrap_or(Time {
            seconds: header.mtime,
            nanoseconds: 0,
        });
        let mut xattrs = self.global.xattrs.clone();
        xattrs.extend(records.xattrs);
        Ok(Entry {
            path,
            kind,
            // Bits above are the file type, which some writers add.
            mode: u32::try_from(header.mode & 0o7777).unwrap_or(0),
            uid: id(records.uid, self.global.uid, header.uid)?,
            gid: id(records.gid, self.global.gid, header.gid)?,
            mtime,
            size,
            sparse: segments,
            xattrs: xattrs.into_iter().collect(),
        })
    }

    /// A header block; `None` at a proper end of the archive.
    fn header_block(&mut self, extensions: &Extensions) -> Result<Option<Block>, TarError> {
        let pending =
            extensions.records.is_some() || extensions.name.is_some() || extensions.link.is_some();
        let mut block = [0; BLOCK];
        let what = "a header";
        // Writers that forget the end mark are common enough to be accepted everywhere.
        let end = !self.fill_or_end(&mut block, what)?;
        if end || header::is_zero(&block) {
            if pending {
                return Err(TarError::Malformed {
                    offset: self.offset,
                    what: "extension without a member after it",
                });
            }
            if !end {
                self.only_zeros()?;
            }
            return Ok(None);
        }
        Ok(Some(block))
    }

    /// Reads to the end of the stream; anything but zeros there is visible to some readers only.
    fn only_zeros(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        loop {
            let count = self.read_some(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            if buffer[..count].iter().any(|&b| b != 0) {
                return Err(TarError::Ambiguous {
                    offset: self.offset - count as u64,
                    what: "there is something after the end mark",
                });
            }
        }
    }

    fn merge_global(&mut self, records: Records, at: u64) -> Result<(), TarError> {
        if records.path.is_some()
            || records.link.is_some()
            || records.size.is_some()
            || records.sparse.notation(at)? != Notation::None
        {
            return Err(TarError::Ambiguous {
                offset: at,
                what: "a global header names or measures the members after it",
            });
        }
        let global = &mut self.global;
        global.uid = records.uid.or(global.uid);
        global.gid = records.gid.or(global.gid);
        global.mtime = records.mtime.or(global.mtime);
        global.xattrs.extend(records.xattrs);
        Ok(())
    }

    fn extension(&mut self, size: u64, max: u64, what: &'static str) -> Result<Vec<u8>, TarError> {
        if size > max {
            return Err(TarError::TooLarge {
                offset: self.offset,
                what,
                limit: max,
            });
        }
        let padded = size.next_multiple_of(BLOCK as u64);
        let mut bytes = vec![0; usize::try_from(padded).unwrap_or(usize::MAX)];
        self.fill(&mut bytes, what)?;
        bytes.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    /// The text of a GNU long name or link: one NUL at its end.
    fn long_text(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        // With the padding, in which a reader that looks for the NUL would go on.
        let mut bytes =
            self.extension(size.next_multiple_of(BLOCK as u64), NAME_MAX, "long name")?;
        let padding = bytes.split_off(usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len()));
        if padding.iter().any(|&byte| byte != 0) {
            return Err(TarError::Ambiguous {
                offset: at,
                what: "a long name goes on behind its end",
            });
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(TarError::Malformed {
                offset: at,
                what: "long name",
            });
        }
        Ok(bytes)
    }

    fn old_map(&mut self, first: Vec<Segment>, more: bool) -> Result<Vec<Segment>, TarError> {
        let (mut segments, mut more) = (first, more);
        while more {
            let at = self.offset;
            if segments.len() > sparse::SEGMENTS_MAX {
                return Err(sparse::too_many(at));
            }
            let mut block = [0; BLOCK];
            self.fill(&mut block, "a sparse map")?;
            let (next, again) = sparse::old_extension(&block, at)?;
            if next.is_empty() && again {
                return Err(sparse::malformed(at));
            }
            segments.extend(next);
            more = again;
        }
        Ok(segments)
    }

    /// Version 1.0: decimal lines before the data, padded to a block; they count as data.
    fn data_map(&mut self, at: u64) -> Result<Vec<Segment>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        let mut digits: Vec<u8> = Vec::new();
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            if self.left < BLOCK as u64 {
                return Err(sparse::malformed(at));
            }
            let mut block = [0; BLOCK];
            self.fill(&mut block, "a sparse map")?;
            self.left -= BLOCK as u64;
            for byte in block {
                if wanted.is_some_and(|wanted| numbers.len() == wanted) {
                    break;
                }
                match byte {
                    b'\n' => {
                        let value = super::number::decimal(&digits).ok_or(sparse::malformed(at))?;
                        digits.clear();
                        match wanted {
                            None if value > sparse::SEGMENTS_MAX as u64 => {
                                return Err(sparse::too_many(at));
                            }
                            None => wanted = usize::try_from(value).ok().map(|n| n * 2),
                            Some(_) => numbers.push(value),
                        }
                    }
                    // No number has more than 20 digits.
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(sparse::malformed(at)),
                }
            }
        }
        sparse::from_numbers(&numbers, at)
    }

    fn set_left(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        // The end of the member must be a number too.
        size.checked_next_multiple_of(BLOCK as u64)
            .and_then(|padded| padded.checked_add(self.offset))
            .ok_or(TarError::Malformed {
                offset: at,
                what: "size",
            })?;
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8192];
        while self.left + self.padding > 0 {
            let want = (self.left + self.padding).min(buffer.len() as u64);
            let want = usize::try_from(want).unwrap_or(buffer.len());
            self.fill(&mut buffer[..want], "a member's content")?;
            let of_data = self.left.min(want as u64);
            self.left -= of_data;
            self.padding -= want as u64 - of_data;
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), TarError> {
        if self.fill_or_end(buffer, what)? || buffer.is_empty() {
            Ok(())
        } else {
            Err(TarError::Truncated {
                offset: self.offset,
                what,
            })
        }
    }

    /// Fills all of `buffer`; false if the stream ended before its first byte.
    fn fill_or_end(&mut self, buffer: &mut [u8], what: &'static str) -> Result<bool, TarError> {
        let mut done = 0;
        while done < buffer.len() {
            let count = self.read_some(&mut buffer[done..])?;
            if count == 0 {
                if done == 0 {
                    return Ok(false);
                }
                return Err(TarError::Truncated {
                    offset: self.offset,
                    what,
                });
            }
            done += count;
        }
        Ok(true)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.stream.read(buffer) {
                Ok(count) => {
                    self.offset += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads bytes of the present member; 0 at its end.
    ///
    /// # Errors
    /// [`TarError::Read`], or [`TarError::Truncated`] if the stream ends before the member.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..want])?;
        if count == 0 {
            return Err(TarError::Truncated {
                offset: self.offset,
                what: "a member's content",
            });
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T, offset: u64) -> Result<(), TarError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(TarError::Ambiguous {
            offset,
            what: "two extension headers of one kind before one member",
        }),
    }
}

fn one_of(
    record: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
    offset: u64,
) -> Result<Option<Vec<u8>>, TarError> {
    match (record, gnu) {
        (Some(record), Some(gnu)) if record != gnu => Err(TarError::Ambiguous {
            offset,
            what: "a pax record and a GNU header give one member two names",
        }),
        (record, gnu) => Ok(record.or(gnu)),
    }
}

fn name_error(path: &[u8], offset: u64) -> TarError {
    if path.is_empty() {
        TarError::Malformed {
            offset,
            what: "empty name",
        }
    } else {
        TarError::TooLarge {
            offset,
            what: "name",
            limit: NAME_MAX,
        }
    }
}

fn kind(
    flag: u8,
    dialect: Dialect,
    link: Vec<u8>,
    device: (i64, i64),
    path: &[u8],
    offset: u64,
) -> Result<Kind, TarError> {
    let number = |value: i64| {
        u32::try_from(value).ok().ok_or(TarError::Malformed {
            offset,
            what: "device number",
        })
    };
    let slash = path.ends_with(b"/");
    let kind = match flag {
        // The old format marks directories only by their slash.
        0 if slash => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink(link),
        b'2' => Kind::Symlink(link),
        b'3' => Kind::Character(number(device.0)?, number(device.1)?),
        b'4' => Kind::Block(number(device.0)?, number(device.1)?),
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(TarError::Unsupported {
                offset,
                what: format!("type {:?} of the {dialect:?} format", char::from(other)),
            });
        }
    };
    match &kind {
        Kind::HardLink(link) | Kind::Symlink(link)
            if link.is_empty() || link.len() as u64 >= NAME_MAX =>
        {
            Err(TarError::Malformed {
                offset,
                what: "link target",
            })
        }
        Kind::Directory => Ok(kind),
        _ if slash => Err(TarError::Ambiguous {
            offset,
            what: "the name of something that is no directory ends with a slash",
        }),
        _ => Ok(kind),
    }
}
