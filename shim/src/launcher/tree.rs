//! The two mount namespaces that are Berth's own.
//!
//! `slim` holds proc, sys and a staging directory: shims live there, and a
//! container's mount namespace is a copy of it, which is why it must stay small
//! (a clone of a table of 2,500 mounts takes 7 ms). proc and sys must be there
//! and fully visible, or the kernel would not let a user namespace mount them.
//! `pods` holds the pins of pods, which may be thousands.
//!
//! Both are pinned as files below `RUN_DIR/ns` in the host's table, so that
//! they live while no process is in them: two mounts, whatever the number of pods.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use berth_sys::{
    clone::{self, Request, Side},
    message,
    mount::{self, FsContext, attr},
    namespace, process,
    resolve::{self, Scope},
};
use nix::{
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::child::{self, Word};

/// Longest that building a tree of three mounts may take.
const LIMIT_MS: i32 = 10_000;

/// statfs(2) f_type of a namespace file.
const NSFS_MAGIC: i64 = 0x6e73_6673;

pub(super) struct Trees {
    pub(super) slim: OwnedFd,
    pub(super) pods: OwnedFd,
}

/// Opens the pinned namespaces, making those that are missing.
pub(super) fn open_or_make(run_dir: &Path) -> io::Result<Trees> {
    let pins = run_dir.join("ns");
    if !is_mount_point(run_dir, &pins)? {
        fs::create_dir_all(&pins)?;
        // Private: the kernel refuses to propagate a pin of a mount namespace.
        let context = FsContext::open("tmpfs")?;
        context.string("mode", "0700")?;
        context.string("source", "berth-ns")?;
        let tree = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
        mount::attach(&tree, File::open(&pins)?)?;
        mount::set_attributes(File::open(&pins)?, 0, 0, libc::MS_PRIVATE, false)?;
    }
    Ok(Trees {
        slim: open_or_make_one(&pins, "slim")?,
        pods: open_or_make_one(&pins, "pods")?,
    })
}

/// Whether `path` is on another file system than its parent.
fn is_mount_point(parent: &Path, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.dev() != fs::metadata(parent)?.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_or_make_one(pins: &Path, name: &str) -> io::Result<OwnedFd> {
    let pin = pins.join(name);
    if let Ok(file) = File::open(&pin)
        && nix::sys::statfs::fstatfs(&file)?.filesystem_type().0 == NSFS_MAGIC
    {
        return Ok(file.into());
    }
    let target = File::create(&pin)?;
    match make(pins, name, &target) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            make_on_any_processor(pins, name, &target)?;
        }
        made => made?,
    }
    Ok(File::open(&pin)?.into())
}

/// A mount namespace can only be pinned in one with a lower number, lest two pin
/// each other. Linux 6.18 hands the numbers out to each processor in batches, so that
/// a younger namespace may have the lower one: unless the agent is in the host's own
/// namespace, it depends on the processor. The one that ours was made on will do.
fn make_on_any_processor(pins: &Path, name: &str, target: &File) -> io::Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this)?;
    let mut result = Err(io::Error::from_raw_os_error(libc::ELOOP));
    for number in 0..CpuSet::count() {
        let mut one = CpuSet::new();
        one.set(number)?;
        // There is no such processor, or this process may not use it.
        if sched_setaffinity(this, &one).is_err() {
            continue;
        }
        result = make(pins, name, target);
        if result.as_ref().map_err(io::Error::raw_os_error) != Err(Some(libc::ELOOP)) {
            break;
        }
    }
    sched_setaffinity(this, &allowed)?;
    result
}

