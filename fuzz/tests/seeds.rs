//! The kept inputs: examples of each format, and what once broke something.
#![allow(clippy::unwrap_used, reason = "tests say what failed by panicking")]

use std::{fs, path::Path};

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), fs::read(&path).unwrap())
        })
        .collect()
}

#[test]
fn every_target_has_seeds_and_keeps_its_word_on_them() {
    for (name, run) in berth_fuzz::TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (path, bytes) in seeds {
            eprintln!("{path}");
            run(&bytes);
        }
        run(b"");
    }
}

#[test]
fn seeds_that_are_cut_or_damaged_anywhere_are_refused_or_taken() {
    for (name, run) in berth_fuzz::TARGETS {
        for (path, bytes) in seeds(name) {
            eprintln!("{path}");
            for at in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
                run(&bytes[..at]);
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x41;
                run(&damaged);
            }
        }
    }
}

#[test]
fn every_directory_of_seeds_belongs_to_a_target() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for entry in fs::read_dir(seeds).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(berth_fuzz::target(&name).is_some(), "{name}");
    }
}
