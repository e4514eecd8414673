//! Making, filling, killing and removing groups, by the real kernel.

#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

mod ground;

use std::{fs, time::Duration};

use berth_cgroup::{Dir, Error, Group, Resources, list_children, remove_if_empty};
use ground::{Ground, LIMIT, Shell, is_alive, shell, spawn, until};

const NONE: fn() -> Resources = Resources::default;

#[test]
fn a_process_that_joins_is_in_the_group_in_every_hierarchy() {
    let ground = Ground::new();
    let path = ground.path("c");
    let group = ground.group("c", &NONE());
    let inside = spawn(&group, "sleep 60 & wait");
    let own = fs::read_to_string(format!("/proc/{}/cgroup", inside.pid())).unwrap();
    let placed = own.lines().filter(|line| line.ends_with(&path.to_string()));
    assert_eq!(placed.count(), ground.layout.hierarchies().len(), "{own}");
    assert!(group.processes().unwrap().contains(&inside.pid()));
}

#[test]
fn a_group_is_made_once_and_taken_over_the_second_time() {
    let ground = Ground::new();
    let path = ground.path("a").join("b").unwrap();
    let missing = Group::missing_ancestors(&ground.layout, &path);
    let above = ground.path("a");
    assert_eq!(missing, [ground.top.as_str(), above.as_str()]);
    Group::create(&ground.layout, &path, &NONE()).unwrap();
    Group::create(&ground.layout, &path, &NONE()).unwrap();
    assert!(ground.places(&path).iter().all(|place| place.is_dir()));
    assert!(Group::missing_ancestors(&ground.layout, &path).is_empty());
    assert_eq!(list_children(&ground.layout, &ground.top).unwrap(), ["a"]);
}

#[test]
fn a_group_with_processes_is_not_taken_over() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    let _inside = spawn(&group, "sleep 60 & wait");
    let again = Group::create(&ground.layout, &ground.path("c"), &NONE());
    assert!(matches!(again, Err(Error::Busy { .. })), "{again:?}");
    // What is below another group is no reason.
    Group::create(&ground.layout, &ground.top, &NONE()).unwrap();
}

#[test]
fn a_refused_limit_leaves_no_directory_behind() {
    let ground = Ground::new();
    if !ground.has("cpuset") {
        return;
    }
    let narrow = Resources {
        cpuset_cpus: "0".to_owned(),
        ..NONE()
    };
    ground.group("narrow", &narrow);
    // Not what the group above has; only v1 refuses that.
    let wide = Resources {
        cpuset_cpus: "1".to_owned(),
        ..NONE()
    };
    let path = ground.path("narrow").join("x").unwrap().join("y").unwrap();
    let made = Group::create(&ground.layout, &path, &wide);
    if ground.layout.mode() == berth_cgroup::Mode::V2 {
        return;
    }
    assert!(matches!(made, Err(Error::System { .. })), "{made:?}");
    let above = ground.path("narrow").join("x").unwrap();
    for place in ground.places(&above) {
        assert!(!place.exists(), "{}", place.display());
    }
    assert!(
        ground
            .places(&ground.path("narrow"))
            .iter()
            .all(|place| place.is_dir())
    );
}

#[test]
fn an_invalid_value_changes_nothing_at_all() {
    let ground = Ground::new();
    let bad = Resources {
        cpuset_cpus: "0-4294967295".to_owned(),
        ..NONE()
    };
    let made = Group::create(&ground.layout, &ground.path("c"), &bad);
    assert!(matches!(made, Err(Error::Invalid { .. })), "{made:?}");
    assert!(
        ground
            .places(&ground.top)
            .iter()
            .all(|place| !place.exists())
    );
}

/// Forks as fast as it can; its limit is the group's.
const BOMB: &str = "bomb() { bomb & bomb & sleep 60; }; bomb";

fn limited() -> Resources {
    Resources {
        pids_limit: Some(200),
        ..NONE()
    }
}

