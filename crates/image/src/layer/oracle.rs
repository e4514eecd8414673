//! Layers unpacked alone and stacked by the kernel's overlayfs, against the same
//! layers applied one after the other to one tree.
//!
//! The tree is a model in memory, written without a glance at the extractor. A
//! layer's whiteouts are about the layers below it, so they are applied first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::{LayerError, LayerMeta, Limits, ROOT, View, archive::Tar, compose, extract};
use crate::{name::Digest, tar::Reader};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Directory { path: String, mode: u64, uid: u64 },
    File { path: String, content: String },
    Link { path: String, target: String },
    Hard { path: String, target: String },
    Whiteout { parent: String, name: String },
    Opaque { parent: String },
}

impl Item {
    fn path(&self) -> &str {
        match self {
            Item::Directory { path, .. }
            | Item::File { path, .. }
            | Item::Link { path, .. }
            | Item::Hard { path, .. } => path,
            Item::Whiteout { .. } | Item::Opaque { .. } => "",
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        _ => format!("{parent}/{name}"),
    }
}

fn archive(items: &[Item]) -> Vec<u8> {
    let mut tar = Tar::new();
    for item in items {
        tar = match item {
            Item::Directory { path, mode, uid } => tar.dir_owned(path, *mode, *uid),
            Item::File { path, content } => tar.file(path, content),
            Item::Link { path, target } => tar.symlink(path, target),
            Item::Hard { path, target } => tar.hardlink(path, target),
            Item::Whiteout { parent, name } => tar.file(&join(parent, &format!(".wh.{name}")), ""),
            Item::Opaque { parent } => tar.file(&join(parent, ".wh..wh..opq"), ""),
        };
    }
    tar.end()
}

/// What can be seen of one path. Files of one number are hard links of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory { mode: u64, uid: u64 },
    File { content: String, number: usize },
    Link { target: String, number: usize },
}

#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<String, Node>,
    numbers: usize,
}

/// Why the model cannot apply a layer.
#[derive(Debug, PartialEq, Eq)]
enum Impossible {
    /// A path leads through a loop of links at that moment.
    Loop,
    /// A hard link to nothing, or to a directory.
    Dangling,
}

const PLAIN: Node = Node::Directory {
    mode: 0o755,
    uid: 0,
};

