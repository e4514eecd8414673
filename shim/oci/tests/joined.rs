//! Namespaces that are joined by their paths, and devices that come along.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::process::{Child, Command, Stdio};

use house::House;
use serde_json::{Value, json};

/// A process in namespaces of its own, which `unshare` makes.
struct Holder(Child);

impl Holder {
    fn new(options: &[&str]) -> Self {
        let mut child = Command::new("unshare")
            .args(options)
            .args(["sh", "-c", "echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Self(child)
    }

    fn namespace(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }

    fn link(&self, kind: &str) -> String {
        let link = std::fs::read_link(self.namespace(kind)).unwrap();
        link.to_str().unwrap().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn set(config: &mut Value, kind: &str, path: Option<&str>) {
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != kind);
    let mut namespace = json!({"type": kind});
    if let Some(path) = path {
        namespace["path"] = path.into();
    }
    namespaces.push(namespace);
}

#[test]
fn a_user_namespace_is_joined_with_its_maps_and_what_is_made_belongs_to_it() {
    let house = House::new();
    let holder = Holder::new(&["-U"]);
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{map}", holder.0.id()), "0 300000 65536").unwrap();
    }
    let chown = Command::new("chown")
        .args(["-R", "300000:300000"])
        .arg(house.rootfs())
        .status();
    assert!(chown.unwrap().success());
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; readlink /proc/self/ns/user; \
                  echo $$; hostname other && hostname";
    let mut config = house.config(script);
    let caps = json!(["CAP_SYS_ADMIN"]);
    config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    set(&mut config, "user", Some(&holder.namespace("user")));
    let expected = format!("0\n 0 300000 65536\n{}\n1\nother\n", holder.link("user"));
    let done = house.run(&config);
    assert_eq!(done.out, expected, "{done:?}");
    house.assert_clean();

    // In the background it is the caller's child, and an exec finds its way in.
    config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    house.start(&config);
    let out = house
        .oci(&[
            "exec",
            "c",
            "sh",
            "-c",
            "id -u; readlink /proc/self/ns/user",
        ])
        .ok();
    assert_eq!(out, format!("0\n{}\n", holder.link("user")));
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn a_time_namespace_is_joined_by_init_and_execs_alone_and_beside_new_users() {
    let house = House::new();
    let holder = Holder::new(&["-T", "--monotonic", "500000", "-f", "--kill-child"]);
    let children = format!("/proc/{}/task/{0}/children", holder.0.id());
    let child = std::fs::read_to_string(children).unwrap();
    let time = format!("/proc/{}/ns/time", child.trim());
    let link = std::fs::read_link(&time).unwrap();
    let link = link.to_str().unwrap();
    let mut config = house.config("readlink /proc/self/ns/time");
    set(&mut config, "time", Some(&time));
    let done = house.run(&config);
    assert_eq!(done.out.trim(), link, "{done:?}");

    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    set(&mut config, "user", None);
    let done = house.run(&config);
    assert_eq!(done.out.trim(), link, "{done:?}");

    config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    house.start(&config);
    let out = house.oci(&["exec", "c", "readlink", "/proc/self/ns/time"]);
    assert_eq!(out.out.trim(), link, "{out:?}");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn a_mount_namespace_is_taken_as_it_is_and_nothing_may_be_asked_of_it() {
    let house = House::new();
    let other = House::new();
    let mut first = other.config("mkdir /tmp/mark; sleep 1000");
    first["linux"]["cgroupsPath"] = format!("/{}/first", other.groups).into();
    other.start(&first);
    let pid = other.state()["pid"].to_string();
    let mounts = format!("/proc/{pid}/ns/mnt");
    let script = "readlink /proc/self/ns/mnt; ls -d /tmp/mark; cat /proc/self/comm";
    let mut config = house.config(script);
    set(&mut config, "mount", Some(&mounts));
    for field in ["mounts", "linux.maskedPaths", "linux.readonlyPaths"] {
        house.run(&config).refused(&[field, "is joined"]);
        match field.split_once('.') {
            None => config[field] = json!([]),
            Some((above, below)) => config[above][below] = json!([]),
        }
    }
    let link = std::fs::read_link(&mounts).unwrap();
    // Its /proc shows the processes of that container alone.
    set(&mut config, "pid", Some(&format!("/proc/{pid}/ns/pid")));
    let done = house.run(&config);
    let expected = format!("{}\n/tmp/mark\ncat\n", link.to_str().unwrap());
    assert_eq!(done.out, expected, "{done:?}");
    other.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn a_device_moves_with_its_addresses_and_comes_up_under_its_new_name() {
    let house = House::new();
    let holder = Holder::new(&["-n"]);
    let inside = |args: &str| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", holder.namespace("net")));
        command.args(args.split(' '));
        command
    };
    for step in [
        "ip link add dum0 type veth peer name dum1",
        "ip addr add 192.0.2.7/24 dev dum0",
        "ip addr add 2001:db8::7/64 dev dum0 nodad",
    ] {
        assert!(inside(step).status().unwrap().success(), "{step}");
    }
    let mut config = house.config("ip -o addr show dev net9; cat /sys/class/net/net9/flags");
    config["linux"]["netDevices"] = json!({"dum0": {"name": "net9"}});
    let bundle = house.bundle(&config);
    let run = |house: &House| {
        let own = house.command(&["run", "--bundle", bundle.to_str().unwrap(), "c"]);
        let mut command = inside("env");
        command
            .arg(format!("BERTH_SHIM={}", house::shim_program().display()))
            .arg(own.get_program())
            .args(own.get_args());
        house::Done::from(command.output().unwrap())
    };
    let done = run(&house);
    assert!(done.out.contains("192.0.2.7/24"), "{done:?}");
    assert!(done.out.contains("2001:db8::7/64"), "{done:?}");
    // IFF_UP.
    let flags = done.out.lines().last().unwrap().trim_start_matches("0x");
    assert_eq!(u32::from_str_radix(flags, 16).unwrap() & 1, 1, "{done:?}");
    house.assert_clean();

    // It went with the container's namespace, as what is not real does.
    run(&house).refused(&["linux.netDevices", "dum0", "No such device"]);
    house.assert_clean();
    for (devices, word) in [
        (
            json!({"a": {"name": "x"}, "b": {"name": "x"}}),
            "two devices",
        ),
        (json!({"a/b": {}}), "no name"),
        (json!({"a": {"name": "sixteen-bytes-xx"}}), "no name"),
    ] {
        config["linux"]["netDevices"] = devices;
        house.run(&config).refused(&["linux.netDevices", word]);
    }
    set(&mut config, "network", None);
    config["linux"]["namespaces"].as_array_mut().unwrap().pop();
    config["linux"]["netDevices"] = json!({"dum0": {}});
    house
        .run(&config)
        .refused(&["linux.netDevices", "no network namespace"]);
}