fn kill_bomb(ground: &Ground) {
    let group = ground.group("bomb", &limited());
    let mut shell = spawn(&group, BOMB);
    until("it has forked", || group.processes().unwrap().len() > 20);
    group.kill_all(LIMIT).unwrap();
    assert!(group.is_empty().unwrap());
    // At the limit a shell may have given up by itself.
    shell.wait();
    Group::remove(&ground.layout, &ground.path("bomb"), LIMIT).unwrap();
}

#[test]
fn a_fork_bomb_is_killed_with_the_layout_of_this_node() {
    kill_bomb(&Ground::new());
}

#[test]
fn a_fork_bomb_is_killed_on_plain_v1() {
    if let Some(ground) = Ground::v1_only() {
        kill_bomb(&ground);
    }
}

#[test]
fn a_group_that_was_left_frozen_is_killed() {
    for ground in [Ground::v1_only(), Some(Ground::new())]
        .into_iter()
        .flatten()
    {
        let group = ground.group("c", &NONE());
        let mut inside = spawn(&group, "sleep 60 & wait");
        group.set_frozen(true).unwrap();
        assert!(group.is_frozen().unwrap());
        // As another program, or an older one, would leave it.
        for place in ground.places(&ground.path("c")) {
            fs::write(place.join("freezer.state"), "FROZEN").ok();
        }
        group.kill_all(LIMIT).unwrap();
        assert_eq!(inside.wait(), 128 + 9);
        assert!(!group.is_frozen().unwrap());
    }
}

#[test]
fn a_container_cannot_save_itself_by_freezing_a_group_of_its_own() {
    for ground in [Ground::v1_only(), Some(Ground::new())]
        .into_iter()
        .flatten()
    {
        let group = ground.group("c", &NONE());
        let inner = Group::create(
            &ground.layout,
            &ground.path("c").join("x").unwrap(),
            &NONE(),
        );
        let mut inside = spawn(&inner.unwrap(), "sleep 60 & wait");
        for place in ground.places(&ground.path("c")) {
            fs::write(place.join("x/freezer.state"), "FROZEN").ok();
            fs::write(place.join("x/cgroup.freeze"), "1").ok();
        }
        group.kill_all(LIMIT).unwrap();
        assert_eq!(inside.wait(), 128 + 9);
    }
}

#[test]
fn frozen_processes_stand_still_until_they_are_thawed() {
    for ground in [Ground::v1_only(), Some(Ground::new())]
        .into_iter()
        .flatten()
    {
        let file = std::env::temp_dir().join(format!("{}-ticks", ground.top.as_str()));
        let count = || fs::read(&file).map_or(0, |bytes| bytes.len());
        let group = ground.group("c", &NONE());
        let script = format!("while :; do printf x >> {}; done", file.display());
        let _inside = spawn(&group, &script);
        until("it ticks", || count() > 3);
        group.freeze(LIMIT).unwrap();
        let frozen = count();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(count(), frozen);
        group.thaw().unwrap();
        until("it ticks again", || count() > frozen);
        group.kill_all(LIMIT).unwrap();
        fs::remove_file(&file).unwrap();
    }
}

#[test]
fn groups_that_the_container_made_are_killed_and_removed_however_deep() {
    const DEPTH: usize = 150;
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    let mut shells: Vec<Shell> = Vec::new();
    for place in ground.places(&ground.path("c")) {
        let deepest = (0..DEPTH).fold(place.clone(), |place, _| place.join("x"));
        fs::create_dir_all(&deepest).unwrap();
        fs::create_dir(place.join("x/side")).unwrap();
    }
    // One at the bottom of each hierarchy in which a process may be anywhere.
    for place in ground.places(&ground.path("c")) {
        let name = place.join("x/side/cgroup.procs");
        if place.join("cpuset.cpus").exists() {
            continue;
        }
        shells.push(shell(&[name.display().to_string()], "sleep 60 & wait"));
    }
    until("all are there", || {
        group.processes().unwrap().len() >= shells.len() * 2
    });
    group.kill_all(LIMIT).unwrap();
    for shell in &mut shells {
        assert_eq!(shell.wait(), 128 + 9);
    }
    Group::remove(&ground.layout, &ground.path("c"), LIMIT).unwrap();
    assert!(
        ground
            .places(&ground.path("c"))
            .iter()
            .all(|place| !place.exists())
    );
}

