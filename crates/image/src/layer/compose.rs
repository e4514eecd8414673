//! Completes a layer from the layers below it, where their content decides.
//!
//! The result is a directory of its own whose files are hard links to those of
//! the layer as it was unpacked, so that it costs directories and nothing else.

use std::{
    collections::{HashMap, HashSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, XattrFlags},
    io::Errno,
};

use super::{
    LayerError, LayerMeta, ROOT, View, files,
    meta::PathText,
    path::{join, shown, split},
    view::Seen,
};
use crate::tar::Time;

const LINKS_MAX: usize = 40;
const DISK_BLOCK: u64 = 4096;

/// Whether `meta`'s layer, on top of what `view` shows, needs [`compose`].
///
/// # Errors
/// [`LayerError::Io`] if a lower layer cannot be read.
pub(crate) fn needs_completion(meta: &LayerMeta, view: &mut View) -> Result<bool, LayerError> {
    if !meta.outside.is_empty() {
        return Ok(true);
    }
    for PathText(path) in &meta.implied {
        let refused = || LayerError::io("look below at", path);
        match view.look(path).map_err(refused())? {
            Seen::Directory(layers) if !layers.is_empty() => {
                let fd = view.open_directory(&layers, path).map_err(refused())?;
                let stat = fs::fstat(&fd).map_err(refused())?;
                let plain = stat.st_mode & 0o7777 == 0o755
                    && (stat.st_uid, stat.st_gid) == (0, 0)
                    && files::image_xattrs(&fd).map_err(refused())?.is_empty();
                if !plain {
                    return Ok(true);
                }
            }
            Seen::Other(_, stat) if files::is_link(&stat) => return Ok(true),
            _ => {}
        }
    }
    for PathText(path) in &meta.late {
        if link_below(view, path)? {
            return Ok(true);
        }
    }
    for PathText(path) in &meta.whiteouts {
        if !merged(view, split(path).map_or(b"", |(parent, _)| parent))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `path` is a link in the layers below.
fn link_below(view: &mut View, path: &[u8]) -> Result<bool, LayerError> {
    let seen = view
        .look(path)
        .map_err(LayerError::io("look below at", path))?;
    Ok(matches!(seen, Seen::Other(_, stat) if files::is_link(&stat)))
}

/// Whether overlayfs will merge the directory `path` with one below: only then it hides whiteouts.
fn merged(view: &mut View, path: &[u8]) -> Result<bool, LayerError> {
    let seen = view
        .look(path)
        .map_err(LayerError::io("look below at", path))?;
    Ok(matches!(seen, Seen::Directory(layers) if !layers.is_empty()))
}

/// Makes a completed copy of the layer `base` as [`ROOT`] in `work`.
///
/// # Errors
/// [`LayerError::Dangling`] and [`LayerError::Conflict`] for a layer that does
/// not fit what lies below; [`LayerError::Io`]. The caller removes what is in `work`.
pub(crate) fn compose(
    base: BorrowedFd<'_>,
    meta: &LayerMeta,
    view: &mut View,
    work: BorrowedFd<'_>,
) -> Result<LayerMeta, LayerError> {
    let refused = || LayerError::io("make the layer's directory", b"");
    fs::mkdirat(work, ROOT, Mode::from_raw_mode(0o755)).map_err(refused())?;
    let out = files::open_directory(work, ROOT.as_bytes()).map_err(refused())?;
    let mut composer = Composer {
        base,
        out,
        view,
        implied: meta.implied.iter().map(|path| path.0.clone()).collect(),
        late: meta.late.iter().map(|path| path.0.clone()).collect(),
        placed: HashMap::new(),
        moved: HashMap::from([(Vec::new(), Vec::new())]),
        times: Vec::new(),
        linked: HashSet::new(),
        whiteouts: Vec::new(),
        made: 0,
    };
    composer.root()?;
    composer.entries()?;
    for link in &meta.outside {
        composer.link(&link.path.0, &link.target.0)?;
    }
    composer.finish(meta)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placed {
    Implied,
    Explicit,
}

struct Composer<'a> {
    base: BorrowedFd<'a>,
    out: OwnedFd,
    view: &'a mut View,
    implied: HashSet<Vec<u8>>,
    late: HashSet<Vec<u8>>,
    /// Directories of the result.
    placed: HashMap<Vec<u8>, Placed>,
    /// Directories of the base to where they are in the result.
    moved: HashMap<Vec<u8>, Vec<u8>>,
    times: Vec<(Vec<u8>, Time)>,
    /// Names that [`Composer::link`] has made.
    linked: HashSet<Vec<u8>>,
    whiteouts: Vec<PathText>,
    made: u64,
}

/// What result and lower layers show together.
enum Both {
    Absent,
    Out(fs::Stat),
    Lower(Seen),
}

impl Composer<'_> {
    fn root(&mut self) -> Result<(), LayerError> {
        let out = self.open_out(b"")?;
        if self.implied.contains(&b""[..]) {
            self.like_lower(b"", out.as_fd())?;
        } else {
            let base = self.base;
            self.like(base, out.as_fd(), b"")?;
        }
        self.placed.insert(Vec::new(), Placed::Explicit);
        Ok(())
    }

    fn entries(&mut self) -> Result<(), LayerError> {
        let mut left = vec![(Vec::new(), Vec::new())];
        while let Some((from, to)) = left.pop() {
            let base = files::open_directory(self.base, &from)
                .map_err(LayerError::io("open directory", &from))?;
            let out = self.open_out(&to)?;
            for name in files::read_names(&base).map_err(LayerError::io("list", &from))? {
                let (path, dest) = (join(&from, &name), join(&to, &name));
                let stat = files::stat(&base, &name).map_err(LayerError::io("look at", &path))?;
                let Some(stat) = stat else { continue };
                if files::is_directory(&stat) {
                    let dest = self.directory(&path, dest)?;
                    self.moved.insert(path.clone(), dest.clone());
                    left.push((path, dest));
                } else if files::is_whiteout(&stat) {
                    self.whiteout(&to, &dest, out.as_fd())?;
                } else {
                    let made = fs::linkat(&base, &name[..], &out, &name[..], AtFlags::empty());
                    place(made, "link", &dest)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the base's directory `path` and returns where.
    fn directory(&mut self, path: &[u8], dest: Vec<u8>) -> Result<Vec<u8>, LayerError> {
        let base = files::open_directory(self.base, path)
            .map_err(LayerError::io("open directory", path))?;
        if !self.implied.contains(path) {
            if self.late.contains(path) && link_below(self.view, &dest)? {
                return Err(ambiguous(&dest));
            }
            match self.placed.get(&dest) {
                Some(Placed::Explicit) => return Err(ambiguous(&dest)),
                Some(Placed::Implied) => self.times.retain(|(path, _)| *path != dest),
                None => self.mkdir(&dest)?,
            }
            let out = self.open_out(&dest)?;
            self.like(base.as_fd(), out.as_fd(), &dest)?;
            self.placed.insert(dest.clone(), Placed::Explicit);
            return Ok(dest);
        }
        let refused = || LayerError::io("look below at", &dest);
        let there = match self.view.look(&dest).map_err(refused())? {
            // The archive writes through the link, as if it were unpacked onto the layers below.
            Seen::Other(_, stat) if files::is_link(&stat) => {
                let real = self.view.resolve(&dest).map_err(refused())?;
                let (real, passed) = real.ok_or_else(|| LayerError::Conflict {
                    path: shown(&dest),
                    why: "is a loop of links in the layers below",
                })?;
                for step in passed.iter().filter(|step| *step != path) {
                    self.untouched(step, *step == real)?;
                }
                // What an opaque mark empties must not hold the link that led there.
                if files::is_opaque(&base) && dest.starts_with(&real) {
                    return Err(ambiguous(&dest));
                }
                real
            }
            _ => dest,
        };
        self.ensure(&there)?;
        if files::is_opaque(&base) {
            let out = self.open_out(&there)?;
            fs::fsetxattr(out, files::OPAQUE, b"y", XattrFlags::empty())
                .map_err(LayerError::io("mark as opaque", &there))?;
        }
        Ok(there)
    }

    /// Refuses a layer that writes through `path`, of the layers below, and changes what it is.
    fn untouched(&mut self, path: &[u8], last: bool) -> Result<(), LayerError> {
        let flags = fs::OFlags::PATH | fs::OFlags::NOFOLLOW;
        let fd = match files::open_beneath(self.base, path, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(LayerError::io("look at", path)(errno)),
        };
        let refused = || LayerError::io("look at", path);
        if !files::is_directory(&fs::fstat(fd).map_err(refused())?) {
            return Err(ambiguous(path));
        }
        let directory = files::open_directory(self.base, path).map_err(refused())?;
        // Emptying the last one leaves it in its place, emptying one above takes it away.
        let emptied = !last && files::is_opaque(directory);
        let replaced = !self.implied.contains(path) && link_below(self.view, path)?;
        match emptied || replaced {
            true => Err(ambiguous(path)),
            false => Ok(()),
        }
    }

    /// Makes `path` and its parents look as they do below, unless they are there.
    fn ensure(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends: Vec<usize> = ends.map(|(at, _)| at).chain([path.len()]).collect();
        for end in ends {
            let part = &path[..end];
            if part.is_empty() || self.placed.contains_key(part) {
                continue;
            }
            self.mkdir(part)?;
            let out = self.open_out(part)?;
            self.like_lower(part, out.as_fd())?;
            self.placed.insert(part.to_vec(), Placed::Implied);
        }
        Ok(())
    }

    fn mkdir(&mut self, path: &[u8]) -> Result<(), LayerError> {
        let (parent, name) = split(path).unwrap_or((b"", b"."));
        let parent = self.open_out(parent)?;
        self.made += 1;
        let made = fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
        place(made, "make directory", path)
    }

    /// Gives `out` the look of the directory `path` below; the default one if there is none.
    fn like_lower(&mut self, path: &[u8], out: BorrowedFd<'_>) -> Result<(), LayerError> {
        let refused = || LayerError::io("look below at", path);
        match self.view.look(path).map_err(refused())? {
            Seen::Directory(layers) if !layers.is_empty() => {
                let from = self.view.open_directory(&layers, path).map_err(refused())?;
                // That lower directory may hide what lies below itself; this one adds nothing to it.
                self.copy_look(from.as_fd(), out, path, false)
            }
            _ => {
                let refused = || LayerError::io("set owner and mode of", path);
                fs::fchown(out, Some(fs::Uid::ROOT), Some(fs::Gid::ROOT)).map_err(refused())?;
                fs::fchmod(out, Mode::from_raw_mode(0o755)).map_err(refused())?;
                self.times.push((path.to_vec(), Time::default()));
                Ok(())
            }
        }
    }

    fn like(
        &mut self,
        from: BorrowedFd<'_>,
        out: BorrowedFd<'_>,
        path: &[u8],
    ) -> Result<(), LayerError> {
        self.copy_look(from, out, path, true)
    }

    fn copy_look(
        &mut self,
        from: BorrowedFd<'_>,
        out: BorrowedFd<'_>,
        path: &[u8],
        opaque: bool,
    ) -> Result<(), LayerError> {
        let refused = || LayerError::io("set owner, mode and attributes of", path);
        let stat = fs::fstat(from).map_err(refused())?;
        let (uid, gid) = files::owner(stat.st_uid, stat.st_gid);
        fs::fchown(out, uid, gid).map_err(refused())?;
        fs::fchmod(out, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(refused())?;
        for (name, _) in files::image_xattrs(out).map_err(refused())? {
            fs::fremovexattr(out, &name[..]).map_err(refused())?;
        }
        for (name, value) in files::image_xattrs(from).map_err(refused())? {
            fs::fsetxattr(out, &name[..], &value, XattrFlags::empty()).map_err(refused())?;
        }
        if opaque && files::is_opaque(from) {
            fs::fsetxattr(out, files::OPAQUE, b"y", XattrFlags::empty()).map_err(refused())?;
        }
        self.times.push((path.to_vec(), files::mtime(&stat)));
        Ok(())
    }

    fn whiteout(
        &mut self,
        parent: &[u8],
        path: &[u8],
        out: BorrowedFd<'_>,
    ) -> Result<(), LayerError> {
        if !merged(self.view, parent)? {
            return Ok(());
        }
        let name = split(path).map_or(path, |(_, name)| name);
        let kind = FileType::CharacterDevice;
        let made = fs::mknodat(out, name, kind, Mode::empty(), fs::makedev(0, 0));
        place(made, "make whiteout", path)?;
        self.made += 1;
        self.whiteouts.push(PathText(path.to_vec()));
        Ok(())
    }

    /// A hard link to a lower file: the file gets a name here too, under both.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let dangling = || LayerError::Dangling {
            path: shown(path),
            target: shown(target),
        };
        let (parent, name) = split(path).ok_or_else(dangling)?;
        let to = self.moved.get(parent).cloned().ok_or_else(dangling)?;
        let found = self.resolve(target)?.ok_or_else(dangling)?;
        let (found_parent, found_name) = split(&found).ok_or_else(dangling)?;
        match self.look(&found)? {
            Both::Out(stat) if files::is_whiteout(&stat) => return Err(dangling()),
            Both::Out(stat) if files::is_directory(&stat) => return Err(dangling()),
            // Made before or after the link? A path through a link of the layers below cannot tell.
            Both::Out(_) if found != target && !self.linked.contains(&found) => {
                return Err(ambiguous(&found));
            }
            Both::Out(_) => {}
            Both::Lower(Seen::Other(layer, _)) => {
                self.ensure(found_parent)?;
                let (from, from_name) = self
                    .view
                    .holder(layer, &found)
                    .map_err(LayerError::io("open below", &found))?;
                let out = self.open_out(found_parent)?;
                // One inode in two layers of one stack: overlayfs shows the upper one.
                let made = fs::linkat(from, from_name, out, found_name, AtFlags::empty());
                place(made, "link", &found)?;
                self.linked.insert(found.clone());
            }
            Both::Lower(_) | Both::Absent => return Err(dangling()),
        }
        let (from, out) = (self.open_out(found_parent)?, self.open_out(&to)?);
        let made = fs::linkat(from, found_name, out, name, AtFlags::empty());
        self.linked.insert(join(&to, name));
        place(made, "link", path)
    }

    /// Where `path` really is in result and lower layers; its last component is not followed.
    fn resolve(&mut self, path: &[u8]) -> Result<Option<Vec<u8>>, LayerError> {
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
            if left.is_empty() {
                return Ok(Some(next));
            }
            let refused = || LayerError::io("read the link", &next);
            let target = match self.look(&next)? {
                Both::Out(stat) if files::is_link(&stat) => {
                    let parent = self.open_out(&at)?;
                    let text = fs::readlinkat(parent, &name[..], Vec::new()).map_err(refused())?;
                    text.into_bytes()
                }
                Both::Lower(Seen::Other(layer, stat)) if files::is_link(&stat) => {
                    self.view.link(layer, &next).map_err(refused())?
                }
                _ => {
                    at = next;
                    continue;
                }
            };
            links += 1;
            if links > LINKS_MAX {
                return Ok(None);
            }
            if target.starts_with(b"/") {
                at = Vec::new();
            }
            left.extend(target.rsplit(|&b| b == b'/').map(<[u8]>::to_vec));
        }
        Ok(None)
    }

    /// What lies at `path`, no component of which is a link.
    fn look(&mut self, path: &[u8]) -> Result<Both, LayerError> {
        let refused = || LayerError::io("look at", path);
        let Some((parent, name)) = split(path) else {
            return Ok(Both::Absent);
        };
        // The nearest parent that the result has decides whether lower layers show.
        let mut nearest = parent;
        let fd = loop {
            match files::open_directory(&self.out, nearest) {
                Ok(fd) => break fd,
                Err(Errno::NOENT) => nearest = split(nearest).map_or(b"", |(parent, _)| parent),
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Both::Absent),
                Err(errno) => return Err(refused()(errno)),
            }
        };
        if nearest == parent
            && let Some(stat) = files::stat(&fd, name).map_err(refused())?
        {
            return Ok(Both::Out(stat));
        }
        loop {
            let fd = files::open_directory(&self.out, nearest).map_err(refused())?;
            if files::is_opaque(fd) {
                return Ok(Both::Absent);
            }
            match split(nearest) {
                Some((parent, _)) => nearest = parent,
                None => break,
            }
        }
        Ok(Both::Lower(self.view.look(path).map_err(refused())?))
    }

    fn open_out(&self, path: &[u8]) -> Result<OwnedFd, LayerError> {
        match files::open_directory(&self.out, path) {
            // Something of this very layer stands where a lower link led.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(ambiguous(path)),
            other => other.map_err(LayerError::io("open directory", path)),
        }
    }

    fn finish(mut self, meta: &LayerMeta) -> Result<LayerMeta, LayerError> {
        self.times.sort();
        for (path, time) in self.times.iter().rev() {
            let fd = self.open_out(path)?;
            fs::futimens(fd, &files::times(*time))
                .map_err(LayerError::io("set the time of", path))?;
        }
        Ok(LayerMeta {
            diff_id: meta.diff_id.clone(),
            // The files are shared with the base; what they hold is counted there while it exists.
            size: meta.size + self.made * DISK_BLOCK,
            inodes: meta.inodes + self.made,
            root_opaque: meta.root_opaque,
            implied: Vec::new(),
            late: Vec::new(),
            outside: Vec::new(),
            whiteouts: self.whiteouts,
        })
    }
}

fn place(made: Result<(), Errno>, what: &'static str, path: &[u8]) -> Result<(), LayerError> {
    match made {
        Err(Errno::EXIST) => Err(ambiguous(path)),
        other => other.map_err(LayerError::io(what, path)),
    }
}

fn ambiguous(path: &[u8]) -> LayerError {
    LayerError::Conflict {
        path: shown(path),
        why: "is written twice, once through a link of the layers below; which one counts is unclear",
    }
}
