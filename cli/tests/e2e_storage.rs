//! The size and the number of inodes of the files that a container writes.

mod common;

use std::process::Command;

use cgroup_core::Controllers;
use common::bundle::Bundle;
use common::user::User;
use common::{controllers, nspod, ok, programs, root, run_with, skip};

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

/// A file system with project quotas, and an empty /run. The mounts are in the mount namespace of the
/// test's thread and end with it.
struct Disk {
    dir: tempfile::TempDir,
}

/// The kinds of disks, with their smallest usual size.
const KINDS: [&str; 2] = ["ext4", "xfs"];

impl Disk {
    /// Returns `None` if this kernel has no such file system.
    fn new(kind: &str, options: &str) -> Option<Disk> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let script = r#"mount --make-rprivate /; mount -t tmpfs none /run
            truncate -s 320m $1/image
            case $2 in
                ext4) mkfs.ext4 -q -O quota,project -E lazy_itable_init=1,nodiscard $1/image;;
                xfs) mkfs.xfs -q -K $1/image;;
            esac
            mkdir $1/on; mount -o loop,$3 $1/image $1/on || exit 99
            rm $1/image"#;
        let made = run_with(
            Command::new("sh").args(["-ec", script, "sh"]).arg(dir.path()).args([kind, options]),
            "",
        );
        match made.code() {
            0 => Some(Disk { dir }),
            99 => {
                skip(&format!("this kernel has no {kind} with project quotas"));
                None
            }
            _ => panic!("{made:?}"),
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join("on").join(name).display().to_string()
    }

    /// Runs a script with limited writes to an overlay.
    fn overlay(&self, name: &str, limit: &str, flags: &[&str], script: &str) -> String {
        let overlay = format!("--overlay={}", self.path(name));
        shell(&[&[overlay.as_str(), "--storage-opt", limit], flags].concat(), script)
    }

    /// Returns the project ids in use.
    fn ids() -> Vec<String> {
        let Ok(claims) = std::fs::read_dir("/run/nspod-quota") else { return Vec::new() };
        claims.map(|claim| claim.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn project(&self, name: &str) -> String {
        let line = run_with(Command::new("lsattr").args(["-pd", &self.path(name)]), "");
        line.ok().split_whitespace().next().unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", &self.path("")]).status();
    }
}

fn with_disks(test: impl Fn(&str, &Disk)) {
    if !root() || !programs(&["mkfs.ext4", "mkfs.xfs", "lsattr"]) {
        return;
    }
    for kind in KINDS {
        let Some(disk) = Disk::new(kind, "prjquota") else { return };
        test(kind, &disk);
    }
}

/// What the file system says at the limit.
fn is_full(kind: &str, output: &str, size: u64) {
    let reason = if kind == "xfs" { "No space left on device" } else { "Disk quota exceeded" };
    let (said, found) = output.trim().split_once('\n').unwrap();
    assert_eq!(said, reason, "{kind}");
    let found: u64 = found.parse().unwrap();
    // The directories of the overlay and the map of the file's blocks need a few blocks.
    assert!(found <= size && found + (32 << 10) >= size, "{kind}: {found} of {size}");
}

#[test]
fn an_overlay_on_disk_ends_at_its_size_and_its_number_of_inodes() {
    with_disks(|kind, disk| {
        is_full(kind, &disk.overlay("a", "size=4m", &[], "fill /big"), 4 << 20);
        assert_eq!(Disk::ids(), [""; 0], "{kind}");
        // What is there already counts, and the limit is a new one.
        let more = disk.overlay("a", "size=6m", &[], "stat -c %s /big; fill /more");
        let (before, more) = more.split_once('\n').unwrap();
        is_full(kind, more, (6 << 20) - before.parse::<u64>().unwrap());
        let made: u32 = disk.overlay("b", "inodes=20", &[], "files /").trim().parse().unwrap();
        assert!((15..=17).contains(&made), "{kind}: {made}");
        assert_eq!([disk.project("a/upper"), disk.project("b/work")], ["0", "0"], "{kind}");
    });
}