#[test]
fn removal_waits_for_processes_and_says_which_are_left() {
    let ground = Ground::new();
    let path = ground.path("c");
    let group = ground.group("c", &NONE());
    let mut inside = spawn(&group, "exec sleep 60");
    let busy = Group::remove(&ground.layout, &path, Duration::from_millis(30));
    let message = busy.unwrap_err().to_string();
    assert!(message.contains(&inside.pid().to_string()), "{message}");
    assert!(is_alive(inside.pid()));
    group.kill_all(LIMIT).unwrap();
    inside.wait();
    Group::remove(&ground.layout, &path, LIMIT).unwrap();
    Group::remove(&ground.layout, &path, LIMIT).unwrap();
    assert!(ground.places(&path).iter().all(|place| !place.exists()));
    // The descriptors of a group that is gone find nobody.
    assert!(group.is_empty().unwrap());
    group.kill_all(LIMIT).unwrap();
}

#[test]
fn only_a_group_that_nobody_uses_is_removed_if_empty() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    assert!(!remove_if_empty(&ground.layout, &ground.top));
    assert!(
        ground
            .places(&ground.top)
            .iter()
            .all(|place| place.is_dir())
    );
    let inside = spawn(&group, "sleep 60 & wait");
    assert!(!remove_if_empty(&ground.layout, &ground.path("c")));
    group.kill_all(LIMIT).unwrap();
    drop(inside);
    assert!(remove_if_empty(&ground.layout, &ground.path("c")));
    assert!(remove_if_empty(&ground.layout, &ground.path("c")));
}

#[test]
fn a_group_known_by_its_descriptors_alone_is_the_same_group() {
    let ground = Ground::new();
    let dirs = ground.group("c", &NONE()).into_dirs();
    let group = Group::from_dirs(dirs);
    let inside = spawn(&group, "exec sleep 60");
    assert_eq!(group.join_files().unwrap().len(), group.dirs().len());
    group.signal_all(15).unwrap();
    group.wait_empty(LIMIT).unwrap();
    drop(inside);
}

fn last_dir(group: &Group) -> Dir {
    let dir = group.dirs().last().unwrap();
    Dir {
        controllers: dir.controllers.clone(),
        v2: dir.v2,
        fd: dir.fd.try_clone().unwrap(),
    }
}

fn exec(group: &Group, id: &str, script: &str) -> Shell {
    use std::os::fd::AsRawFd as _;
    let mut files = group.tasks_files().unwrap();
    files.extend(
        group
            .exec_group(id)
            .unwrap()
            .map(|own| own.join_file().unwrap()),
    );
    let own = std::process::id();
    let names: Vec<_> = files
        .iter()
        .map(|file| format!("/proc/{own}/fd/{}", file.as_raw_fd()))
        .collect();
    let inside = shell(&names, script);
    // The last of the files, v2's if there is one.
    let last = Group::from_dirs(vec![last_dir(group)]);
    until("the exec has joined", || {
        last.processes().unwrap().contains(&inside.pid())
    });
    inside
}

