//! Links of `/proc/PID/ns` and names of kinds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::{Kind, Kinds, proc};

fuzz_target!(|text: &str| {
    if let Some((kind, ino)) = proc::ns_link(text.as_bytes()) {
        assert_eq!(proc::ns_link(format!("{kind}:[{ino}]").as_bytes()), Some((kind, ino)));
    }
    if let Ok(kinds) = text.parse::<Kinds>() {
        assert_eq!(kinds.to_string().parse::<Kinds>().unwrap(), kinds);
        for kind in Kind::ALL {
            assert_eq!(kinds.contains_kind(kind), text.split(',').any(|name| name == kind.name()));
        }
    }
});
