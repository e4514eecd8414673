//! A log that a container has filled, as berthctl reads it.

use std::{
    io::{self, Write},
    os::fd::AsRawFd as _,
    path::Path,
};

use crate::log_reader::{LogFile, Printer, Selection};

/// A file of any bytes is printed whole, or from its last lines on: never more than
/// is in it and the times that were asked for.
pub(crate) fn log(data: &[u8]) {
    let Ok(mut file) = tempfile::tempfile() else {
        return;
    };
    if file.write_all(data).is_err() {
        return;
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    for (tail, timestamps) in [(None, false), (Some(2), true)] {
        let selection = Selection {
            tail,
            timestamps,
            since: "2026-01-01T00:00:00Z".parse().ok().filter(|_| timestamps),
            until: None,
        };
        let printed = print(Path::new(&path), selection);
        // Thirty digits of time and a blank for each line, which has one byte at least.
        let most = data.len() * if timestamps { 32 } else { 1 } + 32;
        assert!(printed.is_ok_and(|printed| printed <= most));
    }
}

fn print(path: &Path, selection: Selection) -> io::Result<usize> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut log = LogFile::open(path)?;
    if let Some(lines) = selection.tail {
        log.skip_to_tail(lines)?;
    }
    let mut printer = Printer::new(&mut out, &mut err, selection);
    while log.step(&mut |line| printer.line(line))? {}
    log.finish(&mut |line| printer.line(line))?;
    printer.flush()?;
    Ok(out.len() + err.len())
}
