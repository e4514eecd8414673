//! The directories, links and whiteouts of a layer while it is unpacked.
//!
//! Regular files are not kept: they are never walked through, and the kernel
//! knows whether one is there.

use std::{collections::BTreeMap, ops::Bound};

use super::path::{join, split};
use crate::tar::Time;

/// As many links as the kernel follows in one path (MAXSYMLINKS).
const LINKS_MAX: usize = 40;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Directory(Directory),
    Link(Vec<u8>),
    Whiteout,
    /// A hard link whose target is not in this layer: nothing is on disk yet.
    Outside {
        order: usize,
        target: Vec<u8>,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// Not in the archive itself; what it looks like depends on the layers below.
    pub(super) implied: bool,
    /// Was implied before the archive said what it looks like.
    pub(super) late: bool,
    /// Hides all that lies below.
    pub(super) opaque: bool,
    pub(super) mtime: Option<Time>,
}

/// Resolved paths to nodes; the root is the empty path and always a directory.
#[derive(Debug)]
pub(super) struct Tree(BTreeMap<Vec<u8>, Node>);

/// Where a walk along parent directories ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// At a directory of this layer.
    Directory { path: Vec<u8>, through_link: bool },
    /// At a name that this layer does not have as directory or link.
    Unknown {
        path: Vec<u8>,
        name: Vec<u8>,
        /// What comes after the name.
        rest: Vec<Vec<u8>>,
        through_link: bool,
    },
    /// At a whiteout.
    Hidden {
        path: Vec<u8>,
        name: Vec<u8>,
        rest: Vec<Vec<u8>>,
        through_link: bool,
    },
    /// In a loop of links.
    Loop,
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::Directory(Directory {
            implied: true,
            ..Directory::default()
        });
        Self(BTreeMap::from([(Vec::new(), root)]))
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.0.get(path)
    }

    pub(super) fn directory(&mut self, path: &[u8]) -> Option<&mut Directory> {
        match self.0.get_mut(path) {
            Some(Node::Directory(directory)) => Some(directory),
            _ => None,
        }
    }

    pub(super) fn insert(&mut self, path: Vec<u8>, node: Node) {
        self.0.insert(path, node);
    }

    pub(super) fn remove(&mut self, path: &[u8]) {
        self.0.remove(path);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Node)> {
        self.0.iter()
    }

    /// All below `path`, without it.
    pub(super) fn below(&self, path: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Node)> {
        // '0' is the character after '/': the range holds exactly what begins with "path/".
        let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        self.0.range(bounds)
    }

    pub(super) fn remove_below(&mut self, path: &[u8]) {
        let below: Vec<_> = self.below(path).map(|(path, _)| path.clone()).collect();
        for path in below {
            self.0.remove(&path);
        }
    }

    /// Whether nothing of the layers below shows at or in `path`.
    pub(super) fn sealed(&self, path: &[u8]) -> bool {
        let mut path = path;
        loop {
            if let Some(Node::Directory(Directory { opaque: true, .. })) = self.0.get(path) {
                return true;
            }
            match split(path) {
                Some((parent, _)) => path = parent,
                None => return false,
            }
        }
    }

    /// Whether `path` is what it seems: sealed, and no directory on the way to
    /// the seal could be a link below.
    pub(super) fn settled(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let ends = ends.map(|(at, _)| at).chain([path.len()]);
        for end in std::iter::once(0).chain(ends) {
            match self.0.get(&path[..end]) {
                Some(Node::Directory(Directory {
                    opaque: true,
                    implied,
                    ..
                })) => {
                    return !implied || end == 0;
                }
                Some(Node::Directory(Directory { implied: true, .. })) if end > 0 => return false,
                _ => {}
            }
        }
        false
    }

    /// Walks `components` from directory `start`, following this layer's own links
    /// as if its root were `/`.
    pub(super) fn walk(&self, start: Vec<u8>, components: &[Vec<u8>]) -> Walk {
        let mut at = start;
        let mut through_link = false;
        let mut links = 0;
        // Reversed, so that the next component is the last one.
        let mut left: Vec<Vec<u8>> = components.iter().rev().cloned().collect();
        while let Some(name) = left.pop() {
            if name == b".." {
                at = split(&at).map_or(Vec::new(), |(parent, _)| parent.to_vec());
                continue;
            }
            let next = join(&at, &name);
            match self.get(&next) {
                Some(Node::Directory(_)) => at = next,
                Some(Node::Link(target)) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Walk::Loop;
                    }
                    through_link = true;
                    if target.starts_with(b"/") {
                        at = Vec::new();
                    }
                    let parts = target.split(|&b| b == b'/');
                    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
                    left.extend(parts.rev().map(<[u8]>::to_vec));
                }
                found => {
                    left.reverse();
                    return match found {
                        Some(Node::Whiteout) => Walk::Hidden {
                            path: at,
                            name,
                            rest: left,
                            through_link,
                        },
                        _ => Walk::Unknown {
                            path: at,
                            name,
                            rest: left,
                            through_link,
                        },
                    };
                }
            }
        }
        Walk::Directory {
            path: at,
            through_link,
        }
    }
}
