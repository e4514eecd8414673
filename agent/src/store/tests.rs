//! The store against itself, a second agent, SIGKILL and broken files.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use berth_proto::cri;
use rusqlite::Connection;

use super::*;
use crate::{
    container::state::{self as container_state, Exit},
    error::{Error, Kind},
    ids::Process,
    sandbox::state as sandbox_state,
};

const NOW: i64 = 1_700_000_000_000_000_000;

fn open(root: &Path) -> Store {
    let opened = Store::open(root).unwrap();
    assert_eq!(opened.moved_aside, None);
    opened.store
}

fn database(root: &Path) -> PathBuf {
    root.join("records/berth.db")
}

fn sandbox(n: u8) -> SandboxRecord {
    let id = format!("{n:064x}").parse().unwrap();
    let metadata = cri::PodSandboxMetadata {
        name: format!("pod-{n}"),
        namespace: "default".to_owned(),
        uid: "0".to_owned(),
        attempt: 1,
    };
    SandboxRecord {
        id,
        config: cri::PodSandboxConfig {
            metadata: Some(metadata),
            annotations: [("io.example/quoted".to_owned(), "\"\n\u{7f}ü".to_owned())].into(),
            ..Default::default()
        },
        runtime_handler: String::new(),
        state: sandbox_state::State::Ready {
            network: sandbox_state::Network {
                addresses: vec!["10.88.0.7".parse().unwrap()],
                ..Default::default()
            },
            namespaces: sandbox_state::Namespaces::default(),
            since: NOW,
        },
        created_at: NOW + i64::from(n),
        made_by: MadeBy::Cri,
        cgroup_parent: "/kubepods/pod0".to_owned(),
        updated: None,
        removing: false,
    }
}

fn container(n: u8, sandbox: &SandboxRecord) -> ContainerRecord {
    let process = Process {
        pid: 7,
        start_ticks: 70,
    };
    let environment = cri::KeyValue {
        key: "BYTES".to_owned(),
        value: vec![0xff, 0x00, 0xfe],
    };
    ContainerRecord {
        id: format!("{n:064x}").parse().unwrap(),
        sandbox_id: sandbox.id.clone(),
        config: cri::ContainerConfig {
            envs: vec![environment],
            ..Default::default()
        },
        state: container_state::State::Running {
            processes: container_state::Processes {
                shim: process,
                init: process,
            },
            started_at: NOW,
        },
        created_at: NOW,
        made_by: MadeBy::People,
        image_id: "sha256:00".to_owned(),
        image_ref: "example.org/a@sha256:01".to_owned(),
        log_path: "/var/log/pods/a/0.log".to_owned(),
        cgroup: "/kubepods/pod0/c".to_owned(),
        user: User {
            uid: 1000,
            gid: 1000,
            groups: vec![4, 5],
        },
        stop_signal: 15,
        resources: cri::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 26,
            unified: [("memory.high".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        },
        oom_score_adj: -998,
        oom_score_adj_clamped: true,
        layers: vec!["sha256-aa".to_owned()],
        volume_images: Vec::new(),
        remove_after_exit: true,
        removing: false,
    }
}

fn image(id: &str, names: &[&str]) -> ImageRecord {
    ImageRecord {
        id: id.to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        size: 42,
        config: serde_json::json!({"config": {"Cmd": ["/bin/true"]}}),
        layers: vec!["sha256-aa".to_owned()],
        pulled_at: NOW,
        ..Default::default()
    }
}

#[tokio::test]
async fn what_was_written_comes_back_after_closing_to_the_last_byte() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut pod = sandbox(1);
    pod.updated = Some(records::PodResources::default());
    let member = container(2, &pod);
    let address = AddressRecord {
        ip: "10.88.0.7".parse().unwrap(),
        owner: pod.id.to_string(),
        freed_at: None,
    };
    store.put_sandbox(&pod, Durability::Soon).await.unwrap();
    store
        .put_container(&member, Durability::Synced)
        .await
        .unwrap();
    store
        .put_image(&image("sha256:00", &["a:1", "a:2"]))
        .await
        .unwrap();
    let changes = vec![
        Change::put_address(&address).unwrap(),
        Change::settled_for_boot("boot-1"),
    ];
    store.write(changes, Durability::Soon).await.unwrap();
    store.close().await;
    let closed = store.load_all().await.unwrap_err();
    assert!(matches!(closed, StoreError::Closed));

    let all = open(root.path()).load_all().await.unwrap();
    assert_eq!(all.sandboxes, [pod]);
    assert_eq!(all.containers, [member]);
    assert_eq!(all.images, [image("sha256:00", &["a:1", "a:2"])]);
    assert_eq!(all.addresses, [address]);
    assert_eq!(all.settled_for_boot.as_deref(), Some("boot-1"));
    assert_eq!(all.unreadable, []);
}

