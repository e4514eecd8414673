//! Unpacks one archive into one directory.
//!
//! Two locks keep an entry inside: the [`Tree`] decides where it goes without
//! asking the file system, and every open is an openat2(2) beneath the layer's
//! root that refuses links. The directory is ours alone until it is published.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::FileExt as _,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, XattrFlags},
    io::Errno,
};

use super::{
    Budget, LayerError, LayerMeta, Limits, ROOT, files,
    meta::{OutsideLink, PathText},
    path::{Target, classify, components, join, shown, split},
    tree::{Node, Tree, Walk},
};
use crate::{
    name::Digest,
    tar::{Entry, Kind, Reader, Segment, Time},
};

/// Descriptors kept open for directories in use; archives go through them one by one.
const OPEN_DIRECTORIES: usize = 32;
/// The overlay's own accounting unit and that of most file systems.
const DISK_BLOCK: u64 = 4096;

/// What [`extract`] saw; the meta data still lacks the diffID, which the caller computes.
#[derive(Debug)]
pub(crate) struct Extracted {
    size: u64,
    inodes: u64,
    root_opaque: bool,
    implied: Vec<PathText>,
    late: Vec<PathText>,
    outside: Vec<OutsideLink>,
    whiteouts: Vec<PathText>,
}

impl Extracted {
    pub(crate) fn into_meta(self, diff_id: Digest) -> LayerMeta {
        LayerMeta {
            diff_id,
            size: self.size,
            inodes: self.inodes,
            root_opaque: self.root_opaque,
            implied: self.implied,
            late: self.late,
            outside: self.outside,
            whiteouts: self.whiteouts,
        }
    }
}

/// Unpacks all of `archive` into a new directory [`ROOT`] in `work`.
///
/// # Errors
/// [`LayerError`]; what was unpacked stays in `work` for the caller to remove.
pub(crate) fn extract<R: Read>(
    archive: &mut Reader<R>,
    work: BorrowedFd<'_>,
    limits: &Limits,
) -> Result<Extracted, LayerError> {
    let mut extractor = Extractor::new(work, limits)?;
    while let Some(entry) = archive.next()? {
        extractor.entry(&entry, archive)?;
    }
    extractor.finish()
}

struct Extractor<'a> {
    work: BorrowedFd<'a>,
    root: OwnedFd,
    tree: Tree,
    budget: Budget<'a>,
    open: HashMap<Vec<u8>, OwnedFd>,
    /// Where hard links to lower files point: nothing may be made there afterwards.
    awaited: BTreeSet<Vec<u8>>,
    order: usize,
    size: u64,
    inodes: u64,
    buffer: Vec<u8>,
}

impl<'a> Extractor<'a> {
    fn new(work: BorrowedFd<'a>, limits: &'a Limits) -> Result<Self, LayerError> {
        let refused = || LayerError::io("make the layer's directory", b"");
        fs::mkdirat(work, ROOT, Mode::from_raw_mode(0o755)).map_err(refused())?;
        // The process's umask must not decide what an image looks like.
        fs::chmodat(work, ROOT, Mode::from_raw_mode(0o755), AtFlags::empty()).map_err(refused())?;
        let root = files::open_directory(work, ROOT.as_bytes()).map_err(refused())?;
        Ok(Self {
            work,
            root,
            tree: Tree::new(),
            budget: Budget::new(limits),
            open: HashMap::new(),
            awaited: BTreeSet::new(),
            order: 0,
            size: DISK_BLOCK,
            inodes: 1,
            buffer: vec![0; 128 << 10],
        })
    }

