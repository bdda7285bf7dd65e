//! Clock offsets survive printing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::TimeOffsets;

fuzz_target!(|text: &str| {
    let Ok(offsets) = text.parse::<TimeOffsets>() else { return };
    assert!(offsets.monotonic.nanos.max(offsets.boottime.nanos) <= 999_999_999);
    assert_eq!(offsets.to_string().parse::<TimeOffsets>().unwrap(), offsets);
});