#[tokio::test]
async fn putting_again_replaces_and_deleting_twice_is_fine() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pod = sandbox(1);
    let mut member = container(2, &pod);
    store
        .put_container(&member, Durability::Soon)
        .await
        .unwrap();
    member.state = container_state::State::Exited {
        exit: Exit::of_program(3, 0, false, NOW, NOW + 1),
    };
    store
        .put_container(&member, Durability::Soon)
        .await
        .unwrap();
    let all = store.load_all().await.unwrap();
    assert_eq!(all.containers, [member.clone()]);
    for _ in 0..2 {
        store
            .delete_container(&member.id, Durability::Soon)
            .await
            .unwrap();
    }
    assert_eq!(store.load_all().await.unwrap().containers, []);
}

#[tokio::test]
async fn a_name_belongs_to_the_image_that_got_it_last() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store
        .put_image(&image("sha256:00", &["a:1", "a:latest"]))
        .await
        .unwrap();
    store
        .put_image(&image("sha256:11", &["a:latest"]))
        .await
        .unwrap();
    let names = |all: &Everything| -> Vec<Vec<String>> {
        all.images.iter().map(|image| image.names.clone()).collect()
    };
    let all = store.load_all().await.unwrap();
    assert_eq!(names(&all), [vec!["a:1"], vec!["a:latest"]]);
    store.delete_image("sha256:11").await.unwrap();
    store.put_image(&image("sha256:00", &[])).await.unwrap();
    let all = store.load_all().await.unwrap();
    assert_eq!(names(&all), [Vec::<String>::new()]);
}

#[tokio::test]
async fn the_ledger_keeps_the_order_and_each_effect_once() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let effects = [
        Effect::PodPin,
        Effect::Address {
            ip: "10.88.0.7".parse().unwrap(),
        },
        Effect::Veth {
            host_interface: "berth0a".to_owned(),
            bridge: "berth0".to_owned(),
        },
        Effect::WritableLayer {
            path: "/x".to_owned(),
        },
    ];
    for effect in &effects {
        store.ledger_add("a", effect).await.unwrap();
    }
    store.ledger_add("a", &effects[0]).await.unwrap();
    store.ledger_add("b", &effects[0]).await.unwrap();
    let of = |entries: Vec<Entry>| -> Vec<Effect> {
        entries.into_iter().map(|entry| entry.effect).collect()
    };
    assert_eq!(of(store.ledger_of("a").await.unwrap()), effects);
    store.ledger_remove("a", &effects[1]).await.unwrap();
    store.ledger_remove("a", &effects[1]).await.unwrap();
    assert_eq!(store.ledger_of("a").await.unwrap().len(), 3);
    assert_eq!(store.ledger_all().await.unwrap().len(), 4);
    let pod = sandbox(0xa);
    store
        .ledger_add(pod.id.as_str(), &effects[0])
        .await
        .unwrap();
    store
        .delete_sandbox(&pod.id, Durability::Soon)
        .await
        .unwrap();
    assert_eq!(store.ledger_all().await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_transaction_is_stored_whole_or_not_at_all_and_spares_its_neighbours() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    // A trigger stands for any failure in the middle.
    Connection::open(database(root.path()))
        .unwrap()
        .execute_batch(
            "CREATE TRIGGER refuse BEFORE INSERT ON images
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        .unwrap();
    let (one, two, three) = (sandbox(1), sandbox(2), sandbox(3));
    let bad = vec![
        Change::put_sandbox(&two).unwrap(),
        Change::put_image(&image("sha256:00", &[])).unwrap(),
    ];
    // Sent together, so that they are likely to share one commit.
    let (first, failed, third) = tokio::join!(
        store.put_sandbox(&one, Durability::Soon),
        store.write(bad, Durability::Synced),
        store.put_sandbox(&three, Durability::Soon),
    );
    first.unwrap();
    third.unwrap();
    let sentence = Error::from(failed.unwrap_err()).sentence();
    assert!(
        sentence.starts_with("keep the records: write a record: refused"),
        "{sentence}"
    );
    let all = store.load_all().await.unwrap();
    assert_eq!(all.sandboxes, [one, three]);
}

#[tokio::test]
async fn a_second_agent_on_the_same_root_is_told_whose_it_is() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let error = Error::from(Store::open(root.path()).unwrap_err());
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let expected = format!(
        "keep the records: {} is in use by another agent, pid {}; stop that agent or choose another --root",
        root.path().display(),
        std::process::id()
    );
    assert_eq!(error.sentence(), expected);
    store.close().await;
    open(root.path());
}

