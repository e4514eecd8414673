//! What cannot be done is refused with its reason, and nothing is left of it.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use house::House;
use serde_json::{Value, json};

#[test]
fn each_bad_configuration_is_refused_by_name_and_leaves_nothing() {
    let house = House::new();
    let cases: Vec<(&str, Value, &[&str])> = vec![
        ("/ociVersion", Value::Null, &["ociVersion"]),
        ("/ociVersion", json!("2.0.0"), &["ociVersion 2.0.0"]),
        ("/root", Value::Null, &["root"]),
        (
            "/root/path",
            json!("../nowhere"),
            &["nowhere", "No such file"],
        ),
        ("/root/path", json!("config.json"), &["not a directory"]),
        ("/root/path", json!("/"), &["node's own root"]),
        ("/process", Value::Null, &["process"]),
        ("/process/args", json!([]), &["process.args"]),
        (
            "/process/args",
            json!(["nope"]),
            &["nope", "executable file not found in $PATH"],
        ),
        (
            "/process/args",
            json!(["/etc/passwd"]),
            &["permission denied"],
        ),
        (
            "/process/cwd",
            json!("relative"),
            &["process.cwd", "absolute"],
        ),
        (
            "/process/cwd",
            json!("/etc/passwd"),
            &["/etc/passwd", "Not a directory"],
        ),
        (
            "/process/cwd",
            json!("/proc/self/fd/0"),
            &["working directory"],
        ),
        ("/process/env", json!(["=x"]), &["process.env"]),
        (
            "/process/oomScoreAdj",
            json!(5000),
            &["process.oomScoreAdj", "-1000"],
        ),
        ("/process/terminal", json!("maybe"), &["invalid type"]),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]),
            &["RLIMIT_NOPE"],
        ),
        ("/hostname", json!("x".repeat(65)), &["hostname", "64"]),
        (
            "/mounts/0/destination",
            json!("/../x"),
            &["mounts.destination"],
        ),
        ("/mounts/0/type", json!("nofs"), &["mounts.type"]),
        (
            "/mounts/3/type",
            json!("nofs"),
            &["nofs", "/sys", "No such device"],
        ),
        (
            "/mounts/3/options",
            json!(["nonsense=1"]),
            &["/sys", "nonsense"],
        ),
        (
            "/mounts/3",
            json!({"destination": "/data", "type": "bind", "source": "/no/such", "options": ["bind"]}),
            &["/no/such", "No such file"],
        ),
        (
            "/mounts/3",
            json!({"destination": "/etc/passwd/x", "type": "tmpfs", "source": "t"}),
            &["/etc/passwd/x", "Not a directory"],
        ),
        (
            "/linux/cgroupsPath",
            json!("/../../x"),
            &["linux.cgroupsPath"],
        ),
        (
            "/linux/namespaces",
            json!([{"type": "pid"}]),
            &["mount namespace"],
        ),
        (
            "/linux/namespaces/1/path",
            json!("/no/such/net"),
            &["net namespace /no/such/net"],
        ),
        (
            "/linux/namespaces/1/path",
            json!("/proc/self/ns/uts"),
            &["joining the network namespace"],
        ),
        (
            "/linux/sysctl",
            json!({"kernel.core_pattern": "x"}),
            &["kernel.core_pattern", "node"],
        ),
        (
            "/linux/sysctl",
            json!({"net.no.such": "1"}),
            &["net.no.such", "No such file"],
        ),
        (
            "/linux/resources/memory",
            json!({"limit": 1}),
            &["memory_limit"],
        ),
        (
            "/linux/resources/cpu",
            json!({"cpus": "4096"}),
            &["cpuset_cpus"],
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_NOPE"}),
            &["SCMP_ACT_NOPE"],
        ),
        (
            "/linux/maskedPaths",
            json!(["relative"]),
            &["linux.maskedPaths"],
        ),
        (
            "/hooks",
            json!({"prestart": [{"path": "relative"}]}),
            &["hooks.prestart", "relative"],
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/false"}]}),
            &["createRuntime hook #0", "/bin/false"],
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}),
            &["createRuntime hook #0", "3", "why"],
        ),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}),
            &["timeout of 1s"],
        ),
    ];
    for (pointer, value, words) in cases {
        let mut config = house.config("true");
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[name.parse::<usize>().unwrap()] = value.clone(),
            object => object[name] = value.clone(),
        }
        println!("{pointer} = {value}");
        let done = house.run(&config);
        assert_eq!(done.code, 1, "{pointer} = {value}: {done:?}");
        done.refused(words);
        house.assert_clean();
    }
}

#[test]
fn a_bundle_that_is_none_is_refused() {
    let house = House::new();
    house
        .oci(&["create", "--bundle", "/no/such", "c"])
        .refused(&["/no/such", "No such file"]);
    let bundle = house.bundle(&json!({}));
    std::fs::write(bundle.join("config.json"), "{ not json").unwrap();
    let bundle = bundle.to_str().unwrap();
    house
        .oci(&["create", "--bundle", bundle, "c"])
        .refused(&["config.json", "line 1"]);
    house.assert_clean();
}

#[test]
fn an_empty_missing_or_climbing_id_is_refused_by_every_verb() {
    let house = House::new();
    for verb in [
        "create", "start", "state", "kill", "delete", "exec", "ps", "events", "pause", "resume",
        "update", "run",
    ] {
        house.oci(&[verb]).refused(&["CONTAINER"]);
        for (id, word) in [
            ("", "empty"),
            ("../x", "invalid"),
            ("a/b", "invalid"),
            ("..", "invalid"),
        ] {
            let mut args = vec![verb, id];
            if verb == "exec" {
                args.push("true");
            }
            let done = house.oci(&args);
            assert_ne!(done.code, 0, "{verb} {id:?}: {done:?}");
            // Where a bundle is missing, that may be said first.
            if !matches!(verb, "create" | "run") {
                done.refused(&[word]);
            }
        }
        let help = house.oci(&[verb, "--help"]).ok();
        assert!(help.contains("Usage"), "{help}");
    }
    house
        .oci(&["delete", "--force", "../x"])
        .refused(&["invalid"]);
}

#[test]
fn errors_go_to_the_log_as_it_is_asked_for() {
    let house = House::new();
    let log = house.dir.path().join("log");
    let log_arg = log.to_str().unwrap().to_owned();
    let done = house.oci(&["--log", &log_arg, "--log-format", "json", "state", "c"]);
    assert_eq!(done.err, "container \"c\" does not exist\n");
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container \"c\" does not exist");
    house
        .oci(&["state", "c"])
        .refused(&["level=error msg=", "does not exist"]);
}

#[test]
fn what_the_runtime_says_of_itself_can_be_parsed() {
    let house = House::new();
    assert!(
        house
            .oci(&["--version"])
            .ok()
            .starts_with("berth-oci version ")
    );
    let features: Value = serde_json::from_str(&house.oci(&["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    let bundle = house.dir.path().join("new");
    std::fs::create_dir(&bundle).unwrap();
    let bundle = bundle.to_str().unwrap();
    house.oci(&["spec", "--bundle", bundle]).ok();
    house
        .oci(&["spec", "--bundle", bundle])
        .refused(&["config.json", "exists"]);
}