    fn entry<R: Read>(&mut self, entry: &Entry, archive: &mut Reader<R>) -> Result<(), LayerError> {
        self.budget.entry(&self.root)?;
        match classify(&entry.path)? {
            Target::Ignored => Ok(()),
            Target::Root if entry.kind == Kind::Directory => self.set_directory(b"", entry),
            Target::Root => Err(LayerError::Name {
                path: shown(&entry.path),
                why: "is the root of the image but no directory",
            }),
            Target::Opaque(parents) => {
                let directory = self.whiteout_parent(&parents, &entry.path)?;
                if let Some(node) = self.tree.directory(&directory) {
                    node.opaque = true;
                }
                Ok(())
            }
            Target::Whiteout(parents, name) => {
                let directory = self.whiteout_parent(&parents, &entry.path)?;
                self.whiteout(&directory, &name)
            }
            Target::Entry(parents, name) => {
                let (directory, _) = self.parent(&parents, &entry.path)?;
                self.create(&directory, &name, entry, archive)
            }
        }
    }

    /// The directory for `parents`, made if this layer does not have it, and whether a link led there.
    fn parent(&mut self, parents: &[Vec<u8>], entry: &[u8]) -> Result<(Vec<u8>, bool), LayerError> {
        let (mut at, mut through) = (Vec::new(), false);
        let mut left = parents.to_vec();
        loop {
            let (hidden, step) = match self.tree.walk(at, &left) {
                Walk::Directory { path, through_link } => {
                    return Ok((path, through || through_link));
                }
                Walk::Loop => return Err(conflict(entry, "lies below a loop of links")),
                Walk::Hidden {
                    path,
                    name,
                    rest,
                    through_link,
                } => (true, (path, name, rest, through_link)),
                Walk::Unknown {
                    path,
                    name,
                    rest,
                    through_link,
                } => (false, (path, name, rest, through_link)),
            };
            let (directory, name, rest, through_link) = step;
            through |= through_link;
            at = join(&directory, &name);
            self.budget.entry(&self.root)?;
            self.imply(&directory, &name, hidden, entry)?;
            left = rest;
        }
    }

    /// Makes a directory that the archive has not said anything about.
    fn imply(
        &mut self,
        directory: &[u8],
        name: &[u8],
        hidden: bool,
        entry: &[u8],
    ) -> Result<(), LayerError> {
        let path = join(directory, name);
        if matches!(self.tree.get(&path), Some(Node::Outside { .. })) {
            return Err(conflict(entry, "lies below a hard link"));
        }
        if self.awaited.contains(&path) {
            return Err(conflict(
                entry,
                "lies below what an earlier hard link means",
            ));
        }
        if path.len() >= 4096 {
            return Err(conflict(entry, "has too long a name"));
        }
        if hidden {
            self.unlink(&path)?;
        }
        match self.mkdir(&path) {
            Err(Errno::EXIST) => {
                return Err(conflict(entry, "lies below something that is no directory"));
            }
            other => other.map_err(LayerError::io("make directory", &path))?,
        }
        let node = super::tree::Directory {
            // Behind a whiteout there is nothing below to look like.
            implied: !hidden,
            opaque: hidden,
            ..Default::default()
        };
        self.tree.insert(path, Node::Directory(node));
        Ok(())
    }

    /// As [`Self::parent`]. Whiteouts are about lower layers, where a link of this layer means nothing.
    fn whiteout_parent(
        &mut self,
        parents: &[Vec<u8>],
        entry: &[u8],
    ) -> Result<Vec<u8>, LayerError> {
        match self.parent(parents, entry)? {
            (directory, false) => Ok(directory),
            _ => Err(conflict(
                entry,
                "is a whiteout behind a link of its own layer",
            )),
        }
    }

