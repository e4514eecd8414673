//! Limits beyond the usual, and groups of execs.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::{fs, path::PathBuf, process::Stdio};

use house::House;
use serde_json::json;

/// A file of the container's group, in whichever hierarchy has it.
fn file(house: &House, names: &[&str]) -> Option<PathBuf> {
    let tops = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let tops = tops.map(|top| top.path()).chain(["/sys/fs/cgroup".into()]);
    let mut found = tops.flat_map(|top| {
        let group = top.join(&house.groups).join("c");
        names
            .iter()
            .map(|name| group.join(name))
            .collect::<Vec<_>>()
    });
    found.find(|path| path.exists())
}

fn value(house: &House, names: &[&str]) -> String {
    let path = file(house, names).unwrap_or_else(|| panic!("no {names:?}"));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn bursts_and_idleness_are_set_and_updated() {
    let house = House::new();
    let mut config = house.config("sleep 1000");
    config["linux"]["resources"]["cpu"] =
        json!({"quota": 50_000, "period": 100_000, "burst": 20_000, "shares": 512});
    house.start(&config);
    let burst = ["cpu.cfs_burst_us", "cpu.max.burst"];
    assert_eq!(value(&house, &burst), "20000");
    house
        .oci(&["update", "--cpu-burst", "5000", "--cpu-quota", "10000", "c"])
        .ok();
    assert_eq!(value(&house, &burst), "5000");
    house
        .oci(&[
            "update",
            "--cpu-burst",
            "60000",
            "--cpu-quota",
            "70000",
            "c",
        ])
        .ok();
    assert_eq!(value(&house, &burst), "60000");
    house
        .oci(&["update", "--cpu-burst", "80000", "c"])
        .refused(&["cpu_burst", "80000"]);
    house.oci(&["update", "--cpu-idle", "1", "c"]).ok();
    assert_eq!(value(&house, &["cpu.idle"]), "1");
    house
        .oci(&["update", "--cpu-idle", "0", "--cpu-share", "2048", "c"])
        .ok();
    assert_eq!(value(&house, &["cpu.idle"]), "0");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn real_time_is_refused_with_the_reason_where_it_cannot_be_limited() {
    let house = House::new();
    house.start(&house.config("sleep 1000"));
    let done = house.oci(&["update", "--cpu-rt-period", "900000", "c"]);
    match file(&house, &["cpu.rt_period_us"]) {
        Some(path) => {
            done.ok();
            assert_eq!(fs::read_to_string(path).unwrap().trim(), "900000");
        }
        None => done.refused(&["cpu_rt_period"]),
    }
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn reads_and_writes_of_a_device_are_limited() {
    let house = House::new();
    let throttle = ["blkio.throttle.read_bps_device", "io.max"];
    // Of a disk that the kernel knows; a loop device serves as well as any.
    let disk = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .find_map(|disk| fs::read_to_string(disk.path().join("dev")).ok());
    let Some(disk) = disk else { return };
    let (major, minor) = disk.trim().split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    let device = json!({"major": major, "minor": minor, "rate": 1_048_576});
    let mut config = house.config("sleep 1000");
    config["linux"]["resources"]["blockIO"] = json!({"throttleReadBpsDevice": [device]});
    let bundle = house.bundle(&config);
    // Its streams must not be ours, whose end is waited for.
    let told = house.dir.path().join("told");
    let mut create = house.command(&["create", "--bundle", bundle.to_str().unwrap(), "c"]);
    create
        .stdout(Stdio::null())
        .stderr(fs::File::create(&told).unwrap());
    let done = house::Done {
        code: create.status().unwrap().code().unwrap(),
        out: String::new(),
        err: fs::read_to_string(&told).unwrap(),
    };
    if file(&house, &throttle).is_none() {
        // The node has no such controller, and says so.
        done.refused(&["block_io"]);
        house.assert_clean();
        return;
    }
    done.ok();
    let now = value(&house, &throttle);
    assert!(now.contains("1048576"), "{now}");
    let resources = json!({"blockIO": {"throttleReadBpsDevice": [
        {"major": major, "minor": minor, "rate": 2_097_152}
    ]}});
    house
        .oci_with(&["update", "-r", "-", "c"], &resources.to_string())
        .ok();
    assert!(value(&house, &throttle).contains("2097152"));
    house
        .oci(&["update", "--blkio-weight", "5", "c"])
        .refused(&["block_io.weight", "10 to 1000"]);
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn an_exec_enters_the_group_that_is_named_for_each_controller() {
    let house = House::new();
    let mut config = house.config("sleep 1000");
    // Its own groups are seen from the node.
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|one| one["type"] != "cgroup");
    house.start(&config);
    let memory = PathBuf::from("/sys/fs/cgroup/memory")
        .join(&house.groups)
        .join("c/below");
    if !memory.parent().unwrap().exists() {
        // v2 has one hierarchy and no controllers to choose from.
        house
            .oci(&["exec", "--cgroup", "memory:below", "c", "true"])
            .refused(&["--cgroup", "memory"]);
        house.oci(&["delete", "-f", "c"]).ok();
        return;
    }
    fs::create_dir(&memory).unwrap();
    let groups = house
        .oci(&[
            "exec",
            "--cgroup",
            "memory:below",
            "c",
            "cat",
            "/proc/self/cgroup",
        ])
        .ok();
    let of = |controller: &str| {
        let line = groups
            .lines()
            .find(|line| line.contains(controller))
            .unwrap()
            .to_owned();
        line.rsplit(':').next().unwrap().to_owned()
    };
    assert!(of(":memory:").ends_with("/c/below"), "{groups}");
    assert!(of(":pids:").ends_with("/c"), "{groups}");
    house
        .oci(&["exec", "--cgroup", "memory:other", "c", "true"])
        .refused(&["no such group"]);
    house
        .oci(&["exec", "--cgroup", "nothing:below", "c", "true"])
        .refused(&["nothing"]);
    house
        .oci(&["exec", "--cgroup", "memory:../x", "c", "true"])
        .refused(&[".."]);
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn an_exec_is_told_which_limits_it_did_not_get() {
    let house = House::new();
    house.start(&house.config("sleep 1000"));
    let process = json!({
        "user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/", "env": ["PATH=/bin"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4_000_000_000_u64}],
    });
    let file = house.dir.path().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let log = house.dir.path().join("log");
    let (log, file) = (log.to_str().unwrap(), file.to_str().unwrap());
    house
        .oci(&["--log", log, "exec", "--process", file, "c"])
        .ok();
    // fs.nr_open bounds it for everybody.
    let said = fs::read_to_string(log).unwrap();
    assert!(said.contains("hard limit 4000000000"), "{said}");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}
