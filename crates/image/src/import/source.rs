//! The files of an archive or directory, opened by name.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use rustix::fs::OFlags;

use super::ArchiveError;
use crate::{
    layer::open_beneath,
    name::Digest,
    tar::{Kind, Reader},
};

/// Image archives have a few files per layer; with more it is a root file system.
const MEMBERS_MAX: usize = 20_000;
/// Old `docker save` links equal layers to each other, once.
const HOPS_MAX: usize = 8;

/// Where the files of an image come from.
#[derive(Debug)]
pub(super) enum Source {
    /// A plain tar archive in a private file.
    Tar {
        file: Arc<File>,
        members: HashMap<String, Member>,
    },
    /// A directory of somebody else's.
    Directory(std::os::fd::OwnedFd),
}

#[derive(Clone, Debug)]
pub(super) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    Link(String),
    /// Something that cannot be opened, or a name that occurs twice.
    Unusable,
}

impl Source {
    /// Lists an archive. The result is a partial list if it has very many members.
    pub(super) fn archive(file: File) -> Result<Self, ArchiveError> {
        let file = Arc::new(file);
        let mut members = HashMap::new();
        let stream = Piece {
            file: Arc::clone(&file),
            offset: 0,
            left: u64::MAX,
        };
        let mut reader = Reader::new(BufReader::with_capacity(256 << 10, stream));
        while let Some(entry) = reader.next()? {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            let Some(name) = normal("", &name) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_none() => Member::File {
                    offset: reader.offset(),
                    size: entry.size,
                },
                Kind::HardLink(target) => link("", &target),
                Kind::Symlink(target) => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    link(directory, &target)
                }
                Kind::Directory => continue,
                _ => Member::Unusable,
            };
            if members.insert(name.clone(), member).is_some() {
                members.insert(name, Member::Unusable);
            }
            if members.len() >= MEMBERS_MAX {
                break;
            }
        }
        Ok(Self::Tar { file, members })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Tar { members, .. } => members.contains_key(name),
            Self::Directory(_) => self.open(name).is_ok(),
        }
    }

    /// Opens a file and says how long it is.
    pub(super) fn open(&self, name: &str) -> Result<(Piece, u64), ArchiveError> {
        let missing = || ArchiveError::Missing {
            name: name.to_owned(),
        };
        let invalid = |why: &str| ArchiveError::Invalid {
            name: name.chars().take(200).collect(),
            why: why.to_owned(),
        };
        let (file, offset, size) = match self {
            Self::Tar { file, members } => {
                let mut at = normal("", name).ok_or_else(missing)?;
                let mut hops = 0;
                loop {
                    match members.get(&at).ok_or_else(missing)? {
                        Member::File { offset, size } => break (Arc::clone(file), *offset, *size),
                        Member::Link(target) if hops < HOPS_MAX => {
                            hops += 1;
                            at = target.clone();
                        }
                        Member::Link(_) => return Err(invalid("is a loop of links")),
                        Member::Unusable => {
                            return Err(invalid("is not a single regular file"));
                        }
                    }
                }
            }
            Self::Directory(root) => {
                // A FIFO would block for ever without O_NONBLOCK, a link could lead anywhere.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                let fd =
                    open_beneath(root, name.as_bytes(), flags).map_err(|errno| match errno {
                        rustix::io::Errno::NOENT => missing(),
                        rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => {
                            invalid("is or lies behind a link, which is not followed")
                        }
                        other => ArchiveError::Read(other.into()),
                    })?;
                let file = File::from(fd);
                let meta = file.metadata().map_err(ArchiveError::Read)?;
                if !meta.is_file() {
                    return Err(invalid("is not a regular file"));
                }
                (Arc::new(file), 0, meta.len())
            }
        };
        let piece = Piece {
            file,
            offset,
            left: size,
        };
        Ok((piece, size))
    }

    /// Reads a small file whole.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let (piece, size) = self.open(name)?;
        if size > limit {
            return Err(ArchiveError::Invalid {
                name: name.to_owned(),
                why: format!("has {size} bytes, more than the {limit} allowed"),
            });
        }
        let mut bytes = Vec::new();
        piece
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    /// The path of a blob in an OCI layout.
    pub(super) fn blob(digest: &Digest) -> String {
        format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
    }
}

fn link(directory: &str, target: &[u8]) -> Member {
    match normal(directory, &String::from_utf8_lossy(target)) {
        Some(target) => Member::Link(target),
        None => Member::Unusable,
    }
}

/// `name` seen from `directory`, without dots; `None` if it leaves the archive.
fn normal(directory: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A range of a file, read without moving anybody's position.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Piece {
    /// All of `file`.
    pub(super) fn whole(file: File) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            offset: 0,
            left,
        })
    }
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..want], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_the_archive() {
        assert_eq!(normal("", "./a//b/"), Some("a/b".into()));
        assert_eq!(normal("a/b", "../c"), Some("a/c".into()));
        assert_eq!(normal("a", "../../c"), None);
        assert_eq!(normal("", "../../etc/shadow"), None);
    }
}
