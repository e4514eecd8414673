//! What a stack of layer directories shows together, by overlayfs' rules
//! (Documentation/filesystems/overlayfs.rst), without mounting it.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{OFlags, Stat, readlinkat},
    io::Errno,
};

use super::{
    files,
    path::{join, split},
};

/// As the kernel (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

/// A merged view of layers, uppermost first.
#[derive(Debug)]
pub(crate) struct View {
    layers: Vec<OwnedFd>,
    seen: HashMap<Vec<u8>, Seen>,
}

/// A path without links, and the paths that led there.
pub(super) type Resolved = (Vec<u8>, Vec<Vec<u8>>);

/// What lies at a path.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Absent,
    /// A directory, merged from these layers, uppermost first.
    Directory(Vec<usize>),
    /// Something else, in one layer.
    Other(usize, Box<Stat>),
}

impl View {
    /// A view of `layers`, uppermost first; none shows nothing but a root.
    pub(crate) fn new(layers: Vec<OwnedFd>) -> Self {
        let all = (0..layers.len()).collect();
        Self {
            layers,
            seen: HashMap::from([(Vec::new(), Seen::Directory(all))]),
        }
    }

    /// What lies at `path`, links in which are not followed.
    pub(super) fn look(&mut self, path: &[u8]) -> Result<Seen, Errno> {
        if let Some(seen) = self.seen.get(path) {
            return Ok(seen.clone());
        }
        let seen = match split(path) {
            None => Seen::Absent,
            Some((parent, _)) => match self.look(parent)? {
                Seen::Directory(layers) => self.merge(&layers, path)?,
                Seen::Absent | Seen::Other(..) => Seen::Absent,
            },
        };
        self.seen.insert(path.to_vec(), seen.clone());
        Ok(seen)
    }

    fn merge(&self, layers: &[usize], path: &[u8]) -> Result<Seen, Errno> {
        let mut found = Vec::new();
        for &layer in layers {
            let Some(fd) = self.layers.get(layer) else {
                continue;
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW;
            let at = match files::open_beneath(fd, path, flags) {
                Ok(at) => at,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let stat = rustix::fs::fstat(&at)?;
            if !files::is_directory(&stat) {
                return Ok(match (found.is_empty(), files::is_whiteout(&stat)) {
                    (false, _) => Seen::Directory(found),
                    (true, true) => Seen::Absent,
                    (true, false) => Seen::Other(layer, Box::new(stat)),
                });
            }
            found.push(layer);
            if files::is_opaque(files::open_directory(fd, path)?) {
                break;
            }
        }
        Ok(match found.is_empty() {
            true => Seen::Absent,
            false => Seen::Directory(found),
        })
    }

    /// Opens the directory at `path` in the uppermost layer that has it.
    pub(super) fn open_directory(&self, layers: &[usize], path: &[u8]) -> Result<OwnedFd, Errno> {
        let layer = layers.first().and_then(|&layer| self.layers.get(layer));
        files::open_directory(layer.ok_or(Errno::NOENT)?, path)
    }

    /// The layer's directory that holds `path`, and the name in it.
    pub(super) fn holder<'p>(
        &self,
        layer: usize,
        path: &'p [u8],
    ) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (parent, name) = split(path).ok_or(Errno::NOENT)?;
        let fd = self.layers.get(layer).ok_or(Errno::NOENT)?;
        Ok((files::open_directory(fd, parent)?, name))
    }

    /// The text of the link at `path`.
    pub(super) fn link(&self, layer: usize, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let (parent, name) = self.holder(layer, path)?;
        Ok(readlinkat(parent.as_fd(), name, Vec::new())?.into_bytes())
    }

    /// Where the directory `path` really is, following links as if the view were `/`.
    /// Names that do not exist are kept as they are. `None` for a loop.
    /// The second part lists all that was passed, links and directories.
    pub(super) fn resolve(&mut self, path: &[u8]) -> Result<Option<Resolved>, Errno> {
        let mut passed = Vec::new();
        let mut at = Vec::new();
        let mut links = 0;
        let mut left: Vec<Vec<u8>> = path.rsplit(|&b| b == b'/').map(<[u8]>::to_vec).collect();
        while let Some(name) = left.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = split(&at).map_or(Vec::new(), |(parent, _)| parent.to_vec());
                    continue;
                }
                _ => {}
            }
            let next = join(&at, &name);
            passed.push(next.clone());
            match self.look(&next)? {
                Seen::Other(layer, stat) if files::is_link(&stat) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Ok(None);
                    }
                    let target = self.link(layer, &next)?;
                    if target.starts_with(b"/") {
                        at = Vec::new();
                    }
                    left.extend(target.rsplit(|&b| b == b'/').map(<[u8]>::to_vec));
                }
                _ => at = next,
            }
        }
        Ok(Some((at, passed)))
    }
}
