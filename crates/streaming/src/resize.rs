//! Sizes of the client's terminal: JSON objects, one after the other.

use std::collections::VecDeque;

use serde::Deserialize;

use crate::session::Input;

/// No object needs as much; a client that sends none of them in so many bytes sends none.
const PENDING_MAX: usize = 4096;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct Size {
    /// Columns, at least 1.
    #[serde(rename = "Width", alias = "width")]
    pub width: u16,
    /// Rows, at least 1.
    #[serde(rename = "Height", alias = "height")]
    pub height: u16,
}

/// The sizes that a client sends.
#[derive(Debug)]
pub struct SizeReader {
    input: Input,
    parser: SizeParser,
    ready: VecDeque<Size>,
}

impl SizeReader {
    pub(crate) fn new(input: Input) -> Self {
        Self {
            input,
            parser: SizeParser::default(),
            ready: VecDeque::new(),
        }
    }

    /// The next size; `None` when no more will come.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            if let Some(size) = self.ready.pop_front() {
                return Some(size);
            }
            let bytes = self.input.next().await?;
            // Of a storm of sizes only the last matters.
            self.ready.extend(self.parser.push(&bytes)?.last());
        }
    }
}

/// Finds the objects in bytes that are cut anywhere.
#[derive(Debug, Default)]
pub struct SizeParser {
    pending: Vec<u8>,
}

impl SizeParser {
    /// The sizes that `bytes` complete; `None` if they are no sizes.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Vec<Size>> {
        self.pending.extend_from_slice(bytes);
        let mut sizes = Vec::new();
        let mut objects = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let mut done = 0;
        loop {
            match objects.next() {
                Some(Ok(size)) => {
                    done = objects.byte_offset();
                    if size.width > 0 && size.height > 0 {
                        sizes.push(size);
                    }
                }
                None => {
                    done = self.pending.len();
                    break;
                }
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(_)) => return None,
            }
        }
        self.pending.drain(..done);
        (self.pending.len() <= PENDING_MAX).then_some(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_found_wherever_they_are_cut() {
        let text =
            b"{\"Width\":80,\"Height\":24}\n{\"width\":0,\"height\":9}{\"Width\":1,\"Height\":2}";
        for cut in 0..text.len() {
            let mut parser = SizeParser::default();
            let mut sizes = parser.push(&text[..cut]).unwrap();
            sizes.extend(parser.push(&text[cut..]).unwrap());
            let found: Vec<_> = sizes.iter().map(|size| (size.width, size.height)).collect();
            assert_eq!(found, [(80, 24), (1, 2)], "{cut}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_nothing_grows_without_bound() {
        assert_eq!(SizeParser::default().push(b"{\"Width\":-1}"), None);
        assert_eq!(SizeParser::default().push(b"[1]"), None);
        let mut parser = SizeParser::default();
        let endless = format!("{{\"x\":\"{}", "y".repeat(PENDING_MAX));
        assert_eq!(parser.push(endless.as_bytes()), None);
    }
}
