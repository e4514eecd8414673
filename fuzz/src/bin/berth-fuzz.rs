//! libFuzzer on the target that `BERTH_FUZZ_TARGET` names.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let run = RUN.get_or_init(|| {
        let name = std::env::var("BERTH_FUZZ_TARGET").unwrap_or_default();
        let known: Vec<&str> = berth_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        let Some((_, run)) = berth_fuzz::target(&name) else {
            panic!(
                "BERTH_FUZZ_TARGET is {name:?}; there are: {}",
                known.join(" ")
            );
        };
        run
    });
    run(data);
});
