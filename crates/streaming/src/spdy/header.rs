//! Header blocks: name and value pairs, compressed over the whole connection.
//!
//! Both directions keep one zlib stream each from the first block to the last,
//! so that every block that arrives must be read, wanted or not.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{ProtocolError, dictionary::DICTIONARY};

/// Names and values of one block, unpacked. Those in use have a few hundred bytes.
const BLOCK_MAX: usize = 64 * 1024;
/// Pairs of one block.
const PAIRS_MAX: usize = 256;

/// Names, lower-case, and values.
pub type Headers = Vec<(String, String)>;

/// The value of `name` in `headers`; names are compared without regard to case.
#[must_use]
pub fn header<'h>(headers: &'h Headers, name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// Reads the header blocks of one direction, in the order of their arrival.
#[derive(Debug)]
pub struct HeaderReader {
    inflate: Decompress,
}

impl Default for HeaderReader {
    fn default() -> Self {
        Self {
            inflate: Decompress::new(true),
        }
    }
}

impl HeaderReader {
    /// Unpacks and parses the next block.
    ///
    /// # Errors
    /// [`ProtocolError`]; the connection cannot be understood any more.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, ProtocolError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            let before = (self.inflate.total_in(), plain.len());
            let outcome = self
                .inflate
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            let consumed =
                usize::try_from(self.inflate.total_in() - before.0).unwrap_or(rest.len());
            rest = rest.get(consumed..).unwrap_or_default();
            match outcome {
                Ok(Status::StreamEnd) => return Err(ProtocolError::Compression),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_unknown| ProtocolError::Compression)?;
                    continue;
                }
                Err(_) => return Err(ProtocolError::Compression),
            }
            let full = plain.len() == plain.capacity();
            if rest.is_empty() && !full {
                return Ok(plain);
            }
            if full {
                if plain.len() >= BLOCK_MAX {
                    return Err(ProtocolError::TooLarge("a header block"));
                }
                plain.reserve(plain.len());
            } else if consumed == 0 && plain.len() == before.1 {
                return Err(ProtocolError::Compression);
            }
        }
    }
}

fn parse(plain: &[u8]) -> Result<Headers, ProtocolError> {
    let mut rest = plain;
    let count = number(&mut rest)?;
    if count > PAIRS_MAX {
        return Err(ProtocolError::TooLarge("the number of headers"));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut rest)?;
        let value = text(&mut rest)?;
        let known = headers.iter().any(|(known, _)| *known == name);
        if name.is_empty() || known || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ProtocolError::Malformed("a header name"));
        }
        headers.push((name, value));
    }
    if rest.is_empty() {
        Ok(headers)
    } else {
        Err(ProtocolError::Malformed("a header block"))
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, ProtocolError> {
    let (head, tail) = rest
        .split_first_chunk::<4>()
        .ok_or(ProtocolError::Malformed("a header block"))?;
    *rest = tail;
    usize::try_from(u32::from_be_bytes(*head)).map_err(|_large| ProtocolError::TooLarge("a header"))
}

fn text(rest: &mut &[u8]) -> Result<String, ProtocolError> {
    let length = number(rest)?;
    let (text, tail) = rest
        .split_at_checked(length)
        .ok_or(ProtocolError::Malformed("a header block"))?;
    *rest = tail;
    String::from_utf8(text.to_vec()).map_err(|_bytes| ProtocolError::Malformed("a header"))
}

/// Writes the header blocks of one direction, in the order in which they are sent.
#[derive(Debug)]
pub struct HeaderWriter {
    /// Made at the first block: deflate keeps a window of a quarter of a megabyte.
    deflate: Option<Compress>,
}

impl HeaderWriter {
    /// A writer that has written nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { deflate: None }
    }

    /// Packs `headers`; names must be lower-case.
    ///
    /// # Errors
    /// [`ProtocolError::Compression`], if zlib refuses.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, ProtocolError> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let deflate = match &mut self.deflate {
            Some(deflate) => deflate,
            None => {
                let mut deflate = Compress::new(Compression::fast(), true);
                deflate
                    .set_dictionary(&DICTIONARY)
                    .map_err(|_refused| ProtocolError::Compression)?;
                self.deflate.insert(deflate)
            }
        };
        let start = deflate.total_in();
        let mut block = Vec::with_capacity(plain.len() + 64);
        loop {
            let consumed = usize::try_from(deflate.total_in() - start).unwrap_or(plain.len());
            let rest = plain.get(consumed..).unwrap_or_default();
            deflate
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .map_err(|_refused| ProtocolError::Compression)?;
            if block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(block.len());
        }
    }
}

impl Default for HeaderWriter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_connection_depend_on_each_other_and_come_back() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::default());
        for round in 0..50 {
            let long = "x".repeat(round * 40);
            let headers = [("streamtype", "stdin"), ("port", "8080"), ("x", &long)];
            let block = writer.write(&headers).unwrap();
            let back = reader.read(&block).unwrap();
            assert_eq!(header(&back, "StreamType"), Some("stdin"));
            assert_eq!(header(&back, "x"), Some(&*long));
        }
        let empty = writer.write(&[]).unwrap();
        assert!(reader.read(&empty).unwrap().is_empty());
    }

    #[test]
    fn the_first_block_names_the_dictionary() {
        let block = HeaderWriter::new().write(&[]).unwrap();
        assert_eq!(block[1] & 0x20, 0x20, "FDICT");
        assert_eq!(block[2..6], 0xE3C6_A7C2_u32.to_be_bytes());
    }

    #[test]
    fn a_bomb_and_a_lying_count_are_refused() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&DICTIONARY).unwrap();
        let zeros = vec![0_u8; 4 << 20];
        let mut bomb = Vec::with_capacity(64 << 10);
        deflate
            .compress_vec(&zeros, &mut bomb, FlushCompress::Sync)
            .unwrap();
        assert!(matches!(
            HeaderReader::default().read(&bomb),
            Err(ProtocolError::TooLarge(_))
        ));
        for plain in [&[0x80, 0, 0, 0][..], &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]] {
            assert!(parse(plain).is_err(), "{plain:?}");
        }
    }
}
