//! One physical line of a CRI log.

use jiff::Timestamp;

/// Where the container wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output, or the terminal.
    Out,
    /// Standard error.
    Err,
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    pub(super) stream: Stream,
    /// The next line of this stream continues this one.
    pub(super) partial: bool,
    pub(super) content: &'a [u8],
}

/// Parses a line without its line feed. `None` if it is not in the CRI format.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = split(line)?;
    let (stream, rest) = split(rest)?;
    // A line of no content may have lost the blank after its tag.
    let (tags, content) = split(rest).unwrap_or((rest, &[]));
    Some(Line {
        time: std::str::from_utf8(time).ok()?.parse().ok()?,
        stream: match stream {
            b"stdout" => Stream::Out,
            b"stderr" => Stream::Err,
            _ => return None,
        },
        // Tags after a colon are reserved.
        partial: match tags.split(|&byte| byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        },
        content,
    })
}

/// Whether a line ends what the container wrote as one line. Cheaper than
/// parsing, and true for lines of no known form.
pub(super) fn ends(line: &[u8]) -> bool {
    let tags = line.splitn(4, |&byte| byte == b' ').nth(2);
    tags.is_none_or(|tags| tags.first() != Some(&b'P'))
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == b' ')?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_parts_are_told_apart() {
        let line = parse(b"2026-11-21T05:00:00.000000001Z stdout F hello  world").unwrap();
        assert_eq!(line.content, b"hello  world");
        assert_eq!(line.stream, Stream::Out);
        assert!(!line.partial);
        assert_eq!(line.time.subsec_nanosecond(), 1);
    }

    #[test]
    fn offsets_reserved_tags_and_empty_content_are_read() {
        let line = parse(b"2026-11-21T06:00:00.5+01:00 stderr P:x ").unwrap();
        assert!(line.partial && line.stream == Stream::Err && line.content.is_empty());
        assert_eq!(line.time, "2026-11-21T05:00:00.5Z".parse().unwrap());
        assert!(
            parse(b"2026-11-21T06:00:00Z stdout F")
                .unwrap()
                .content
                .is_empty()
        );
    }

    #[test]
    fn other_lines_are_refused() {
        for line in [
            &b""[..],
            b"{\"log\":\"x\"}",
            b"today stdout F x",
            b"2026-11-21T06:00:00Z stdin F x",
            b"2026-11-21T06:00:00Z stdout X x",
        ] {
            assert_eq!(parse(line), None);
        }
    }
}
