//! Pods as pinned namespaces: `/pods/ID` is a tmpfs that holds one file for each
//! namespace, the shared memory of the pod, and, once everything is there, a
//! file `ready`. Removing a pod is one unmount.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use berth_proto::shim::{CreatePod, Failure, PodList, PodNamespaces, response::Body};
use berth_sys::{
    clone::{self, Request, Side},
    credentials, message,
    mount::{self, FsContext, attr},
    namespace, process,
};
use nix::libc;

use super::pod_init;
use crate::{
    child::{self, Word},
    init::join,
    spawn,
    wire::{Answer, Slots, Step as _, invalid, system},
};

/// Where pods are pinned, in the launcher's own mount namespace.
const PODS: &str = "/pods";
/// Longest that making namespaces may take.
const LIMIT_MS: i32 = 10_000;

fn place(id: &str) -> Result<PathBuf, Failure> {
    let valid = !id.is_empty()
        && id.len() <= 128
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if valid {
        Ok(Path::new(PODS).join(id))
    } else {
        Err(invalid(format!("pod id {id:?}")))
    }
}

/// Creates the pod, or opens it if it is there already.
pub(super) fn create(pod: &CreatePod, mut slots: Slots) -> Result<Answer, Failure> {
    let dir = place(&pod.id)?;
    if dir.join("ready").exists() {
        return open_at(&dir, true);
    }
    // A leftover of a creation that did not come to its end.
    remove(&pod.id)?;
    let groups = pod
        .cgroup_slots
        .iter()
        .map(|&slot| slots.take(slot))
        .collect::<Result<Vec<_>, _>>()?;
    let made = make(pod, &dir, groups);
    if made.is_err() {
        // The first failure is what the caller must hear of.
        drop(remove(&pod.id));
    }
    made?;
    open_at(&dir, false)
}

fn make(pod: &CreatePod, dir: &Path, groups: Vec<OwnedFd>) -> Result<(), Failure> {
    let at = || format!("pinning pod {}", pod.id);
    fs::create_dir(dir).step("netns", at)?;
    mount_tmpfs(dir, "0700", None).step("netns", at)?;
    if pod.shm_bytes > 0 {
        let shm = dir.join("shm");
        fs::create_dir(&shm).step("netns", at)?;
        mount_tmpfs(&shm, "1777", Some(pod.shm_bytes)).step("netns", at)?;
    }
    let mut flags = 0;
    for (new, flag) in [
        (pod.new_net, libc::CLONE_NEWNET),
        (pod.new_ipc, libc::CLONE_NEWIPC),
        (pod.new_uts, libc::CLONE_NEWUTS),
        (pod.new_pid, libc::CLONE_NEWPID),
    ] {
        if new {
            flags |= flag as u64;
        }
    }
    if !pod.uid_mappings.is_empty() {
        flags |= libc::CLONE_NEWUSER as u64;
    }
    if flags != 0 {
        make_namespaces(pod, flags, dir, groups)?;
    }
    File::create(dir.join("ready")).step("netns", at)?;
    Ok(())
}

fn mount_tmpfs(dir: &Path, mode: &str, size: Option<u64>) -> io::Result<()> {
    let context = FsContext::open("tmpfs")?;
    context.string("mode", mode)?;
    if let Some(size) = size {
        context.string("source", "shm")?;
        context.string("size", &size.to_string())?;
    }
    let tree = context.mount(attr::NOSUID | attr::NODEV | attr::NOEXEC)?;
    mount::attach(&tree, File::open(dir)?)
}

fn make_namespaces(
    pod: &CreatePod,
    flags: u64,
    dir: &Path,
    groups: Vec<OwnedFd>,
) -> Result<(), Failure> {
    let (ours, theirs) = message::pair().step("netns", || "making the handshake".to_owned())?;
    process::assert_single_threaded().step("netns", || "counting threads".to_owned())?;
    let request = Request {
        flags,
        cgroup: None,
    };
    // SAFETY: the line above the request proved that there is one thread.
    #[allow(unsafe_code, reason = "namespaces are made by a clone")]
    let side = unsafe { clone::clone3(request) };
    match side.step("netns", || "cloning namespaces".to_owned())? {
        Side::Child => {
            drop(ours);
            match prepare(pod, groups, &theirs) {
                Ok(()) => live_on(pod, theirs),
                Err(failure) => child::give_up(&theirs, &failure),
            }
        }
        Side::Parent { pid, pidfd } => {
            drop((theirs, groups));
            let mapped = if pod.uid_mappings.is_empty() {
                Ok(())
            } else {
                spawn::write_maps(pid, &pod.uid_mappings, &pod.gid_mappings).and_then(|()| {
                    child::say_go(&ours).step("netns", || "waking the child".to_owned())
                })
            };
            let pinned = mapped.and_then(|()| {
                match child::listen(&ours, LIMIT_MS)
                    .step("netns", || "waiting for the namespaces".to_owned())?
                {
                    Word::Ready(..) => pin(pod, pid, dir)
                        .step("netns", || format!("pinning the namespaces of {}", pod.id)),
                    Word::Failed(failure) => Err(failure),
                    Word::End | Word::Listener(_) => Err(child::died("netns")),
                }
            });
            let pinned = pinned.and_then(|()| {
                if pod.new_pid {
                    let what = || "waiting for the pod's init to seclude itself".to_owned();
                    child::say_go(&ours).step("netns", what)?;
                    child::listen(&ours, LIMIT_MS).step("netns", what)?;
                    if process::try_wait_pidfd(&pidfd)
                        .step("netns", what)?
                        .is_some()
                    {
                        return Err(child::died("netns"));
                    }
                }
                Ok(())
            });
            drop(ours);
            if !pod.new_pid {
                process::wait_pidfd(&pidfd)
                    .step("netns", || "reaping the maker of namespaces".to_owned())?;
            } else if pinned.is_err() {
                drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
                drop(process::wait_pidfd(&pidfd));
            }
            pinned
        }
    }
}

