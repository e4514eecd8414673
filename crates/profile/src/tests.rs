use std::time::{Duration, Instant};

use crate::{Recording, pprof};

#[inline(never)]
fn the_inner_function(until: Instant) -> u64 {
    let mut sum = 0u64;
    while Instant::now() < until {
        for n in 0..10_000u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
    }
    sum
}

#[inline(never)]
fn the_outer_function(until: Instant) -> u64 {
    std::hint::black_box(the_inner_function(until)) + 1
}

/// Names of functions from the running one outwards, for each sample, with its weight.
fn stacks(profile: &pprof::Profile) -> Vec<(Vec<String>, i64)> {
    let string = |index: i64| profile.string_table[index as usize].clone();
    let name = |id: &u64| {
        let location = &profile.location[*id as usize - 1];
        assert_eq!(location.id, *id);
        location.line.first().map_or(String::new(), |line| {
            string(profile.function[line.function_id as usize - 1].name)
        })
    };
    profile
        .sample
        .iter()
        .map(|sample| {
            (
                sample.location_id.iter().map(name).collect(),
                sample.value[1],
            )
        })
        .collect()
}

#[test]
fn a_profile_says_what_a_busy_function_cost_and_who_called_it() {
    let mut recording = Recording::start().unwrap();
    let busy = Duration::from_millis(600);
    let worker = std::thread::spawn(move || the_outer_function(Instant::now() + busy));
    while !worker.is_finished() {
        recording.collect();
        std::thread::sleep(crate::COLLECT);
    }
    let compressed = recording.finish("a test").unwrap();
    if let Some(path) = std::env::var_os("BERTH_PROFILE_OUT") {
        std::fs::write(path, &compressed).unwrap();
    }
    let profile = pprof::decode(&compressed);
    let mut of_the_pair = 0;
    for (names, weight) in stacks(&profile) {
        let inner = names.iter().position(|n| n.contains("the_inner_function"));
        let outer = names.iter().position(|n| n.contains("the_outer_function"));
        if let (Some(inner), Some(outer)) = (inner, outer) {
            assert!(inner < outer, "{names:?}");
            assert!(names.len() > outer + 2, "nobody called it: {names:?}");
            of_the_pair += weight;
        }
    }
    // The machine may be busy elsewhere, so only part of the time is asked for.
    assert!(of_the_pair > 100_000_000, "{of_the_pair} of 600,000,000 ns");
    assert!(
        of_the_pair < 2_000_000_000,
        "{of_the_pair} of 600,000,000 ns"
    );
    assert_eq!(profile.string_table[0], "");
    assert_eq!(profile.period, 10_000_000);
    assert!(profile.duration_nanos > 500_000_000);
    let program = &profile.mapping[0];
    assert!(program.memory_start < program.memory_limit);
}
