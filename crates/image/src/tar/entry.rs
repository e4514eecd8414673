//! One member of an archive, with all extensions applied.

use super::sparse::Segment;

/// Extended attributes: full names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A file's time stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its bytes are read from the reader.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to the given text.
    Symlink(Vec<u8>),
    /// Another name of an earlier member or of a file of a lower layer.
    HardLink(Vec<u8>),
    /// A character device with major and minor number.
    Character(u32, u32),
    /// A block device with major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as written, without NUL; not cleaned.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Time,
    /// Length of the file when extracted, holes included.
    pub size: u64,
    /// For a sparse file where its data lies; all else is holes.
    pub sparse: Option<Vec<Segment>>,
    /// Extended attributes by full name, sorted.
    pub xattrs: Xattrs,
}
