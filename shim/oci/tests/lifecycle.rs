//! Containers from create to delete, as root.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::{
    fs,
    process::{Command, Stdio},
};

use house::{House, eventually};
use serde_json::json;

#[test]
fn a_container_that_runs_gives_its_output_and_code_and_leaves_nothing() {
    let house = House::new();
    let script = "echo out; echo err >&2; hostname; echo $$; ls /proc/self/fd | wc -l; exit 7";
    let done = house.run(&house.config(script));
    assert_eq!(done.code, 7, "{done:?}");
    // 0, 1, 2 and the directory that ls has open.
    assert_eq!(done.out, "out\nbox\n1\n4\n");
    assert_eq!(done.err, "err\n");
    house.assert_clean();
}

#[test]
fn the_states_of_a_life_are_told_and_wrong_verbs_refused() {
    let house = House::new();
    let bundle = house.bundle(&house.config("sleep 1000"));
    let bundle = bundle.to_str().unwrap();
    let pid_file = house.dir.path().join("pid");
    let create = [
        "create",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--bundle",
        bundle,
        "c",
    ];
    let mut command = house.command(&create);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let state = house.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c");
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["bundle"], bundle);
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        state["pid"].to_string()
    );
    house.oci(&create).refused(&["already exists"]);
    house.oci(&["exec", "c", "true"]).refused(&["not running"]);
    house
        .oci(&["pause", "nope"])
        .refused(&["nope", "does not exist"]);

    house.oci(&["start", "c"]).ok();
    assert_eq!(house.status(), "running");
    house.oci(&["start", "c"]).refused(&["already running"]);
    house.oci(&["delete", "c"]).refused(&["not stopped"]);
    assert_eq!(house.oci(&["list", "-q"]).ok(), "c\n");
    let listed = house.oci(&["list", "--format", "json"]).ok();
    assert!(listed.contains("\"running\""), "{listed}");

    house.oci(&["pause", "c"]).ok();
    assert_eq!(house.status(), "paused");
    house.oci(&["exec", "c", "true"]).refused(&["paused"]);
    house.oci(&["resume", "c"]).ok();
    house.oci(&["resume", "c"]).refused(&["not paused"]);

    // The option may come behind the id, the name without SIG.
    house.oci(&["kill", "c", "KILL"]).ok();
    house.wait_for_status("stopped");
    house.oci(&["kill", "c"]).refused(&["not running"]);
    house.oci(&["start", "c"]).refused(&["stopped"]);
    house.oci(&["delete", "c"]).ok();
    house.oci(&["state", "c"]).refused(&["does not exist"]);
    house.oci(&["delete", "c"]).refused(&["does not exist"]);
    house.oci(&["delete", "--force", "c"]).ok();
    house.assert_clean();
}

#[test]
fn a_created_container_can_be_killed_and_deleted_without_a_start() {
    let house = House::new();
    let bundle = house.bundle(&house.config("true"));
    let bundle = bundle.to_str().unwrap();
    for end in [&["kill", "c", "9"][..], &["delete", "c"][..]] {
        let mut create = house.command(&["create", "--bundle", bundle, "c"]);
        create.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(create.status().unwrap().success());
        house.oci(end).ok();
        if end[0] == "kill" {
            house.wait_for_status("stopped");
            house.oci(&["delete", "c"]).ok();
        }
        house.assert_clean();
    }
}

#[test]
fn the_init_belongs_to_whoever_asked_for_it() {
    let house = House::new();
    let bundle = house.bundle(&house.config("exit 5"));
    // What conmon does: it reaps the init itself and learns the code from that.
    berth_sys::process::become_subreaper().unwrap();
    let pid_file = house.dir.path().join("pid");
    let args = [
        "create",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--bundle",
        bundle.to_str().unwrap(),
        "c",
    ];
    let mut create = house.command(&args);
    create.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    let pid = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    house.oci(&["start", "c"]).ok();
    let pidfd = berth_sys::process::pidfd_open(pid).unwrap();
    let ending = berth_sys::process::wait_pidfd(&pidfd).unwrap();
    assert_eq!(ending.code(), 5);
    assert_eq!(house.status(), "stopped");
    house.oci(&["delete", "c"]).ok();
    house.assert_clean();
}

#[test]
fn limits_are_set_and_changed() {
    let house = House::new();
    let mut config = house.config("sleep 1000");
    config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    config["linux"]["resources"]["pids"] = json!({"limit": 50});
    house.start(&config);
    let stats = || -> serde_json::Value {
        serde_json::from_str(&house.oci(&["events", "--stats", "c"]).ok()).unwrap()
    };
    assert_eq!(stats()["data"]["memory"]["usage"]["limit"], 64 << 20);
    house
        .oci(&["update", "--memory", "128m", "--pids-limit", "60", "c"])
        .ok();
    assert_eq!(stats()["data"]["memory"]["usage"]["limit"], 128 << 20);
    assert_eq!(stats()["data"]["pids"]["limit"], 60);
    let json = r#"{"memory": {"limit": 268435456, "swap": 0}, "cpu": {"shares": 0}}"#;
    house.oci_with(&["update", "-r", "-", "c"], json).ok();
    assert_eq!(stats()["data"]["memory"]["usage"]["limit"], 256 << 20);
    house.oci(&["update", "c"]).refused(&["nothing to update"]);
    house
        .oci(&["update", "--cpu-share", "1", "c"])
        .refused(&["cpu_shares", "262144"]);
}

#[test]
fn preserved_descriptors_arrive_under_their_numbers_and_no_others_do() {
    let house = House::new();
    let script = "cat <&3; cat <&4; ls /proc/self/fd | tr '\\n' ' '";
    let bundle = house.bundle(&house.config(script));
    for name in ["three", "four", "five"] {
        fs::write(house.dir.path().join(name), format!("{name}\n")).unwrap();
    }
    let run = house.command(&[
        "run",
        "--preserve-fds",
        "2",
        "--bundle",
        bundle.to_str().unwrap(),
        "c",
    ]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$@\" 3<three 4<four 5<five", "sh"])
        .arg(run.get_program())
        .args(run.get_args())
        .env("BERTH_SHIM", house::shim_program())
        .current_dir(house.dir.path());
    let done = house::Done::from(shell.output().unwrap());
    assert_eq!(done.out, "three\nfour\n0 1 2 3 4 5 ", "{done:?}");
    house.assert_clean();
}

#[test]
fn every_process_is_signalled_and_a_host_pid_namespace_leaves_none_behind() {
    let house = House::new();
    let mut config = house.config("sleep 1000 & sleep 1000 & exec sleep 1000");
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    house.start(&config);
    let count = || {
        let pids = house.oci(&["ps", "--format", "json", "c"]).ok();
        serde_json::from_str::<Vec<i32>>(&pids).unwrap().len()
    };
    eventually("three processes", || count() == 3);
    house.oci(&["kill", "--all", "c", "SIGSTOP"]).ok();
    house.oci(&["kill", "c", "SIGKILL"]).ok();
    house.wait_for_status("stopped");
    assert_eq!(count(), 2);
    house.oci(&["delete", "c"]).ok();
    house.assert_clean();
}
