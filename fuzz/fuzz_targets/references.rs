//! A reference that parses is written so that it parses to itself again.
#![no_main]

use berth_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    if let Ok(reference) = data.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().unwrap();
        assert_eq!(again.to_string(), reference.to_string());
    }
});
