//! What a path in a layer means is decided without a panic, and never leads upwards.
#![no_main]

use berth_image::{Target, classify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let parts = match classify(data) {
        Ok(Target::Entry(mut parents, name) | Target::Whiteout(mut parents, name)) => {
            parents.push(name);
            parents
        }
        Ok(Target::Opaque(parents)) => parents,
        Ok(Target::Root | Target::Ignored) | Err(_) => return,
    };
    for part in parts {
        assert!(!part.is_empty() && part != b"." && part != b"..");
        assert!(!part.contains(&b'/') && !part.contains(&0));
    }
});
