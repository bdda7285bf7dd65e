//! Mounts of cgroups: no line changes the meaning of another, and the result survives printing in the kernel's
//! format.
#![no_main]

use std::os::unix::ffi::OsStrExt;

use cgroup_core::parse::{Mount, mountinfo};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mounts = mountinfo(text);
    let singly: Vec<Mount> = text.split('\n').flat_map(mountinfo).collect();
    assert_eq!(singly, mounts);
    for mount in mounts {
        let line = format!(
            "31 23 0:28 {} {} rw,nosuid shared:9 - {} none {}",
            escape(mount.root.as_bytes()),
            escape(mount.point.as_os_str().as_bytes()),
            if mount.v2 { "cgroup2" } else { "cgroup" },
            mount.options.join(",")
        );
        assert_eq!(mountinfo(&line), [mount]);
    }
});

fn escape(bytes: &[u8]) -> String {
    let one = |b: &u8| match b {
        b'a'..=b'z' | b'/' => char::from(*b).to_string(),
        _ => format!("\\{b:03o}"),
    };
    bytes.iter().map(one).collect()
}
