//! The program against a runtime that says what each test needs.

#![allow(clippy::unwrap_used, reason = "a test")]

mod fake;

use std::{
    fs,
    io::{BufRead as _, Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use berth_proto::{berth::v1 as berth, cri};
use fake::{Fake, Ran, berthctl};
use tonic::Status;

const POD: &str = "aaaa000000000000000000000000000000000000000000000000000000000000";
const WEB: &str = "1111000000000000000000000000000000000000000000000000000000000000";
const JOB: &str = "1122000000000000000000000000000000000000000000000000000000000000";
const IMAGE: &str = "sha256:ffff000000000000000000000000000000000000000000000000000000000000";

const RUNTIME: &str = "runtime.v1.RuntimeService";
const IMAGES: &str = "runtime.v1.ImageService";
const NODE: &str = "berth.v1.Node";

fn pod() -> cri::PodSandbox {
    cri::PodSandbox {
        id: POD.to_owned(),
        metadata: Some(cri::PodSandboxMetadata {
            name: "shop".to_owned(),
            uid: "u1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        state: cri::PodSandboxState::SandboxReady.into(),
        ..Default::default()
    }
}

fn container(id: &str, name: &str, state: cri::ContainerState) -> cri::Container {
    cri::Container {
        id: id.to_owned(),
        pod_sandbox_id: POD.to_owned(),
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(cri::ImageSpec {
            image: "alpine:3".to_owned(),
            ..Default::default()
        }),
        image_ref: IMAGE.to_owned(),
        state: state.into(),
        ..Default::default()
    }
}

/// One pod with a running and an exited container, told by plain CRI or by `berth.v1`.
fn node(own_calls: bool) -> Fake {
    let fake = Fake::start();
    let pods =
        |_: cri::ListPodSandboxRequest| Ok(cri::ListPodSandboxResponse { items: vec![pod()] });
    let containers = |_: cri::ListContainersRequest| {
        Ok(cri::ListContainersResponse {
            containers: vec![
                container(WEB, "web", cri::ContainerState::ContainerRunning),
                container(JOB, "job", cri::ContainerState::ContainerExited),
            ],
        })
    };
    if own_calls {
        fake.on(&format!("{NODE}/ListPods"), pods);
        fake.on(&format!("{NODE}/ListContainers"), containers);
    } else {
        fake.on(&format!("{RUNTIME}/ListPodSandbox"), pods);
        fake.on(&format!("{RUNTIME}/ListContainers"), containers);
    }
    let log = fake.dir().join("web.log").display().to_string();
    fake.on(
        &format!("{RUNTIME}/ContainerStatus"),
        move |request: cri::ContainerStatusRequest| {
            let exited = request.container_id == JOB;
            let state = if exited {
                cri::ContainerState::ContainerExited
            } else {
                cri::ContainerState::ContainerRunning
            };
            let info = request
                .verbose
                .then(|| ("info".to_owned(), "{\"pid\": 7}".to_owned()));
            Ok(cri::ContainerStatusResponse {
                status: Some(cri::ContainerStatus {
                    id: request.container_id,
                    state: state.into(),
                    exit_code: 3,
                    reason: "Error".to_owned(),
                    log_path: log.clone(),
                    ..Default::default()
                }),
                info: info.into_iter().collect(),
            })
        },
    );
    fake.on(
        &format!("{RUNTIME}/PodSandboxStatus"),
        |_: cri::PodSandboxStatusRequest| {
            Ok(cri::PodSandboxStatusResponse {
                status: Some(cri::PodSandboxStatus {
                    id: POD.to_owned(),
                    network: Some(cri::PodSandboxNetworkStatus {
                        ip: "10.88.0.2".to_owned(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            })
        },
    );
    fake
}

#[test]
fn lists_come_from_our_own_calls_and_from_plain_cri_where_they_are_missing() {
    for own_calls in [true, false] {
        let fake = node(own_calls);
        assert_eq!(
            fake.ctl(&["pods"]).ok(),
            "POD ID         CREATED   STATUS   NAME   NAMESPACE   ATTEMPT   IP          RUNTIME\n\
             aaaa00000000   -         Ready    shop   default     0         10.88.0.2   (default)\n"
        );
        let lines = fake.ctl(&["ps", "-a"]).ok();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[2].contains("Exited (3) -"), "{}", lines[2]);
        assert!(
            lines[2].ends_with("job    0         aaaa00000000   shop"),
            "{}",
            lines[2]
        );
        assert_eq!(fake.ctl(&["ps", "-q"]).ok(), format!("{WEB}\n"));
        assert_eq!(
            fake.ctl(&["ps", "-aq", "--filter", "name=job"]).ok(),
            format!("{JOB}\n")
        );
    }
}

#[test]
fn json_and_yaml_have_the_names_of_protobufs_json_form() {
    let fake = node(true);
    let json: serde_json::Value =
        serde_json::from_str(&fake.ctl(&["ps", "-o", "json"]).ok()).unwrap();
    assert_eq!(json["containers"][0]["podSandboxId"], POD);
    assert_eq!(json["containers"][0]["state"], "CONTAINER_RUNNING");
    assert_eq!(json["containers"][0]["createdAt"], "0");
    let yaml = fake.ctl(&["-o", "yaml", "pods"]).ok();
    assert!(yaml.contains("\n    state: SANDBOX_READY\n"), "{yaml}");
}

#[test]
fn nothing_from_a_container_steers_the_terminal() {
    let fake = Fake::start();
    fake.on(
        &format!("{NODE}/ListPods"),
        |_: cri::ListPodSandboxRequest| {
            let mut pod = pod();
            pod.metadata.as_mut().unwrap().name = "a\x1b]0;owned\x07\u{9b}2J\nb".to_owned();
            pod.state = cri::PodSandboxState::SandboxNotready.into();
            Ok(cri::ListPodSandboxResponse { items: vec![pod] })
        },
    );
    fake.on(
        &format!("{RUNTIME}/StopPodSandbox"),
        |_: cri::StopPodSandboxRequest| {
            Err::<cri::StopPodSandboxResponse, _>(Status::internal("bad\x1b[2Jname"))
        },
    );
    for arguments in [
        &["pods"][..],
        &["pods", "-o", "json"],
        &["pods", "-o", "yaml"],
    ] {
        let out = fake.ctl(arguments).ok();
        assert!(!out.chars().any(|c| c.is_control() && c != '\n'), "{out:?}");
    }
    let ran = fake.ctl(&["stopp", "aaaa"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.err, "error: cannot stop pod aaaa: bad\\x1b[2Jname\n");
}

#[test]
fn an_agent_that_is_not_there_is_told_with_its_socket_and_source() {
    let ran = Ran::of(berthctl(&["-H", "/no/such.sock", "ps"]).output().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with(
        "error: cannot reach the agent at unix:///no/such.sock (from --endpoint): there is no such socket"
    ), "{}", ran.err);
    assert!(
        ran.err.contains("systemctl start berth-agent"),
        "{}",
        ran.err
    );

    let ran = Ran::of(
        berthctl(&["version"])
            .env("BERTH_HOST", "")
            .env("CONTAINER_RUNTIME_ENDPOINT", "unix:///no/other.sock")
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 1);
    assert!(ran.out.starts_with("Client:\n"), "{}", ran.out);
    assert!(
        ran.err.contains("CONTAINER_RUNTIME_ENDPOINT"),
        "{}",
        ran.err
    );

    let fake = node(true);
    let socket = fake.socket();
    let dir = fake.kill();
    let ran = Ran::of(
        berthctl(&["-H", &socket.display().to_string(), "ps"])
            .output()
            .unwrap(),
    );
    assert!(ran.err.contains("nobody listens"), "{}", ran.err);
    drop(dir);
}

#[test]
fn the_endpoint_may_come_from_a_file() {
    let fake = node(true);
    let config = fake.dir().join("config/berth");
    fs::create_dir_all(&config).unwrap();
    fs::write(
        config.join("ctl.toml"),
        format!("endpoint = \"unix://{}\"\n", fake.socket().display()),
    )
    .unwrap();
    let run = || {
        Ran::of(
            berthctl(&["ps", "-q"])
                .env("XDG_CONFIG_HOME", fake.dir().join("config"))
                .output()
                .unwrap(),
        )
    };
    assert_eq!(run().ok(), format!("{WEB}\n"));
    fs::write(config.join("ctl.toml"), "endpont = 1\n").unwrap();
    let ran = run();
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("endpont"), "{}", ran.err);
}

#[test]
fn one_failure_does_not_stop_the_rest() {
    let fake = node(true);
    fake.on(
        &format!("{RUNTIME}/StopContainer"),
        |request: cri::StopContainerRequest| {
            assert_eq!(request.timeout, 3);
            if request.container_id == JOB {
                return Err(Status::internal("no"));
            }
            Ok(cri::StopContainerResponse {})
        },
    );
    let ran = fake.ctl(&["stop", "-t", "3", "nothing", "job", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "web\n"));
    assert!(
        ran.err.contains("no such container: nothing"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("cannot stop container job: no"),
        "{}",
        ran.err
    );
}

#[test]
fn what_runs_is_not_removed_without_force() {
    let fake = node(true);
    fake.on(
        &format!("{RUNTIME}/RemoveContainer"),
        |_: cri::RemoveContainerRequest| Ok(cri::RemoveContainerResponse {}),
    );
    let ran = fake.ctl(&["rm", "web"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("it runs"), "{}", ran.err);
    assert!(!fake.calls().contains(&"RemoveContainer".to_owned()));
    assert_eq!(fake.ctl(&["rm", "-f", "shop/web"]).ok(), "shop/web\n");
    assert_eq!(fake.ctl(&["rm", "--all"]).ok(), format!("{JOB}\n"));
    let ran = fake.ctl(&["rmp", "shop"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("rmp --force shop"), "{}", ran.err);
}

#[test]
fn exec_passes_output_and_code_on() {
    let fake = node(true);
    fake.on(
        &format!("{RUNTIME}/ExecSync"),
        |request: cri::ExecSyncRequest| {
            assert_eq!(request.cmd, ["ls", "-l", "--", "-x"]);
            Ok(cri::ExecSyncResponse {
                stdout: b"o\x1b\xff".to_vec(),
                stderr: b"e".to_vec(),
                exit_code: 42,
            })
        },
    );
    let output = fake
        .command(&["exec", "--timeout", "5s", "web", "ls", "-l", "--", "-x"])
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"o\x1b\xff");
    assert_eq!(output.stderr, b"e");
    assert_eq!(output.status.code(), Some(42));
    let ran = fake.ctl(&["exec", "-it", "web", "sh"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("not a terminal"), "{}", ran.err);
    let ran = fake.ctl(&["exec", "-i", "--timeout", "5s", "web", "sh"]);
    assert_eq!(ran.code, 2);
}

#[test]
fn an_ambiguous_name_lists_its_candidates() {
    let fake = node(true);
    let ran = fake.ctl(&["inspect", "11"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, "[]\n"));
    assert!(ran.err.contains("111100000000  web"), "{}", ran.err);
    assert!(ran.err.contains("112200000000  job"), "{}", ran.err);
    let ran = fake.ctl(&["logs", "wbe"]);
    assert!(ran.err.contains("did you mean web?"), "{}", ran.err);
}

#[test]
fn inspect_is_a_list_with_the_runtimes_details_as_json() {
    let fake = node(true);
    let json: serde_json::Value =
        serde_json::from_str(&fake.ctl(&["inspect", "web", "shop"]).ok()).unwrap();
    assert_eq!(json[0]["type"], "container");
    assert_eq!(json[0]["info"]["info"]["pid"], 7);
    assert_eq!(json[1]["type"], "pod");
    assert_eq!(json[1]["status"]["network"]["ip"], "10.88.0.2");
}

#[test]
fn logs_go_to_the_stream_that_they_were_written_to() {
    let fake = node(true);
    fs::write(
        fake.dir().join("web.log"),
        "2026-11-21T05:00:00Z stdout P one \n\
         2026-11-21T05:00:01Z stdout F line\n\
         2026-11-21T05:00:02Z stderr F oops\n\
         2026-11-21T05:00:03.5Z stdout F last\n",
    )
    .unwrap();
    let ran = fake.ctl(&["logs", "web"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "one line\nlast\n", "oops\n")
    );
    let ran = fake.ctl(&["logs", "-t", "--tail", "1", "web"]);
    assert_eq!(ran.out, "2026-11-21T05:00:03.500000000Z last\n");
    let ran = fake.ctl(&["logs", "--since", "2026-11-21T05:00:02Z", "web"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("last\n", "oops\n"));
    let ran = fake.ctl(&["logs", "-p", "web"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("this is attempt 0"), "{}", ran.err);
}

#[test]
fn following_ends_when_the_container_has_exited() {
    let fake = node(true);
    let path = fake.dir().join("web.log");
    fs::write(&path, "2026-11-21T05:00:00Z stdout F one\n").unwrap();
    let late = path.clone();
    fake.on(&format!("{NODE}/Wait"), move |_: berth::WaitRequest| {
        std::thread::sleep(Duration::from_millis(200));
        let mut log = fs::File::options().append(true).open(&late).unwrap();
        log.write_all(b"2026-11-21T05:00:01Z stdout F two\n")
            .unwrap();
        Ok(berth::WaitResponse {
            exit_code: 9,
            ..Default::default()
        })
    });
    assert_eq!(fake.ctl(&["logs", "-f", "web"]).ok(), "one\ntwo\n");
}

#[test]
fn following_survives_an_agent_that_is_killed_and_replaced() {
    let fake = node(true);
    fake.hang(&format!("{NODE}/Wait"));
    let path = fake.dir().join("web.log");
    fs::write(&path, "2026-11-21T05:00:00Z stdout F one\n").unwrap();
    let mut child = fake
        .command(&["logs", "-f", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert_eq!(first, "one\n");
    until(|| fake.calls().contains(&"Wait".to_owned()));

    let dir = fake.kill();
    let mut log = fs::File::options().append(true).open(&path).unwrap();
    log.write_all(b"2026-11-21T05:00:01Z stdout F two\n")
        .unwrap();
    let mut second = String::new();
    out.read_line(&mut second).unwrap();
    assert_eq!(second, "two\n");

    let fake = Fake::start_in(dir);
    fake.on(&format!("{NODE}/Wait"), |_: berth::WaitRequest| {
        Ok(berth::WaitResponse::default())
    });
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((rest.as_str(), output.status.code()), ("", Some(0)));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Waits for something that happens within milliseconds.
#[track_caller]
fn until(happened: impl Fn() -> bool) {
    for _ in 0..500 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not happen within five seconds");
}

/// A node with our own calls that runs what it is asked to; its exit code is 7.
fn runner() -> Fake {
    let fake = node(true);
    fake.on(
        &format!("{IMAGES}/ImageStatus"),
        |_: cri::ImageStatusRequest| {
            Ok(cri::ImageStatusResponse {
                image: Some(cri::Image {
                    id: IMAGE.to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            })
        },
    );
    let log = fake.dir().join("web.log");
    fake.on(&format!("{NODE}/Run"), move |request: berth::RunRequest| {
        let container = request.container.unwrap();
        let text = format!(
            "2026-11-21T05:00:00Z stdout F {}\n",
            container.args.join(" ")
        );
        fs::write(&log, text).unwrap();
        Ok(berth::RunResponse {
            pod_sandbox_id: POD.to_owned(),
            container_id: WEB.to_owned(),
        })
    });
    fake.on(&format!("{NODE}/Wait"), |_: berth::WaitRequest| {
        Ok(berth::WaitResponse {
            exit_code: 7,
            ..Default::default()
        })
    });
    fake
}

#[test]
fn run_shows_the_output_and_exits_with_the_containers_code() {
    let fake = runner();
    let ran = fake.ctl(&["run", "--rm", "alpine", "echo", "-n", "--rm"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (7, "echo -n --rm\n", "")
    );
    assert_eq!(fake.ctl(&["run", "-d", "alpine"]).ok(), format!("{WEB}\n"));
}

#[test]
fn the_first_signal_stops_and_the_second_kills() {
    let fake = runner();
    let graces = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = std::sync::Arc::clone(&graces);
    fake.on(
        &format!("{RUNTIME}/StopContainer"),
        move |request: cri::StopContainerRequest| {
            told.lock().unwrap().push(request.timeout);
            Ok(cri::StopContainerResponse {})
        },
    );
    let seen = std::sync::Arc::clone(&graces);
    // An agent that is away until the container was killed.
    fake.on(&format!("{NODE}/Wait"), move |_: berth::WaitRequest| {
        if seen.lock().unwrap().contains(&0) {
            Ok(berth::WaitResponse {
                exit_code: 137,
                ..Default::default()
            })
        } else {
            Err(Status::unavailable("restarting"))
        }
    });
    let child = fake
        .command(&["run", "alpine", "sleep"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| fake.calls().contains(&"Wait".to_owned()));
    let interrupt = || {
        let status = std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    };
    interrupt();
    until(|| *graces.lock().unwrap() == [10]);
    interrupt();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (137, "sleep\n"));
    assert_eq!(*graces.lock().unwrap(), [10, 0]);
    assert!(ran.err.contains("once more kills it"), "{}", ran.err);
}

#[test]
fn a_run_that_fails_has_the_codes_of_docker() {
    let fake = runner();
    let fails = |with: Status| {
        let with = std::sync::Mutex::new(Some(with));
        fake.on(&format!("{NODE}/Run"), move |_: berth::RunRequest| {
            Err::<berth::RunResponse, _>(with.lock().unwrap().take().unwrap())
        });
        fake.ctl(&["run", "alpine", "x"]).code
    };
    assert_eq!(fails(Status::internal("no cgroup")), 125);
    assert_eq!(
        fails(Status::invalid_argument(
            "exec x: no such file or directory"
        )),
        127
    );
    assert_eq!(
        fails(Status::invalid_argument("exec x: permission denied")),
        126
    );
    assert_eq!(fake.ctl(&["run", "-it", "alpine"]).code, 2);
    assert_eq!(fake.ctl(&["run", "--network", "none", "alpine"]).code, 2);
    let ran = fake.ctl(&["run", "--name", "shop", "alpine"]);
    assert_eq!(ran.code, 125);
    assert!(ran.err.contains(POD), "{}", ran.err);
    let ran = Ran::of(
        berthctl(&["-H", "/no/such.sock", "run", "alpine"])
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 125);
}

#[test]
fn a_pull_tells_each_layer_once_per_state() {
    let fake = Fake::start();
    fake.on_stream(&format!("{NODE}/Pull"), |_: Vec<berth::PullRequest>| {
        let step = |state: berth::blob_progress::State, fetched| berth::PullProgress {
            phase: "fetch".to_owned(),
            blobs: vec![berth::BlobProgress {
                digest: "sha256:abcdef0123456789".to_owned(),
                state: state.into(),
                fetched,
                total: 2000,
            }],
            ..Default::default()
        };
        use berth::blob_progress::State;
        Ok(vec![
            step(State::Waiting, 0),
            step(State::Fetching, 10),
            step(State::Fetching, 20),
            step(State::Done, 2000),
            berth::PullProgress {
                image_id: IMAGE.to_owned(),
                reference: "docker.io/library/alpine:latest".to_owned(),
                digest: "sha256:dd".to_owned(),
                ..Default::default()
            },
        ])
    });
    let ran = fake.ctl(&["pull", "alpine"]);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.err,
        "Pulling alpine\nabcdef012345: fetching 2.00kB\nabcdef012345: done\n"
    );
    assert_eq!(
        ran.out,
        format!("Digest: sha256:dd\nImage:  {IMAGE}\nName:   docker.io/library/alpine:latest\n")
    );
    assert_eq!(
        fake.ctl(&["pull", "-q", "alpine"]).ok(),
        format!("{IMAGE}\n")
    );
}

#[test]
fn a_pull_by_plain_cri_names_the_image() {
    let fake = Fake::start();
    fake.on(
        &format!("{IMAGES}/PullImage"),
        |request: cri::PullImageRequest| {
            assert_eq!(request.image.unwrap().image, "alpine");
            Ok(cri::PullImageResponse {
                image_ref: IMAGE.to_owned(),
            })
        },
    );
    assert_eq!(
        fake.ctl(&["pull", "-q", "alpine"]).ok(),
        format!("{IMAGE}\n")
    );
}

/// What was imported.
type Taken = std::sync::Arc<std::sync::Mutex<Vec<(berth::ImportHeader, Vec<u8>)>>>;

/// Takes imports and keeps what was sent.
fn importer() -> (Fake, Taken) {
    let fake = Fake::start();
    let taken = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = std::sync::Arc::clone(&taken);
    fake.on_stream(
        &format!("{NODE}/Import"),
        move |requests: Vec<berth::ImportRequest>| {
            let mut header = berth::ImportHeader::default();
            let mut bytes = Vec::new();
            for (number, request) in requests.into_iter().enumerate() {
                match request.part.unwrap() {
                    berth::import_request::Part::Header(found) => {
                        assert_eq!(number, 0);
                        header = found;
                    }
                    berth::import_request::Part::Chunk(chunk) => bytes.extend(chunk),
                }
            }
            kept.lock().unwrap().push((header, bytes));
            Ok(vec![berth::ImportResponse {
                images: vec![berth::ImportedImage {
                    image_id: IMAGE.to_owned(),
                    references: vec!["x:1".to_owned()],
                }],
            }])
        },
    );
    (fake, taken)
}

#[test]
fn a_directory_is_sent_as_a_tar_stream() {
    let (fake, taken) = importer();
    let root = fake.dir().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/sh"), vec![7; 700_000]).unwrap();
    fs::write(fake.dir().join("config.json"), "{\"config\": {}}").unwrap();
    let path = |name: &str| fake.dir().join(name).display().to_string();
    let out = fake
        .ctl(&[
            "import",
            "--config",
            &path("config.json"),
            &path("root"),
            "x:1",
        ])
        .ok();
    assert_eq!(out, format!("Image: {IMAGE}\nName:  x:1\n"));
    let (header, bytes) = taken.lock().unwrap().remove(0);
    assert_eq!(header.format(), berth::import_header::Format::Rootfs);
    assert_eq!(
        (header.reference.as_str(), header.config.len()),
        ("x:1", 14)
    );
    let mut archive = tar::Archive::new(bytes.as_slice());
    let sizes: Vec<u64> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().size())
        .collect();
    assert_eq!(sizes, [0, 700_000]);
}

#[test]
fn standard_input_is_sent_as_it_is() {
    let (fake, taken) = importer();
    let mut child = fake
        .command(&["import", "-q", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes: Vec<u8> = (0..600_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.ok(), format!("{IMAGE}\n"));
    let (header, sent) = taken.lock().unwrap().remove(0);
    assert_eq!(header.format(), berth::import_header::Format::Auto);
    assert_eq!(sent, bytes);
}

#[test]
fn an_import_that_cannot_be_read_to_its_end_is_never_taken_for_a_whole_one() {
    let (fake, taken) = importer();
    // It opens, and the first page cannot be read.
    let ran = fake.ctl(&["import", "/proc/self/mem"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("cannot import /proc/self/mem"),
        "{}",
        ran.err
    );
    assert!(taken.lock().unwrap().is_empty());
    assert_eq!(fake.ctl(&["import", "/no/such/file"]).code, 1);
}

#[test]
fn configuration_files_are_read_as_json_and_yaml() {
    let fake = node(true);
    fake.on(
        &format!("{RUNTIME}/RunPodSandbox"),
        |request: cri::RunPodSandboxRequest| {
            let config = request.config.unwrap();
            assert_eq!(config.metadata.unwrap().name, "web");
            assert_eq!(config.log_directory, "/var/log/x");
            Ok(cri::RunPodSandboxResponse {
                pod_sandbox_id: POD.to_owned(),
            })
        },
    );
    fake.on(
        &format!("{RUNTIME}/CreateContainer"),
        |request: cri::CreateContainerRequest| {
            assert_eq!(request.pod_sandbox_id, POD);
            let config = request.config.unwrap();
            assert_eq!(config.envs[0].value, b"B");
            assert_eq!(config.linux.unwrap().resources.unwrap().cpu_quota, 5000);
            Ok(cri::CreateContainerResponse {
                container_id: WEB.to_owned(),
            })
        },
    );
    let write = |name: &str, text: &str| {
        let path = fake.dir().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let json = write(
        "pod.json",
        r#"{"metadata": {"name": "web"}, "logDirectory": "/var/log/x"}"#,
    );
    let yaml = write(
        "pod.yaml",
        "metadata:\n  name: web\nlog_directory: /var/log/x\n",
    );
    for pod in [&json, &yaml] {
        assert_eq!(fake.ctl(&["runp", pod]).ok(), format!("{POD}\n"));
    }
    let container = write(
        "container.yaml",
        "metadata: {name: web}\nenvs: [{key: A, value: B}]\nlinux: {resources: {cpu_quota: 5000}}\n",
    );
    assert_eq!(
        fake.ctl(&["create", "shop", &container, &yaml]).ok(),
        format!("{WEB}\n")
    );

    let wrong = write("wrong.yaml", "metadata:\n  nmae: web\n");
    let ran = fake.ctl(&["runp", &wrong]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.err
            .contains("metadata.nmae: there is no such field; did you mean name?"),
        "{}",
        ran.err
    );
}

#[test]
fn removing_one_of_several_names_is_refused() {
    let fake = Fake::start();
    fake.on(
        &format!("{IMAGES}/ImageStatus"),
        |_: cri::ImageStatusRequest| {
            Ok(cri::ImageStatusResponse {
                image: Some(cri::Image {
                    id: IMAGE.to_owned(),
                    repo_tags: vec!["a:1".to_owned(), "b:1".to_owned()],
                    ..Default::default()
                }),
                ..Default::default()
            })
        },
    );
    fake.on(
        &format!("{IMAGES}/RemoveImage"),
        |_: cri::RemoveImageRequest| Ok(cri::RemoveImageResponse {}),
    );
    let ran = fake.ctl(&["rmi", "a:1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("a:1, b:1"), "{}", ran.err);
    assert_eq!(fake.ctl(&["rmi", "ffff0000"]).ok(), "ffff0000\n");
    assert_eq!(fake.ctl(&["rmi", "-f", "a:1"]).ok(), "a:1\n");
}

#[test]
fn stats_and_operations_are_tables() {
    let fake = node(true);
    let mut used = 0;
    fake.on(
        &format!("{RUNTIME}/ListContainerStats"),
        |_: cri::ListContainerStatsRequest| Ok(cri::ListContainerStatsResponse::default()),
    );
    // Not in the list, as a container that people made: asked for by its id.
    fake.on(
        &format!("{RUNTIME}/ContainerStats"),
        move |request: cri::ContainerStatsRequest| {
            used += 250_000_000;
            let value = |value| Some(cri::UInt64Value { value });
            Ok(cri::ContainerStatsResponse {
                stats: Some(cri::ContainerStats {
                    attributes: Some(cri::ContainerAttributes {
                        id: request.container_id,
                        metadata: Some(cri::ContainerMetadata {
                            name: "web".to_owned(),
                            attempt: 0,
                        }),
                        ..Default::default()
                    }),
                    cpu: Some(cri::CpuUsage {
                        timestamp: i64::try_from(used).unwrap() * 2,
                        usage_core_nano_seconds: value(used),
                        ..Default::default()
                    }),
                    memory: Some(cri::MemoryUsage {
                        working_set_bytes: value(3 << 20),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
            })
        },
    );
    assert_eq!(
        fake.ctl(&["stats"]).ok(),
        "CONTAINER ID   NAME   CPU %   MEMORY    LIMIT LEFT   SWAP   DISK   INODES\n\
         111100000000   web    50.00   3.00MiB   -            -      -      -\n"
    );
    fake.on(
        &format!("{NODE}/ListOperations"),
        |_: berth::ListOperationsRequest| {
            Ok(berth::ListOperationsResponse {
                operations: vec![berth::Operation {
                    verb: "PullImage".to_owned(),
                    object: "alpine".to_owned(),
                    phase: "fetch".to_owned(),
                    in_phase: 1_500_000_000,
                    waiters: 2,
                    ..Default::default()
                }],
            })
        },
    );
    let out = fake.ctl(&["ops"]).ok();
    assert!(out.contains("PullImage   alpine   fetch   1.5s"), "{out}");
}

#[test]
fn images_and_info_speak_cri_too() {
    let fake = Fake::start();
    fake.on(
        &format!("{IMAGES}/ListImages"),
        |_: cri::ListImagesRequest| {
            Ok(cri::ListImagesResponse {
                images: vec![cri::Image {
                    id: IMAGE.to_owned(),
                    repo_tags: vec!["docker.io/library/alpine:3".to_owned()],
                    size: 3_400_000,
                    ..Default::default()
                }],
            })
        },
    );
    fake.on(&format!("{RUNTIME}/Status"), |_: cri::StatusRequest| {
        Ok(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![cri::RuntimeCondition {
                    r#type: "NetworkReady".to_owned(),
                    status: false,
                    reason: "NoPlugin".to_owned(),
                    message: "none found".to_owned(),
                }],
            }),
            ..Default::default()
        })
    });
    assert_eq!(
        fake.ctl(&["images", "alpine"]).ok(),
        "REPOSITORY                 TAG   IMAGE ID       SIZE\n\
         docker.io/library/alpine   3     ffff00000000   3.40MB\n"
    );
    assert_eq!(
        fake.ctl(&["info"]).ok(),
        "NetworkReady:     false (NoPlugin: none found)\n"
    );
}

#[test]
fn a_limit_on_requests_is_kept() {
    let fake = node(true);
    fake.on(
        &format!("{NODE}/ListContainers"),
        |_: cri::ListContainersRequest| {
            std::thread::sleep(Duration::from_secs(2));
            Ok(cri::ListContainersResponse::default())
        },
    );
    let ran = fake.ctl(&["--timeout", "100ms", "ps"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("no answer in time"), "{}", ran.err);
}

#[test]
fn help_documents_exit_codes_and_a_reader_that_goes_away_is_no_panic() {
    let help = Ran::of(berthctl(&["--help"]).output().unwrap()).ok();
    assert!(
        help.contains("125") && help.contains("BERTH_HOST"),
        "{help}"
    );
    let fake = node(true);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = fake.command(&["ps", "-a"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert!(output.stderr.is_empty());
}

/// `berthctl` on a terminal of its own; everything that it shows there.
fn on_a_terminal(fake: &Fake, environment: &str, arguments: &str) -> String {
    let command = format!(
        "{environment} {} {arguments}",
        env!("CARGO_BIN_EXE_berthctl")
    );
    let output = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("TERM", "xterm")
        .env("HOME", "/nonexistent")
        .env("BERTH_HOST", fake.socket())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_terminal_has_a_bar_for_each_layer() {
    let fake = Fake::start();
    fake.on_stream(&format!("{NODE}/Pull"), |_: Vec<berth::PullRequest>| {
        let blob = |digest: &str, state: berth::blob_progress::State| berth::BlobProgress {
            digest: digest.to_owned(),
            state: state.into(),
            fetched: 2_000_000,
            total: 2_000_000,
        };
        use berth::blob_progress::State;
        Ok(vec![berth::PullProgress {
            blobs: vec![
                blob("sha256:aaaaaaaaaaaaaaaa", State::Done),
                blob("sha256:bbbbbbbbbbbbbbbb", State::Exists),
            ],
            image_id: IMAGE.to_owned(),
            ..Default::default()
        }])
    });
    let shown = on_a_terminal(&fake, "", "pull alpine");
    assert!(shown.contains("aaaaaaaaaaaa  done        ==="), "{shown}");
    assert!(shown.contains("bbbbbbbbbbbb  is here     ==="), "{shown}");
    assert!(shown.contains(IMAGE), "{shown}");
}

#[test]
fn errors_are_coloured_on_a_terminal_unless_that_is_not_wanted() {
    let fake = Fake::start();
    assert!(on_a_terminal(&fake, "", "ops").contains("\x1b[1;31merror:"));
    let plain = on_a_terminal(&fake, "NO_COLOR=1", "ops");
    assert!(
        plain.starts_with("error: ") && !plain.contains('\x1b'),
        "{plain:?}"
    );
}
