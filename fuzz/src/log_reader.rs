//! The part of berthctl's log reader that reads and prints.

#[path = "../../ctl/src/log_reader/file.rs"]
mod file;
#[path = "../../ctl/src/log_reader/line.rs"]
mod line;
#[path = "../../ctl/src/log_reader/printer.rs"]
mod printer;

pub(crate) use file::LogFile;
pub(crate) use printer::{Printer, Selection};
