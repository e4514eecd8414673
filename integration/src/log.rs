//! The CRI log format: `TIME STREAM TAG CONTENT`, TAG is `P` for a part of a
//! line and `F` for its end.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// One line of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Whether the container's line goes on in the next entry.
    pub partial: bool,
    /// Without the end of line.
    pub content: Vec<u8>,
}

/// Reads a whole log file.
///
/// # Errors
/// If it cannot be read, or a line is not in the format.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    parse(&bytes)
}

/// Parses complete lines; what follows the last end of line is an error.
///
/// # Errors
/// If a line is not in the format.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>> {
    ensure!(
        bytes.is_empty() || bytes.ends_with(b"\n"),
        "the log ends within a line"
    );
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| entry(&line[..line.len() - 1])).collect()
}

fn entry(line: &[u8]) -> Result<Entry> {
    let shown = || String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("not a log line: {:?}", shown());
    };
    let time = String::from_utf8_lossy(time).into_owned();
    ensure!(
        time.len() >= 20 && time.as_bytes()[10] == b'T' && time.contains('.'),
        "not a time with a fraction: {:?}",
        shown()
    );
    let partial = match tag {
        b"P" => true,
        b"F" => false,
        _ => bail!("tag is neither P nor F: {:?}", shown()),
    };
    let stream = String::from_utf8_lossy(stream).into_owned();
    ensure!(
        stream == "stdout" || stream == "stderr",
        "unknown stream: {:?}",
        shown()
    );
    Ok(Entry {
        time,
        stream,
        partial,
        content: parts.next().unwrap_or_default().to_vec(),
    })
}

/// The bytes that the container wrote to `stream`, as far as they were logged.
#[must_use]
pub fn written(entries: &[Entry], stream: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in entries.iter().filter(|entry| entry.stream == stream) {
        all.extend_from_slice(&entry.content);
        if !entry.partial {
            all.push(b'\n');
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_line_are_joined_and_nonsense_is_refused() {
        let text = b"2026-01-02T03:04:05.000000001Z stdout P ab\n\
                     2026-01-02T03:04:05.000000002Z stderr F other\n\
                     2026-01-02T03:04:05.000000003Z stdout F c d\n";
        let entries = parse(text).unwrap();
        assert_eq!(written(&entries, "stdout"), b"abc d\n");
        assert_eq!(written(&entries, "stderr"), b"other\n");
        assert!(parse(b"2026-01-02T03:04:05.1Z stdout F cut").is_err());
        assert!(parse(b"2026-01-02T03:04:05.1Z stdin F x\n").is_err());
        assert!(parse(b"2026-01-02T03:04:05.1Z stdout Q x\n").is_err());
    }
}
