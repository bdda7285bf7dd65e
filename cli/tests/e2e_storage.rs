//! The size and the number of inodes of the files that a container writes.

mod common;

use cgroup_core::Controllers;
use common::bundle::Bundle;
use common::user::User;
use common::{controllers, nspod, ok, root};

/// Writes blocks of 4 KiB to a file until that fails, and prints the reason and the size.
const FILL: &str = r#"fill() { dd if=/dev/zero of=$1 bs=4k 2>&1 | sed -n 's/^dd: .*: //p'; stat -c %s $1; }"#;
/// Creates empty files until that fails, and prints their number.
const FILES: &str = r#"files() { n=0; while : 2>/dev/null >$1/f$n; do n=$((n+1)); done; echo $n; }"#;

fn shell(flags: &[&str], script: &str) -> String {
    let script = format!("{FILL}\n{FILES}\n{script}");
    ok(&[&["run"], flags, &["bash", "-c", &script]].concat())
}

#[test]
fn an_overlay_in_memory_ends_at_its_size() {
    if !root() {
        return;
    }
    let full = shell(&["--overlay", "--storage-opt", "size=1m"], "fill /big");
    assert_eq!(full, "No space left on device\n1048576\n");
}

#[test]
fn an_overlay_in_memory_of_an_ordinary_user_ends_at_its_size() {
    if !root() {
        return;
    }
    let (user, bundle) = (User::new(), Bundle::new("true"));
    let root = bundle.path("rootfs").display().to_string();
    let script = "busybox dd if=/dev/zero of=/big bs=4k 2>&1; busybox stat -c %s /big";
    let flags = ["run", "--rootfs", &root, "--overlay", "--storage-opt", "size=1m", "sh", "-c", script];
    let full = user.nspod(&flags);
    assert!(full.out.contains("No space left on device") && full.out.ends_with("\n1048576\n"), "{full:?}");
}

#[test]
fn an_overlay_in_memory_ends_at_its_number_of_inodes() {
    if !root() {
        return;
    }
    let made: u32 = shell(&["--overlay", "--storage-opt", "inodes=20"], "files /").trim().parse().unwrap();
    // The overlay itself needs the root of the tmpfs, two directories for the writes, and a few in them.
    assert!((13..=16).contains(&made), "{made}");
}

#[test]
fn a_tmpfs_ends_at_its_size_and_its_number_of_inodes() {
    if !root() {
        return;
    }
    let full = shell(&["--tmpfs", "/mnt:size=64k,inodes=6,mode=700"], "files /mnt; rm /mnt/*; fill /mnt/big");
    assert_eq!(full, "5\nNo space left on device\n65536\n");
    let sizes = "stat -fc '%n %b %s' /dev /dev/shm; mount | grep -c ' on /tmp type tmpfs'";
    assert_eq!(shell(&[], sizes), "/dev 16 4096\n/dev/shm 16384 4096\n1\n");
}

#[test]
fn the_files_of_an_overlay_in_memory_are_memory_of_the_container() {
    if !root() || !controllers(Controllers::MEMORY) {
        return;
    }
    let run = |size: &str| {
        let limit = format!("size={size}");
        let flags = ["run", "-m", "64m", "--memory-swap", "64m", "--overlay", "--storage-opt", &limit];
        nspod(&[&flags[..], &["dd", "if=/dev/zero", "of=/big", "bs=1M"]].concat())
    };
    let fits = run("16m");
    assert!(fits.code() == 1 && fits.err.contains("No space left on device"), "{fits:?}");
    let exceeds = run("256m");
    assert!(exceeds.code() == 137 && exceeds.err.contains("at the container's memory.max"), "{exceeds:?}");
}

#[test]
fn a_limit_that_would_not_be_enforced_is_refused() {
    if !root() {
        return;
    }
    for (flags, why) in [
        (&["--storage-opt", "size=1m"][..], "--overlay"),
        (&["--overlay", "--storage-opt", "size=0"], "size=0 must be positive"),
        (&["--overlay", "--storage-opt", "what=1"], "size=BYTES or inodes=COUNT"),
    ] {
        let output = nspod(&[&["run"], flags, &["true"]].concat());
        assert!(output.code() != 0 && output.err.contains(why), "{flags:?}: {output:?}");
    }
}
