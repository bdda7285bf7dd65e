//! Checks that a pod leaves nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ns_core::Kinds;
use nspod_sandbox::{HoldBy, Pod, PodSpec};
use nspod_tests::{Cell, GONE, PATIENCE, eventually, join, pod};

pub(crate) fn run(name: &str, share: &str, process: bool) {
    let share: Kinds = share.parse().expect("kinds");
    let hold_by = if process { HoldBy::Process } else { HoldBy::Descriptors };
    // Since Linux 6.18 each processor numbers mount namespaces separately, and a namespace can be pinned only from a
    // namespace with a lower number. So one processor makes all of them.
    let (any, mut one) = (nix::unistd::Pid::from_raw(0), nix::sched::CpuSet::new());
    one.set(0).expect("a processor");
    nix::sched::sched_setaffinity(any, &one).expect("to run there");
    // Pins require a private mount.
    ns_core::unshare(Kinds::MNT).expect("a mount namespace");
    let (pins, none) = (tempfile::tempdir().expect("a directory"), None::<&str>);
    let flags = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, flags, none).expect("private mounts");

    // The library makes and keeps the file of its init at the first start.
    life(&format!("{name}-first"), &PodSpec { hold_by, ..pod(share.kinds()) }, pins.path());
    // A thread may reap the processes of the first start a moment later.
    let threads = || fs::read_dir("/proc/self/task").expect("threads").count();
    eventually("the first is over", || threads() == 1 && Seen::look(name).children.trim().is_empty());
    let before = Seen::look(name);
    life(name, &PodSpec { hold_by, ..pod(share.kinds()) }, pins.path());
    // The kernel removes a namespace and its processes a moment after its end.
    let deadline = Instant::now() + PATIENCE / 4;
    while Seen::look(name) != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(Seen::look(name), before, "what is left, and what was there");
    assert_eq!(fs::read_dir(pins.path()).expect("the pins").count(), 0);
    assert!(before.names.is_empty(), "{:?}", before.names);
}

/// Runs a pod with containers: one ends by itself, one is deleted, one is dropped, and one is killed at the end of
/// the pod.
fn life(name: &str, spec: &PodSpec, pins: &Path) {
    let mut pod = Pod::create(name, spec).expect("a pod");
    pod.pin(pins).expect("pins");
    let cell = || Cell::start(&mut join(&pod).expect("room")).expect("a container");
    let (mut ends, deleted, dropped, mut killed) = (cell(), cell(), cell(), cell());
    let cgroup = pod.cgroup().expect("a cgroup").path().to_owned();
    for cell in [&mut ends, &mut killed] {
        cell.order("write /dev/shm/left behind").expect("shared memory");
        cell.order("shm make 77").or_else(|_| cell.order("shm read 77")).expect("System V memory");
        cell.order("fork 3").expect("processes");
    }
    assert_eq!(ends.order("exit 3"), Err(GONE));
    assert_eq!(ends.container.wait().expect("its end").status.shell_code(), 3);
    drop(ends);
    deleted.container.delete().expect("deleted");
    drop(dropped);
    let pidfd = ns_core::Pidfd::open(killed.container.pid()).expect("a pidfd");
    pod.delete().expect("deleted");
    assert!(pidfd.poll(Some(PATIENCE)).expect("poll"), "the pod's end ended no container");
    drop(killed);
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

/// Everything that a pod could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    descriptors: Vec<String>,
    mounts: BTreeSet<String>,
    children: String,
    /// Directories and files whose names contain the name of the pod.
    names: Vec<String>,
}

impl Seen {
    fn look(name: &str) -> Seen {
        let links = |dir: &str| {
            let entries = fs::read_dir(dir).expect(dir).flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let descriptors = links("/proc/self/fd").into_iter().filter_map(|path| fs::read_link(path).ok());
        let mut descriptors: Vec<_> = descriptors.map(|to| to.to_string_lossy().into_owned()).collect();
        descriptors.sort();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let cgroup = cgroup_core::Hierarchy::detect().and_then(|host| host.root()).expect("a hierarchy");
        let children: Vec<_> = links("/proc/self/task")
            .iter()
            .filter_map(|task| fs::read_to_string(task.join("children")).ok())
            .collect();
        let named = |path: &Path| path.to_string_lossy().contains(name);
        let places = [Path::new("/dev/shm"), &cgroup.path().join("nspod")];
        // The parent cgroup is removed with the last container of any test.
        let there = places.map(fs::read_dir).into_iter().filter(|dir| !is_gone(dir));
        let names = there.flat_map(|dir| dir.expect("a directory").flatten()).map(|entry| entry.path());
        Seen {
            descriptors,
            mounts: mounts.lines().map(str::to_owned).collect(),
            children: children.join(" "),
            names: names.filter(|path| named(path)).map(|path| path.display().to_string()).collect(),
        }
    }
}

fn is_gone(dir: &std::io::Result<fs::ReadDir>) -> bool {
    matches!(dir, Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}