#[tokio::test]
async fn a_broken_database_is_moved_aside_and_said_so() {
    for damage in [
        |path: &Path| fs::write(path, b"this is no database at all, by no means").unwrap(),
        |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            for byte in &mut bytes[4096..] {
                *byte ^= 0x5a;
            }
            fs::write(path, bytes).unwrap();
        },
    ] {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        store
            .put_sandbox(&sandbox(1), Durability::Synced)
            .await
            .unwrap();
        store.close().await;
        damage(&database(root.path()));
        let opened = Store::open(root.path()).unwrap();
        let aside = opened.moved_aside.unwrap();
        assert!(aside.path.exists() && !aside.why.is_empty(), "{aside:?}");
        let store = opened.store;
        assert_eq!(store.load_all().await.unwrap().sandboxes, []);
        store
            .put_sandbox(&sandbox(2), Durability::Soon)
            .await
            .unwrap();
        store.close().await;
        assert_eq!(
            open(root.path()).load_all().await.unwrap().sandboxes.len(),
            1
        );
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_reported_and_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store
        .put_sandbox(&sandbox(1), Durability::Soon)
        .await
        .unwrap();
    store
        .put_sandbox(&sandbox(2), Durability::Soon)
        .await
        .unwrap();
    store.ledger_add("x", &Effect::PodPin).await.unwrap();
    Connection::open(database(root.path()))
        .unwrap()
        .execute_batch(
            "UPDATE sandboxes SET record = replace(record, 'ready', 'dancing') WHERE rowid = 1;
             UPDATE ledger SET data = '{\"kind\":\"from_the_future\"}';",
        )
        .unwrap();
    for _ in 0..2 {
        let all = store.load_all().await.unwrap();
        assert_eq!(all.sandboxes, [sandbox(2)]);
        let tables: Vec<_> = all.unreadable.iter().map(|row| row.table).collect();
        assert_eq!(tables, ["sandboxes", "ledger"]);
        assert!(all.unreadable[0].why.contains("dancing"), "{all:?}");
    }
}

#[tokio::test]
async fn a_record_of_an_older_agent_gets_defaults_for_what_it_lacks() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pod = sandbox(1);
    let old = format!(
        r#"{{"id":"{}","state":{{"state":"not_ready","why":"stopped","since":5}},"created_at":4}}"#,
        pod.id
    );
    Connection::open(database(root.path()))
        .unwrap()
        .execute(
            "INSERT INTO sandboxes (id, record, config) VALUES (?1, ?2, x'')",
            [pod.id.as_str(), &old],
        )
        .unwrap();
    let all = store.load_all().await.unwrap();
    assert_eq!(all.unreadable, []);
    assert_eq!(all.sandboxes[0].state.network(), None);
    assert_eq!(all.sandboxes[0].made_by, MadeBy::Cri);
}

