//! The verbs about registries and archives, and the credentials they use,
//! against a runtime that says what each test needs.

#![allow(clippy::unwrap_used, reason = "a test")]

#[allow(dead_code, reason = "shared with the other verbs' tests")]
mod fake;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use berth_proto::{berth::v1 as berth, cri};
use fake::{Fake, Ran};
use serde_json::{Value, json};
use tonic::Status;

const IMAGE: &str = "sha256:ffff000000000000000000000000000000000000000000000000000000000000";
const NODE: &str = "berth.v1.Node";
const IMAGES: &str = "runtime.v1.ImageService";

type Auths = Arc<Mutex<Vec<Option<cri::AuthConfig>>>>;

/// A node that lets `good` log in, and keeps the credentials that pulls come with.
fn node() -> (Fake, Auths) {
    let fake = Fake::start();
    fake.on(
        &format!("{NODE}/CheckLogin"),
        |request: berth::CheckLoginRequest| {
            let auth = request.auth.unwrap_or_default();
            match auth.password.as_str() {
                "good" => Ok(berth::CheckLoginResponse {}),
                _ => Err(Status::unauthenticated(
                    "reg.example does not let user \"me\" in",
                )),
            }
        },
    );
    let seen = Auths::default();
    let kept = Arc::clone(&seen);
    fake.on(
        &format!("{NODE}/Pull"),
        move |request: berth::PullRequest| {
            kept.lock().unwrap().push(request.auth);
            Ok(berth::PullProgress {
                image_id: IMAGE.to_owned(),
                reference: request.reference,
                ..Default::default()
            })
        },
    );
    (fake, seen)
}

fn with_input(command: &mut Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

fn login(fake: &Fake, password: &str) -> Ran {
    let arguments = ["login", "-u", "me", "--password-stdin", "reg.example:5000"];
    with_input(fake.command(&arguments).env("HOME", fake.dir()), password)
}

/// The credentials that a pull of `image` comes with.
fn sent(fake: &Fake, seen: &Auths, image: &str) -> Option<cri::AuthConfig> {
    let ran = Ran::of(
        fake.command(&["pull", "-q", image])
            .env("HOME", fake.dir())
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    seen.lock().unwrap().pop().unwrap()
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn only_credentials_that_the_registry_accepts_are_kept() {
    let (fake, seen) = node();
    let file = fake.dir().join(".docker/config.json");
    write(
        &file,
        &json!({"auths": {"other.example": {"auth": "eDp5"}}, "psFormat": "table"}),
    );

    let ran = login(&fake, "bad\n");
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("cannot log in to reg.example:5000"),
        "{}",
        ran.err
    );
    assert!(!fs::read_to_string(&file).unwrap().contains("reg.example"));

    let ran = login(&fake, "good\n");
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "Login Succeeded\n"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("unencrypted"), "{}", ran.err);
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        kept,
        json!({
            "auths": {
                "other.example": {"auth": "eDp5"},
                "reg.example:5000": {"auth": "bWU6Z29vZA=="},
            },
            "psFormat": "table",
        })
    );
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // Nothing half-written is left beside it.
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);

    let auth = sent(&fake, &seen, "reg.example:5000/team/app:1").unwrap();
    assert_eq!(
        (auth.username.as_str(), auth.password.as_str()),
        ("me", "good")
    );
    // Another port is another registry, and nobody else is told either.
    for image in [
        "reg.example/app",
        "app",
        "reg.example:5001/app",
        "evil.example/reg.example:5000",
    ] {
        assert_eq!(sent(&fake, &seen, image), None, "{image}");
    }

    let logout = || {
        let mut command = fake.command(&["logout", "reg.example:5000"]);
        Ran::of(command.env("HOME", fake.dir()).output().unwrap()).ok()
    };
    assert!(logout().starts_with("Removed the credentials for reg.example:5000"));
    assert_eq!(sent(&fake, &seen, "reg.example:5000/team/app:1"), None);
    assert!(sent(&fake, &seen, "other.example/app").is_some());
    assert_eq!(logout(), "Not logged in to reg.example:5000\n");
}

