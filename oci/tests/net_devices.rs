//! Moves devices between net namespaces, as root.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};
use nspod_oci_runtime::{Error, ErrorKind, move_net_device};

/// Calls a function in a thread with a new net namespace, and passes it a second one. Skips the test without
/// root.
fn with_two(then: impl FnOnce(&File) + Send) {
    if !nspod_testkit::root() {
        return;
    }
    let outer = File::open("/proc/thread-self/ns/net").unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let target = File::open("/proc/thread-self/ns/net").unwrap();
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            then(&target);
            setns(&outer, CloneFlags::CLONE_NEWNET).unwrap();
        });
        thread.join().unwrap();
    });
}

/// Returns the output of `ip` in this thread's net namespace.
fn ip(line: &str) -> String {
    let out = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(out.status.success(), "ip {line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn inside(target: &File, line: &str) -> String {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(target, CloneFlags::CLONE_NEWNET).unwrap();
            ip(line)
        });
        thread.join().unwrap()
    })
}

fn moved(name: &str, new_name: Option<&str>, target: &File) -> Result<(), Error> {
    move_net_device(name, new_name, target.as_fd())
}

#[test]
fn a_device_arrives_under_its_new_name_up_and_with_its_addresses() {
    with_two(|target| {
        ip("link add a0 type veth peer name a1");
        ip("addr add 10.9.0.1/24 brd 10.9.0.255 dev a0");
        ip("addr add 10.9.0.2 peer 10.9.1.2/32 dev a0");
        ip("addr add 169.254.7.7/16 scope link dev a0");
        ip("addr add fd00:9::1/64 dev a0 nodad");
        ip("link set a0 up");
        moved("a0", Some("eth0"), target).unwrap();
        let shown = inside(target, "-o addr show dev eth0");
        for one in ["inet 10.9.0.1/24 brd 10.9.0.255", "inet 10.9.0.2 peer 10.9.1.2/32", "inet6 fd00:9::1/64"]
        {
            assert!(shown.contains(one), "{one}: {shown}");
        }
        assert!(!shown.contains("169.254"), "{shown}");
        assert!(inside(target, "-o link show eth0").contains(",UP"));
        assert!(!ip("-o link").contains("a0:"), "it is still here");
        // The calling thread is still in its namespace.
        assert!(ip("-o link").contains("a1"));
    });
}

#[test]
fn addresses_are_the_devices_own_and_follow_it_to_another_index() {
    with_two(|target| {
        inside(target, "link add b0 index 1000 type veth peer name b1");
        ip("link add a0 index 1000 type veth peer name a1");
        ip("addr add 10.9.0.1/24 dev a0");
        ip("addr add 10.9.5.1/24 dev a1");
        moved("a0", None, target).unwrap();
        let shown = inside(target, "-o -4 addr");
        let [a0] = shown.lines().filter(|line| !line.contains(": lo ")).collect::<Vec<_>>()[..] else {
            panic!("{shown}")
        };
        assert!(a0.contains(": a0 ") && a0.contains("inet 10.9.0.1/24 ") && !a0.starts_with("1000:"), "{a0}");
        assert!(inside(target, "-o link show a0").contains(",UP"));
        assert!(!inside(target, "-o link show b0").contains(",UP"));
    });
}

#[test]
fn a_device_keeps_its_name_unless_it_gets_another() {
    with_two(|target| {
        ip("link add a0 type veth peer name a1");
        moved("a0", None, target).unwrap();
        assert!(inside(target, "-o link").contains("a0@"));
    });
}

#[test]
fn a_device_that_cannot_be_moved_stays_and_the_error_has_the_reason() {
    with_two(|target| {
        let error = moved("a0", None, target).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        let text = error.to_string();
        assert!(
            text.starts_with("cannot find the device a0: rtnetlink: ") && text.contains("ip link"),
            "{text}"
        );

        inside(target, "link add eth0 type veth peer name eth1");
        ip("link add a0 type veth peer name a1");
        for (name, new) in [("a0", "eth0"), ("a1", "eth1")] {
            let error = moved(name, Some(new), target).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
            assert!(error.to_string().contains("has a device of that name already"), "{error}");
            assert!(ip("-o link").contains(name));
        }
        let error = moved("lo", Some("lo9"), target).unwrap_err();
        assert!(error.to_string().contains("cannot leave its net namespace"), "{error}");
    });
}

#[test]
fn names_that_no_device_can_have_are_refused() {
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    for name in ["", ".", "..", "a/b", "a b", "a:b", "a%d", "sixteen-bytes-xx"] {
        let error = moved("eth0", Some(name), &here).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?}: {error}");
        assert!(error.to_string().starts_with("linux.netDevices.eth0: "), "{error}");
    }
}
