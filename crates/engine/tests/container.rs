//! A launcher, a shim and a container without an agent, as root.
//!
//! `BERTH_SHIM` names the shim's program; without it the one that `make build`
//! leaves below `target` is used.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use berth_engine::{
    Connection, Error, Event, ExecStreams, Launcher, PodRequest, Program, Shim, read_exit_record,
};
use berth_proto::shim::{
    CapabilitySets, DeviceNode, Failure, Hello, IoPlan, MountStep, NamespacePlan, NamespaceTarget,
    Plan, ProcessPlan, Request, Response, RootPlan, Start, failure::Kind, namespace_target::Mode,
    request::Verb, response::Body,
};
use berth_sys::{message, mount, process};
use nix::libc;
use prost::Message as _;
use tokio::sync::mpsc;

struct House {
    dir: tempfile::TempDir,
    launcher: Launcher,
}

fn shim_program() -> PathBuf {
    std::env::var_os("BERTH_SHIM").map_or_else(
        || {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
            target.join("x86_64-unknown-linux-gnu/shim/berth-shim")
        },
        PathBuf::from,
    )
}

impl House {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let program = shim_program();
        assert!(
            program.exists(),
            "{} is missing: run `make build`, or set BERTH_SHIM",
            program.display()
        );
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox"))
            .expect("busybox-static is needed: apt-get install busybox-static");
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        let launcher = Launcher::new(Program::load(&program).unwrap(), dir.path());
        Self { dir, launcher }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn shim_dir(&self) -> PathBuf {
        self.dir.path().join("shims/c1")
    }

    async fn start(&self, script: &str) -> (Shim, mpsc::UnboundedReceiver<Event>) {
        let (shim, events) = self.create(script).await;
        shim.start().await.unwrap();
        (shim, events)
    }

    async fn create(&self, script: &str) -> (Shim, mpsc::UnboundedReceiver<Event>) {
        self.create_plan(&plan(script)).await
    }

    async fn create_plan(&self, plan: &Plan) -> (Shim, mpsc::UnboundedReceiver<Event>) {
        self.launcher.launch("c1", &self.shim_dir()).await.unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let shim = Shim::connect(&self.shim_dir(), sender).await.unwrap();
        let tree = mount::clone_tree(fs::File::open(self.dir.path()).unwrap(), c"", false).unwrap();
        let log = fs::File::create(self.log()).unwrap();
        let fds: Vec<OwnedFd> = vec![tree, log.into()];
        shim.create(plan, &fds).await.unwrap();
        (shim, events)
    }

    /// The log without its times.
    fn lines(&self) -> Vec<String> {
        fs::read_to_string(self.log())
            .unwrap()
            .lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }
}

fn target(mode: Mode) -> Option<NamespaceTarget> {
    Some(NamespaceTarget {
        mode: mode.into(),
        slot: 0,
    })
}

fn process_plan(script: &str) -> ProcessPlan {
    let words = ["/bin/sh", "-c", script];
    ProcessPlan {
        args: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
        env: vec![b"PATH=/bin".to_vec()],
        cwd: b"/work/dir".to_vec(),
        uid: 1000,
        gid: 1001,
        groups: vec![1001, 7],
        capabilities: Some(CapabilitySets::default()),
        no_new_privileges: true,
        ..ProcessPlan::default()
    }
}

