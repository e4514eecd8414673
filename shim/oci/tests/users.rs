//! Containers with a user namespace, as root.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::process::Command;

use house::House;
use serde_json::{Value, json};

const FIRST: u32 = 200_000;

/// The usual container with ids from 200000 on, to whom its root belongs.
fn config(house: &House, script: &str) -> Value {
    let mut config = house.config(script);
    let map = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let owner = format!("{FIRST}:{FIRST}");
    let chown = Command::new("chown")
        .args(["-R", &owner])
        .arg(house.rootfs())
        .status();
    assert!(chown.unwrap().success());
    config
}

#[test]
fn root_of_a_container_is_nobody_on_the_node() {
    let house = House::new();
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null; \
                  ls -l /dev/fd | grep -c self; cat /dev/zero | head -c 3 | wc -c; \
                  mknod /dev/x c 1 3 2>/dev/null || echo no nodes; echo 1 > /tmp/file; \
                  echo 5 > /proc/sys/kernel/shmmni || echo read-only; cat /proc/sys/kernel/shm_rmid_forced";
    let mut config = config(&house, script);
    config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"});
    let done = house.run(&config);
    assert_eq!(
        done.out, "0\n 0 200000 65536\n1\n3\nno nodes\nread-only\n1\n",
        "{done:?}"
    );
    use std::os::unix::fs::MetadataExt as _;
    let made = std::fs::metadata(house.rootfs().join("tmp/file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (FIRST, FIRST));
    house.assert_clean();
}

#[test]
fn execs_and_terminals_are_in_the_user_namespace() {
    let house = House::new();
    house.start(&config(&house, "sleep 1000"));
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; echo ok > /tmp/exec";
    let out = house
        .oci(&["exec", "--user", "5:6", "c", "sh", "-c", "id -u; id -g"])
        .ok();
    assert_eq!(out, "5\n6\n");
    let out = house.oci(&["exec", "c", "sh", "-c", script]).ok();
    assert_eq!(out, "0\n 0 200000 65536\n");
    let pid = house.state()["pid"].to_string();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t200000\t200000"), "{status}");
    // Behind a terminal too: script(1) is one.
    let exec = house.command(&["exec", "-t", "c", "sh", "-c", "tty; ls -ln /dev/pts/0"]);
    let words: Vec<_> = std::iter::once(exec.get_program())
        .chain(exec.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut script = Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .env("BERTH_SHIM", house::shim_program())
        // At the end of its input script(1) sends ^D, and may end before its program.
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let input = script.stdin.take();
    let done = script.wait_with_output().unwrap();
    drop(input);
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(out.contains("/dev/pts/0"), "{out}");
    let owner = out.lines().find(|line| line.starts_with("crw")).unwrap();
    assert_eq!(owner.split_whitespace().nth(2), Some("0"), "{out}");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn mappings_that_cannot_be_are_refused() {
    let house = House::new();
    let one = |inside: u64, outside: u64, size: u64| json!({"containerID": inside, "hostID": outside, "size": size});
    for (maps, word) in [
        (json!([]), "id 0"),
        (json!([one(1, 1, 1)]), "id 0"),
        (json!([one(0, 1, 0)]), "at least one"),
        (json!([one(0, 4_294_967_295, 2)]), "begins at an id"),
        (json!([one(0, 1000, 10), one(5, 5000, 10)]), "overlaps"),
        (json!([one(0, 1000, 10), one(10, 1005, 10)]), "overlaps"),
    ] {
        let mut config = config(&house, "true");
        config["linux"]["uidMappings"] = maps;
        house.run(&config).refused(&["linux.uidMappings", word]);
        house.assert_clean();
    }
    let mut config = config(&house, "true");
    config["linux"]["namespaces"].as_array_mut().unwrap().pop();
    house
        .run(&config)
        .refused(&["linux.uidMappings", "no user namespace"]);
}
