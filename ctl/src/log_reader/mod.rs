//! Reads the log files that a runtime writes in the CRI format, `TIME STREAM
//! TAGS CONTENT`, and follows them over rotations by rename.
//!
//! What is printed is what the container wrote, byte for byte, on a terminal
//! too: a log with colours should have them. Whoever reads logs of containers
//! that they do not trust pipes them through `cat -v`.

mod file;
mod follow;
mod line;
mod printer;

pub(crate) use file::LogFile;
pub(crate) use follow::follow;
pub(crate) use printer::{Printer, Selection};

use std::io::{self, Write};

/// Prints what the file holds now.
pub(crate) fn read_all<O: Write, E: Write>(
    log: &mut LogFile,
    printer: &mut Printer<O, E>,
) -> io::Result<()> {
    while log.step(&mut |line| printer.line(line))? {}
    log.finish(&mut |line| printer.line(line))?;
    printer.flush()
}
