//! Links of `/proc/PID/ns` and names of kinds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::{Kind, Kinds, parse};
use nspod_sandbox::census::read;

fuzz_target!(|text: &str| {
    if let Some((kind, ino)) = parse::ns_link(text) {
        assert_eq!(parse::ns_link(&format!("{kind}:[{ino}]")), Some((kind, ino)));
        assert_eq!(read::link(text.as_bytes()), Some((kind, ino)));
    }
    if let Ok(kinds) = text.parse::<Kinds>() {
        assert_eq!(kinds.to_string().parse::<Kinds>().unwrap(), kinds);
        for kind in Kind::ALL {
            assert_eq!(kinds.contains_kind(kind), text.split(',').any(|name| name == kind.name()));
        }
    }
});