impl Model {
    fn new() -> Self {
        Self {
            nodes: BTreeMap::from([(String::new(), PLAIN)]),
            numbers: 0,
        }
    }

    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, path: &str) {
        let prefix = join(path, "");
        self.nodes
            .retain(|name, _| name.is_empty() || !(path.is_empty() || name.starts_with(&prefix)));
    }

    /// Where directory `path` really is.
    fn resolve(&self, path: &str) -> Result<String, Impossible> {
        let mut at = String::new();
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name.is_empty() || name == "." {
                continue;
            }
            if name == ".." {
                at = at
                    .rsplit_once('/')
                    .map_or(String::new(), |(p, _)| p.to_owned());
                continue;
            }
            let next = join(&at, &name);
            match self.nodes.get(&next) {
                Some(Node::Link { target, .. }) => {
                    links += 1;
                    if links > 40 {
                        return Err(Impossible::Loop);
                    }
                    if target.starts_with('/') {
                        at = String::new();
                    }
                    left.extend(target.split('/').rev().map(str::to_owned));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    /// As `resolve`, and makes what is missing.
    fn parent(&mut self, path: &str) -> Result<String, Impossible> {
        let real = self.resolve(path)?;
        let mut at = String::new();
        for name in real.split('/').filter(|name| !name.is_empty()) {
            at = join(&at, name);
            if !matches!(self.nodes.get(&at), Some(Node::Directory { .. })) {
                self.remove(&at);
                self.nodes.insert(at.clone(), PLAIN);
            }
        }
        Ok(real)
    }

    fn apply(&mut self, items: &[Item]) -> Result<(), Impossible> {
        let explicit: BTreeSet<&str> = items.iter().map(Item::path).collect();
        let mut removals: Vec<(&str, Option<&str>)> = Vec::new();
        for item in items {
            match item {
                Item::Whiteout { parent, name } => removals.push((parent, Some(name))),
                Item::Opaque { parent } => removals.push((parent, None)),
                _ => {}
            }
        }
        removals.sort_by_key(|(parent, _)| {
            parent.matches('/').count() + usize::from(!parent.is_empty())
        });
        for (parent, name) in removals {
            // A directory of this layer in the place of something else has nothing below it.
            let ends = parent
                .match_indices('/')
                .map(|(at, _)| at)
                .chain([parent.len()]);
            let replaced = ends.map(|end| &parent[..end]).any(|part| {
                let (above, name) = part.rsplit_once('/').unwrap_or(("", part));
                let real = self.resolve(above).map(|above| join(&above, name));
                explicit.contains(part)
                    && !part.is_empty()
                    && real.is_ok_and(|real| {
                        !matches!(self.nodes.get(&real), Some(Node::Directory { .. }))
                    })
            });
            if replaced {
                continue;
            }
            let real = self.resolve(parent)?;
            match name {
                Some(name) => self.remove(&join(&real, name)),
                None => self.remove_below(&real),
            }
        }
        for item in items {
            self.item(item)?;
        }
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<(), Impossible> {
        if let Item::Whiteout { parent, .. } | Item::Opaque { parent } = item {
            return self.parent(parent).map(drop);
        }
        let (parent, name) = item.path().rsplit_once('/').unwrap_or(("", item.path()));
        let path = join(&self.parent(parent)?, name);
        self.numbers += 1;
        let number = self.numbers;
        let node = match item {
            Item::Directory { mode, uid, .. } => {
                let node = Node::Directory {
                    mode: *mode,
                    uid: *uid,
                };
                if matches!(self.nodes.get(&path), Some(Node::Directory { .. })) {
                    self.nodes.insert(path, node);
                    return Ok(());
                }
                node
            }
            Item::File { content, .. } => Node::File {
                content: content.clone(),
                number,
            },
            Item::Link { target, .. } => Node::Link {
                target: target.clone(),
                number,
            },
            Item::Hard { target, .. } => {
                let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
                let target = join(&self.resolve(parent)?, name);
                // What is in the way goes first, and may take the target with it.
                let lost = target == path || target.starts_with(&join(&path, ""));
                match self.nodes.get(&target).filter(|_| !lost) {
                    None | Some(Node::Directory { .. }) => return Err(Impossible::Dangling),
                    Some(node) => node.clone(),
                }
            }
            Item::Whiteout { .. } | Item::Opaque { .. } => return Ok(()),
        };
        self.remove(&path);
        self.nodes.insert(path, node);
        Ok(())
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("berth-image-oracle-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount(self.0.join("merged"), UnmountFlags::DETACH).ok();
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Unpacks one layer alone.
fn unpack(tar: &[u8], work: &Path) -> Result<LayerMeta, LayerError> {
    fs::create_dir_all(work).unwrap();
    let fd = fs::File::open(work).unwrap();
    use std::os::fd::AsFd as _;
    let extracted = extract(&mut Reader::new(tar), fd.as_fd(), &Limits::default())?;
    Ok(extracted.into_meta(Digest::of(tar)))
}

/// Directories of the stack, uppermost first.
fn stack(scratch: &Path, layers: &[Vec<u8>]) -> Result<Vec<PathBuf>, LayerError> {
    use std::os::fd::AsFd as _;
    let mut stack: Vec<PathBuf> = Vec::new();
    for (at, tar) in layers.iter().enumerate() {
        let work = scratch.join(format!("alone{at}"));
        let meta = unpack(tar, &work)?;
        if meta.root_opaque {
            stack.clear();
        }
        let open = |path: &PathBuf| OwnedFd::from(fs::File::open(path).unwrap());
        let mut view = View::new(stack.iter().map(open).collect());
        let mut root = work.join(ROOT);
        if super::needs_completion(&meta, &mut view)? {
            let completed = scratch.join(format!("chain{at}"));
            fs::create_dir_all(&completed).unwrap();
            let (base, out) = (open(&root), open(&completed));
            compose(base.as_fd(), &meta, &mut view, out.as_fd())?;
            root = completed.join(ROOT);
        }
        stack.insert(0, root);
    }
    Ok(stack)
}

/// What the kernel shows of a stack.
fn merged(scratch: &Path, stack: &[PathBuf]) -> BTreeMap<String, Node> {
    let (floor, at) = (scratch.join("floor"), scratch.join("merged"));
    fs::create_dir_all(&floor).unwrap();
    fs::create_dir_all(&at).unwrap();
    let lower: Vec<_> = stack
        .iter()
        .chain([&floor])
        .map(|p| p.display().to_string())
        .collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
    mount(
        "overlay",
        &at,
        "overlay",
        MountFlags::RDONLY,
        Some(options.as_c_str()),
    )
    .unwrap();
    let mut nodes = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    walk(&at, &at, &mut nodes, &mut numbers);
    unmount(&at, UnmountFlags::empty()).unwrap();
    nodes
}

fn walk(
    root: &Path,
    at: &Path,
    nodes: &mut BTreeMap<String, Node>,
    numbers: &mut BTreeMap<u64, usize>,
) {
    // A whiteout that shows is listed but cannot be looked at: this fails then.
    let meta = at.symlink_metadata().unwrap();
    let kind = meta.file_type();
    assert!(
        !kind.is_char_device(),
        "a whiteout shows as {}",
        at.display()
    );
    let next = numbers.len();
    let mut number = || *numbers.entry(meta.ino()).or_insert(next);
    let node = if kind.is_dir() {
        Node::Directory {
            mode: u64::from(meta.mode() & 0o7777),
            uid: u64::from(meta.uid()),
        }
    } else if kind.is_symlink() {
        Node::Link {
            target: fs::read_link(at).unwrap().display().to_string(),
            number: number(),
        }
    } else {
        Node::File {
            content: fs::read_to_string(at).unwrap(),
            number: number(),
        }
    };
    nodes.insert(at.strip_prefix(root).unwrap().display().to_string(), node);
    if kind.is_dir() {
        let mut names: Vec<_> = fs::read_dir(at)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        names.sort();
        for name in names {
            walk(root, &name, nodes, numbers);
        }
    }
}

/// Numbers by first use, so that two trees can be compared.
fn renumbered(nodes: &BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    let mut seen = BTreeMap::new();
    let mut nodes = nodes.clone();
    for node in nodes.values_mut() {
        if let Node::File { number, .. } | Node::Link { number, .. } = node {
            let next = seen.len();
            *number = *seen.entry(*number).or_insert(next);
        }
    }
    nodes
}

/// Both ways, compared. `None` if the layers were refused for what is told apart from no order.
fn check(layers: &[Vec<Item>]) -> Option<()> {
    let scratch = Scratch::new();
    let mut model = Model::new();
    let possible = layers.iter().try_for_each(|items| model.apply(items));
    let tars: Vec<_> = layers.iter().map(|items| archive(items)).collect();
    match stack(&scratch.0, &tars) {
        Ok(stack) => {
            match possible {
                Ok(()) => {}
                // A later entry breaks the loop, and alone a layer does not see the one below.
                Err(Impossible::Loop) => return None,
                Err(Impossible::Dangling) => panic!("a dangling hard link was unpacked"),
            }
            let seen = merged(&scratch.0, &stack);
            assert_eq!(renumbered(&seen), renumbered(&model.nodes));
            Some(())
        }
        Err(LayerError::Dangling { .. }) => {
            // Behind a whiteout only a link of the layers below can bring something back.
            let all = || layers.iter().flatten();
            let brought_back = all().any(|item| matches!(item, Item::Link { .. }))
                && all().any(|item| item.path().is_empty());
            assert!(
                possible.is_err() || brought_back,
                "a hard link was called dangling that is not"
            );
            None
        }
        Err(LayerError::Conflict { .. }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn dir(path: &str, mode: u64) -> Item {
    Item::Directory {
        path: path.into(),
        mode,
        uid: 0,
    }
}

fn file(path: &str) -> Item {
    Item::File {
        path: path.into(),
        content: path.into(),
    }
}

fn link(path: &str, target: &str) -> Item {
    Item::Link {
        path: path.into(),
        target: target.into(),
    }
}

fn hard(path: &str, target: &str) -> Item {
    Item::Hard {
        path: path.into(),
        target: target.into(),
    }
}

fn gone(parent: &str, name: &str) -> Item {
    Item::Whiteout {
        parent: parent.into(),
        name: name.into(),
    }
}

fn opaque(parent: &str) -> Item {
    Item::Opaque {
        parent: parent.into(),
    }
}

#[test]
fn a_hard_link_to_a_lower_file_shares_its_inode() {
    check(&[vec![file("a/x")], vec![hard("b/y", "a/x")]]).unwrap();
    check(&[vec![file("a/x")], vec![hard("y", "a/x"), hard("z", "y")]]).unwrap();
    check(&[vec![file("u/x"), link("a", "u")], vec![hard("y", "a/x")]]).unwrap();
    check(&[vec![link("x", "q")], vec![hard("y", "x")]]).unwrap();
    assert!(check(&[vec![file("x")], vec![hard("y", "nothing")]]).is_none());
    assert!(check(&[vec![file("x")], vec![gone("", "x"), hard("y", "x")]]).is_none());
}

#[test]
fn an_implied_directory_keeps_the_lower_ones_owner_and_mode() {
    check(&[
        vec![dir("tmp", 0o1777), dir("tmp/in", 0o700)],
        vec![file("tmp/in/x")],
    ])
    .unwrap();
    let owned = Item::Directory {
        path: "d".into(),
        mode: 0o750,
        uid: 7,
    };
    check(&[vec![owned], vec![file("d/x")], vec![file("d/y")]]).unwrap();
    check(&[vec![dir("d", 0o700), file("d/x")], vec![opaque("d")]]).unwrap();
}

#[test]
fn an_implied_directory_that_is_a_link_below_hides_nothing() {
    let usr = || {
        vec![
            dir("usr", 0o755),
            dir("usr/lib", 0o700),
            file("usr/lib/libc"),
            link("lib", "usr/lib"),
        ]
    };
    check(&[usr(), vec![file("lib/x")]]).unwrap();
    check(&[
        usr(),
        vec![file("lib/deep/x")],
        vec![file("usr/lib/deep/y")],
    ])
    .unwrap();
    check(&[usr(), vec![gone("lib", "libc")]]).unwrap();
    check(&[usr(), vec![opaque("lib")]]).unwrap();
    check(&[vec![link("a", "/b"), link("b", "c")], vec![file("a/x")]]).unwrap();
    check(&[usr(), vec![dir("lib", 0o755), file("lib/x")]]).unwrap();
}

#[test]
fn a_layer_that_changes_a_lower_link_and_writes_through_it_too_is_refused() {
    let refused = |lower: Vec<Item>, upper: Vec<Item>| assert!(check(&[lower, upper]).is_none());
    // Entries went through the link before the archive says that it is a directory.
    refused(
        vec![link("c", "/a")],
        vec![link("a/c", "/c"), file("a/c/a"), dir("c", 0o755)],
    );
    // What the whiteout takes away is what the link leads through.
    refused(
        vec![link("b", "/a/b"), hard("b/a", "b")],
        vec![gone("a/b", "a"), link("b/a/b", "a")],
    );
    refused(
        vec![link("a", "/b/a"), dir("b/a", 0o700)],
        vec![link("a/a", "a"), opaque("b")],
    );
    // A hard link's target, and a directory in its place.
    refused(
        vec![file("c")],
        vec![link("b", "a"), hard("a", "c"), hard("c/a", "a")],
    );
    refused(
        vec![],
        vec![link("a", "c/c"), hard("a/b", "b"), hard("c/c/b", "a")],
    );
}

#[test]
fn a_whiteout_and_an_entry_of_one_name_leave_the_entry_alone() {
    check(&[
        vec![file("d/old")],
        vec![gone("", "d"), dir("d", 0o755), file("d/new")],
    ])
    .unwrap();
    check(&[
        vec![file("d/old")],
        vec![dir("d", 0o755), file("d/new"), gone("", "d")],
    ])
    .unwrap();
    check(&[
        vec![dir("d", 0o700), file("d/old")],
        vec![gone("", "d"), file("d/new")],
    ])
    .unwrap();
    check(&[
        vec![dir("d", 0o700), file("d/old")],
        vec![file("d/new"), gone("", "d")],
    ])
    .unwrap();
    check(&[vec![file("f")], vec![gone("", "f"), file("f")]]).unwrap();
    check(&[
        vec![dir("f", 0o755), file("f/x")],
        vec![file("f"), gone("", "f")],
    ])
    .unwrap();
}

#[test]
fn a_whiteout_of_nothing_does_not_show() {
    check(&[vec![dir("d", 0o755), gone("d", "x")]]).unwrap();
    check(&[vec![file("a")], vec![dir("d", 0o755), gone("d", "x")]]).unwrap();
    check(&[
        vec![file("d/a"), file("d/x")],
        vec![gone("d", "x"), opaque("d")],
    ])
    .unwrap();
    check(&[vec![gone("", "x")], vec![file("y")]]).unwrap();
}

#[test]
fn an_opaque_root_hides_all_below() {
    check(&[vec![file("a"), file("d/b")], vec![opaque(""), file("d/c")]]).unwrap();
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    proptest::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn item() -> impl Strategy<Value = Item> {
    let mode = prop_oneof![Just(0o755u64), Just(0o700), Just(0o1777)];
    let target = prop_oneof![path(), path().prop_map(|path| format!("/{path}"))];
    prop_oneof![
        3 => (path(), mode, 0u64..3).prop_map(|(path, mode, uid)| Item::Directory { path, mode, uid }),
        5 => (path(), "[xyz]").prop_map(|(path, content)| Item::File { path, content }),
        2 => (path(), target).prop_map(|(path, target)| Item::Link { path, target }),
        2 => (path(), path()).prop_map(|(path, target)| Item::Hard { path, target }),
        2 => path().prop_map(|path| {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
            gone(parent, name)
        }),
        1 => path().prop_map(|path| opaque(&path)),
    ]
}

/// Each path once, parents before children, hard links last: as tools write them.
fn layer() -> impl Strategy<Value = Vec<Item>> {
    proptest::collection::vec(item(), 1..7).prop_map(|items| {
        let mut seen = BTreeSet::new();
        let mut removals = 0;
        let mut items: Vec<_> = items
            .into_iter()
            // Two removals, one of which takes away the link that leads to the other, depend on
            // their order, which tools do not agree on.
            .filter(|item| {
                removals += usize::from(item.path().is_empty());
                !item.path().is_empty() || removals <= 1
            })
            .filter(|item| item.path().is_empty() || seen.insert(item.path().to_owned()))
            .collect();
        items.sort_by_key(|item| {
            let path = match item {
                Item::Whiteout { parent, .. } | Item::Opaque { parent } => join(parent, ".wh."),
                _ => item.path().to_owned(),
            };
            (matches!(item, Item::Hard { .. }), path)
        });
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn stacked_layers_look_as_if_applied_one_after_the_other(
        layers in proptest::collection::vec(layer(), 1..4),
    ) {
        check(&layers);
    }
}
