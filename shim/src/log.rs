//! The container's log in the CRI format:
//! `TIME STREAM TAG CONTENT\n`, TAG being `F` for a whole line and `P` for a part.
//!
//! One clock read per batch and one write per full buffer: at a gibibyte a
//! second of output a call per line would cost more than everything else. The
//! buffer is kept only while there is work, since a thousand idle shims would
//! otherwise hold a thousand of them.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::OwnedFd,
};

use crate::{attach::Audience, time};

/// Which of the container's streams a chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// The formatted batch is written when it has grown beyond this many bytes.
const WRITE_AT: usize = 256 * 1024;

/// A line that has begun but not ended yet.
#[derive(Debug, Default)]
struct Pending(Vec<u8>);

#[derive(Debug)]
pub(crate) struct Log {
    /// None: the output is read and dropped.
    file: Option<File>,
    /// Longest content of one line, in bytes.
    max_line: usize,
    /// Carriage returns before a newline are the terminal's doing, not the program's.
    strip_return: bool,
    stdout: Pending,
    stderr: Pending,
    out: Vec<u8>,
    /// Bytes of formatted output that could not be written.
    pub(crate) lost: u64,
    /// Who sees the output beside the log.
    pub(crate) audience: Audience,
}

impl Log {
    pub(crate) fn new(file: Option<OwnedFd>, max_line: u32, terminal: bool) -> Self {
        Self {
            file: file.map(File::from),
            max_line: match max_line {
                0 => usize::MAX,
                limit => limit as usize,
            },
            strip_return: terminal,
            stdout: Pending::default(),
            stderr: Pending::default(),
            out: Vec::new(),
            lost: 0,
            audience: Audience::default(),
        }
    }

    /// Formats `chunk`, writes what is complete, and offers it to whoever is attached.
    pub(crate) fn write(&mut self, stream: Stream, chunk: &[u8]) {
        if self.file.is_some() {
            self.format(stream, chunk);
        }
        self.audience.offer(stream, chunk);
    }

    fn format(&mut self, stream: Stream, chunk: &[u8]) {
        let mut head = [0_u8; time::RFC3339_LEN + 8];
        head[..time::RFC3339_LEN].copy_from_slice(&time::stamp());
        head[time::RFC3339_LEN..].copy_from_slice(stream.label());
        let mut pending = std::mem::take(self.pending(stream));
        let mut rest = chunk;
        while let Some(end) = berth_sys::find_byte(rest, b'\n') {
            self.line(&head, &mut pending, &rest[..end]);
            rest = &rest[end + 1..];
            if self.out.len() >= WRITE_AT {
                self.flush();
            }
        }
        self.keep(&head, &mut pending, rest);
        *self.pending(stream) = pending;
        self.flush();
    }

