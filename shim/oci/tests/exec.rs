//! Processes in running containers, as root.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::{fs, process::Stdio};

use house::House;
use serde_json::json;

#[test]
fn an_exec_is_as_its_options_say_and_gives_its_code() {
    let house = House::new();
    house.start(&house.config("sleep 1000"));
    assert_eq!(
        house.oci_with(&["exec", "c", "cat"], "echoed").ok(),
        "echoed"
    );
    let script =
        "echo $A; pwd; id -u; id -g; id -G; hostname; grep CapBnd /proc/self/status; exit 9";
    let done = house.oci(&[
        "exec", "--env", "A=1", "--cwd", "/tmp", "--user", "7:8", "-g", "9", "--cap", "net_raw",
        "c", "sh", "-c", script,
    ]);
    assert_eq!(done.code, 9, "{done:?}");
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines[..6], ["1", "/tmp", "7", "8", "8 9", "box"]);
    // CHOWN, KILL, SETGID, SETUID and NET_RAW.
    assert_eq!(lines[6], "CapBnd:\t00000000000020e1");
    house
        .oci(&["exec", "c", "nope"])
        .refused(&["nope", "executable file not found in $PATH"]);
    let failed = house.oci(&["exec", "c", "/etc/passwd"]);
    assert_eq!(failed.code, 255);
    failed.refused(&["permission denied"]);
}

#[test]
fn an_exec_by_file_can_go_on_in_the_background() {
    let house = House::new();
    house.start(&house.config("sleep 1000"));
    let file = house.dir.path().join("process.json");
    let process = json!({
        "user": {"uid": 3, "gid": 4}, "cwd": "/",
        "args": ["/bin/sh", "-c", "echo $B > /tmp/b; exec sleep 1000"],
        "env": ["PATH=/bin", "B=text"],
        "capabilities": {},
    });
    fs::create_dir_all(house.rootfs().join("tmp")).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(
        house.rootfs().join("tmp"),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    fs::write(&file, process.to_string()).unwrap();
    let pid_file = house.dir.path().join("pid");
    let mut exec = house.command(&[
        "exec",
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--process",
        file.to_str().unwrap(),
        "c",
    ]);
    exec.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(exec.status().unwrap().success());
    let pid = fs::read_to_string(&pid_file).unwrap();
    let pids = house.oci(&["ps", "-f", "json", "c"]).ok();
    assert!(pids.contains(&pid), "{pid} in {pids}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t3\t3\t3\t3"), "{status}");
    house::eventually("the file", || {
        fs::read_to_string(house.rootfs().join("tmp/b")).is_ok_and(|text| text == "text\n")
    });
    let table = house.oci(&["ps", "c", "-ef"]).ok();
    assert!(
        table.starts_with("UID") && table.contains("sleep 1000"),
        "{table}"
    );
    house.oci(&["delete", "--force", "c"]).ok();
    house.assert_clean();
}

#[test]
fn the_containers_filter_holds_for_execs() {
    let house = House::new();
    let mut config = house.config("sleep 1000");
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    });
    house.start(&config);
    house
        .oci(&["exec", "c", "mkdir", "/tmp/x"])
        .refused(&["Function not implemented"]);
}

#[test]
fn a_socket_receives_the_terminal_of_a_container_and_of_an_exec() {
    let house = House::new();
    let mut config = house.config("stty size; tty; read line; echo got $line; sleep 1000");
    config["process"]["terminal"] = true.into();
    config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    let bundle = house.bundle(&config);
    let bundle = bundle.to_str().unwrap();
    house
        .oci(&["create", "--bundle", bundle, "c"])
        .refused(&["--console-socket"]);
    house.assert_clean();

    let socket = house.dir.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    house
        .oci(&[
            "create",
            "--console-socket",
            socket,
            "--bundle",
            bundle,
            "c",
        ])
        .ok();
    let mut master = receive(&listener);
    house.oci(&["start", "c"]).ok();
    expect(&mut master, "33 77\r\n/dev/pts/0\r\n");
    use std::io::Write as _;
    master.write_all(b"word\n").unwrap();
    expect(&mut master, "got word\r\n");

    let exec = [
        "exec",
        "--detach",
        "--tty",
        "--console-socket",
        socket,
        "c",
        "sh",
        "-c",
    ];
    house.oci(&[&exec[..], &["tty; sleep 1000"]].concat()).ok();
    expect(&mut receive(&listener), "/dev/pts/1\r\n");
    house
        .oci(&["exec", "-d", "-t", "c", "true"])
        .refused(&["--console-socket"]);
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

fn receive(listener: &std::os::unix::net::UnixListener) -> fs::File {
    let (stream, _) = listener.accept().unwrap();
    let datagram = berth_sys::message::receive(&stream).unwrap().unwrap();
    datagram.fds.into_iter().next().unwrap().into()
}

/// Reads from a terminal until it has said `text`.
#[track_caller]
fn expect(master: &mut fs::File, text: &str) {
    use std::io::Read as _;
    let mut said = String::new();
    while !said.contains(text) {
        assert!(
            berth_sys::process::wait_readable(&*master, 10_000).unwrap(),
            "{text:?} in {said:?}"
        );
        let mut buffer = [0; 1024];
        let count = master.read(&mut buffer).unwrap();
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}
