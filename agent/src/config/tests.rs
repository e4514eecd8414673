use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser as _;
use tempfile::TempDir;
use toml::de::DeTable;

use super::{
    Args, Config, ConfigCommand, DEFAULT_TEXT, Findings, command,
    load::{self, load_from},
    reader::File,
    schema,
};

fn findings(text: &str) -> Vec<String> {
    let found = load::apply(Path::new("c.toml"), text, &mut Config::default());
    found.iter().map(ToString::to_string).collect()
}

fn parsed(text: &str) -> Config {
    let mut config = Config::default();
    let found = load::apply(Path::new("c.toml"), text, &mut config);
    assert_eq!(found, [], "{text}");
    config
}

#[test]
fn the_file_that_ships_is_the_default() {
    assert_eq!(parsed(DEFAULT_TEXT), Config::default());
}

/// Lines `# key = value` of the default file are optional keys; as opposed to
/// prose, they have no blank in front of the equals sign but one.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| {
            key.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-')
        })
    };
    let lines = DEFAULT_TEXT
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_key(rest) => rest,
            _ => line,
        });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_is_in_the_file_that_ships_and_its_commented_examples_are_valid() {
    let text = uncommented();
    parsed(&text);
    let mut file = File::new(Path::new("c.toml"), "");
    schema::apply(DeTable::default(), &mut Config::default(), &mut file);
    let mut written = BTreeSet::new();
    let table: toml::Table = text.parse().unwrap();
    for (key, value) in &table {
        match value.as_table() {
            Some(_) if key == "runtime_handlers" => {}
            Some(section) => written.extend(section.keys().map(|k| format!("{key}.{k}"))),
            None => drop(written.insert(key.clone())),
        }
    }
    assert_eq!(written, file.known);
    assert!(file.known.len() > 20);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let text = "root = \"relative\"\n\
                brigde = 1\n\
                [cgroup]\n\
                driver = \"systemd\"\n\
                parent = \"../x\"\n\
                [network]\n\
                mtu = 7\n\
                subnet = \"10.1.2.3/16\"\n\
                bridgee = \"x\"\n\
                [image]\n\
                max_image_bytes = \"many\"\n\
                [telemetry]\n\
                log_level = \"loud,,=\"\n\
                listen = \"here\"\n";
    let found = findings(text);
    let lines: Vec<_> = found
        .iter()
        .map(|f| f.split(':').nth(1).unwrap().parse::<u32>().unwrap())
        .collect();
    assert_eq!(lines, [1, 2, 4, 5, 7, 8, 9, 11, 13, 14], "{found:#?}");
    assert!(found[2].contains("not there yet"), "{}", found[2]);
    assert!(found[4].contains("68 to 65535"), "{}", found[4]);
    assert!(
        found[5].contains("did you mean 10.1.0.0/16"),
        "{}",
        found[5]
    );
    assert!(found[6].contains("did you mean `bridge`"), "{}", found[6]);
    assert!(found[7].starts_with("c.toml:11: image.max_image_bytes: invalid type"));
}

#[test]
fn a_syntax_error_does_not_hide_what_is_wrong_elsewhere() {
    let found = findings("root = \n[network]\nmtu = 7\n");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].starts_with("c.toml:1: "), "{}", found[0]);
    assert!(
        found[1].starts_with("c.toml:3: network.mtu: "),
        "{}",
        found[1]
    );
    assert!(!findings("this is not toml").is_empty());
}

#[test]
fn an_unknown_key_far_from_any_known_one_gets_the_list() {
    let found = findings("[limits]\nnonsense_of_all_kinds = 1\n");
    assert!(
        found[0].ends_with("allowed here: max_message_bytes, max_concurrent_calls"),
        "{}",
        found[0]
    );
}

#[test]
fn numbers_have_bounds_and_sections_are_tables() {
    for bad in [
        "limits = 3",
        "[limits]\nmax_message_bytes = -1",
        "[container]\npids_limit = 99999999",
        "[container]\nshm_bytes = 0",
        "[runtime_handlers]\nkata = 1",
        "[runtime_handlers]\n\"../x\" = {}",
        "[runtime_handlers.x]\ny = 1",
        "[runtime_handlers]\nrunc = { path = \"runc\" }",
        "[runtime_handlers]\nrunc = { path = 1 }",
        "[image]\nplatform = \"linux\"",
        "[image]\ninsecure_registries = [\"http://x\"]",
        "[image]\ninsecure_registries = [\"u:p@x\"]",
        "[image]\nextra_ca = [\"x.pem\"]",
        "[image]\nhosts_dirs = [\"hosts.d\"]",
        "[image]\ntls_registries = [\"a/b\"]",
        "[image]\ndisk_reserve = \"91%\"",
        "[image]\ndisk_reserve = \"1 GiB\"",
        "[image]\ndisk_reserve = \"99999999999999999GiB\"",
        "[cgroup]\ndriver = \"lord\"",
        "[network]\nmode = \"cni\"",
        "listen = [\"tcp://127.0.0.1:1\"]",
        "listen = \"unix:///x\"",
        "run_dir = \"/\"",
        "root = \"/a/../b\"",
    ] {
        assert_eq!(findings(bad).len(), 1, "{bad}: {:?}", findings(bad));
    }
}