/// Makes the namespace and pins it at `target`.
fn make(pins: &Path, name: &str, target: &File) -> io::Result<()> {
    let (ours, theirs) = message::pair()?;
    process::assert_single_threaded()?;
    let request = Request {
        flags: libc::CLONE_NEWNS as u64,
        cgroup: None,
    };
    // SAFETY: the line above the request proved that there is one thread.
    #[allow(unsafe_code, reason = "a namespace is made by a clone")]
    let side = unsafe { clone::clone3(request) };
    match side? {
        Side::Child => {
            drop(ours);
            match build(pins) {
                Ok(()) => {
                    if child::say_ready(&theirs, &[], &[]).is_ok() {
                        // Held until the parent has pinned it.
                        child::await_go(&theirs);
                    }
                    process::exit_now(0)
                }
                Err(error) => child::give_up(
                    &theirs,
                    &crate::wire::system("shim", format!("building the {name} tree"), &error),
                ),
            }
        }
        Side::Parent { pid, pidfd } => {
            drop(theirs);
            let pinned = match child::listen(&ours, LIMIT_MS)? {
                Word::Ready(..) => pin_namespace(pid, target),
                Word::Failed(failure) => Err(io::Error::other(failure.detail)),
                Word::End | Word::Listener(_) => Err(io::Error::other("the builder died")),
            };
            // Not "go": a closed connection ends it as well.
            drop(ours);
            process::wait_pidfd(&pidfd)?;
            pinned
        }
    }
}

fn pin_namespace(pid: i32, target: &File) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let tree = mount::clone_tree(&namespace, c"", false)?;
    mount::attach(&tree, target)
}

/// In the new namespace: a small root with proc, sys and the staging directory.
fn build(pins: &Path) -> io::Result<()> {
    mount::set_propagation_path(c"/", libc::MS_PRIVATE | libc::MS_REC)?;
    let proc = mount::clone_tree(File::open("/proc")?, c"", false)?;
    let sys = mount::clone_tree(File::open("/sys")?, c"", false)?;
    let dev_null = mount::clone_tree(File::open("/dev/null")?, c"", false)?;
    let context = FsContext::open("tmpfs")?;
    context.string("mode", "0755")?;
    context.string("source", "berth-root")?;
    let root = context.mount(0)?;
    mount::attach(&root, File::open(pins)?)?;
    for (name, tree) in [
        ("proc", Some(&proc)),
        ("sys", Some(&sys)),
        ("mnt", None),
        ("pods", None),
    ] {
        let place = resolve::make_directories(&root, Path::new(name), 0o755, Scope::Beneath)?;
        if let Some(tree) = tree {
            mount::attach(tree, &place)?;
        }
    }
    let null = resolve::make_file(&root, Path::new("dev/null"), Scope::Beneath)?;
    mount::attach(&dev_null, &null)?;
    mount::pivot_into(&root)?;
    // The builder's own copy of the pins goes with the old root.
    namespace_is_private()
}

/// Moves this process into a slim namespace that is pinned nowhere and ends with it.
/// /proc, which is everywhere, serves as a mount point on the way; no descriptor from
/// before could, since it would lie in the namespace that was left.
pub(crate) fn own_slim_namespace() -> io::Result<()> {
    process::assert_single_threaded()?;
    namespace::unshare(libc::CLONE_NEWNS)?;
    build(Path::new("/proc"))
}

/// Moves this process into a copy of the node's mounts. What is unmounted on the node
/// goes here too, so that a container that waits keeps nothing busy.
pub(crate) fn own_whole_namespace() -> io::Result<()> {
    process::assert_single_threaded()?;
    namespace::unshare(libc::CLONE_NEWNS)?;
    mount::set_propagation_path(c"/", libc::MS_SLAVE | libc::MS_REC)
}

/// Nothing mounted here may reach the host, and nothing of the host's may come in.
fn namespace_is_private() -> io::Result<()> {
    mount::set_propagation_path(c"/", libc::MS_PRIVATE | libc::MS_REC)
}

/// Enters the slim namespace; the caller's root becomes its root.
pub(super) fn enter(slim: &OwnedFd) -> io::Result<()> {
    namespace::setns(slim, libc::CLONE_NEWNS)
}
