//! A tar stream of any bytes ends, in an error or at its end, and never in a panic.
#![no_main]

use berth_image::tar::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(data);
    let mut buffer = [0_u8; 512];
    while let Ok(Some(_)) = reader.next() {
        while let Ok(1..) = reader.read_data(&mut buffer) {}
    }
    assert!(reader.offset() <= data.len() as u64);
});
