//! Hooks, as root.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::fs;

use house::House;
use serde_json::{Value, json};

/// A hook that adds a line to the file `trace`: its kind, and what `expression` says.
fn hook(house: &House, kind: &str, expression: &str) -> Value {
    let trace = house.dir.path().join("trace");
    let script = format!(
        "state=$(cat); echo {kind} {expression} >> {}",
        trace.display()
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

fn trace(house: &House) -> String {
    fs::read_to_string(house.dir.path().join("trace")).unwrap_or_default()
}

#[test]
fn every_kind_runs_at_its_time_in_its_namespaces_with_the_state() {
    let house = House::new();
    let status = "$(echo $state | grep -o '\"status\":\"[a-z]*\"') $(hostname | grep -c box)";
    let rootfs = house.rootfs().display().to_string();
    let mut config = house.config("cat /inside; sleep 1000");
    // Before the root is made: what the hook puts into it is there.
    let runtime = format!("{status} $(echo early > {rootfs}/early; ls {rootfs}/proc | wc -l)");
    // In the mount namespace of the container, whose mounts lie below the bundle's root.
    let container = format!("{status} $(ls {rootfs}/proc | grep -c '^self$')");
    config["hooks"] = json!({
        "prestart": [hook(&house, "prestart", status)],
        "createRuntime": [hook(&house, "createRuntime", &runtime)],
        "createContainer": [hook(&house, "createContainer", &container)],
        // Of the container's own files.
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > /inside"], "env": ["PATH=/bin"]}],
        "poststart": [hook(&house, "poststart", status)],
        "poststop": [hook(&house, "poststop", status)],
    });
    house.start(&config);
    assert!(house.rootfs().join("early").exists());
    let inside: Value =
        serde_json::from_str(&fs::read_to_string(house.rootfs().join("inside")).unwrap()).unwrap();
    assert_eq!(
        (&inside["status"], &inside["id"]),
        (&"created".into(), &"c".into())
    );
    assert_eq!(inside["pid"], house.state()["pid"]);
    house.oci(&["delete", "-f", "c"]).ok();
    let told =
        |kind: &str, status: &str, rest: &str| format!("{kind} \"status\":\"{status}\" {rest}\n");
    let told = [
        told("prestart", "creating", "0"),
        told("createRuntime", "creating", "0 0"),
        told("createContainer", "creating", "1 1"),
        told("poststart", "running", "0"),
        told("poststop", "stopped", "0"),
    ];
    assert_eq!(trace(&house), told.concat());
    house.assert_clean();
}

#[test]
fn a_failing_hook_ends_the_creation_or_the_start_and_leaves_nothing() {
    let house = House::new();
    let fails = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]);
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        let mut config = house.config("echo never");
        config["hooks"][kind] = fails.clone();
        config["hooks"]["poststop"] = json!([hook(&house, "poststop", "")]);
        let done = house.run(&config);
        assert_eq!((done.code, done.out.as_str()), (1, ""), "{done:?}");
        done.refused(&[&format!("{kind} hook #0"), "/bin/sh", "because", "3"]);
        assert_eq!(trace(&house), "poststop\n", "{kind}");
        fs::remove_file(house.dir.path().join("trace")).unwrap();
        house.assert_clean();
    }
}

#[test]
fn hooks_after_the_start_cannot_harm_the_container() {
    let house = House::new();
    let mut config = house.config("echo ran; exit 4");
    let fails = json!([{"path": "/no/such/hook"}]);
    config["hooks"] = json!({"poststart": fails, "poststop": fails});
    let done = house.run(&config);
    assert_eq!((done.code, done.out.as_str()), (4, "ran\n"), "{done:?}");
    house.assert_clean();
}

#[test]
fn a_hook_that_hangs_is_killed_at_its_timeout() {
    let house = House::new();
    for kind in ["createRuntime", "createContainer"] {
        let mut config = house.config("true");
        config["hooks"][kind] =
            json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]);
        house.run(&config).refused(&[kind, "timeout of 1s"]);
        house.assert_clean();
    }
}

#[test]
fn hooks_learn_whose_trace_they_belong_to_unless_they_have_one_of_their_own() {
    let house = House::new();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut config = house.config("sleep 1000");
    let mut own = hook(&house, "poststart", "$TRACEPARENT");
    own["env"] = json!(["PATH=/bin:/usr/bin", "TRACEPARENT=mine"]);
    config["hooks"] = json!({
        "createRuntime": [hook(&house, "createRuntime", "$TRACEPARENT $BAGGAGE")],
        "createContainer": [hook(&house, "createContainer", "$TRACEPARENT $BAGGAGE")],
        "poststart": [own],
    });
    let bundle = house.bundle(&config);
    let bundle = bundle.to_str().unwrap();
    for args in [&["create", "-b", bundle, "c"][..], &["start", "c"]] {
        let status = house
            .command(args)
            .env("TRACEPARENT", parent)
            .env("BAGGAGE", "team=a")
            .status()
            .unwrap();
        assert!(status.success());
    }
    assert_eq!(
        trace(&house),
        format!("createRuntime {parent} team=a\ncreateContainer {parent} team=a\npoststart mine\n")
    );
    house.oci(&["delete", "-f", "c"]).ok();
}
