//! Pods: for every subset of kinds, exactly these kinds are shared. Each container has its own cgroup. Containers
//! come and go. A deleted pod leaves nothing behind.

use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_sandbox::spec::NamespaceMode;
use nspod_sandbox::{Error, ErrorKind, HoldBy, Pod, PodSpec};
use nspod_tests::{Cell, join, lane, pod, unique};

/// Namespaces that a container keeps from the host: the user namespace, if the container shares a pid namespace
/// whose /proc its own user namespace could not mount.
fn host_kinds(share: Kinds) -> Kinds {
    if share.contains(Kinds::PID) { Kinds::USER - share } else { Kinds::empty() }
}

/// A container of a pod, with new namespaces of every kind that the pod does not share.
fn isolated(pod: &Pod, share: Kinds) -> Result<Cell, Error> {
    let mut command = join(pod)?;
    for kind in (Kinds::all() - share - host_kinds(share)).kinds() {
        command.namespace(kind, NamespaceMode::New);
    }
    Cell::start(&mut command)
}

/// All 256 subsets. On a slow machine only a selection: none, each single kind, and all.
fn subsets() -> impl Iterator<Item = Kinds> {
    let chosen = |bits: &u32| !lane::is_slow() || bits.count_ones() <= 1 || bits.is_multiple_of(15);
    (0..256_u32).filter(chosen).map(|bits| {
        Kind::ALL
            .into_iter()
            .enumerate()
            .filter(|(at, _)| bits & 1 << at != 0)
            .map(|(_, kind)| kind)
            .collect()
    })
}

#[test]
fn exactly_the_kinds_that_a_pod_shares_coincide_and_no_two_containers_share_a_cgroup() {
    if !lane::root() {
        return;
    }
    let host = NamespaceSet::current().unwrap();
    let mut wrong = Vec::new();
    for share in subsets() {
        let made = Pod::create(&unique("subset"), &pod(share.kinds())).and_then(|pod| {
            let (a, b) = (isolated(&pod, share)?, isolated(&pod, share)?);
            let (set_a, set_b) = (a.container.namespaces()?, b.container.namespaces()?);
            let hosts = host_kinds(share);
            assert_eq!(set_a.coincide(&set_b), share | hosts, "shared in a pod of {share}");
            assert_eq!(set_a.coincide(&host), hosts, "shared with the host in a pod of {share}");
            let (own_a, own_b) = (a.container.cgroup().unwrap(), b.container.cgroup().unwrap());
            assert_ne!(own_a.path(), own_b.path());
            assert!(own_a.procs().unwrap().contains(&a.container.pid()));
            assert!(own_b.procs().unwrap().contains(&b.container.pid()));
            for own in [own_a, own_b] {
                assert_eq!(own.path().parent(), Some(pod.cgroup().unwrap().path()));
            }
            a.container.delete()?;
            b.container.delete()?;
            pod.delete()
        });
        wrong.extend(made.err().map(|error| format!("{share}: {error}")));
    }
    assert!(wrong.is_empty(), "{} subsets do not start:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_second_container_of_the_same_name_does_not_get_the_firsts_cgroup() {
    if !lane::root() {
        return;
    }
    let pod = Pod::create(&unique("same-name"), &PodSpec::default()).unwrap();
    let first = Cell::start(join(&pod).unwrap().init(false).name("one")).unwrap();
    let error = Cell::start(join(&pod).unwrap().name("one")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
    assert_eq!(first.container.cgroup().unwrap().procs().unwrap(), [first.container.pid()]);
    assert_eq!(pod.cgroup().unwrap().procs_recursive().unwrap(), [first.container.pid()]);
}

#[test]
fn containers_join_and_leave_while_the_pod_lives() {
    if !lane::root() {
        return;
    }
    for share in [Kinds::NET | Kinds::IPC | Kinds::UTS, Kinds::FIVE, Kinds::all()] {
        let pod = Pod::create(&unique("come-and-go"), &pod(share.kinds())).unwrap();
        let mut stays = isolated(&pod, share).unwrap();
        let shared = stays.container.namespaces().unwrap();
        stays.order("write /dev/shm/note first").unwrap();
        for _ in 0..3 {
            let mut comes = isolated(&pod, share).unwrap();
            assert!(comes.container.namespaces().unwrap().coincide(&shared).contains(share));
            assert_eq!(comes.order("read /dev/shm/note").as_deref(), Ok("first"));
            comes.container.delete().unwrap();
            assert_eq!(stays.order("ping").as_deref(), Ok("pong"));
        }
        // The first container can also leave, and the pod remains for the next one.
        stays.container.delete().unwrap();
        let mut last = isolated(&pod, share).unwrap();
        assert!(last.container.namespaces().unwrap().coincide(&shared).contains(share));
        assert_eq!(last.order("read /dev/shm/note").as_deref(), Ok("first"));
    }
}

#[test]
fn a_shared_pid_namespace_ends_with_its_holder_and_every_container_in_it() {
    if !lane::root() {
        return;
    }
    let pod = Pod::create(&unique("holder"), &pod([Kind::Pid])).unwrap();
    let mut a = Cell::start(&mut join(&pod).unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pod.holder_pid().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    assert_eq!(a.container.wait().unwrap().status.shell_code(), 128 + libc::SIGKILL);
    // No container can join any more. The start fails and does not hang.
    let error = Cell::start(&mut join(&pod).unwrap()).unwrap_err();
    let is_ended = match error.failed_call() {
        Some("clone") => error.raw_os_error() == Some(libc::ENOMEM),
        // Before Linux 6.17 a procfs is looked for first.
        _ => error.kind() == ErrorKind::ProcessEnded,
    };
    assert!(is_ended, "{error}");
}

#[test]
fn a_container_can_be_deleted_after_its_pod() {
    if !lane::root() {
        return;
    }
    for share in [Kinds::NET, Kinds::PID] {
        let pod = Pod::create(&unique("outlived"), &pod(share.kinds())).unwrap();
        let a = Cell::start(&mut join(&pod).unwrap()).unwrap();
        pod.delete().unwrap();
        a.container.delete().unwrap();
    }
}

/// Runs in its own process, because other tests of this file also open descriptors and mount file systems.
#[test]
fn deleting_leaves_no_process_cgroup_mount_pin_shared_memory_or_descriptor() {
    if !lane::root() {
        return;
    }
    for hold_by in [HoldBy::Descriptors, HoldBy::Process] {
        for share in ["net,ipc,uts", "pid,mnt", "mnt,net,pid,user,uts,ipc,cgroup,time"] {
            let alone = std::process::Command::new(env!("CARGO_BIN_EXE_alone"))
                .args(["leaves-nothing", &unique("leaves"), share, &format!("{hold_by:?}")])
                .output()
                .unwrap();
            assert!(alone.status.success(), "{share}: {}", String::from_utf8_lossy(&alone.stderr));
        }
    }
}
