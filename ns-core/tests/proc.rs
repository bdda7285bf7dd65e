//! Parsers of `/proc`: properties, and agreement with the kernel's own files.

use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ns_core::proc::{self, Mount, Stat, Status};
use ns_core::{Kind, NamespaceId};
use proptest::prelude::*;

/// Escapes a path as the kernel's `mangle` does for mountinfo.
fn mangled(bytes: &[u8]) -> Vec<u8> {
    let escape = |b: &u8| match b {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
        b => vec![*b],
    };
    bytes.iter().flat_map(escape).collect()
}

/// Bytes that often have a meaning in these files.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b" \t\n\\:,-()[]/0127Pid"[..])];
    prop::collection::vec(byte, 0..60)
}

proptest! {
    #[test]
    fn parsers_accept_any_bytes(text in bytes()) {
        let _ = (Status::parse(&text), Stat::parse(&text), proc::nspid(&text), proc::fdinfo_pid(&text));
        let _ = (proc::cgroup(&text), proc::ns_link(&text), proc::field(&text, "Pid"));
        for mount in proc::mounts(&text) {
            let _ = (mount.root(), mount.point());
        }
    }

    #[test]
    fn a_link_is_parsed_as_it_is_displayed(kind in prop::sample::select(Kind::ALL.to_vec()), ino: u64) {
        let text = NamespaceId { dev: 4, ino }.display(kind).to_string();
        prop_assert_eq!(proc::ns_link(text.as_bytes()), Some((kind, ino)));
    }

    #[test]
    fn unescape_reverses_the_kernels_escapes(path in bytes()) {
        let text = mangled(&path);
        prop_assert_eq!(proc::unescape(&text).into_owned(), path);
    }

    #[test]
    fn a_mount_keeps_its_fields_with_any_paths_and_tags(
        ids in (0..9999u64, 0..9999u64), major in 0..300u32, minor in 0..300u32,
        root in bytes(), point in bytes(), tags in 0..3usize, source in "[a-z/]{0,5}",
    ) {
        let mut line = format!("{} {} {major}:{minor} ", ids.0, ids.1).into_bytes();
        line.extend(mangled(&root));
        line.push(b' ');
        line.extend(mangled(&point));
        line.extend(format!(" rw,nosuid {}- ext4 {source} rw,data=x", "shared:1 ".repeat(tags)).bytes());
        let mount = Mount::parse(&line).unwrap();
        prop_assert_eq!((mount.id, mount.parent), ids);
        prop_assert_eq!(mount.device, libc::makedev(major, minor));
        prop_assert_eq!(mount.root().into_owned().into_os_string().into_vec(), root);
        prop_assert_eq!(mount.point().into_owned().into_os_string().into_vec(), point);
        prop_assert!(mount.has_option("nosuid") && !mount.has_option("no"));
        prop_assert_eq!((mount.fstype, mount.super_options), (&b"ext4"[..], &b"rw,data=x"[..]));
    }

    #[test]
    fn a_name_does_not_shift_the_fields_of_stat(name in "[ -~]{0,15}") {
        let text = format!("12 ({name}) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21");
        let stat = Stat::parse(text.as_bytes()).unwrap();
        prop_assert_eq!((stat.state, stat.flags, stat.start, stat.pending), (b'S', 6, 4711, 0));
    }
}

#[test]
fn status_is_parsed_in_the_kernels_format_with_any_process_name() {
    let text = b"Name:\ta\\nUid:\\\\\nUmask:\t0022\nState:\tZ (zombie)\nPPid:\t3\nUid:\t1\t2\t3\t4\nNSpid:\t5\t1\nX:";
    let status = Status::parse(text).unwrap();
    assert_eq!((status.name.as_str(), status.state, status.parent, status.uid), ("a\nUid:\\", b'Z', 3, 2));
    assert_eq!(status.pids, [5, 1]);
    assert_eq!(Status::parse(b"Name:\tx\nState:\tS\nPPid:\t3\n"), None);
}

#[test]
fn a_short_stat_is_not_parsed() {
    for text in ["", "12 (a", "12 (a) S 1", "12 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"] {
        assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn a_killed_process_is_ending_by_its_flags_or_by_the_pending_signal() {
    let ends = |state: &str, flags: u32, pending: u32| {
        let zeros = ["0"; 21].join(" ");
        let text = format!("1 (a) b) {state} 1 1 1 0 -1 {flags} {zeros} {pending} 0");
        Stat::parse(text.as_bytes()).unwrap().is_ending()
    };
    assert!(!ends("S", 0x400040, 0));
    assert!(ends("S", 0x400044, 0) && ends("S", 0x400440, 0) && ends("S", 0x400040, 256));
    assert!(ends("Z", 0, 0) && ends("X", 0, 0));
}

#[test]
fn the_parsers_agree_with_the_kernel_about_this_process() {
    let read = |file: &str| std::fs::read(format!("/proc/thread-self/{file}")).unwrap();
    let me = std::process::id() as i32;
    let status = read("status");
    let parsed = Status::parse(&status).unwrap();
    assert_eq!(parsed.parent, std::os::unix::process::parent_id() as i32);
    assert_eq!(parsed.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(proc::number::<i32>(&status, "Tgid"), Some(me));
    assert_eq!(proc::nspid(&status), Some(parsed.pids));
    assert!(!Stat::parse(&read("stat")).unwrap().is_ending());
    let text = read("mountinfo");
    let lines = text.iter().filter(|b| **b == b'\n').count();
    assert_eq!(proc::mounts(&text).count(), lines);
    let proc = proc::mounts(&text).filter(|m| m.point() == Path::new("/proc")).last().unwrap();
    assert_eq!(proc.fstype, b"proc");
    assert_eq!(proc.device, std::fs::metadata("/proc").unwrap().dev());
}
