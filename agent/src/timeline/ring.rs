//! The ring of files that the timeline is kept in: JSON lines, appended by one
//! thread; when a file is full the next begins and the oldest goes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use super::Entry;

/// Bytes of a file before the next one begins.
const SEGMENT: u64 = 1 << 20;
/// Files that are kept: what `explain` can look back on is at most this many MiB.
const SEGMENTS: usize = 16;
/// Entries on their way to the disk. A disk that hangs costs entries, never requests.
const WAITING: usize = 1024;
/// How long a reader waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(1);
/// No line is longer; what is, is damage.
const LONGEST_LINE: u64 = 1 << 20;

/// The timeline; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    directory: Arc<PathBuf>,
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Entry(Box<Entry>),
    Flush(SyncSender<()>),
}

impl Timeline {
    /// Opens the ring in `directory`, which is made if need be.
    ///
    /// # Errors
    /// If the directory or the thread cannot be made.
    pub(crate) fn open(directory: PathBuf) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let (sender, receiver) = mpsc::sync_channel(WAITING);
        let writer = Writer {
            directory: directory.clone(),
            current: None,
            failing: false,
        };
        thread::Builder::new()
            .name("timeline".to_owned())
            .spawn(move || writer.run(&receiver))?;
        Ok(Self {
            directory: Arc::new(directory),
            sender,
            dropped: Arc::default(),
        })
    }

    /// Hands an entry over; returns at once.
    pub(crate) fn add(&self, entry: Entry) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Entry(Box::new(entry))) {
            // Told once per power of two, since a disk that hangs does so for long.
            let before = self.dropped.fetch_add(1, Ordering::Relaxed);
            if before.is_power_of_two() || before == 0 {
                tracing::warn!(
                    dropped = before + 1,
                    "the timeline's disk is too slow; entries are left out"
                );
            }
        }
    }

    /// Everything that is kept, oldest first. Blocks.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn read(&self) -> io::Result<Vec<Entry>> {
        self.flush();
        let mut entries = Vec::new();
        for path in segments(&self.directory)? {
            match File::open(&path) {
                Ok(file) => read_lines(file, &mut entries)?,
                // The ring went on meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        entries.sort_by_key(|entry| entry.at);
        Ok(entries)
    }
}

impl Timeline {
    /// Waits until what was added is on its disk. If that takes too long the latest
    /// entries are missing in what is read, no more.
    fn flush(&self) {
        let until = Instant::now() + FLUSH;
        let (done, wait) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        let left = until.saturating_duration_since(Instant::now());
        wait.recv_timeout(left).ok();
    }
}

fn read_lines(file: File, entries: &mut Vec<Entry>) -> io::Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(());
        }
        // A line that a power cut has torn is passed over.
        if let Ok(entry) = serde_json::from_slice(&line) {
            entries.push(entry);
        }
    }
}

/// The files of the ring, oldest first.
fn segments(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if number(&path).is_some() {
            found.push(path);
        }
    }
    found.sort_by_key(|path| number(path));
    Ok(found)
}

fn number(path: &Path) -> Option<u64> {
    if path.extension()? != "jsonl" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

struct Writer {
    directory: PathBuf,
    current: Option<(File, u64)>,
    failing: bool,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            match message {
                Message::Entry(entry) => match self.append(&entry) {
                    Ok(()) => self.failing = false,
                    Err(error) => {
                        self.current = None;
                        if !std::mem::replace(&mut self.failing, true) {
                            tracing::warn!(%error, "the timeline cannot be written");
                        }
                    }
                },
                Message::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        let (mut file, size) = match self.current.take() {
            Some((file, size)) if size + length <= SEGMENT => (file, size),
            Some(_) => self.next()?,
            None => self.last(length)?,
        };
        file.write_all(&line)?;
        self.current = Some((file, size + length));
        Ok(())
    }

    /// The newest file if there is room in it, else the one after it.
    fn last(&self, length: u64) -> io::Result<(File, u64)> {
        let Some(path) = segments(&self.directory)?.pop() else {
            return self.next();
        };
        let mut file = open(&path)?;
        let mut size = file.seek(SeekFrom::End(0))?;
        if size + length >= SEGMENT {
            return self.next();
        }
        if size > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                // The line that a power cut has torn must not tear this one.
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok((file, size))
    }

    /// A new file; the oldest goes when there are too many.
    fn next(&self) -> io::Result<(File, u64)> {
        let mut all = segments(&self.directory)?;
        let newest = all.last().and_then(|path| number(path)).unwrap_or(0);
        while all.len() >= SEGMENTS {
            fs::remove_file(all.remove(0))?;
        }
        let path = self.directory.join(format!("{:012}.jsonl", newest + 1));
        Ok((open(&path)?, 0))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: usize) -> Entry {
        Entry {
            what: "exited".to_owned(),
            object: number.to_string(),
            at: i64::try_from(number).unwrap(),
            note: "x".repeat(1000),
            ..Entry::default()
        }
    }

    /// The thread takes what it is given; only the test is too fast for it.
    fn add(timeline: &Timeline, entry: Entry) {
        timeline
            .sender
            .send(Message::Entry(Box::new(entry)))
            .unwrap();
    }

    #[test]
    fn what_was_added_is_read_by_the_next_agent_too() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("timeline");
        let timeline = Timeline::open(at.clone()).unwrap();
        add(&timeline, entry(2));
        add(&timeline, entry(1));
        assert_eq!(timeline.read().unwrap(), [entry(1), entry(2)]);
        drop(timeline);
        let timeline = Timeline::open(at).unwrap();
        add(&timeline, entry(3));
        assert_eq!(timeline.read().unwrap().len(), 3);
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let torn = directory.path().join("000000000001.jsonl");
        fs::write(&torn, "{\"what\":\"exi").unwrap();
        let timeline = Timeline::open(directory.path().to_owned()).unwrap();
        add(&timeline, entry(1));
        assert_eq!(timeline.read().unwrap(), [entry(1)]);
    }

    #[test]
    fn the_ring_is_bounded_and_loses_the_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let timeline = Timeline::open(directory.path().to_owned()).unwrap();
        let count = 20_000;
        for number in 0..count {
            add(&timeline, entry(number));
        }
        let kept = timeline.read().unwrap();
        let bytes: u64 = segments(directory.path())
            .unwrap()
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert!(bytes <= SEGMENT * SEGMENTS as u64, "{bytes} bytes");
        assert!(bytes > SEGMENT * (SEGMENTS as u64 - 2), "{bytes} bytes");
        assert_eq!(kept.last().unwrap(), &entry(count - 1));
        assert!(kept.first().unwrap().at > 0, "the oldest is still there");
    }
}
