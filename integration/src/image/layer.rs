//! Layers: tar archives with fixed times and order.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{GzBuilder, write::GzEncoder};

/// How a layer is stored in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    Plain,
    /// gzip without name and time.
    Gzip,
}

/// One entry of a layer's archive.
#[derive(Clone, Debug)]
pub struct Entry {
    path: String,
    kind: tar::EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    link: String,
    content: Vec<u8>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: &str, kind: tar::EntryType, mode: u32) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            link: String::new(),
            content: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    /// A regular file.
    #[must_use]
    pub fn file(path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        let mut entry = Self::new(path, tar::EntryType::Regular, mode);
        entry.content = content.into();
        entry
    }

    /// A directory.
    #[must_use]
    pub fn directory(path: &str, mode: u32) -> Self {
        Self::new(path, tar::EntryType::Directory, mode)
    }

    /// A symbolic link to `target`.
    #[must_use]
    pub fn symlink(path: &str, target: &str) -> Self {
        let mut entry = Self::new(path, tar::EntryType::Symlink, 0o777);
        entry.link = target.to_owned();
        entry
    }

    /// A hard link to the entry `target`.
    #[must_use]
    pub fn hard_link(path: &str, target: &str) -> Self {
        let mut entry = Self::new(path, tar::EntryType::Link, 0o644);
        entry.link = target.to_owned();
        entry
    }

    /// A named pipe.
    #[must_use]
    pub fn fifo(path: &str, mode: u32) -> Self {
        Self::new(path, tar::EntryType::Fifo, mode)
    }

    /// The mark that hides `path` of the layers below.
    #[must_use]
    pub fn whiteout(path: &str) -> Self {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if directory.is_empty() { "" } else { "/" };
        Self::file(&format!("{directory}{separator}.wh.{name}"), 0, "")
    }

    /// The mark that hides everything below `directory` of the layers below.
    #[must_use]
    pub fn opaque(directory: &str) -> Self {
        Self::file(&format!("{directory}/.wh..wh..opq"), 0, "")
    }

    /// Sets user and group.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// Writes `entries` as a tar archive. The paths are written as they are, so
/// that hostile archives can be made.
///
/// # Errors
/// If a path does not fit into a header (100 bytes).
pub fn tar(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        if !entry.xattrs.is_empty() {
            let keys: Vec<String> = entry
                .xattrs
                .iter()
                .map(|(name, _)| format!("SCHILY.xattr.{name}"))
                .collect();
            let values = entry.xattrs.iter().map(|(_, value)| value.as_slice());
            archive.append_pax_extensions(keys.iter().map(String::as_str).zip(values))?;
        }
        let mut header = tar::Header::new_ustar();
        // `set_path` refuses what climbs out, and that is wanted here.
        write_name(&mut header.as_old_mut().name, &entry.path)?;
        write_name(&mut header.as_old_mut().linkname, &entry.link)?;
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.gid);
        header.set_mtime(0);
        header.set_size(entry.content.len() as u64);
        header.set_cksum();
        archive.append(&header, entry.content.as_slice())?;
    }
    archive.into_inner().context("finish the archive")
}

fn write_name(field: &mut [u8; 100], name: &str) -> Result<()> {
    let target = field
        .get_mut(..name.len())
        .with_context(|| format!("{name:?} is longer than a header's field"))?;
    target.copy_from_slice(name.as_bytes());
    Ok(())
}

/// A layer: its archive, and how it is stored.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The archive, uncompressed: its digest is the diffID.
    pub tar: Vec<u8>,
    /// How it is stored.
    pub compression: Compression,
}

impl Layer {
    /// A layer stored with gzip.
    ///
    /// # Errors
    /// As [`tar`].
    pub fn gzip(entries: &[Entry]) -> Result<Self> {
        Ok(Self {
            tar: tar(entries)?,
            compression: Compression::Gzip,
        })
    }

    /// A layer stored as it is.
    ///
    /// # Errors
    /// As [`tar`].
    pub fn plain(entries: &[Entry]) -> Result<Self> {
        Ok(Self {
            tar: tar(entries)?,
            compression: Compression::Plain,
        })
    }

    /// Media type of the stored bytes.
    #[must_use]
    pub fn media_type(&self) -> &'static str {
        match self.compression {
            Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }

    /// The bytes as a registry holds them.
    ///
    /// # Errors
    /// If compressing fails.
    pub fn stored(&self) -> Result<Vec<u8>> {
        match self.compression {
            Compression::Plain => Ok(self.tar.clone()),
            Compression::Gzip => {
                let mut gzip: GzEncoder<Vec<u8>> = GzBuilder::new()
                    .mtime(0)
                    .write(Vec::new(), flate2::Compression::new(6));
                gzip.write_all(&self.tar)?;
                Ok(gzip.finish()?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_have_the_names_that_the_image_specification_gives_them() {
        assert_eq!(Entry::whiteout("a/b/c").path, "a/b/.wh.c");
        assert_eq!(Entry::whiteout("c").path, ".wh.c");
        assert_eq!(Entry::opaque("a").path, "a/.wh..wh..opq");
    }

    #[test]
    fn an_archive_can_be_read_by_another_program() {
        let bytes = tar(&[
            Entry::directory("d", 0o700).owner(1000, 1000),
            Entry::file("d/f", 0o4755, "hello").xattr("user.note", b"x"),
            Entry::symlink("s", "d/f"),
            Entry::hard_link("h", "d/f"),
        ])
        .unwrap();
        let listing = std::process::Command::new("tar")
            .args(["-tvf", "-", "--numeric-owner", "--xattrs"])
            .stdin(spooled(&bytes))
            .output()
            .unwrap();
        let text = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.status.success(), "{text}");
        assert!(text.contains("-rwsr-xr-x"), "{text}");
        assert!(text.contains("1000/1000"), "{text}");
        assert!(text.contains("h link to d/f"), "{text}");
        assert!(text.contains("s -> d/f"), "{text}");
    }

    fn spooled(bytes: &[u8]) -> std::fs::File {
        use std::io::Seek as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }
}