/// In the new namespaces.
fn prepare(pod: &CreatePod, groups: Vec<OwnedFd>, parent: &OwnedFd) -> Result<(), Failure> {
    for file in groups {
        join::move_self(file).step("cgroup", || "entering the pod's groups".to_owned())?;
    }
    if !pod.uid_mappings.is_empty() {
        // The parent writes the maps.
        child::await_go(parent);
        credentials::set_ids(0, 0, &[])
            .step("netns", || "becoming root of the user namespace".to_owned())?;
    }
    if pod.new_uts {
        namespace::sethostname(pod.hostname.as_bytes())
            .step("netns", || format!("host name {:?}", pod.hostname))?;
    }
    if pod.new_net {
        namespace::loopback_up().step("netns", || "bringing loopback up".to_owned())?;
    }
    join::write_sysctls(&pod.sysctls)
}

/// The namespaces exist; the maker ends once they are pinned, or becomes the pod's init.
fn live_on(pod: &CreatePod, parent: OwnedFd) -> ! {
    if child::say_ready(&parent, &[], &[]).is_err() {
        process::exit_now(1);
    }
    child::await_go(&parent);
    if pod.new_pid {
        pod_init::run(parent)
    } else {
        process::exit_now(0)
    }
}

fn pin(pod: &CreatePod, pid: i32, dir: &Path) -> io::Result<()> {
    for (new, name) in [
        (pod.new_net, "net"),
        (pod.new_ipc, "ipc"),
        (pod.new_uts, "uts"),
        (pod.new_pid, "pid"),
        (!pod.uid_mappings.is_empty(), "user"),
    ] {
        if new {
            let target = File::create(dir.join(name))?;
            let namespace = File::open(format!("/proc/{pid}/ns/{name}"))?;
            let tree = mount::clone_tree(&namespace, c"", false)?;
            mount::attach(&tree, &target)?;
        }
    }
    if pod.new_pid {
        let ticks = process::start_ticks(pid)?;
        File::create(dir.join("init"))?.write_all(format!("{pid} {ticks}").as_bytes())?;
    }
    Ok(())
}

/// Opens the descriptors of a pod.
pub(super) fn open(id: &str) -> Result<Answer, Failure> {
    let dir = place(id)?;
    if !dir.join("ready").exists() {
        return Err(system(
            "netns",
            format!("pod {id} has no pinned namespaces"),
            &io::Error::from_raw_os_error(libc::ENOENT),
        ));
    }
    open_at(&dir, true)
}

fn open_at(dir: &Path, existed: bool) -> Result<Answer, Failure> {
    let mut fds = Vec::new();
    let mut add = |name: &str| -> Result<i32, Failure> {
        let file = match File::open(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(-1),
            other => other.step("netns", || format!("opening {name}"))?,
        };
        let fd = if name == "shm" {
            mount::clone_tree(&file, c"", false).step("netns", || "cloning shm".to_owned())?
        } else {
            file.into()
        };
        fds.push(fd);
        Ok(i32::try_from(fds.len() - 1).unwrap_or(-1))
    };
    let namespaces = PodNamespaces {
        net: add("net")?,
        ipc: add("ipc")?,
        uts: add("uts")?,
        pid: add("pid")?,
        shm: add("shm")?,
        user: add("user")?,
        init_pid: living_init(dir).unwrap_or(0),
        existed,
    };
    Ok(Answer {
        body: Body::Pod(namespaces),
        fds,
    })
}

/// The pod's init, if it has one and it is still the same process.
fn living_init(dir: &Path) -> Option<i32> {
    let text = fs::read_to_string(dir.join("init")).ok()?;
    let (pid, ticks) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    let same = process::start_ticks(pid).is_ok_and(|now| ticks.parse() == Ok(now));
    same.then_some(pid)
}

/// Unpins the pod and ends its init. What is not there is no error.
pub(super) fn remove(id: &str) -> Result<(), Failure> {
    let dir = place(id)?;
    let at = || format!("unpinning pod {id}");
    if let Some(pid) = living_init(&dir)
        && let Ok(pidfd) = process::pidfd_open(pid)
        // Once more, now that the number cannot be given to somebody else.
        && living_init(&dir) == Some(pid)
    {
        // ESRCH: it has just ended, which is what is wanted.
        drop(process::pidfd_send_signal(&pidfd, libc::SIGKILL));
    }
    let path = CString::new(dir.as_os_str().as_bytes())
        .map_err(|error| invalid(format!("pod id: {error}")))?;
    loop {
        match mount::unmount(&path, libc::MNT_DETACH) {
            // Again: a creation that was killed between two mounts may have left two.
            Ok(()) => {}
            // EINVAL: nothing is mounted. ENOENT: no such pod.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
                break;
            }
            Err(error) => return Err(system("teardown", at(), &error)),
        }
    }
    match fs::remove_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(system("teardown", at(), &error))
        }
        _ => Ok(()),
    }
}

/// Every pod, also the half-made.
pub(super) fn list() -> io::Result<Answer> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(PODS)? {
        ids.push(entry?.file_name().to_string_lossy().into_owned());
    }
    ids.sort();
    Ok(Body::Pods(PodList { ids }).into())
}
