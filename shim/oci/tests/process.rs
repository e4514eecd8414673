//! What a process may ask for beside its user and capabilities.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod house;

use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
    thread,
};

use house::House;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};

/// Takes one listener as an agent of such calls does: the state and the descriptor.
fn answer(at: &Path, answers: usize) -> thread::JoinHandle<Vec<(Value, OwnedFd)>> {
    let socket = UnixListener::bind(at).unwrap();
    thread::spawn(move || {
        (0..answers)
            .map(|_| {
                let (connection, _) = socket.accept().unwrap();
                let mut bytes = vec![0; 65536];
                let mut space = nix::cmsg_space!([RawFd; 2]);
                let mut parts = [IoSliceMut::new(&mut bytes)];
                let message = recvmsg::<()>(
                    connection.as_raw_fd(),
                    &mut parts,
                    Some(&mut space),
                    MsgFlags::empty(),
                )
                .unwrap();
                let length = message.bytes;
                let fd = message.cmsgs().unwrap().find_map(|control| match control {
                    ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                    _ => None,
                });
                // SAFETY: recvmsg made it for this process alone.
                #[allow(unsafe_code, reason = "the descriptor comes as a number")]
                let fd = unsafe { OwnedFd::from_raw_fd(fd.unwrap()) };
                let state = serde_json::from_slice(&bytes[..length]).unwrap();
                allow_calls(fd.try_clone().unwrap());
                (state, fd)
            })
            .collect()
    })
}

/// Lets every call go on (SECCOMP_USER_NOTIF_FLAG_CONTINUE) until the filter's last user
/// is gone.
fn allow_calls(listener: OwnedFd) {
    const RECV: nix::libc::c_ulong = 0xc050_2100;
    const SEND: nix::libc::c_ulong = 0xc018_2101;
    thread::spawn(move || {
        loop {
            let mut request = [0_u64; 10];
            // SAFETY: struct seccomp_notif has 80 bytes, which begin with its id.
            #[allow(unsafe_code, reason = "nix has no such call")]
            let got = unsafe { nix::libc::ioctl(listener.as_raw_fd(), RECV, request.as_mut_ptr()) };
            if got < 0 {
                return;
            }
            let mut response = [request[0], 0, 1 << 32];
            // SAFETY: struct seccomp_notif_resp has 24 bytes.
            #[allow(unsafe_code, reason = "as above")]
            unsafe {
                nix::libc::ioctl(listener.as_raw_fd(), SEND, response.as_mut_ptr());
            }
        }
    });
}

#[test]
fn the_listener_of_a_filter_gets_to_whom_the_profile_names() {
    let house = House::new();
    let at = house.dir.path().join("answers");
    let took = answer(&at, 2);
    let mut config = house.config("mkdir /tmp/made; sleep 1000");
    // Also calls that come between the filter and the program.
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": at,
        "listenerMetadata": "of \"c\"",
        "syscalls": [{
            "names": ["mkdir", "execve", "read", "setresuid", "prctl"],
            "action": "SCMP_ACT_NOTIFY",
        }],
    });
    house.start(&config);
    house::eventually("the call was let through", || {
        house.rootfs().join("tmp/made").exists()
    });
    let pid = house.state()["pid"].clone();
    house.oci(&["exec", "c", "mkdir", "/tmp/by-exec"]).ok();
    let took = took.join().unwrap();
    let (state, _) = &took[0];
    assert_eq!(state["fds"], json!(["seccompFd"]));
    assert_eq!(state["pid"], pid);
    assert_eq!(state["metadata"], "of \"c\"");
    assert_eq!(state["state"]["id"], "c");
    assert!(state["ociVersion"].is_string());
    let (exec, _) = &took[1];
    assert_ne!(exec["pid"], pid);
    assert_eq!(exec["state"]["status"], "running");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();

    // Nobody listens: it does not run without.
    std::fs::remove_file(&at).unwrap();
    house
        .run(&config)
        .refused(&["listenerPath", "No such file"]);
    house.assert_clean();
}

#[test]
fn an_exec_has_the_cpus_that_it_asks_for_and_init_has_its_own() {
    let house = House::new();
    let mut config = house.config("taskset -p 1; sleep 1000");
    config["process"]["execCPUAffinity"] = json!({"initial": "0-1", "final": "1"});
    house.start(&config);
    let masks = house
        .oci(&["exec", "c", "sh", "-c", "taskset -p $$; taskset -p 1"])
        .ok();
    let masks: Vec<_> = masks
        .lines()
        .filter_map(|line| line.rsplit(' ').next())
        .collect();
    assert_eq!(masks[0], "2", "{masks:?}");
    assert_ne!(masks[1], "2", "{masks:?}");
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
    config["process"]["execCPUAffinity"] = json!({"initial": "1-0"});
    house.run(&config).refused(&["execCPUAffinity", "0-3,7"]);
}

#[test]
fn a_memory_policy_is_in_force_for_init_and_execs() {
    let house = House::new();
    let mut config = house.config("sleep 1000");
    config["linux"]["memoryPolicy"] = json!({
        "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"],
    });
    // A kernel without NUMA says so, and nothing runs.
    if !Path::new("/proc/self/numa_maps").exists() {
        house
            .run(&config)
            .refused(&["memory policy", "not implemented"]);
        house.assert_clean();
        return;
    }
    house.start(&config);
    let pid = house.state()["pid"].to_string();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
    assert!(maps.contains(" bind=static:0"), "{maps}");
    let out = house
        .oci(&["exec", "c", "cat", "/proc/self/numa_maps"])
        .ok();
    assert!(out.contains(" bind=static:0"), "{out}");
    house.oci(&["delete", "-f", "c"]).ok();
    config["linux"]["memoryPolicy"]["nodes"] = "1000".into();
    house.run(&config).refused(&["memory policy"]);
    house.assert_clean();
}

#[test]
fn labels_are_for_kernels_that_have_them() {
    let house = House::new();
    let modules = std::fs::read_to_string("/proc/filesystems").unwrap();
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled");
    if modules.contains("selinuxfs") || apparmor.is_ok_and(|on| on.starts_with(b"Y")) {
        return;
    }
    for (pointer, word) in [
        ("/process/apparmorProfile", "AppArmor"),
        ("/process/selinuxLabel", "SELinux"),
        ("/linux/mountLabel", "SELinux"),
    ] {
        let mut config = house.config("true");
        let (above, field) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(above).unwrap()[field] = "some_t".into();
        house.run(&config).refused(&[field, "no", word]);
        house.assert_clean();
    }
    let mut config = house.config("true");
    config["process"]["apparmorProfile"] = "unconfined".into();
    house.run(&config).ok();
    house.start(&house.config("sleep 1000"));
    house
        .oci(&["exec", "--apparmor", "some", "c", "true"])
        .refused(&["AppArmor"]);
    house.oci(&["delete", "-f", "c"]).ok();
    house.assert_clean();
}

#[test]
fn what_resctrl_divides_is_refused_where_there_is_none() {
    let house = House::new();
    let mut config = house.config("true");
    config["linux"]["intelRdt"] = json!({"closID": "x"});
    house.run(&config).refused(&["linux.intelRdt", "resctrl"]);
    house.assert_clean();
}
