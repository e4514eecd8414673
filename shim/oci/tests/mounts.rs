//! Mounts and what else a configuration may ask for, as root.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    process::Command,
};

use house::House;
use serde_json::{Value, json};

fn with_mount(house: &House, script: &str, mount: Value) -> Value {
    let mut config = house.config(script);
    config["mounts"].as_array_mut().unwrap().push(mount);
    config
}

#[test]
fn a_tmpfs_can_begin_with_what_it_covers() {
    let house = House::new();
    let dir = house.rootfs().join("data");
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/b/file"), "content\n").unwrap();
    fs::set_permissions(dir.join("a/b/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o751)).unwrap();
    // A link that leads out of the image is copied as a link.
    symlink("/etc/shadow", dir.join("link")).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::chown(dir.join("a"), Some(7), Some(8)).unwrap();
    let script = "cat /data/a/b/file; ls -ln /data /data/a/b | grep -v total | cut -c1-10; \
                  ls -ldn /data /data/a | sed 's/ \\+/ /g' | cut -d' ' -f1,3,4; \
                  readlink /data/link; echo changed > /data/a/b/file; echo x > /data/new";
    let mount = json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "nosuid", "size=1m"]});
    let out = house.run(&with_mount(&house, script, mount.clone())).ok();
    let expected = "content\nprwx------\nlrwxrwxrwx\n-rws--x--x\n";
    assert!(out.starts_with("content\n"), "{out}");
    for line in [
        "prwx------",
        "lrwxrwxrwx",
        "-rws--x--x",
        "drwxr-x--x 0 0",
        "drwxr-xr-x 7 8",
        "/etc/shadow",
    ] {
        assert!(
            out.lines().any(|given| given == line),
            "{line} in {out}, as {expected}"
        );
    }
    // Of the image nothing has changed.
    assert_eq!(
        fs::read_to_string(dir.join("a/b/file")).unwrap(),
        "content\n"
    );
    assert!(!dir.join("new").exists());
    // Read-only holds once it is copied.
    let mut readonly = mount;
    readonly["options"]
        .as_array_mut()
        .unwrap()
        .push("ro".into());
    let done = house.run(&with_mount(
        &house,
        "cat /data/a/b/file; echo x > /data/y",
        readonly,
    ));
    assert!(
        done.out == "content\n" && done.err.contains("Read-only"),
        "{done:?}"
    );
    // More than it holds is an error, not a part.
    let tiny = json!({"destination": "/bin", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=4k"]});
    house
        .run(&with_mount(&house, "true", tiny))
        .refused(&["copying up /bin", "No space left"]);
    house.assert_clean();
}

#[test]
fn what_is_recursive_reaches_mounts_below_and_what_is_not_does_not() {
    let house = House::new();
    let volume = house.dir.path().join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "below"])
        .arg(volume.join("below"))
        .status();
    assert!(mounted.unwrap().success());
    let script = "grep ' /data' /proc/self/mounts | cut -d' ' -f2,4 | sed 's/relatime.*//'";
    let show = |options: &[&str]| {
        let mount =
            json!({"destination": "/data", "type": "bind", "source": volume, "options": options});
        house.run(&with_mount(&house, script, mount)).ok()
    };
    let plain = show(&["rbind", "ro"]);
    let recursive = show(&["rbind", "rro"]);
    let mixed = show(&["rbind", "ro", "rnosuid"]);
    let unmounted = Command::new("umount").arg(volume.join("below")).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(plain, "/data ro,\n/data/below rw,\n");
    assert_eq!(recursive, "/data ro,\n/data/below ro,\n");
    assert_eq!(mixed, "/data ro,nosuid,\n/data/below rw,nosuid,\n");
    house.assert_clean();
}

#[test]
fn ids_of_a_mount_are_mapped_for_the_container_alone() {
    let house = House::new();
    let volume = house.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("old"), "").unwrap();
    std::os::unix::fs::chown(volume.join("old"), Some(0), Some(0)).unwrap();
    let script = "ls -ln /data/old | sed 's/ \\+/ /g' | cut -d' ' -f3,4; echo > /data/new";
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 1000}]);
    let mount = json!({"destination": "/data", "type": "bind", "source": volume,
        "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map});
    let mut config = with_mount(&house, script, mount);
    config["process"]["user"] = json!({"uid": 5000, "gid": 5000});
    assert_eq!(house.run(&config).ok(), "5000 5000\n");
    let made = fs::metadata(volume.join("new")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    let mount =
        json!({"destination": "/data", "type": "bind", "source": volume, "options": ["idmap"]});
    house
        .run(&with_mount(&house, "true", mount))
        .refused(&["idmap", "/data", "no mappings"]);
    house.assert_clean();
}

#[test]
fn clocks_names_priorities_and_the_personality_are_as_asked_for() {
    let house = House::new();
    let script = "cut -d. -f1 /proc/uptime; cat /proc/sys/kernel/domainname; uname -m; \
                  cut -d' ' -f19 /proc/self/stat; umask";
    let mut config = house.config(script);
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    config["linux"]["personality"] = json!({"domain": "LINUX32"});
    config["domainname"] = "example".into();
    config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 7});
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    config["process"]["user"]["umask"] = 0o27.into();
    let out = house.run(&config).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].parse::<u64>().unwrap() >= 1_000_000_000, "{out}");
    assert_eq!(lines[1], "example");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(lines[2], "i686");
    }
    assert_eq!(lines[3..], ["7", "0027"]);
    // An exec has the same clocks.
    config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    house.start(&config);
    let out = house
        .oci(&["exec", "c", "sh", "-c", "cut -d. -f1 /proc/uptime"])
        .ok();
    assert!(out.trim().parse::<u64>().unwrap() >= 1_000_000_000, "{out}");
    house.oci(&["delete", "-f", "c"]).ok();
    config["process"]["scheduler"] = json!({"policy": "SCHED_DEADLINE"});
    house
        .run(&config)
        .refused(&["scheduling policy 6", "Invalid argument"]);
    house.assert_clean();
}

#[test]
fn without_a_cgroup_namespace_a_container_sees_its_own_groups_alone() {
    let house = House::new();
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "ro"]});
    let script = "for dir in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do \
                  if [ -e $dir/cgroup.procs ]; then wc -l < $dir/cgroup.procs; fi; done | sort | uniq";
    let mut config = with_mount(&house, script, mount);
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    // The shell and what it starts, not the processes of the node.
    let out = house.run(&config).ok();
    assert!(
        out.lines()
            .all(|count| count.trim().parse::<u32>().unwrap() < 6),
        "{out}"
    );
    house.assert_clean();
}