#[test]
fn what_is_configured_is_what_is_there() {
    let config = parsed(
        "listen = [\"unix:///run/x.sock\", \"/run/y.sock\"]\n\
         [cgroup]\ndriver = \"cgroupfs\"\nparent = \"/a/b\"\n\
         [runtime_handlers]\nberth = {}\nrunc = { path = \"/usr/sbin/runc\" }\n\
         [network]\nmtu = 1400\n\
         [image]\nplatform = \"linux/arm/v7\"\ndisk_reserve = \"5%\"\nkeep_blobs = false\n\
         [telemetry]\nlisten = \"off\"\n",
    );
    assert_eq!(config.listen(), ["unix:///run/x.sock", "/run/y.sock"]);
    assert_eq!(config.cgroup_parent(), "/a/b");
    assert_eq!(config.other_runtime("berth"), None);
    assert_eq!(
        config.other_runtime("runc"),
        Some(Path::new("/usr/sbin/runc"))
    );
    assert!(config.has_handler("") && config.has_handler("berth"));
    assert!(!config.has_handler("kata"));
    assert_eq!(config.network.builtin.mtu, Some(1400));
    assert_eq!(config.image.platform.unwrap().to_string(), "linux/arm/v7");
    assert_eq!(config.image.disk_reserve, super::Reserve::Percent(5));
    assert!(!config.image.keep_blobs);
    assert_eq!(config.telemetry.listen, None);
}

fn home(files: &[(&str, &str)]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home
}

fn loaded(home: &TempDir, args: &Args) -> Result<Config, Findings> {
    load_from(Some(&home.path().join("config.toml")), args)
}

#[test]
fn flags_win_over_drop_ins_and_later_drop_ins_over_earlier_ones() {
    let home = home(&[
        (
            "config.toml",
            "root = \"/main\"\nrun_dir = \"/main\"\n[container]\npids_limit = 1\n",
        ),
        (
            "config.d/10-a.toml",
            "run_dir = \"/ten\"\n[container]\npids_limit = 2\n",
        ),
        ("config.d/20-b.toml", "[container]\npids_limit = 3\n"),
        ("config.d/30-c.conf", "not read"),
    ]);
    let args = Args {
        root: Some(PathBuf::from("/flag")),
        ..Args::default()
    };
    let config = loaded(&home, &args).unwrap();
    assert_eq!(config.root, Path::new("/flag"));
    assert_eq!(config.run_dir, Path::new("/ten"));
    assert_eq!(config.container.pids_limit, 3);
    assert_eq!(config.listen(), ["unix:///ten/agent.sock"]);
}

#[test]
fn mistakes_of_all_files_and_flags_are_reported_together() {
    let home = home(&[("config.toml", "x = 1\n"), ("config.d/a.toml", "\ny = 1\n")]);
    let args = Args {
        listen: vec!["tcp://0.0.0.0:1".to_owned()],
        root: Some(PathBuf::from("here")),
        ..Args::default()
    };
    let found = loaded(&home, &args).unwrap_err();
    assert_eq!(found.0.len(), 4, "{found}");
    assert!(
        found
            .to_string()
            .contains("config.d/a.toml:2: y: unknown key")
    );
    assert!(found.to_string().contains("--listen: "));
}

#[test]
fn a_missing_file_is_a_mistake_only_if_it_was_named() {
    let missing = Path::new("/nowhere/config.toml");
    let found = load_from(Some(missing), &Args::default()).unwrap_err();
    assert_eq!(
        found.to_string(),
        "/nowhere/config.toml: there is no such file"
    );
}

#[test]
fn the_default_can_be_printed_and_is_found_valid_by_check() {
    let mut out = Vec::new();
    let args = Args::default();
    assert!(command::run(&ConfigCommand::Default, &args, &mut out).unwrap());
    let home = home(&[("config.toml", std::str::from_utf8(&out).unwrap())]);
    let file = Some(home.path().join("config.toml"));
    out.clear();
    assert!(
        command::run(
            &ConfigCommand::Check { file: file.clone() },
            &args,
            &mut out
        )
        .unwrap()
    );
    fs::write(file.clone().unwrap(), "x = 1").unwrap();
    out.clear();
    assert!(!command::run(&ConfigCommand::Check { file }, &args, &mut out).unwrap());
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("config.toml:1: x: unknown key")
    );
}

#[test]
fn the_command_line_takes_several_endpoints_and_flags_after_the_verb() {
    let args = Args::try_parse_from([
        "berth-agent",
        "--listen",
        "unix:///a",
        "--listen",
        "unix:///b",
        "config",
        "check",
        "--root",
        "/r",
    ])
    .unwrap();
    assert_eq!(args.listen.len(), 2);
    assert_eq!(args.root, Some(PathBuf::from("/r")));
    assert!(Args::try_parse_from(["berth-agent", "--nonsense"]).is_err());
}
