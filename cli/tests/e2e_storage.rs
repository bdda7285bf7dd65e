//! The size and the number of inodes of the files that a container writes.

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use cgroup_core::Controllers;
use common::bundle::Bundle;
use common::user::User;
use common::{NSPOD, Name, controllers, json, nspod, ok, programs, root, run_with, skip};
use ns_core::Kind;
use nspod_sandbox::spec::{Mount, MountKind, NamespaceMode, StorageLimit};

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
fn an_ordinary_user_writes_to_an_overlay_of_the_host() {
    if !root() {
        return;
    }
    let user = User::new();
    let own = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = own.path().join("f");
    std::fs::write(&file, "old\n").unwrap();
    std::fs::create_dir(own.path().join("d")).unwrap();
    for path in [own.path(), &file, &own.path().join("d")] {
        nix::unistd::chown(path, Some(65_534.into()), Some(65_534.into())).unwrap();
    }
    let script = format!(
        "{FILL}\necho new >> f; rmdir d; touch made; cat f; ls; touch /usr/e2e-top && ls /usr/e2e-top
        echo top > /e2e-top; mkdir /e2e-dir; cat /e2e-top; fill big; fill /e2e-big; touch /usr/share/doc/e2e-x"
    );
    let dir = own.path().to_str().unwrap();
    let flags = ["run", "--overlay", "--storage-opt", "size=1m", "-w", dir, "bash", "-c", &script];
    let seen = user.nspod(&flags);
    let full = "No space left on device\n";
    let (before, after) = seen.out.split_once(full).unwrap_or_else(|| panic!("{seen:?}"));
    assert_eq!(before, "old\nnew\nf\nmade\n/usr/e2e-top\ntop\n");
    // The tmpfs is full already.
    assert!(after.ends_with(&format!("{full}0\n")), "{seen:?}");
    assert!(seen.code() == 1 && seen.err.contains("'/usr/share/doc/e2e-x': Permission denied"), "{seen:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "old\n");
    assert_eq!(std::fs::read_dir(own.path()).unwrap().count(), 2);
    for path in ["/e2e-top", "/e2e-dir", "/e2e-big", "/usr/e2e-top"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    let owner =
        ok(&["run", "--userns", "auto", "--overlay", "sh", "-c", "echo x > /usr/e2e-top; cat /usr/e2e-top"]);
    assert_eq!(owner, "x\n");
    for refused in
        [user.nspod(&["run", "--overlay=w", "true"]), nspod(&["run", "--userns=new", "--overlay=w", "true"])]
    {
        assert!(refused.code() == 125 && refused.err.contains("use --overlay without DIR"), "{refused:?}");
    }
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
    let smaller = ["--tmpfs", "/tmp:size=64k", "--tmpfs", "/run:size=32k"];
    let sizes = "stat -fc '%n %b %s' /tmp /run; stat -c %a /tmp; mount | grep -c ' on /tmp type tmpfs'; fill /tmp/big";
    let expected = "/tmp 16 4096\n/run 8 4096\n1777\n1\nNo space left on device\n65536\n";
    assert_eq!(shell(&smaller, sizes), expected);
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
    for kind in ["ext4", "xfs"] {
        with_disk(kind, |disk| test(kind, disk));
    }
}

fn with_disk(kind: &str, test: impl FnOnce(&Disk)) {
    if root()
        && programs(&["mkfs.ext4", "mkfs.xfs", "lsattr"])
        && let Some(disk) = Disk::new(kind, "prjquota")
    {
        test(&disk);
    }
}

/// Checks the error of the file system at the limit, and the size of the file.
fn is_full(kind: &str, output: &str, size: u64) {
    let reason = if kind == "xfs" { "No space left on device" } else { "Disk quota exceeded" };
    let (said, found) = output.trim().split_once('\n').unwrap();
    assert_eq!(said, reason, "{kind}");
    let found: u64 = found.parse().unwrap();
    // The limit is reached within one block. xfs counts a delayed write with the greatest number of blocks that the
    // map of the file could require, so a write fails although some of them would be free.
    let last = if kind == "xfs" { 32 << 10 } else { 4 << 10 };
    assert!(found <= size && found + last >= size, "{kind}: {found} of {size}");
}

#[test]
fn an_overlay_on_disk_ends_at_its_size_and_its_number_of_inodes() {
    with_disks(|kind, disk| {
        is_full(kind, &disk.overlay("a", "size=4m", &[], "fill /big"), 4 << 20);
        assert_eq!(Disk::ids(), [""; 0], "{kind}");
        // The files of the first container count for the second one, whose limit is greater.
        let more = disk.overlay("a", "size=6m", &[], "stat -c %s /big; fill /more");
        let (before, more) = more.split_once('\n').unwrap();
        is_full(kind, more, (6 << 20) - before.parse::<u64>().unwrap());
        let made: u32 = disk.overlay("b", "inodes=20", &[], "files /").trim().parse().unwrap();
        assert!((15..=17).contains(&made), "{kind}: {made}");
        assert_eq!([disk.project("a/upper"), disk.project("b/work")], ["0", "0"], "{kind}");
    });
}

/// Changes the project id of a new file, and the inheritance of a new directory, by each call that can.
const LEAVE: &str = r#"leave() { python3 - $1 <<'END'
import ctypes, errno, fcntl, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try: act(); print(name, "done")
    except OSError as e: print(name, errno.errorcode[e.errno])
def system(nr, *args):
    if libc.syscall(nr, *args) < 0: raise OSError(ctypes.get_errno(), "")
top = sys.argv[1]
os.mkdir(top + "/dir"); open(top + "/file", "w").close()
file, dir = os.open(top + "/file", os.O_RDONLY), os.open(top + "/dir", os.O_RDONLY)
attempt("fssetxattr", lambda: fcntl.ioctl(file, 0x401c5820, struct.pack("5I8x", 0, 0, 0, 0, 0)))
attempt("upper half", lambda: system(16, file, ctypes.c_ulong(0x1_401c5820), struct.pack("5I8x", 0, 0, 0, 0, 0)))
attempt("setflags", lambda: fcntl.ioctl(dir, 0x40086602, struct.pack("L", 0)))
attempt("setflags32", lambda: fcntl.ioctl(dir, 0x40046602, struct.pack("L", 0)))
attempt("file_setattr", lambda: system(469, dir, b".", None, 0, 0))
END
}"#;

#[test]
fn a_container_cannot_leave_its_quota() {
    with_disk("ext4", |disk| {
        let leave = |place: &str| format!("{LEAVE}\nleave {place}");
        std::fs::create_dir(disk.path("volume")).unwrap();
        let volume = format!("{}:/mnt", disk.path("volume"));
        let limited = format!("{volume}:size=4m");
        let denied = ["fssetxattr", "upper half", "setflags", "setflags32", "file_setattr"];
        let denied = denied.map(|call| format!("{call} EPERM\n")).concat();
        let name = Name::detached(&["-v", &limited], &["sleep", "1000"]);
        assert_eq!(ok(&["exec", &name, "bash", "-c", &leave("/mnt")]), denied);
        let refused = nspod(&["exec", "--privileged", &name, "true"]);
        assert!(refused.err.contains("could exceed or remove the limit"), "{refused:?}");
        ok(&["rm", "-f", &name]);
        let unconfined = ["--security-opt", "seccomp=unconfined", "-v", &limited];
        assert_eq!(shell(&unconfined, &format!("rm -r /mnt/*\n{}", leave("/mnt"))), denied);
        assert_eq!(disk.overlay("a", "size=4m", &[], &leave("/var")), denied);
        for flag in ["--privileged", "--cap-add=SYS_RESOURCE"] {
            let refused = nspod(&["run", "-v", &limited, flag, "true"]);
            assert!(refused.err.contains("could exceed or remove the limit"), "{refused:?}");
        }
        // The control: without a limit, the owner of a file can do that.
        let overlay = format!("--overlay={}", disk.path("free"));
        let free = shell(&[&overlay, "-v", &volume], &format!("rm -r /mnt/*\n{}\nleave /var", leave("/mnt")));
        assert_eq!(free.matches("fssetxattr done\n").count(), 2, "{free}");
        assert_eq!(free.matches("setflags done\n").count(), 2, "{free}");
    });
}

#[test]
fn a_container_does_not_fill_the_volume_of_another() {
    with_disks(|kind, disk| {
        for name in ["a", "b"] {
            std::fs::create_dir(disk.path(name)).unwrap();
        }
        let volume = |name: &str| format!("{}:/mnt:size=4m,inodes=100", disk.path(name));
        let a = Name::detached(&["-v", &volume("a")], &["sleep", "1000"]);
        let b = Name::detached(&["-v", &volume("b")], &["sleep", "1000"]);
        let fill = format!("{FILL}\nfill /mnt/big");
        is_full(kind, &ok(&["exec", &a, "bash", "-c", &fill]), 4 << 20);
        is_full(kind, &ok(&["exec", &b, "bash", "-c", &fill]), 4 << 20);
        assert_ne!(disk.project("a"), disk.project("b"), "{kind}");
        let stats = json(&["--json", "stats", "--no-stream", &a]);
        let inspect = json(&["inspect", &a]);
        for storage in [&stats[0]["storage"][0], &inspect[0]["storage"][0]] {
            assert_eq!(storage["destination"], "/mnt", "{kind}: {storage}");
            assert_eq!(storage["limit"]["size"], 4 << 20, "{kind}: {storage}");
            assert_eq!(storage["inodes"], 2, "{kind}: {storage}");
            let used = storage["size"].as_u64().unwrap();
            assert!(used + (64 << 10) >= 4 << 20 && used <= 4 << 20, "{kind}: {storage}");
        }
        assert!(ok(&["stats", "--no-stream", &a]).contains(" / 4.0 MiB"), "{kind}");
        // The volume has a limit already.
        let second = nspod(&["run", "-v", &volume("a"), "true"]);
        assert!(second.err.contains("it has another project quota"), "{second:?}");
        // The id of a container that is removed is the next one's.
        let first = disk.project("a");
        ok(&["rm", "-f", &a]);
        assert_eq!(disk.project("a"), "0", "{kind}");
        let c = Name::detached(&["-v", &volume("a")], &["sleep", "1000"]);
        assert_eq!(disk.project("a"), first, "{kind}");
        ok(&["rm", "-f", &b]);
        // A volume that is gone does not prevent the removal.
        std::fs::rename(disk.path("a"), disk.path("moved")).unwrap();
        ok(&["rm", "-f", &c]);
        assert_eq!(Disk::ids(), [""; 0], "{kind}");
    });
}

#[test]
fn the_outcome_has_the_size_of_the_writes() {
    with_disk("xfs", |disk| {
        let name = Name::container();
        let overlay = format!("--overlay={}", disk.path("a"));
        let flags = ["run", "--keep", "--name", &name, &overlay, "--storage-opt", "size=4m"];
        ok(&[&flags[..], &["dd", "if=/dev/zero", "of=/big", "bs=1M", "count=1", "status=none"]].concat());
        let storage = &json(&["inspect", &name])[0]["outcome"]["storage"][0];
        assert_eq!(storage["destination"], "/", "{storage}");
        assert!((1 << 20..=(1 << 20) + (64 << 10)).contains(&storage["size"].as_u64().unwrap()), "{storage}");
    });
}

#[test]
fn a_volume_in_a_user_namespace_ends_at_its_size() {
    with_disk("ext4", |disk| {
        std::fs::create_dir(disk.path("v")).unwrap();
        std::fs::set_permissions(disk.path("v"), std::fs::Permissions::from_mode(0o777)).unwrap();
        let volume = format!("{}:/mnt:size=4m", disk.path("v"));
        is_full("ext4", &shell(&["--userns", "auto", "-v", &volume], "fill /mnt/big"), 4 << 20);
    });
}

#[test]
fn the_ids_of_killed_starts_are_given_back() {
    with_disk("ext4", |disk| {
        let mut left = 0;
        for attempt in 0..6 {
            let overlay = format!("--overlay={}", disk.path(&format!("o{attempt}")));
            let flags = ["run", &overlay, "--storage-opt", "size=4m", "true"];
            let mut run = Command::new(NSPOD).args(flags).spawn().unwrap();
            while Disk::ids().is_empty() && run.try_wait().unwrap().is_none() {}
            // The start and the end of the container follow.
            std::thread::sleep(std::time::Duration::from_millis(10 * attempt));
            let _ = run.kill();
            run.wait().unwrap();
            left += usize::from(!Disk::ids().is_empty());
            nspod_testkit::eventually("the id is given back", || {
                let pruned = nspod(&["prune"]);
                assert_eq!(pruned.code(), 0, "{pruned:?}");
                Disk::ids().is_empty()
            });
            assert_eq!(disk.project(&format!("o{attempt}/upper")), "0", "{attempt}");
        }
        assert!(left > 0, "no start was killed while it had an id");
    });
}

/// Starts a container with a limited volume.
fn with_volume(volume: &str) -> nspod_sandbox::Container {
    let kind = MountKind::Bind { source: volume.into(), recursive: false };
    let mut command = nspod_sandbox::Command::new("sleep");
    command.arg("1000").namespace(Kind::Net, NamespaceMode::Host);
    command.mount(Mount { limit: StorageLimit::of_size(1 << 20), ..Mount::new("/mnt", kind) });
    command.spawn().unwrap()
}

#[test]
fn fifty_containers_at_once_have_different_ids() {
    with_disk("ext4", |disk| {
        let volumes: Vec<String> = (0..50).map(|n| format!("v{n}")).collect();
        volumes.iter().for_each(|name| std::fs::create_dir(disk.path(name)).unwrap());
        let containers: Vec<_> = std::thread::scope(|scope| {
            let paths = volumes.iter().map(|name| disk.path(name));
            let starts: Vec<_> = paths.map(|path| scope.spawn(move || with_volume(&path))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let ids: BTreeSet<String> = volumes.iter().map(|name| disk.project(name)).collect();
        assert!(ids.len() == 50 && !ids.contains("0"), "{ids:?}");
        assert_eq!(Disk::ids().into_iter().collect::<BTreeSet<_>>(), ids);
        containers.into_iter().for_each(|container| container.delete().unwrap());
        assert_eq!(Disk::ids(), [""; 0]);
    });
}

#[test]
fn a_directory_that_cannot_be_limited_is_refused_with_the_cure() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let overlay = format!("--overlay={path}/o");
    let run = |flags: &[&str]| nspod(&[&["run"], flags, &["true"]].concat()).err;
    for refused in [
        run(&[&overlay, "--storage-opt", "size=1m"]),
        run(&[&overlay, "--storage-opt", "size=1m", "--lax-limits"]),
        run(&["-v", &format!("{path}:/mnt:size=1m")]),
        run(&["-v", "/dev/shm:/mnt:size=1m"]),
    ] {
        assert!(refused.contains("does not enforce project quotas"), "{refused}");
        assert!(refused.contains("or an xfs with the option prjquota"), "{refused}");
    }
    let file = run(&["-v", &format!("{path}/file:/mnt:size=1m")]);
    assert!(file.contains("only the size of a directory can be limited"), "{file}");
    let user = User::new();
    let volume = format!("{}:/mnt:size=1m", user.dir().display());
    let user = user.nspod(&["run", "-v", &volume, "true"]).err;
    assert!(user.contains("run as root, or limit an overlay in memory"), "{user}");
    let pod = nspod(&["pod", "create", "--share", "mnt", "-v", &format!("{path}:/mnt:size=1m"), "web"]);
    assert!(pod.err.contains("a pod cannot limit directories"), "{pod:?}");
}

#[test]
fn an_ext4_that_does_not_enforce_its_quotas_is_refused() {
    if !root() || !programs(&["mkfs.ext4"]) {
        return;
    }
    // The file system counts, and does not enforce.
    let Some(disk) = Disk::new("ext4", "defaults") else { return };
    let overlay = format!("--overlay={}", disk.path("o"));
    let refused = nspod(&["run", &overlay, "--storage-opt", "size=1m", "true"]).err;
    assert!(refused.contains("does not enforce project quotas"), "{refused}");
}