    fn whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), LayerError> {
        let path = join(directory, name);
        match self.tree.get(&path) {
            // It hides what lies below and leaves what this layer brings, in either order.
            Some(Node::Directory(_)) => {
                if let Some(node) = self.tree.directory(&path) {
                    node.opaque = true;
                    node.implied = false;
                }
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                let parent = self.directory(directory)?;
                let made = fs::mknodat(
                    parent,
                    name,
                    FileType::CharacterDevice,
                    Mode::empty(),
                    fs::makedev(0, 0),
                );
                match made {
                    // A regular file of this layer: it hides what lies below by being there.
                    Err(Errno::EXIST) => return Ok(()),
                    other => other.map_err(LayerError::io("make whiteout", &path))?,
                }
                self.inodes += 1;
                self.tree.insert(path, Node::Whiteout);
                Ok(())
            }
        }
    }

    fn create<R: Read>(
        &mut self,
        directory: &[u8],
        name: &[u8],
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<(), LayerError> {
        let path = join(directory, name);
        if path.len() >= 4096 {
            return Err(conflict(&entry.path, "has too long a name"));
        }
        if self.is_awaited(&path, entry) {
            return Err(conflict(
                &entry.path,
                "replaces what an earlier hard link means",
            ));
        }
        match &entry.kind {
            Kind::Directory => self.make_directory(&path, entry),
            Kind::HardLink(target) => self.hard_link(&path, target, entry),
            kind => {
                self.replace(&path, entry)?;
                match kind {
                    Kind::File => self.file(directory, name, entry, archive),
                    Kind::Symlink(target) => self.symlink(directory, name, target, entry),
                    Kind::Character(0, 0) => Err(conflict(
                        &entry.path,
                        "is a character device 0:0, which would act as a whiteout",
                    )),
                    Kind::Character(major, minor) => {
                        let device = fs::makedev(*major, *minor);
                        self.node(directory, name, FileType::CharacterDevice, device, entry)
                    }
                    Kind::Block(major, minor) => {
                        let device = fs::makedev(*major, *minor);
                        self.node(directory, name, FileType::BlockDevice, device, entry)
                    }
                    _ => self.node(directory, name, FileType::Fifo, 0, entry),
                }
            }
        }
    }

    /// Whether an earlier hard link means what `path` is below, or something in it.
    fn is_awaited(&self, path: &[u8], entry: &Entry) -> bool {
        if entry.kind == Kind::Directory {
            return self.awaited.contains(path);
        }
        let below = [path, b"/"].concat();
        let next = self.awaited.range(below.clone()..).next();
        self.awaited.contains(path) || next.is_some_and(|next| next.starts_with(&below))
    }

    /// Clears the way for something that is no directory.
    fn replace(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        if let Some(own @ Node::Directory(_)) = self.tree.get(path) {
            // An opaque directory of unknown place still empties that place below.
            let depends = |path: &[u8], node: &Node| {
                let parent = split(path).map_or(&b""[..], |(parent, _)| parent);
                matches!(node, Node::Directory(d) if d.implied) && !self.tree.sealed(parent)
            };
            let mut below = self.tree.below(path);
            if depends(path, own) || below.any(|(path, node)| depends(path, node)) {
                // Below might be a link: then its entries went elsewhere, else they are gone.
                return Err(conflict(
                    &entry.path,
                    "takes the place of a directory that earlier entries imply",
                ));
            }
        }
        self.unlink(path)
    }

    /// Removes what this layer has at `path`, if anything.
    fn unlink(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let Some((directory, name)) = split(path) else {
            return Ok(());
        };
        let refused = || LayerError::io("replace", path);
        let outside = |node: Option<&Node>| matches!(node, Some(Node::Outside { .. }));
        if outside(self.tree.get(path))
            || self.tree.below(path).any(|(_, node)| outside(Some(node)))
        {
            // Whether it would have led anywhere is not known here.
            return Err(conflict(path, "replaces a hard link to what lies below"));
        }
        if matches!(self.tree.get(path), Some(Node::Directory(_))) {
            self.open.clear();
            let work = self.work;
            let parent = self.directory(directory)?;
            // Beside the layer, so that no name of its own can be in the way.
            fs::renameat(parent, name, work, "replaced").map_err(refused())?;
            files::remove_tree(work, b"replaced").map_err(refused())?;
            self.tree.remove_below(path);
        } else {
            let parent = self.directory(directory)?;
            match fs::unlinkat(parent, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                other => other.map_err(refused())?,
            }
        }
        self.tree.remove(path);
        Ok(())
    }

    fn make_directory(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        if !matches!(self.tree.get(path), Some(Node::Directory(_))) {
            // What it replaces hid the lower layers, so the directory must do so too.
            let mut opaque = self.tree.get(path).is_some();
            if opaque {
                self.unlink(path)?;
            }
            let mut made = self.mkdir(path);
            if made == Err(Errno::EXIST) {
                opaque = true;
                self.unlink(path)?;
                made = self.mkdir(path);
            }
            made.map_err(LayerError::io("make directory", path))?;
            let node = super::tree::Directory {
                opaque,
                ..Default::default()
            };
            self.tree.insert(path.to_vec(), Node::Directory(node));
        }
        self.set_directory(path, entry)
    }

    fn mkdir(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (directory, name) = split(path).unwrap_or((b"", b"."));
        let parent = self.directory_errno(directory)?;
        fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        // mkdir(2) is subject to the umask and takes a set-group-id parent's group.
        fs::chownat(
            parent,
            name,
            Some(fs::Uid::ROOT),
            Some(fs::Gid::ROOT),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        fs::chmodat(parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
        self.size += DISK_BLOCK;
        self.inodes += 1;
        Ok(())
    }

    fn set_directory(&mut self, path: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let fd = files::open_directory(&self.root, path)
            .map_err(LayerError::io("open directory", path))?;
        set_attributes(fd.as_fd(), entry, path)?;
        if let Some(node) = self.tree.directory(path) {
            node.late |= node.implied && !path.is_empty();
            node.implied = false;
            // The stamp itself is set last: every entry made inside changes it.
            node.mtime = Some(entry.mtime);
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        directory: &[u8],
        name: &[u8],
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<(), LayerError> {
        let path = join(directory, name);
        let parent = self.directory(directory)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = fs::openat(
            parent,
            name,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map_err(LayerError::io("create", &path))?;
        let file = File::from(file);
        let whole = [Segment {
            offset: 0,
            length: entry.size,
        }];
        if entry.sparse.is_some() {
            file.set_len(entry.size)
                .map_err(|source| io_error("extend", &path, source))?;
        }
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            self.copy(&file, *segment, archive, &path)?;
        }
        set_attributes(file.as_fd(), entry, &path)?;
        fs::futimens(&file, &files::times(entry.mtime))
            .map_err(LayerError::io("set the time of", &path))?;
        self.inodes += 1;
        Ok(())
    }

    fn copy<R: Read>(
        &mut self,
        file: &File,
        segment: Segment,
        archive: &mut Reader<R>,
        path: &[u8],
    ) -> Result<(), LayerError> {
        let (mut offset, mut left) = (segment.offset, segment.length);
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let count = archive.read_data(&mut self.buffer[..want])?;
            if count == 0 {
                // The reader has checked that the segments are the data; this cannot be.
                return Err(conflict(path, "has less data than its size"));
            }
            self.budget.bytes(count as u64, &self.root)?;
            file.write_all_at(&self.buffer[..count], offset)
                .map_err(|source| io_error("write", path, source))?;
            offset += count as u64;
            left -= count as u64;
        }
        self.size += segment.length.next_multiple_of(DISK_BLOCK);
        Ok(())
    }

    fn symlink(
        &mut self,
        directory: &[u8],
        name: &[u8],
        target: &[u8],
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let path = join(directory, name);
        let parent = self.directory(directory)?;
        let refused = || LayerError::io("make link", &path);
        fs::symlinkat(target, parent, name).map_err(refused())?;
        let (uid, gid) = files::owner(entry.uid, entry.gid);
        fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(refused())?;
        let times = files::times(entry.mtime);
        fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(refused())?;
        self.inodes += 1;
        self.tree.insert(path, Node::Link(target.to_vec()));
        Ok(())
    }

    fn node(
        &mut self,
        directory: &[u8],
        name: &[u8],
        kind: FileType,
        device: u64,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let path = join(directory, name);
        let parent = self.directory(directory)?;
        let refused = || LayerError::io("make device or pipe", &path);
        fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device).map_err(refused())?;
        let (uid, gid) = files::owner(entry.uid, entry.gid);
        fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(refused())?;
        // Follows links, but what was made a moment ago by mknod(2) is none and the directory is ours.
        fs::chmodat(
            parent,
            name,
            Mode::from_raw_mode(entry.mode),
            AtFlags::empty(),
        )
        .map_err(refused())?;
        let times = files::times(entry.mtime);
        fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(refused())?;
        self.inodes += 1;
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let dangling = || LayerError::Dangling {
            path: shown(&entry.path),
            target: shown(target),
        };
        let mut parents = components(target)?;
        let name = parents.pop().ok_or_else(dangling)?;
        let (found, below) = match self.tree.walk(Vec::new(), &parents) {
            Walk::Directory { path, .. } => (join(&path, &name), None),
            Walk::Unknown {
                path,
                name: unknown,
                rest,
                ..
            } => {
                if self.tree.settled(&path) {
                    return Err(dangling());
                }
                let mut full = join(&path, &unknown);
                for part in rest.iter().chain([&name]) {
                    full = join(&full, part);
                }
                (full, Some(()))
            }
            Walk::Hidden { .. } | Walk::Loop => return Err(dangling()),
        };
        let found_parent = split(&found).map_or(&b""[..], |(parent, _)| parent);
        let here = match (below, self.tree.get(&found)) {
            (Some(()), _) | (None, Some(Node::Outside { .. })) => false,
            (None, Some(Node::Link(_))) => true,
            (None, Some(Node::Whiteout)) => return Err(dangling()),
            (None, Some(Node::Directory(_))) => {
                return Err(conflict(&entry.path, "is a hard link to a directory"));
            }
            (None, None) => {
                let name = split(&found).map_or(&found[..], |(_, name)| name);
                let parent = self.directory(found_parent)?;
                let stat = files::stat(parent, name).map_err(LayerError::io("look at", &found))?;
                if stat.is_none() && self.tree.settled(found_parent) {
                    return Err(dangling());
                }
                stat.is_some()
            }
        };
        if found == path {
            return Err(conflict(&entry.path, "is a hard link to itself"));
        }
        self.replace(path, entry)?;
        if !here {
            self.order += 1;
            self.awaited.insert(found.clone());
            let node = Node::Outside {
                order: self.order,
                target: found,
            };
            self.tree.insert(path.to_vec(), node);
            return Ok(());
        }
        let link = self.tree.get(&found).cloned();
        let from = match files::open_directory(&self.root, found_parent) {
            // Replacing `path` may have removed its own target, with the directory around it.
            Err(Errno::NOENT) => return Err(dangling()),
            other => other.map_err(LayerError::io("open directory", found_parent))?,
        };
        let (directory, name) = split(path).unwrap_or((b"", path));
        let to = self.directory(directory)?;
        let target_name = split(&found).map_or(&found[..], |(_, name)| name);
        match fs::linkat(from, target_name, to, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Err(dangling()),
            other => other.map_err(LayerError::io("link", path))?,
        }
        if let Some(link @ Node::Link(_)) = link {
            self.tree.insert(path.to_vec(), link);
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, LayerError> {
        self.directory_errno(path)
            .map_err(LayerError::io("open directory", path))
    }

    fn directory_errno(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if !self.open.contains_key(path) {
            if self.open.len() >= OPEN_DIRECTORIES {
                self.open.clear();
            }
            let fd = files::open_directory(&self.root, path)?;
            self.open.insert(path.to_vec(), fd);
        }
        Ok(self.open.get(path).map_or(self.root.as_fd(), AsFd::as_fd))
    }

    fn finish(mut self) -> Result<Extracted, LayerError> {
        self.open.clear();
        let (mut implied, mut whiteouts, mut outside) = (Vec::new(), Vec::new(), Vec::new());
        let (mut late, mut needless) = (Vec::new(), Vec::new());
        for (path, node) in self.tree.iter() {
            let parent = split(path).map(|(parent, _)| parent);
            let sealed = parent.is_some_and(|parent| self.tree.sealed(parent));
            match node {
                Node::Directory(node) if node.implied && !sealed => {
                    implied.push(PathText(path.clone()));
                }
                Node::Directory(node) if node.late && !sealed => {
                    late.push(PathText(path.clone()));
                }
                // In a directory that is not merged with lower ones, overlayfs would list it.
                Node::Whiteout if sealed => needless.push(path.clone()),
                Node::Whiteout => whiteouts.push(PathText(path.clone())),
                Node::Outside { order, target } => outside.push((
                    *order,
                    OutsideLink {
                        path: PathText(path.clone()),
                        target: PathText(target.clone()),
                    },
                )),
                Node::Directory(_) | Node::Link(_) => {}
            }
        }
        for path in needless {
            self.unlink(&path)?;
        }
        self.open.clear();
        // Children first, for marking or making one changes its parent's stamp.
        for (path, node) in self.tree.iter().rev() {
            if let Node::Directory(node) = node {
                let fd = files::open_directory(&self.root, path)
                    .map_err(LayerError::io("open directory", path))?;
                if node.opaque {
                    fs::fsetxattr(&fd, files::OPAQUE, b"y", XattrFlags::empty())
                        .map_err(LayerError::io("mark as opaque", path))?;
                }
                // Implied directories get a fixed time, so that equal layers are equal.
                let time = node.mtime.unwrap_or(Time::default());
                fs::futimens(&fd, &files::times(time))
                    .map_err(LayerError::io("set the time of", path))?;
            }
        }
        outside.sort_by_key(|(order, _)| *order);
        let root_opaque = self.tree.sealed(b"");
        Ok(Extracted {
            size: self.size,
            inodes: self.inodes,
            root_opaque,
            implied,
            late,
            outside: outside.into_iter().map(|(_, link)| link).collect(),
            whiteouts,
        })
    }
}

/// Owner, mode and attributes, through the descriptor of what was just made.
fn set_attributes(fd: BorrowedFd<'_>, entry: &Entry, path: &[u8]) -> Result<(), LayerError> {
    let (uid, gid) = files::owner(entry.uid, entry.gid);
    // In this order: chown(2) clears set-id bits and file capabilities.
    fs::fchown(fd, uid, gid).map_err(LayerError::io("set the owner of", path))?;
    fs::fchmod(fd, Mode::from_raw_mode(entry.mode))
        .map_err(LayerError::io("set the mode of", path))?;
    let stale = match entry.kind {
        Kind::Directory => {
            files::image_xattrs(fd).map_err(LayerError::io("read attributes of", path))?
        }
        _ => Vec::new(),
    };
    for (name, _) in stale {
        // Only a directory that occurs twice can have any: the last entry decides.
        fs::fremovexattr(fd, &name[..]).map_err(LayerError::io("clear an attribute of", path))?;
    }
    for (name, value) in &entry.xattrs {
        let capability = name == b"security.capability" && entry.kind == Kind::File;
        // Others steer the host's kernel (trusted.overlay.*, security.selinux), not the image.
        if capability || name.starts_with(b"user.") {
            fs::fsetxattr(fd, &name[..], value, XattrFlags::empty())
                .map_err(LayerError::io("set an attribute of", path))?;
        }
    }
    Ok(())
}

fn conflict(path: &[u8], why: &'static str) -> LayerError {
    LayerError::Conflict {
        path: shown(path),
        why,
    }
}

fn io_error(what: &'static str, path: &[u8], source: std::io::Error) -> LayerError {
    LayerError::Io {
        what,
        path: shown(path),
        source,
    }
}
