//! A log file that grows and is rotated by renaming it.
//!
//! A kubelet renames `0.log` to `0.log.20261121-050000` and has the runtime
//! open a new `0.log`. Whoever follows holds the renamed file: it is read to
//! its end, then any file that was renamed after it, then the new one.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::line;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// A line that is longer than this is handed on in pieces, which are then not
/// in the format. Runtimes write at most 16 KiB of content in a line.
const LINE_LIMIT: usize = 16 << 20;
/// Time, stream and tags fit into this.
const HEAD: usize = 128;

/// An open log.
#[derive(Debug)]
pub(crate) struct LogFile {
    /// Where the newest file is.
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end has not been written yet.
    rest: Vec<u8>,
    chunk: Vec<u8>,
}

impl LogFile {
    /// Opens the log at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self::expect(path);
        log.file = Some(File::open(path)?);
        Ok(log)
    }

    /// A log whose file will be there later.
    pub(crate) fn expect(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            rest: Vec::new(),
            chunk: vec![0; CHUNK],
        }
    }

    /// Where the newest file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Skips all but the last `lines` lines. Pieces of one line count once.
    /// Reads backwards, so that the size of the log does not matter.
    pub(crate) fn skip_to_tail(&mut self, lines: u64) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let start = tail_start(file, lines)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(())
    }

    /// Reads the next piece and hands on its whole lines, without line feeds.
    /// False at the end of the file.
    pub(crate) fn step(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
        }
        let Some(file) = &mut self.file else {
            return Ok(false);
        };
        let read = match file.read(&mut self.chunk) {
            Ok(0) => return Ok(false),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut piece = &self.chunk[..read];
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            if self.rest.is_empty() {
                sink(&piece[..end])?;
            } else {
                self.rest.extend_from_slice(&piece[..end]);
                sink(&self.rest)?;
                self.rest.clear();
            }
            piece = &piece[end + 1..];
        }
        self.rest.extend_from_slice(piece);
        if self.rest.len() > LINE_LIMIT {
            sink(&self.rest)?;
            self.rest.clear();
        }
        Ok(true)
    }

    /// Hands on a last line that has no line feed: the writer is gone.
    pub(crate) fn finish(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.rest.is_empty() {
            sink(&self.rest)?;
            self.rest.clear();
        }
        Ok(())
    }

    /// At the end of a file: goes on to the file that came after it, if it was
    /// rotated. The caller reads to the end once more before it asks, since the
    /// writer finishes the old file after the rename.
    pub(crate) fn next_after_rotation(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let ours = file.metadata()?.ino();
        let newest = match fs::metadata(&self.path) {
            Ok(newest) => newest.ino(),
            // Between the rename and the new file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if newest == ours {
            return Ok(false);
        }
        let next = self.rotated_after(ours)?.unwrap_or(self.path.clone());
        match File::open(next) {
            Ok(file) => self.file = Some(file),
            // Rotated again or compressed meanwhile: look again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        }
        // Writers do not cut a line in two at a rotation.
        self.rest.clear();
        Ok(true)
    }

    /// The file that was renamed next after the one with this inode number.
    /// Their names end in the time of the rename and sort by it.
    fn rotated_after(&self, inode: u64) -> io::Result<Option<PathBuf>> {
        let (Some(dir), Some(base)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(None);
        };
        let mut prefix: OsString = base.to_owned();
        prefix.push(".");
        let mut rotated: Vec<(OsString, u64)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let compressed = [&b".gz"[..], b".tmp"]
                .iter()
                .any(|end| name.as_encoded_bytes().ends_with(end));
            if name
                .as_encoded_bytes()
                .starts_with(prefix.as_encoded_bytes())
                && !compressed
            {
                match entry.metadata() {
                    Ok(found) => rotated.push((name, found.ino())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        rotated.sort();
        let ours = rotated.iter().position(|(_, found)| *found == inode);
        Ok(ours
            .and_then(|ours| rotated.get(ours + 1))
            .map(|(name, _)| dir.join(name)))
    }
}

/// Where the last `lines` lines begin.
fn tail_start(file: &File, lines: u64) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let lines = usize::try_from(lines).unwrap_or(usize::MAX);
    let mut window = CHUNK as u64;
    loop {
        let from = end.saturating_sub(window);
        let begins = begins(file, from, end, lines)?;
        if begins.len() >= lines {
            return Ok(begins.front().copied().unwrap_or(from));
        }
        if from == 0 {
            return Ok(0);
        }
        window = window.saturating_mul(8);
    }
}

/// The beginnings of the last lines between two offsets, at most `limit`. A
/// physical line whose predecessor is partial continues it and does not count.
/// Streams are not told apart: a piece of one stream that follows a piece of
/// the other counts with it, and the tail is a line longer.
fn begins(file: &File, from: u64, to: u64, limit: usize) -> io::Result<VecDeque<u64>> {
    let mut begins = VecDeque::new();
    let mut chunk = vec![0; CHUNK];
    // As much of the current physical line as says whether it is partial.
    let mut head: Vec<u8> = Vec::with_capacity(HEAD);
    // What precedes the window is unknown, except at the beginning of the file.
    let mut known = from == 0;
    let mut at_begin = from == 0;
    let mut begin = from == 0;
    let mut offset = from;
    while offset < to {
        let want = usize::try_from(to - offset).map_or(CHUNK, |left| left.min(CHUNK));
        let read = file.read_at(&mut chunk[..want], offset)?;
        if read == 0 {
            break;
        }
        let mut piece = &chunk[..read];
        while !piece.is_empty() {
            if at_begin {
                if begin {
                    if begins.len() == limit {
                        begins.pop_front();
                    }
                    begins.push_back(offset);
                }
                at_begin = false;
            }
            let feed = piece.iter().position(|&byte| byte == b'\n');
            let body = &piece[..feed.unwrap_or(piece.len())];
            head.extend_from_slice(&body[..body.len().min(HEAD - head.len())]);
            let used = feed.map_or(body.len(), |feed| feed + 1);
            offset += used as u64;
            piece = &piece[used..];
            if feed.is_some() {
                begin = known && line::ends(&head);
                known = true;
                at_begin = true;
                head.clear();
            }
        }
    }
    Ok(begins)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn log(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, text(lines)).unwrap();
        (dir, path)
    }

    fn text(lines: &[&str]) -> String {
        lines
            .iter()
            .map(|line| format!("2026-11-21T05:00:00Z stdout {line}\n"))
            .collect()
    }

    fn drain(log: &mut LogFile) -> Vec<String> {
        let mut seen = Vec::new();
        let mut sink = |line: &[u8]| {
            let line = String::from_utf8_lossy(line);
            seen.push(line.splitn(3, ' ').nth(2).unwrap_or("?").to_owned());
            Ok(())
        };
        while log.step(&mut sink).unwrap() {}
        seen
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let lines = ["F one", "P two, ", "P still ", "F two", "F three"];
        let (_dir, path) = log(&lines);
        for (tail, expected) in [
            (0, &lines[5..]),
            (1, &lines[4..]),
            (2, &lines[1..]),
            (3, &lines[..]),
            (9, &lines[..]),
        ] {
            let mut log = LogFile::open(&path).unwrap();
            log.skip_to_tail(tail).unwrap();
            assert_eq!(drain(&mut log), expected, "tail {tail}");
        }
    }

    #[test]
    fn the_tail_of_a_log_larger_than_a_window_is_exact() {
        let long = "x".repeat(1000);
        let lines: Vec<String> = (0..2000).map(|n| format!("F {n} {long}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (_dir, path) = log(&lines);
        for tail in [1, 63, 64, 65, 520, 1999] {
            let mut log = LogFile::open(&path).unwrap();
            log.skip_to_tail(tail as u64).unwrap();
            assert_eq!(drain(&mut log), lines[2000 - tail..], "tail {tail}");
        }
    }

    #[test]
    fn a_line_without_its_end_is_held_back_until_it_has_one() {
        let (_dir, path) = log(&["F one"]);
        let mut log = LogFile::open(&path).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        writer
            .write_all(b"2026-11-21T05:00:00Z stdout F tw")
            .unwrap();
        assert_eq!(drain(&mut log), ["F one"]);
        writer.write_all(b"o\n").unwrap();
        assert_eq!(drain(&mut log), ["F two"]);
        writer
            .write_all(b"2026-11-21T05:00:00Z stdout P th")
            .unwrap();
        assert!(drain(&mut log).is_empty());
        let mut last = Vec::new();
        log.finish(&mut |line| {
            last.extend_from_slice(line);
            Ok(())
        })
        .unwrap();
        assert!(last.ends_with(b"P th"));
    }

    #[test]
    fn no_line_is_lost_over_two_rotations_at_once() {
        let (dir, path) = log(&["F one"]);
        let mut log = LogFile::open(&path).unwrap();
        assert_eq!(drain(&mut log), ["F one"]);
        assert!(!log.next_after_rotation().unwrap());

        let mut old = File::options().append(true).open(&path).unwrap();
        fs::rename(&path, dir.path().join("0.log.20261121-050000")).unwrap();
        // Renamed, and not opened anew: there is nothing to go on to.
        assert!(!log.next_after_rotation().unwrap());
        old.write_all(text(&["F two"]).as_bytes()).unwrap();
        fs::write(&path, text(&["F three"])).unwrap();
        fs::rename(&path, dir.path().join("0.log.20261121-050010")).unwrap();
        fs::write(&path, text(&["F four"])).unwrap();

        let mut seen = drain(&mut log);
        while log.next_after_rotation().unwrap() {
            seen.extend(drain(&mut log));
        }
        assert_eq!(seen, ["F two", "F three", "F four"]);
    }
}
