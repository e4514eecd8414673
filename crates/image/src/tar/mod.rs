//! A strict reader of tar streams.
//!
//! Formats: POSIX ustar and pax (extended and global headers), GNU long names
//! and links, GNU and pax sparse files, base-256 numbers, and the nameless old
//! format. Whatever two readers could take for two different things is an
//! error here, for what one reader sees and another does not is how files are
//! smuggled past a check: duplicate or malformed records, bytes after the end
//! mark, data behind an entry that has none.

#[cfg(test)]
mod differential;
mod entry;
mod error;
mod header;
mod number;
mod pax;
mod reader;
mod sparse;

pub use entry::{Entry, Kind, Time, Xattrs};
pub use error::TarError;
pub use reader::Reader;
pub use sparse::Segment;