#[test]
fn a_helper_gets_secrets_on_its_standard_input_alone() {
    let (fake, seen) = node();
    let dir = fake.dir();
    let program = dir.join("docker-credential-vault");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {0}/arguments\ncase $1 in\n\
         store) cat > {0}/kept;;\n\
         get) cat > {0}/asked; [ -f {0}/kept ] || {{ echo credentials not found in native keychain; exit 1; }}; cat {0}/kept;;\n\
         erase) rm {0}/kept;;\nesac\n",
        dir.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let file = dir.join(".docker/config.json");
    write(
        &file,
        &json!({"credHelpers": {"reg.example:5000": "vault"}, "credsStore": "missing"}),
    );
    let path = format!("{}:/usr/bin:/bin", dir.display());
    let run = |arguments: &[&str], input: &str| {
        with_input(
            fake.command(arguments).env("HOME", dir).env("PATH", &path),
            input,
        )
    };

    let ran = run(
        &["login", "-u", "me", "--password-stdin", "reg.example:5000"],
        "good",
    );
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.err);
    assert!(!fs::read_to_string(&file).unwrap().contains("auth\""));
    assert_eq!(run(&["pull", "-q", "reg.example:5000/a"], "").code, 0);
    let auth = seen.lock().unwrap().pop().unwrap().unwrap();
    assert_eq!(
        (auth.username.as_str(), auth.password.as_str()),
        ("me", "good")
    );
    assert_eq!(
        fs::read_to_string(dir.join("asked")).unwrap(),
        "reg.example:5000"
    );

    // A secret under this name is a token to be exchanged.
    fs::write(
        dir.join("kept"),
        r#"{"Username":"<token>","Secret":"t0ken"}"#,
    )
    .unwrap();
    assert_eq!(run(&["pull", "-q", "reg.example:5000/a"], "").code, 0);
    let auth = seen.lock().unwrap().pop().unwrap().unwrap();
    assert_eq!(
        (auth.identity_token.as_str(), auth.username.as_str()),
        ("t0ken", "")
    );

    assert!(
        run(&["logout", "reg.example:5000"], "")
            .ok()
            .starts_with("Removed")
    );
    assert!(!dir.join("kept").exists());
    assert!(
        !fs::read_to_string(dir.join("arguments"))
            .unwrap()
            .contains("good")
    );

    // The helper for all others is not there: told, and the pull goes on without.
    let ran = run(&["pull", "-q", "other.example/a"], "");
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("docker-credential-missing"), "{}", ran.err);
}

#[test]
fn the_longest_path_that_fits_decides_and_a_named_file_stands_alone() {
    let (fake, seen) = node();
    let auth = |user: &str| json!({"username": user, "password": "x"});
    let file = fake.dir().join("run/containers/auth.json");
    write(
        &file,
        &json!({"auths": {
            "reg.example": auth("all"), "reg.example/team": auth("team"),
            "reg.example/team/app": auth("app"), "https://index.docker.io/v1/": auth("hub"),
        }}),
    );
    write(
        &fake.dir().join(".docker/config.json"),
        &json!({"auths": {"reg.example": auth("home")}}),
    );
    let named = fake.dir().join("named.json");
    write(&named, &json!({"auths": {"reg.example": auth("named")}}));
    let user = |image: &str, environment: &[(&str, &Path)]| {
        let mut command = fake.command(&["pull", "-q", image]);
        command
            .env("HOME", fake.dir())
            .envs(environment.iter().copied());
        Ran::of(command.output().unwrap()).ok();
        seen.lock()
            .unwrap()
            .pop()
            .unwrap()
            .map(|auth| auth.username)
    };
    let run = fake.dir().join("run");
    let runtime = [("XDG_RUNTIME_DIR", run.as_path())];
    for (image, expect) in [
        ("reg.example/a:1", "all"),
        ("reg.example/team/b", "team"),
        ("reg.example/team/app:2", "app"),
        ("reg.example/teamwork/a", "all"),
        ("busybox", "hub"),
    ] {
        assert_eq!(user(image, &runtime).as_deref(), Some(expect), "{image}");
    }
    assert_eq!(user("reg.example/a", &[]).as_deref(), Some("home"));
    let only = [runtime[0], ("REGISTRY_AUTH_FILE", named.as_path())];
    assert_eq!(
        user("reg.example/team/app", &only).as_deref(),
        Some("named")
    );
    assert_eq!(user("busybox", &only), None);
}