#[test]
fn an_exec_is_killed_with_all_that_it_started_and_nothing_else() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    if group.v2_fd().is_none() {
        return;
    }
    let init = spawn(&group, "sleep 60 & wait");
    let other = exec(&group, "other", "sleep 60 & wait");
    let mark = format!("{}.5", 70 + std::process::id() % 10);
    // The one in the background has lost its parent.
    let mut doomed = exec(
        &group,
        "doomed",
        &format!("(sleep {mark} &) ; sleep {mark} & wait"),
    );
    let before = group.processes().unwrap();
    until("all have started", || group.processes().unwrap().len() >= 7);
    group.kill_exec("doomed", doomed.pid()).unwrap();
    assert_eq!(doomed.wait(), 128 + 9);
    until("its children are gone", || {
        group.processes().unwrap().len() == 4
    });
    assert!(is_alive(init.pid()) && is_alive(other.pid()), "{before:?}");
    group.forget_exec("doomed");
    let left = list_children(&ground.layout, &ground.path("c")).unwrap();
    assert_eq!(left, ["berth-exec-other"]);
}

#[test]
fn what_an_exec_leaves_running_stays_and_its_group_goes_later() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    if group.v2_fd().is_none() {
        return;
    }
    let mut first = exec(&group, "first", "sleep 0.3 & sleep 0.1");
    first.wait();
    group.forget_exec("first");
    let list = || list_children(&ground.layout, &ground.path("c")).unwrap();
    assert_eq!(list(), ["berth-exec-first"]);
    group.wait_empty(LIMIT).unwrap();
    group.exec_group("second").unwrap().unwrap();
    assert_eq!(list(), ["berth-exec-second"]);
}

#[test]
fn an_exec_on_plain_v1_is_killed_with_its_descendants() {
    let Some(ground) = Ground::v1_only() else {
        return;
    };
    let group = ground.group("c", &NONE());
    assert!(group.exec_group("x").unwrap().is_none());
    let init = spawn(&group, "sleep 60 & wait");
    let mut doomed = exec(&group, "x", "sh -c 'sleep 60 & sleep 60 & wait' & wait");
    until("all have started", || group.processes().unwrap().len() >= 6);
    group.kill_exec("x", doomed.pid()).unwrap();
    assert_eq!(doomed.wait(), 128 + 9);
    until("only the init is left", || {
        group.processes().unwrap().len() == 2
    });
    assert!(is_alive(init.pid()));
}

#[test]
fn descriptors_of_other_hierarchies_do_not_matter() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    let v2: Vec<Dir> = group.into_dirs().into_iter().filter(|dir| dir.v2).collect();
    let group = Group::from_dirs(v2);
    assert!(group.is_empty().unwrap());
    group.kill_all(LIMIT).unwrap();
    assert_eq!(group.join_files().unwrap().len(), group.dirs().len());
}

#[test]
fn an_empty_cpuset_that_a_crash_left_is_filled() {
    let ground = Ground::new();
    let path = ground.path("c");
    for place in ground.places(&path) {
        fs::create_dir_all(&place).unwrap();
    }
    let group = Group::create(&ground.layout, &path, &NONE()).unwrap();
    let _inside = spawn(&group, "sleep 60 & wait");
}

#[test]
fn nobody_kills_itself() {
    let ground = Ground::new();
    let group = ground.group("c", &NONE());
    // This test's own thread, and so its process, in one v1 hierarchy where there is one.
    let Some(dir) = group.dirs().iter().find(|dir| !dir.v2) else {
        return;
    };
    use std::os::fd::AsRawFd as _;
    let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap();
    let was = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        (controllers == dir.controllers).then(|| group.trim_start_matches('/').to_owned())
    });
    let tasks = format!("/proc/self/fd/{}/tasks", dir.fd.as_raw_fd());
    fs::write(tasks, "0").unwrap();
    let killed = group.kill_all(LIMIT);
    let mut hierarchies = ground.layout.hierarchies().iter();
    let home = hierarchies.find(|one| one.controllers == dir.controllers);
    fs::write(home.unwrap().mount.join(was.unwrap()).join("tasks"), "0").unwrap();
    assert!(killed.is_err());
}