fn plan(script: &str) -> Plan {
    let created = |fstype: &str, destination: &str, options: &[&str]| MountStep {
        destination: destination.to_owned(),
        fstype: fstype.to_owned(),
        source: fstype.to_owned(),
        options: options.iter().map(|&o| o.to_owned()).collect(),
        attr_set: mount::attr::NOSUID,
        ..MountStep::default()
    };
    Plan {
        id: "c1".to_owned(),
        process: Some(process_plan(script)),
        namespaces: Some(NamespacePlan {
            pid: target(Mode::New),
            net: target(Mode::New),
            ipc: target(Mode::New),
            uts: target(Mode::New),
            cgroup: target(Mode::Host),
            hostname: "berth-test".to_owned(),
            ..NamespacePlan::default()
        }),
        root: Some(RootPlan {
            tree_slot: 1,
            layers: vec!["rootfs".to_owned()],
            readonly: true,
            ..RootPlan::default()
        }),
        mounts: vec![
            created("proc", "/proc", &[]),
            created("tmpfs", "/dev", &["mode=0755", "size=65536k"]),
            created(
                "devpts",
                "/dev/pts",
                &["newinstance", "ptmxmode=0666", "mode=0620"],
            ),
        ],
        devices: vec![DeviceNode {
            path: "/dev/null".to_owned(),
            mode: libc::S_IFCHR | 0o666,
            major: 1,
            minor: 3,
            uid: 0,
            gid: 0,
        }],
        masked_paths: vec!["/proc/kcore".to_owned(), "/proc/acpi".to_owned()],
        readonly_paths: vec!["/proc/sys".to_owned()],
        stop_signal: libc::SIGTERM,
        io: Some(IoPlan {
            log_slot: 2,
            max_line: 16_384,
            ..IoPlan::default()
        }),
        ..Plan::default()
    }
}

async fn exit_of(events: &mut mpsc::UnboundedReceiver<Event>) -> berth_proto::shim::Exited {
    loop {
        match tokio::time::timeout(Duration::from_secs(20), events.recv()).await {
            Ok(Some(Event::Exited(exited))) => return exited,
            Ok(Some(Event::Closed) | None) => panic!("the shim ended without telling the exit"),
            Ok(Some(_)) => {}
            Err(_elapsed) => panic!("no exit within 20 s"),
        }
    }
}

