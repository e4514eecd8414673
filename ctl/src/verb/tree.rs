//! A directory as a tar stream, written while it is read.
//!
//! Keeps what a root file system needs: owners, modes, times, symbolic and
//! hard links, devices, extended attributes (file capabilities). Does not
//! enter other file systems, so that a mounted `/proc` is not sent, and leaves
//! out sockets, which tar cannot hold.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File, FileType, Metadata},
    io::{self, Read as _, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{fs as sys, io::Errno};
use tar::{Builder, EntryType, Header};

/// The kernel's XATTR_SIZE_MAX and XATTR_LIST_MAX.
const XATTR_MAX: usize = 64 * 1024;

/// Writes everything below `root` to `to`. Sorted, so that the same directory
/// gives the same stream.
pub(super) fn send(root: &Path, to: impl Write) -> io::Result<()> {
    let mut sender = Sender {
        builder: Builder::new(to),
        device: fs::metadata(root)?.dev(),
        links: HashMap::new(),
    };
    sender.directory(root, Path::new(""))?;
    sender.builder.finish()
}

struct Sender<W: Write> {
    builder: Builder<W>,
    device: u64,
    /// Where the other names of a file were sent.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Sender<W> {
    fn directory(&mut self, real: &Path, name: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(real)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|error| at(real, error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (real, name) = (entry.path(), name.join(entry.file_name()));
            let data = fs::symlink_metadata(&real).map_err(|error| at(&real, error))?;
            self.entry(&real, &name, &data)
                .map_err(|error| at(&real, error))?;
            if data.is_dir() && data.dev() == self.device {
                self.directory(&real, &name)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, real: &Path, name: &Path, data: &Metadata) -> io::Result<()> {
        let Some(kind) = entry_type(data.file_type()) else {
            return Ok(());
        };
        let mut header = Header::new_gnu();
        header.set_metadata(data);
        header.set_entry_type(kind);
        header.set_size(0);
        if !data.is_dir() && data.nlink() > 1 {
            if let Some(first) = self.links.get(&(data.dev(), data.ino())) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert((data.dev(), data.ino()), name.to_owned());
        }
        self.attributes(real)?;
        match kind {
            EntryType::Symlink => {
                let target = fs::read_link(real)?;
                self.builder.append_link(&mut header, name, target)
            }
            EntryType::Regular => {
                header.set_size(data.size());
                let file = File::open(real)?.take(data.size());
                let mut counted = Counted { file, read: 0 };
                self.builder.append_data(&mut header, name, &mut counted)?;
                if counted.read == data.size() {
                    Ok(())
                } else {
                    Err(io::Error::other("the file was cut while it was sent"))
                }
            }
            EntryType::Block | EntryType::Char => {
                let number = data.rdev();
                header.set_device_major(sys::major(number))?;
                header.set_device_minor(sys::minor(number))?;
                self.builder.append_data(&mut header, name, io::empty())
            }
            _ => self.builder.append_data(&mut header, name, io::empty()),
        }
    }

    /// Extended attributes, as PAX records before their entry.
    fn attributes(&mut self, real: &Path) -> io::Result<()> {
        let mut names = vec![0; XATTR_MAX];
        let length = match sys::llistxattr(real, &mut names[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(errno.into()),
        };
        let mut records: Vec<(String, Vec<u8>)> = Vec::new();
        for name in names[..length].split(|&byte| byte == 0) {
            // A label says how this host is confined and not what the image is.
            if name.is_empty() || name == b"security.selinux" {
                continue;
            }
            let mut value = vec![0; XATTR_MAX];
            let length = match sys::lgetxattr(real, OsStr::from_bytes(name), &mut value[..]) {
                Ok(length) => length,
                // Removed meanwhile, or not for us to see.
                Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => continue,
                Err(errno) => return Err(errno.into()),
            };
            value.truncate(length);
            let name = String::from_utf8_lossy(name);
            records.push((format!("SCHILY.xattr.{name}"), value));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.builder.append_pax_extensions(
            records
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_slice())),
        )
    }
}

/// Counts what a file gave, to notice one that shrank.
struct Counted {
    file: io::Take<File>,
    read: u64,
}

impl io::Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read += read as u64;
        Ok(read)
    }
}

fn entry_type(of: FileType) -> Option<EntryType> {
    Some(if of.is_dir() {
        EntryType::Directory
    } else if of.is_symlink() {
        EntryType::Symlink
    } else if of.is_file() {
        EntryType::Regular
    } else if of.is_block_device() {
        EntryType::Block
    } else if of.is_char_device() {
        EntryType::Char
    } else if of.is_fifo() {
        EntryType::Fifo
    } else {
        return None;
    })
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_links_and_the_stream_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("bin")).unwrap();
        fs::write(root.join("bin/a"), "program").unwrap();
        fs::hard_link(root.join("bin/a"), root.join("bin/b")).unwrap();
        symlink("bin", root.join("sbin")).unwrap();
        let long = "l".repeat(200);
        fs::write(root.join(&long), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();

        let mut stream = Vec::new();
        send(root, &mut stream).unwrap();
        let mut again = Vec::new();
        send(root, &mut again).unwrap();
        assert_eq!(stream, again);

        let mut archive = tar::Archive::new(stream.as_slice());
        let entries: Vec<(String, EntryType, Option<String>)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let text = |path: &Path| path.display().to_string();
                (
                    text(&entry.path().unwrap()),
                    entry.header().entry_type(),
                    entry.link_name().unwrap().map(|target| text(&target)),
                )
            })
            .collect();
        let named = |name: &str| {
            entries
                .iter()
                .find(|entry| entry.0.trim_end_matches('/') == name)
        };
        assert_eq!(named("bin/a").unwrap().1, EntryType::Regular);
        let link = named("bin/b").unwrap();
        assert_eq!(
            (link.1, link.2.as_deref()),
            (EntryType::Link, Some("bin/a"))
        );
        assert_eq!(named("sbin").unwrap().2.as_deref(), Some("bin"));
        assert!(named(&long).is_some());
        assert!(named("s").is_none());
    }

    #[test]
    fn a_missing_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(send(&dir.path().join("none"), io::sink()).is_err());
    }
}