    /// Writes what never got its newline, as a part: readers show it without one.
    pub(crate) fn finish(&mut self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending(stream).0);
            if !pending.is_empty() && self.file.is_some() {
                let mut head = [0_u8; time::RFC3339_LEN + 8];
                head[..time::RFC3339_LEN].copy_from_slice(&time::stamp());
                head[time::RFC3339_LEN..].copy_from_slice(stream.label());
                self.emit(&head, b'P', &[&pending]);
            }
        }
        self.flush();
    }

    /// What was read so far belongs to the old file, a begun line to the new one.
    pub(crate) fn reopen(&mut self, file: OwnedFd) {
        self.flush();
        self.file = Some(File::from(file));
    }

    /// Gives the batch buffer back; called when a poll found nothing to do.
    pub(crate) fn idle(&mut self) {
        self.out = Vec::new();
    }

    fn pending(&mut self, stream: Stream) -> &mut Pending {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// One complete line: what was pending and `tail`, without the newline.
    fn line(&mut self, head: &[u8], pending: &mut Pending, tail: &[u8]) {
        let mut tail = tail;
        if self.strip_return {
            if let [before @ .., b'\r'] = tail {
                tail = before;
            } else if tail.is_empty() && pending.0.last() == Some(&b'\r') {
                pending.0.pop();
            }
        }
        if pending.0.len() + tail.len() <= self.max_line {
            self.emit(head, b'F', &[&pending.0, tail]);
            pending.0.clear();
            return;
        }
        // Exactly `max_line` bytes a part, the rest is the full one.
        let mut whole = std::mem::take(&mut pending.0);
        whole.extend_from_slice(tail);
        let mut parts = whole.chunks(self.max_line).peekable();
        while let Some(part) = parts.next() {
            let tag = if parts.peek().is_some() { b'P' } else { b'F' };
            self.emit(head, tag, &[part]);
        }
    }

    /// Keeps a begun line, giving out parts where it is longer than a line may be.
    fn keep(&mut self, head: &[u8], pending: &mut Pending, tail: &[u8]) {
        if tail.is_empty() {
            return;
        }
        pending.0.extend_from_slice(tail);
        while pending.0.len() > self.max_line {
            let rest = pending.0.split_off(self.max_line);
            let part = std::mem::replace(&mut pending.0, rest);
            self.emit(head, b'P', &[&part]);
        }
    }

    fn emit(&mut self, head: &[u8], tag: u8, parts: &[&[u8]]) {
        self.out.extend_from_slice(head);
        self.out.extend_from_slice(&[tag, b' ']);
        for part in parts {
            self.out.extend_from_slice(part);
        }
        self.out.push(b'\n');
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        if let Some(file) = &mut self.file {
            // A full disk must not stop the container: what cannot be written is counted.
            self.lost += write_counting(file, &self.out);
        }
        self.out.clear();
    }
}

/// Writes all it can and returns how many bytes it could not.
fn write_counting(file: &mut File, mut bytes: &[u8]) -> u64 {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    fn lines(max_line: u32, terminal: bool, chunks: &[(Stream, &[u8])]) -> Vec<String> {
        let path = std::env::temp_dir().join(format!(
            "berth-log-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let mut log = Log::new(Some(file.try_clone().unwrap().into()), max_line, terminal);
        for (stream, chunk) in chunks {
            log.write(*stream, chunk);
        }
        log.finish();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        // Not `lines`, which would take a carriage return for part of the line's end.
        text.split_terminator('\n')
            .map(|line| line[time::RFC3339_LEN + 1..].to_owned())
            .collect()
    }

    use Stream::{Stderr, Stdout};

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_and_one_more_byte_is_split() {
        assert_eq!(lines(4, false, &[(Stdout, b"abcd\n")]), ["stdout F abcd"]);
        assert_eq!(
            lines(4, false, &[(Stdout, b"abcde\n")]),
            ["stdout P abcd", "stdout F e"]
        );
        assert_eq!(
            lines(4, false, &[(Stdout, b"abcdefghi\n")]),
            ["stdout P abcd", "stdout P efgh", "stdout F i"]
        );
    }

    #[test]
    fn chunks_make_the_same_lines_wherever_they_are_cut() {
        let text = b"one\n\ntwo longer\nthree";
        let whole = lines(6, false, &[(Stdout, text)]);
        for cut in 0..text.len() {
            let (a, b) = text.split_at(cut);
            assert_eq!(lines(6, false, &[(Stdout, a), (Stdout, b)]), whole, "{cut}");
        }
        assert_eq!(whole[1], "stdout F ");
        assert_eq!(whole.last().unwrap(), "stdout P three");
    }

    #[test]
    fn streams_do_not_mix_within_a_line() {
        assert_eq!(
            lines(
                0,
                false,
                &[(Stdout, b"a"), (Stderr, b"x\n"), (Stdout, b"b\n")]
            ),
            ["stderr F x", "stdout F ab"]
        );
    }

    #[test]
    fn only_a_terminal_loses_its_carriage_returns() {
        assert_eq!(lines(0, true, &[(Stdout, b"a\r\n")]), ["stdout F a"]);
        assert_eq!(
            lines(0, true, &[(Stdout, b"a\r"), (Stdout, b"\n")]),
            ["stdout F a"]
        );
        assert_eq!(lines(0, false, &[(Stdout, b"a\r\n")]), ["stdout F a\r"]);
    }
}