#[tokio::test]
async fn the_records_of_a_newer_agent_are_not_touched() {
    let root = tempfile::tempdir().unwrap();
    open(root.path()).close().await;
    Connection::open(database(root.path()))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Store::open(root.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::TooNew { found: 99, .. }),
        "{error}"
    );
    assert!(database(root.path()).exists());
}

#[tokio::test]
async fn a_root_that_cannot_be_used_is_named() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = Error::from(Store::open(&file.join("root")).unwrap_err());
    let sentence = error.sentence();
    assert!(sentence.contains(file.to_str().unwrap()), "{sentence}");
    assert!(sentence.contains("Not a directory"), "{sentence}");
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn writes_until_it_is_killed() {
    let Some(root) = std::env::var_os("BERTH_TEST_STORE_ROOT") else {
        return;
    };
    let store = open(Path::new(&root));
    for n in 0_u64.. {
        let owner = format!("owner-{n}");
        store.ledger_add(&owner, &Effect::PodPin).await.unwrap();
        println!("acknowledged {n}");
    }
}

#[tokio::test]
async fn a_kill_after_an_acknowledged_write_loses_nothing() {
    let this = concat!(module_path!(), "::writes_until_it_is_killed");
    let (_, this) = this.split_once("::").unwrap();
    for round in 1_u64..=15 {
        let root = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact", "--ignored", "--nocapture"])
            .env("BERTH_TEST_STORE_ROOT", root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = None;
        while last < Some(round * 7) {
            let line = lines.next().unwrap().unwrap();
            // The first one shares its line with the test's name.
            if let Some((_, n)) = line.split_once("acknowledged ") {
                last = Some(n.parse::<u64>().unwrap());
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts as well.
        for line in lines {
            let line = line.unwrap();
            if let Some((_, n)) = line.split_once("acknowledged ") {
                last = Some(n.parse::<u64>().unwrap());
            }
        }
        let kept = open(root.path()).ledger_all().await.unwrap();
        let acknowledged = usize::try_from(last.unwrap()).unwrap() + 1;
        assert!(
            kept.len() >= acknowledged,
            "{acknowledged} acknowledged, {} kept",
            kept.len()
        );
        for (n, entry) in kept.iter().enumerate() {
            assert_eq!(entry.owner, format!("owner-{n}"));
        }
    }
}

#[tokio::test]
async fn the_log_does_not_grow_without_end() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut pod = sandbox(1);
    let log = root.path().join("records/berth.db-wal");
    // Twice 10 MiB, and time for the syncing thread in between.
    for pause in [SYNC_EVERY + SYNC_EVERY / 4, Duration::ZERO] {
        for n in 0..160 {
            // SQLite does not log a page that has not changed.
            let letter = char::from(b'a' + n % 26);
            pod.config.hostname = letter.to_string().repeat(64 << 10);
            store.put_sandbox(&pod, Durability::Soon).await.unwrap();
        }
        tokio::time::sleep(pause).await;
    }
    let size = fs::metadata(&log).unwrap().len();
    assert!(size < 15 << 20, "{size} bytes");
    assert_eq!(store.load_all().await.unwrap().sandboxes, [pod]);
}

#[tokio::test]
async fn an_end_that_comes_while_the_start_is_written_down_stays() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut record = container(2, &sandbox(1));
    let processes = record.state.processes().unwrap();
    record.state = container_state::State::Created { processes };
    let id = record.id.clone();
    let container = crate::container::Container::new(record);
    let happen = |event: container_state::Event| {
        let change = |record: &mut crate::store::ContainerRecord| {
            record.state = record.state.clone().next(event)?;
            Ok(())
        };
        container.change_in(&store, change, |_| {})
    };
    let exit = Exit::of_program(0, 0, false, NOW, NOW);
    let (ended, started) = tokio::join!(
        happen(container_state::Event::Exited(exit)),
        happen(container_state::Event::Started { at: NOW }),
    );
    ended.unwrap();
    assert_eq!(started.unwrap_err().kind(), Kind::FailedPrecondition);
    assert!(container.record().state.exit().is_some());
    let kept = store.load_all().await.unwrap().containers;
    let kept = kept.iter().find(|record| record.id == id).unwrap();
    assert!(kept.state.exit().is_some());
}