#[tokio::test]
async fn a_container_runs_as_planned_and_leaves_log_and_exit_record() {
    let house = House::new();
    let script = "echo out; echo err >&2; hostname; pwd; id; cat /proc/1/comm; \
                  cat /proc/kcore | wc -c; echo x > /proc/sys/kernel/domainname; \
                  echo y > /file; ls /proc/self/fd | wc -l; exit 7";
    let (_shim, mut events) = house.start(script).await;
    let exited = exit_of(&mut events).await;
    assert_eq!((exited.exit_code, exited.signal), (7, 0));
    let record = read_exit_record(&house.shim_dir()).unwrap().unwrap();
    assert_eq!(record, exited);
    let lines = house.lines();
    for expected in [
        "stdout F out",
        "stderr F err",
        "stdout F berth-test",
        "stdout F /work/dir",
        "stdout F uid=1000 gid=1001 groups=7,1001",
        "stdout F sh",
        "stdout F 0",
        // 0, 1, 2 and the directory that ls itself has open.
        "stdout F 4",
    ] {
        assert!(
            lines.contains(&expected.to_owned()),
            "{expected} in {lines:#?}"
        );
    }
    let refused = lines
        .iter()
        .filter(|line| line.contains("Read-only file system"));
    assert!(refused.count() >= 1, "{lines:#?}");
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn stop_ends_what_obeys_and_kills_what_does_not() {
    let house = House::new();
    let obeys = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let (shim, mut events) = house.start(obeys).await;
    wait_for_line(&house, "stdout F ready").await;
    shim.stop(Duration::from_secs(10), 0).await.unwrap();
    assert_eq!(exit_of(&mut events).await.exit_code, 3);

    fs::remove_file(house.log()).unwrap();
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let (shim, mut events) = house.start(deaf).await;
    wait_for_line(&house, "stdout F ready").await;
    shim.stop(Duration::from_secs(60), 0).await.unwrap();
    // A later, shorter grace holds.
    shim.stop(Duration::from_millis(200), 0).await.unwrap();
    let exited = exit_of(&mut events).await;
    assert_eq!((exited.exit_code, exited.signal), (137, 9));
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn an_exec_runs_in_the_container_and_its_end_is_told() {
    let house = House::new();
    let (shim, mut events) = house.start("sleep 60").await;
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let streams = ExecStreams {
        stdout: Some(writer.as_fd()),
        ..ExecStreams::default()
    };
    let script = "hostname; id -u; exit 5";
    shim.exec("e1", process_plan(script), streams)
        .await
        .unwrap();
    drop(writer);
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
    match event.unwrap().unwrap() {
        Event::ExecExited(exited) => {
            assert_eq!((exited.exec_id.as_str(), exited.exit_code), ("e1", 5));
        }
        other => panic!("{other:?}"),
    }
    let output = std::io::read_to_string(fs::File::from(reader)).unwrap();
    assert_eq!(output, "berth-test\n1000\n");

    let mut missing = process_plan("");
    missing.args = vec![b"no-such-program".to_vec()];
    let error = shim
        .exec("e2", missing, ExecStreams::default())
        .await
        .unwrap_err();
    assert!(error.is_execute(), "{error}");

    shim.stop(Duration::ZERO, 0).await.unwrap();
    assert_eq!(exit_of(&mut events).await.exit_code, 137);
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_precise_start_error() {
    let house = House::new();
    let mut missing = plan("");
    missing.process.as_mut().unwrap().args = vec![b"no-such-program".to_vec()];
    let (shim, mut events) = house.create_plan(&missing).await;
    let error = shim.start().await.unwrap_err();
    assert!(error.is_execute(), "{error}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let exited = exit_of(&mut events).await;
    assert_eq!(exited.started_at, 0);
    assert!(exited.start_failure.is_some());
    house.launcher.shut_down().await.unwrap();
}

/// Asks a peer for the protocol versions `oldest` to `newest` and returns its answer.
fn hello(socket: &OwnedFd, oldest: u32, newest: u32) -> Body {
    let request = Request {
        id: 7,
        trace: Vec::new(),
        verb: Some(Verb::Hello(Hello {
            oldest,
            newest,
            version: "9.9".to_owned(),
            events: false,
        })),
    };
    message::send(socket, &request.encode_to_vec(), &[]).unwrap();
    assert!(process::wait_readable(socket, 5_000).unwrap(), "no answer");
    let answer = message::receive(socket).unwrap().unwrap();
    let answer = Response::decode(answer.bytes.as_slice()).unwrap();
    assert_eq!(answer.id, 7);
    answer.body.unwrap()
}

#[tokio::test]
async fn a_shim_and_an_agent_of_other_versions_work_together_or_say_why_not() {
    let house = House::new();
    house
        .launcher
        .launch("c1", &house.shim_dir())
        .await
        .unwrap();
    let connect = || message::connect_to(&house.shim_dir().join("sock")).unwrap();
    // A newer agent that still speaks this protocol.
    match hello(&connect(), 1, 40) {
        Body::Hello(reply) => assert_eq!(reply.protocol, 1),
        other => panic!("{other:?}"),
    }
    // One that does not any more.
    match hello(&connect(), 39, 40) {
        Body::Failure(failure) => {
            assert_eq!(failure.kind(), Kind::Version);
            assert!(failure.detail.contains("39-40"), "{}", failure.detail);
            assert!(failure.detail.contains("9.9"), "{}", failure.detail);
        }
        other => panic!("{other:?}"),
    }
    // Nothing works before Hello.
    let silent = connect();
    let request = Request {
        id: 8,
        trace: Vec::new(),
        verb: Some(Verb::Start(Start::default())),
    };
    message::send(&silent, &request.encode_to_vec(), &[]).unwrap();
    assert!(process::wait_readable(&silent, 5_000).unwrap());
    let answer = message::receive(&silent).unwrap().unwrap();
    let answer = Response::decode(answer.bytes.as_slice()).unwrap();
    assert!(matches!(answer.body, Some(Body::Failure(_))), "{answer:?}");

    // An older shim, seen from the agent.
    let (ours, theirs) = message::pair().unwrap();
    let old = std::thread::spawn(move || {
        process::wait_readable(&theirs, 5_000).unwrap();
        let request = message::receive(&theirs).unwrap().unwrap();
        let request = Request::decode(request.bytes.as_slice()).unwrap();
        let refusal = Response {
            id: request.id,
            body: Some(Body::Failure(Failure {
                kind: Kind::Version.into(),
                detail: "speaks protocol 0-0".to_owned(),
                ..Failure::default()
            })),
        };
        message::send(&theirs, &refusal.encode_to_vec(), &[]).unwrap();
        theirs
    });
    let error = Connection::open(ours, "an old shim".to_owned(), None).await;
    assert!(matches!(error, Err(Error::Version(why)) if why.contains("0-0")));
    drop(old.join().unwrap());
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn a_link_of_the_image_cannot_put_a_volume_into_proc() {
    let house = House::new();
    std::os::unix::fs::symlink("/proc/sys", house.dir.path().join("rootfs/data")).unwrap();
    fs::create_dir(house.dir.path().join("volume")).unwrap();
    let mut plan = plan("");
    plan.mounts.push(MountStep {
        destination: "/data".to_owned(),
        bind: true,
        bind_slot: 3,
        ..MountStep::default()
    });
    house
        .launcher
        .launch("c1", &house.shim_dir())
        .await
        .unwrap();
    let (sender, _events) = mpsc::unbounded_channel();
    let shim = Shim::connect(&house.shim_dir(), sender).await.unwrap();
    let tree = |path: &Path| mount::clone_tree(fs::File::open(path).unwrap(), c"", false).unwrap();
    let log = fs::File::create(house.log()).unwrap();
    let volume = tree(&house.dir.path().join("volume"));
    let fds: Vec<OwnedFd> = vec![tree(house.dir.path()), log.into(), volume];
    let error = shim.create(&plan, &fds).await.unwrap_err().to_string();
    assert!(
        error.contains("/data") && error.contains("/proc"),
        "{error}"
    );
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn a_container_that_was_never_started_can_be_stopped() {
    let house = House::new();
    let (shim, mut events) = house.create("echo never").await;
    shim.stop(Duration::from_secs(30), 0).await.unwrap();
    let exited = exit_of(&mut events).await;
    assert_eq!((exited.exit_code, exited.started_at), (137, 0));
    assert!(house.lines().is_empty());
    house.launcher.shut_down().await.unwrap();
}

#[tokio::test]
async fn a_pod_keeps_its_namespaces_while_launchers_come_and_go() {
    let house = House::new();
    let request = PodRequest {
        id: "p1".to_owned(),
        net: true,
        ipc: true,
        uts: true,
        pid: true,
        hostname: "pod".to_owned(),
        sysctls: vec![("net.ipv4.ip_forward".to_owned(), "1".to_owned())],
        shm_bytes: 1 << 20,
        users: None,
    };
    let inode = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
    let first = house.launcher.create_pod(&request, &[]).await.unwrap();
    assert!(first.init_pid > 0 && first.shm.is_some());
    let status = fs::read_to_string(format!("/proc/{}/status", first.init_pid)).unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let again = house.launcher.create_pod(&request, &[]).await.unwrap();
    assert_eq!(
        inode(first.net.as_ref().unwrap()),
        inode(again.net.as_ref().unwrap())
    );

    let other = Launcher::new(Program::load(&shim_program()).unwrap(), house.dir.path());
    let seen = other.open_pod("p1").await.unwrap();
    assert_eq!(
        inode(first.net.as_ref().unwrap()),
        inode(seen.net.as_ref().unwrap())
    );
    assert_eq!(other.list_pods().await.unwrap(), ["p1"]);
    other.remove_pod("p1").await.unwrap();
    other.remove_pod("p1").await.unwrap();
    assert!(other.open_pod("p1").await.is_err());
    let bad = PodRequest {
        sysctls: vec![("net.ipv4.no_such".to_owned(), "1".to_owned())],
        ..request.clone()
    };
    let error = house
        .launcher
        .create_pod(&bad, &[])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("net.ipv4.no_such"), "{error}");
    assert!(other.list_pods().await.unwrap().is_empty());
    drop(other);
    house.launcher.shut_down().await.unwrap();
}

async fn wait_for_line(house: &House, line: &str) {
    for _ in 0..200 {
        if house.log().exists() && house.lines().contains(&line.to_owned()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no {line:?} in {:#?}", house.lines());
}
