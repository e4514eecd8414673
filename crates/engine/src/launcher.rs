//! The client of the launcher.

use std::{
    fmt,
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use berth_proto::shim::{
    CreatePod, EnterGroup, IdMapping, Launch, ListPods, OpenPod, PodNamespaces, RemovePod, Sysctl,
    request::Verb, response::Body,
};
use berth_sys::message;
use tokio::{process::Child, sync::Mutex};

use crate::{Connection, Error, Program, ShimProcess};

/// The launcher makes system calls only, each of which takes milliseconds; beyond
/// this it hangs in the kernel.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts shims and keeps pods' namespaces. Restarted when it has died.
pub struct Launcher {
    group: Box<dyn Fn() -> Vec<OwnedFd> + Send + Sync>,
    program: Program,
    run_dir: PathBuf,
    running: Mutex<Option<Running>>,
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher")
            .field("program", &self.program)
            .field("run_dir", &self.run_dir)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Running {
    connection: Arc<Connection>,
    /// Kept so that it is reaped; it ends when the connection does.
    _child: Child,
}

/// What a pod's namespaces should be.
#[derive(Clone, Debug, Default)]
pub struct PodRequest {
    /// The pod's id.
    pub id: String,
    /// A network namespace of its own.
    pub net: bool,
    /// An IPC namespace of its own.
    pub ipc: bool,
    /// A UTS namespace of its own.
    pub uts: bool,
    /// One PID namespace for all its containers, with an init.
    pub pid: bool,
    /// Host name in the UTS namespace.
    pub hostname: String,
    /// Kernel parameters of the namespaces: name with dots, value.
    pub sysctls: Vec<(String, String)>,
    /// Bytes of /dev/shm; 0 for none.
    pub shm_bytes: u64,
    /// Users and groups of a user namespace that owns the other namespaces; none for the
    /// host's. User and group 0 must be among them.
    pub users: Option<Users>,
}

/// Maps of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Of users.
    pub uids: Vec<IdMapping>,
    /// Of groups.
    pub gids: Vec<IdMapping>,
}

/// Descriptors of a pod; `None` where it uses the host's.
#[derive(Debug)]
pub struct PodDescriptors {
    /// Network namespace.
    pub net: Option<OwnedFd>,
    /// IPC namespace.
    pub ipc: Option<OwnedFd>,
    /// UTS namespace.
    pub uts: Option<OwnedFd>,
    /// PID namespace.
    pub pid: Option<OwnedFd>,
    /// User namespace.
    pub user: Option<OwnedFd>,
    /// A detached tree of its /dev/shm.
    pub shm: Option<OwnedFd>,
    /// Of the init of a shared PID namespace; 0 if there is none.
    pub init_pid: i32,
}

impl Launcher {
    /// Prepares a launcher; it starts with the first call.
    #[must_use]
    pub fn new(program: Program, run_dir: &Path) -> Self {
        Self {
            group: Box::new(Vec::new),
            program,
            run_dir: run_dir.to_owned(),
            running: Mutex::new(None),
        }
    }

    /// Has it and the shims enter a group of their own instead of the caller's, through
    /// the files (`tasks`, `cgroup.procs`) that `group` opens. It is asked at each start
    /// and may block for as long as making a group takes.
    #[must_use]
    pub fn in_group(self, group: impl Fn() -> Vec<OwnedFd> + Send + Sync + 'static) -> Self {
        Self {
            group: Box::new(group),
            ..self
        }
    }

    /// What shims start from.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut running = self.running.lock().await;
        if let Some(running) = &*running
            && !running.connection.is_closed()
        {
            return Ok(running.connection.clone());
        }
        let (ours, theirs) = message::pair().map_err(Error::system("making a socket pair"))?;
        let child = tokio::process::Command::new(self.program.path())
            .arg("launcher")
            .arg(&self.run_dir)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::system("starting the launcher"))?;
        let connection = Connection::open(ours, "the launcher".to_owned(), None).await?;
        self.enter_group(&connection).await?;
        let connection = Arc::new(connection);
        *running = Some(Running {
            connection: connection.clone(),
            _child: child,
        });
        Ok(connection)
    }

    /// What the launcher is in, the shims that it starts are born in.
    async fn enter_group(&self, connection: &Connection) -> Result<(), Error> {
        let files = (self.group)();
        if files.is_empty() {
            return Ok(());
        }
        let verb = Verb::EnterGroup(EnterGroup {
            cgroup_slots: slots(&files),
        });
        let raw: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        match connection.call("EnterGroup", verb, &raw, LIMIT).await? {
            (Body::Done(_), _) => Ok(()),
            _ => Err(unexpected("EnterGroup")),
        }
    }

    async fn call(
        &self,
        name: &'static str,
        verb: Verb,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Body, Vec<OwnedFd>), Error> {
        let raw: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let connection = self.connection().await?;
        match connection.call(name, verb.clone(), &raw, LIMIT).await {
            // It died, perhaps before it read this. Pods are idempotent by id; a shim
            // is not: two would accept from one socket.
            Err(Error::Closed { .. }) if !matches!(verb, Verb::Launch(_)) => {
                let connection = self.connection().await?;
                connection.call(name, verb, &raw, LIMIT).await
            }
            other => other,
        }
    }

    /// Creates the namespaces of a pod, or opens them if they are there. Its init moves
    /// itself through the files `groups` (`tasks`, `cgroup.procs`).
    ///
    /// # Errors
    /// [`Error::Remote`] with the step that failed; nothing is left then.
    pub async fn create_pod(
        &self,
        pod: &PodRequest,
        groups: &[OwnedFd],
    ) -> Result<PodDescriptors, Error> {
        let users = pod.users.clone().unwrap_or_default();
        let verb = Verb::CreatePod(CreatePod {
            id: pod.id.clone(),
            new_net: pod.net,
            new_ipc: pod.ipc,
            new_uts: pod.uts,
            new_pid: pod.pid,
            hostname: pod.hostname.clone(),
            sysctls: pod
                .sysctls
                .iter()
                .map(|(name, value)| Sysctl {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
            shm_bytes: pod.shm_bytes,
            cgroup_slots: slots(groups),
            uid_mappings: users.uids,
            gid_mappings: users.gids,
        });
        let fds: Vec<_> = groups.iter().map(AsFd::as_fd).collect();
        match self.call("CreatePod", verb, &fds).await? {
            (Body::Pod(pod), fds) => Ok(descriptors(&pod, fds)),
            _ => Err(unexpected("CreatePod")),
        }
    }

    /// Opens the namespaces of a pod.
    ///
    /// # Errors
    /// [`Error::Remote`] with ENOENT if it has none.
    pub async fn open_pod(&self, id: &str) -> Result<PodDescriptors, Error> {
        let verb = Verb::OpenPod(OpenPod { id: id.to_owned() });
        match self.call("OpenPod", verb, &[]).await? {
            (Body::Pod(pod), fds) => Ok(descriptors(&pod, fds)),
            _ => Err(unexpected("OpenPod")),
        }
    }

    /// Unpins the namespaces of a pod. Idempotent.
    ///
    /// # Errors
    /// [`Error::Remote`] if the kernel refuses.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Error> {
        let verb = Verb::RemovePod(RemovePod { id: id.to_owned() });
        self.call("RemovePod", verb, &[]).await.map(drop)
    }

    /// Ids of every pod that is pinned.
    ///
    /// # Errors
    /// [`Error::Remote`] if they cannot be read.
    pub async fn list_pods(&self) -> Result<Vec<String>, Error> {
        match self
            .call("ListPods", Verb::ListPods(ListPods {}), &[])
            .await?
        {
            (Body::Pods(pods), _) => Ok(pods.ids),
            _ => Err(unexpected("ListPods")),
        }
    }

    /// Starts the shim of container `id`, which keeps its socket and record in `shim_dir`.
    ///
    /// # Errors
    /// [`Error::System`] if the directory cannot be made, [`Error::Remote`] if it does not start.
    pub async fn launch(&self, id: &str, shim_dir: &Path) -> Result<ShimProcess, Error> {
        let dir = make_directory(shim_dir)?;
        let listener = listen_in(&dir, shim_dir)?;
        let verb = Verb::Launch(Launch { id: id.to_owned() });
        match self
            .call("Launch", verb, &[listener.as_fd(), dir.as_fd()])
            .await?
        {
            (Body::Launched(launched), fds) => {
                let pidfd = fds.into_iter().next().ok_or_else(|| unexpected("Launch"))?;
                Ok(ShimProcess {
                    pid: launched.pid,
                    pidfd,
                })
            }
            _ => Err(unexpected("Launch")),
        }
    }

    /// Unpins Berth's own mount namespaces, when no pod and no shim is left, and
    /// ends the launcher.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses.
    pub async fn shut_down(&self) -> Result<(), Error> {
        if let Some(mut running) = self.running.lock().await.take() {
            drop(running.connection);
            // It ends with its connection; a hanging one is left to the next start.
            tokio::time::timeout(LIMIT, running._child.wait())
                .await
                .ok();
        }
        let pins = self.run_dir.join("ns");
        for path in [pins.join("slim"), pins.join("pods"), pins.clone()] {
            let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
                .map_err(std::io::Error::from)
                .map_err(Error::system("a path with a zero byte"))?;
            match berth_sys::mount::unmount(&path, nix::libc::MNT_DETACH) {
                Err(error)
                    if !matches!(
                        error.raw_os_error(),
                        Some(nix::libc::EINVAL | nix::libc::ENOENT)
                    ) =>
                {
                    return Err(Error::system(format!("unmounting {path:?}"))(error));
                }
                _ => {}
            }
        }
        match std::fs::remove_dir(&pins) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::system(format!("removing {}", pins.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// All of them, in their order.
fn slots(files: &[OwnedFd]) -> Vec<u32> {
    (0..files.len() as u32).collect()
}

fn unexpected(verb: &'static str) -> Error {
    Error::Unexpected {
        verb,
        peer: "the launcher".to_owned(),
    }
}

/// A listening socket in the directory of a shim.
pub(crate) fn listen_in(dir: &File, shim_dir: &Path) -> Result<OwnedFd, Error> {
    let socket = socket_path(dir);
    // Of a shim that never came to life, in a directory of this very container.
    std::fs::remove_file(&socket)
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .map_err(Error::system(format!("clearing {}", shim_dir.display())))?;
    message::listen_at(&socket).map_err(Error::system(format!(
        "listening in {}",
        shim_dir.display()
    )))
}

fn make_directory(path: &Path) -> Result<File, Error> {
    let what = format!("making {}", path.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::system(&what))?;
    open_directory(path)
}

pub(crate) fn open_directory(path: &Path) -> Result<File, Error> {
    File::options()
        .read(true)
        .custom_flags(nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::system(format!("opening {}", path.display())))
}

/// A socket address holds 107 bytes and no more, so the directory goes by number.
pub(crate) fn socket_path(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/sock", dir.as_raw_fd()))
}

fn descriptors(pod: &PodNamespaces, fds: Vec<OwnedFd>) -> PodDescriptors {
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let mut take = |slot: i32| {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| fds.get_mut(slot))
            .and_then(Option::take)
    };
    PodDescriptors {
        net: take(pod.net),
        ipc: take(pod.ipc),
        uts: take(pod.uts),
        pid: take(pod.pid),
        shm: take(pod.shm),
        user: take(pod.user),
        init_pid: pod.init_pid,
    }
}