#[test]
fn a_broken_credential_file_is_told_without_what_stands_in_it() {
    let (fake, seen) = node();
    let file = fake.dir().join(".docker/config.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "{\"auths\": {\"reg.example\": {\"auth\": s3cret}}}").unwrap();
    let ran = Ran::of(
        fake.command(&["pull", "-q", "reg.example/a"])
            .env("HOME", fake.dir())
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 0);
    assert!(
        ran.err.contains("line 1") && !ran.err.contains("s3cret"),
        "{}",
        ran.err
    );
    assert_eq!(seen.lock().unwrap().pop(), Some(None));
    // And login does not write over what it cannot read.
    let ran = login(&fake, "good");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(fs::read_to_string(&file).unwrap().contains("s3cret"));
}

#[test]
fn a_password_is_asked_for_without_being_shown() {
    let (fake, _) = node();
    let session = format!(
        "env -i BERTH_HOST={} HOME={} {} login reg.example",
        fake.socket().display(),
        fake.dir().display(),
        env!("CARGO_BIN_EXE_berthctl"),
    );
    let mut child = Command::new("script")
        .args(["-qec", &session, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut shown = String::new();
    // As a person: the answer after the question.
    for (question, answer) in [("Username: ", "me\n"), ("Password: ", "gooo\x7fd\n")] {
        read_until(&mut output, &mut shown, question);
        input.write_all(answer.as_bytes()).unwrap();
    }
    read_until(&mut output, &mut shown, "Login Succeeded");
    assert!(child.wait().unwrap().success());
    assert!(!shown.contains("goo"), "{shown}");
}

fn read_until(output: &mut impl std::io::Read, shown: &mut String, end: &str) {
    let mut byte = [0];
    while !shown.ends_with(end) {
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{shown}");
        shown.push(char::from(byte[0]));
    }
}

#[test]
fn without_a_terminal_login_says_how_instead_of_asking() {
    let (fake, _) = node();
    for arguments in [
        &["login"][..],
        &["login", "-u", "me"],
        &["login", "reg.example/team"],
    ] {
        let ran = fake.ctl(arguments);
        assert_eq!(ran.code, 2, "{arguments:?} {}", ran.err);
        assert!(ran.err.contains("try:"), "{}", ran.err);
    }
}

#[test]
fn a_push_tells_what_became_of_each_blob_and_ends_with_the_digest() {
    let fake = Fake::start();
    let blob = |digest: &str, state: berth::pushed_blob::State| berth::PushedBlob {
        digest: format!("sha256:{digest}"),
        state: state.into(),
        total: 2000,
        from: "team/base".to_owned(),
        ..Default::default()
    };
    fake.on_stream(
        &format!("{NODE}/Push"),
        move |requests: Vec<berth::PushRequest>| {
            use berth::pushed_blob::State;
            let step = |states: [State; 3]| berth::PushProgress {
                blobs: ["aa", "bb", "cc"]
                    .iter()
                    .zip(states)
                    .map(|(d, s)| blob(d, s))
                    .collect(),
                ..Default::default()
            };
            Ok(vec![
                step([State::Waiting, State::Checking, State::Waiting]),
                step([State::Sending, State::Exists, State::Mounted]),
                berth::PushProgress {
                    reference: requests[0].reference.clone(),
                    digest: "sha256:dd".to_owned(),
                    size: 528,
                    notes: vec!["left out".to_owned()],
                    ..step([State::Sent, State::Exists, State::Mounted])
                },
            ])
        },
    );
    let ran = fake.ctl(&["push", "reg.example/team/app:1"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "1: digest: sha256:dd size: 528\n")
    );
    assert_eq!(
        ran.err,
        "Pushing to repository reg.example/team/app\naa: sending 2.00kB\nbb: is there\n\
         cc: from team/base\naa: sent\nnote: left out\n"
    );
}

#[test]
fn a_push_that_cannot_be_says_what_to_do() {
    let fake = Fake::start();
    fake.on(&format!("{NODE}/Push"), |request: berth::PushRequest| {
        Err::<berth::PushProgress, _>(match request.reference.contains("known") {
            true => Status::unauthenticated("reg.example does not let anonymous users write"),
            false => Status::not_found("there is no image here"),
        })
    });
    fake.on(
        &format!("{IMAGES}/ListImages"),
        |_: cri::ListImagesRequest| {
            Ok(cri::ListImagesResponse {
                images: vec![cri::Image {
                    id: IMAGE.to_owned(),
                    repo_tags: vec!["docker.io/mjs/get-started:part1".to_owned()],
                    ..Default::default()
                }],
            })
        },
    );
    let ran = fake.ctl(&["push", "reg.example/known:1"]);
    assert!(
        ran.err.contains("try: berthctl login reg.example\n"),
        "{}",
        ran.err
    );
    let ran = fake.ctl(&["push", "mjs154/get-started:part1"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err
            .contains("berthctl tag docker.io/mjs/get-started:part1 mjs154/get-started:part1"),
        "{}",
        ran.err
    );
}

/// A node that exports `bytes` and announces `size`.
fn exporter(bytes: &'static [u8], size: u64) -> Fake {
    use berth::export_response::Part;
    let fake = Fake::start();
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
    fake.on_stream(
        &format!("{NODE}/Export"),
        move |_: Vec<berth::ExportRequest>| {
            let part = |part| berth::ExportResponse { part: Some(part) };
            let header = part(Part::Header(berth::ExportHeader { size }));
            let chunks = bytes
                .chunks(3)
                .map(|chunk| part(Part::Chunk(chunk.to_vec())));
            Ok(std::iter::once(header).chain(chunks).collect())
        },
    );
    fake
}

#[test]
fn an_archive_has_its_name_when_all_of_it_is_there() {
    let fake = exporter(b"an archive", 10);
    let path = fake.dir().join("image.tar");
    let name = path.to_str().unwrap();
    fake.ctl(&["save", "-o", name, "app"]).ok();
    assert_eq!(fs::read(&path).unwrap(), b"an archive");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // The other meaning of the letter still works elsewhere, and a pipe gets the bytes.
    assert_eq!(fake.ctl(&["save", "app"]).ok(), "an archive");
    assert_eq!(fake.ctl(&["inspect", "-o", "tar", "app"]).code, 2);

    let fake = exporter(b"an arch", 10);
    let path = fake.dir().join("torn.tar");
    let ran = fake.ctl(&["save", "-o", path.to_str().unwrap(), "app"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("before all of it was there"),
        "{}",
        ran.err
    );
    let left: Vec<_> = fs::read_dir(fake.dir())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["agent.sock"]);
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    let fake = exporter(b"\x1b[2J", 4);
    let session = format!(
        "env -i BERTH_HOST={} {} save app",
        fake.socket().display(),
        env!("CARGO_BIN_EXE_berthctl"),
    );
    let output = Command::new("script")
        .args(["-qec", &session, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("-o") && !shown.contains("\x1b[2J"),
        "{shown}"
    );
    assert!(fake.calls().is_empty());
}

#[test]
fn rmi_says_which_names_and_images_are_gone() {
    let fake = exporter(b"", 0);
    fake.on(&format!("{NODE}/Untag"), |request: berth::UntagRequest| {
        assert!(request.remove);
        match (request.image.as_str(), request.force) {
            ("a:1", _) => Ok(berth::UntagResponse {
                image_id: IMAGE.to_owned(),
                untagged: vec!["docker.io/library/a:1".to_owned()],
                removed: false,
            }),
            (IMAGE, true) => Ok(berth::UntagResponse {
                image_id: IMAGE.to_owned(),
                untagged: Vec::new(),
                removed: true,
            }),
            (IMAGE, false) => Err(Status::failed_precondition(
                "containers were made from it: 12",
            )),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(
        fake.ctl(&["rmi", "a:1"]).ok(),
        "Untagged: docker.io/library/a:1\n"
    );
    let ran = fake.ctl(&["rmi", "ffff00"]);
    assert!(ran.code == 1 && ran.err.contains("--force"), "{}", ran.err);
    assert_eq!(
        fake.ctl(&["rmi", "-f", "ffff00"]).ok(),
        format!("Deleted: {IMAGE}\n")
    );
}
