//! Identities, handles, pins, unshare and setns against the real kernel, on threads.
// The unsafe blocks are plain system calls on locals. Others have a comment.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use common::Child;
use nix::mount::{MsFlags, mount};
use ns_core::{
    Clone3, ErrorKind, Kind, Kinds, Namespace, NamespaceId, NamespaceSet, Pidfd, proc, setns, setns_pidfd,
    unshare,
};

const ON_THREADS: [Kind; 5] = [Kind::Mnt, Kind::Net, Kind::Uts, Kind::Ipc, Kind::Cgroup];

/// Runs on a new thread, in a mnt namespace without propagation, with a tmpfs that ends with the
/// thread.
fn in_private_mounts<T: Send>(f: impl FnOnce(&Path) -> T + Send) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(Kinds::MNT).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            f(path)
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn ids_equal_the_links_in_proc() {
    let set = NamespaceSet::current().unwrap();
    for (kind, id) in set.iter() {
        let target = std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();
        let target = target.to_str().unwrap();
        assert_eq!(proc::ns_link(target.as_bytes()), Some((kind, id.ino)));
        assert_eq!(id.display(kind).to_string(), target);
    }
}

#[test]
fn pid_pidfd_and_handle_agree_on_every_kind() {
    let child = Child::sleeping(Clone3 { kinds: Kinds::all(), ..Clone3::default() });
    let set = NamespaceSet::of_pid(child.pid).unwrap();
    assert_eq!(NamespaceSet::of_pidfd(&child.pidfd).unwrap(), set);
    for (kind, id) in set.iter() {
        let by_pid = Namespace::of_pid(child.pid, kind).unwrap();
        let by_pidfd = Namespace::of_pidfd(&child.pidfd, kind).unwrap();
        let by_path = Namespace::open(format!("/proc/{}/ns/{kind}", child.pid)).unwrap();
        for namespace in [by_pid, by_pidfd, by_path] {
            assert_eq!((namespace.kind(), namespace.id()), (kind, id));
        }
    }
}

#[test]
fn unshare_moves_only_the_calling_thread_and_only_in_that_kind() {
    let before = NamespaceSet::current().unwrap();
    for kind in ON_THREADS {
        let there = thread::spawn(move || {
            unshare(kind.into()).unwrap();
            NamespaceSet::current().unwrap()
        });
        assert_eq!(before.coincide(&there.join().unwrap()), !Kinds::from(kind));
        assert_eq!(NamespaceSet::current().unwrap(), before);
    }
}

#[test]
fn a_flag_that_is_not_a_kind_never_reaches_unshare() {
    let error = unshare(Kinds::from_bits_retain(libc::CLONE_FILES as u64) | Kinds::UTS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(error.raw_os_error(), None);
}

#[test]
fn a_thread_joins_namespaces_one_by_one_and_several_at_once() {
    let child = Child::sleeping(Clone3 { kinds: Kinds::FIVE, ..Clone3::default() });
    let (pid, pidfd) = (child.pid, &child.pidfd);
    let its = NamespaceSet::of_pid(pid).unwrap();
    let mine = NamespaceSet::current().unwrap();
    thread::scope(|scope| {
        let one = scope.spawn(|| {
            for kind in [Kind::Net, Kind::Uts, Kind::Ipc] {
                setns(&Namespace::of_pid(pid, kind).unwrap()).unwrap();
            }
            NamespaceSet::current().unwrap()
        });
        let expected = Kinds::NET | Kinds::UTS | Kinds::IPC;
        assert_eq!(its.coincide(&one.join().unwrap()) - its.coincide(&mine), expected);
        let all = scope.spawn(|| {
            unshare(Kinds::MNT).unwrap(); // so that this thread shares no root
            setns_pidfd(pidfd, Kinds::FIVE).unwrap();
            (NamespaceSet::current().unwrap(), Namespace::for_children_of_this_thread())
        });
        let (there, for_children) = all.join().unwrap();
        // Only children join a pid namespace.
        assert_eq!(its.coincide(&there) - its.coincide(&mine), Kinds::FIVE - Kinds::PID);
        assert_eq!(for_children, its[Kind::Pid].ino);
    });
}

trait ForChildren {
    fn for_children_of_this_thread() -> u64;
}

impl ForChildren for Namespace {
    fn for_children_of_this_thread() -> u64 {
        // After setns to the mnt namespace, /proc is the procfs of that namespace. It shows the same
        // processes.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
        Namespace::for_children(tid, Kind::Pid).unwrap().id().ino
    }
}

#[test]
fn joining_a_mnt_namespace_with_a_shared_root_is_refused_with_the_cure() {
    let child = Child::sleeping(Clone3 { kinds: Kinds::MNT, ..Clone3::default() });
    let error = setns(&Namespace::of_pid(child.pid, Kind::Mnt).unwrap()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert!(error.to_string().contains("call unshare for a mnt namespace first"), "{error}");
}

#[test]
fn user_and_time_namespaces_are_refused_to_threads_with_the_cure() {
    let error = unshare(Kinds::USER).unwrap_err();
    assert!(error.to_string().contains("several threads"), "{error}");
    let child = Child::sleeping(Clone3 { kinds: Kinds::USER | Kinds::TIME, ..Clone3::default() });
    let error = setns(&Namespace::of_pid(child.pid, Kind::User).unwrap()).unwrap_err();
    assert!(error.to_string().contains("(a child can)"), "{error}");
    let error = setns_pidfd(&child.pidfd, Kinds::TIME).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EUSERS));
    assert!(error.to_string().contains("with its own memory"), "{error}");
}

#[test]
fn joining_an_ended_process_is_refused_with_the_reason() {
    let child = Child::run(Clone3::default(), || 0);
    child.assert_success();
    let error = setns_pidfd(&child.pidfd, Kinds::UTS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
}

#[test]
fn a_thread_that_unshared_pid_creates_no_threads_and_its_namespace_ends_with_its_init() {
    let done = thread::spawn(|| {
        unshare(Kinds::PID).unwrap();
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
        let early = Namespace::for_children(tid, Kind::Pid).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::NotFound);
        assert!(early.to_string().ends_with("has not had a process yet"), "{early}");
        let refused = thread::Builder::new().spawn(|| ()).err();
        let first = Child::run(Clone3::default(), || unsafe { libc::getpid() });
        let status = first.wait();
        let after = Child::try_run(Clone3::default(), || 0).err();
        (refused, status, after)
    });
    let (refused, status, after) = done.join().unwrap();
    assert_eq!(refused.unwrap().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(status, ns_core::ExitStatus::Exited(1));
    let after = after.expect("the init has ended");
    assert_eq!(after.raw_os_error(), Some(libc::ENOMEM));
    assert!(after.to_string().contains("init of the caller's pid namespace"), "{after}");
}

/// The kernel of user-mode Linux has no time namespaces. The other kernels have all kinds.
#[test]
fn a_kind_that_the_kernel_lacks_has_no_id_and_is_refused_on_use() {
    let child = Child::sleeping(Clone3 { kinds: Kinds::MNT, ..Clone3::default() });
    let set = NamespaceSet::of_pidfd(&child.pidfd).unwrap();
    let mine = NamespaceSet::current().unwrap();
    assert_eq!(set.coincide(&mine), Kinds::all() - Kinds::MNT);
    for kind in Kind::ALL {
        let there = Path::new("/proc/self/ns").join(kind.name()).exists();
        assert_eq!(mine[kind] != NamespaceId::NONE, there, "{kind}");
        match Namespace::of_pidfd(&child.pidfd, kind) {
            Ok(namespace) => assert_eq!((namespace.id(), there), (set[kind], true)),
            Err(error) => {
                assert_eq!((error.kind(), there), (ErrorKind::Unsupported, false), "{error}");
                assert!(error.to_string().contains(&format!("no {kind} namespaces")), "{error}");
            }
        }
    }
}

#[test]
fn owners_parents_and_creators_are_found() {
    let child = Child::sleeping(Clone3 { kinds: Kinds::USER | Kinds::PID | Kinds::NET, ..Clone3::default() });
    let of = |kind| Namespace::of_pid(child.pid, kind).unwrap();
    let mine = |kind| Namespace::current(kind).unwrap().id();
    let user = of(Kind::User);
    assert_eq!(of(Kind::Net).owner_user().unwrap().id(), user.id());
    assert_eq!(user.owner_user().unwrap().id(), mine(Kind::User));
    assert_eq!(user.parent().unwrap().id(), mine(Kind::User));
    let parent = of(Kind::Pid).parent().unwrap();
    assert_eq!((parent.kind(), parent.id()), (Kind::Pid, mine(Kind::Pid)));
    assert_eq!(user.creator_uid().unwrap(), unsafe { libc::geteuid() });
    assert_eq!(of(Kind::Net).parent().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(of(Kind::Net).creator_uid().unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn a_handle_keeps_a_namespace_alive_without_a_process() {
    let net = {
        let child = Child::sleeping(Clone3 { kinds: Kinds::NET, ..Clone3::default() });
        Namespace::of_pidfd(&child.pidfd, Kind::Net).unwrap()
    };
    let copy = net.try_clone().unwrap();
    let id = net.id();
    drop(net);
    let there = thread::spawn(move || {
        setns(&copy).unwrap();
        NamespaceSet::current().unwrap()
    });
    assert_eq!(there.join().unwrap()[Kind::Net], id);
}

#[test]
fn open_refuses_a_file_that_is_not_a_namespace_and_does_not_wait_for_a_fifo() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [fifo.as_path(), Path::new("/dev/null"), Path::new("/proc/self/status")] {
        let error = Namespace::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotANamespace);
    }
    let error = Namespace::from_owned_fd(std::fs::File::open("/dev/null").unwrap().into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotANamespace);
    assert_eq!(Namespace::open("/nonexistent").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_pin_keeps_a_namespace_alive_until_it_is_removed() {
    in_private_mounts(|dir| {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Mnt) {
            let pin = dir.join(kind.name());
            let id = {
                let child = Child::sleeping(Clone3 { kinds: kind.into(), ..Clone3::default() });
                let namespace = Namespace::of_pidfd(&child.pidfd, kind).unwrap();
                namespace.pin(&pin).unwrap();
                namespace.id()
            };
            let pinned = Namespace::open(&pin).unwrap();
            assert_eq!((pinned.kind(), pinned.id()), (kind, id));
            Namespace::unpin(&pin).unwrap();
            assert!(!pin.exists());
            assert_eq!(Namespace::unpin(&pin).unwrap_err().kind(), ErrorKind::NotFound);
        }
        let left = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(left.lines().filter(|line| line.contains(dir.to_str().unwrap())).count(), 1);
    });
}

#[test]
fn a_pin_never_replaces_a_file_and_unpinning_never_removes_one() {
    in_private_mounts(|dir| {
        let file = dir.join("file");
        std::fs::write(&file, "precious").unwrap();
        let error = Namespace::current(Kind::Net).unwrap().pin(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let error = Namespace::unpin(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotANamespace);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        // Neither pin nor unpin follows a symlink to a pin.
        let (pin, link) = (dir.join("pin"), dir.join("link"));
        Namespace::current(Kind::Net).unwrap().pin(&pin).unwrap();
        std::os::unix::fs::symlink(&pin, &link).unwrap();
        assert_eq!(Namespace::unpin(&link).unwrap_err().kind(), ErrorKind::NotANamespace);
        let error = Namespace::unpin("/proc/thread-self/ns/net").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotANamespace);
        Namespace::unpin(&pin).unwrap();
    });
}

#[test]
fn a_mnt_namespace_is_pinned_from_an_older_one_and_never_within_itself() {
    in_private_mounts(|dir| {
        let pin = dir.join("mnt");
        let error = Namespace::current(Kind::Mnt).unwrap().pin(&pin).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(error.to_string().contains("only in an older mount namespace"), "{error}");
        assert!(!pin.exists(), "the file is removed when the mount fails");
        // Linux 6.18 orders mount namespaces by numbers that each CPU takes from its own range, so
        // that one made later on another CPU may count as older.
        let cpus = thread::available_parallelism().unwrap().get();
        let pinned = (0..cpus).find_map(|cpu| {
            let mut only = nix::sched::CpuSet::new();
            only.set(cpu).unwrap();
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &only).unwrap();
            let child = Child::sleeping(Clone3 { kinds: Kinds::MNT, ..Clone3::default() });
            let younger = Namespace::of_pidfd(&child.pidfd, Kind::Mnt).unwrap();
            younger.pin(&pin).ok().map(|()| younger.id())
        });
        assert_eq!(Namespace::open(&pin).unwrap().id(), pinned.unwrap());
        Namespace::unpin(&pin).unwrap();
    });
}

#[test]
fn handles_and_pidfds_are_closed_on_exec() {
    let net = Namespace::current(Kind::Net).unwrap();
    let child = Child::sleeping(Clone3 { kinds: Kinds::USER, ..Clone3::default() });
    let opened = Pidfd::open(child.pid).unwrap();
    let owner = Namespace::of_pidfd(&child.pidfd, Kind::User).unwrap().owner_user().unwrap();
    use std::os::fd::AsFd;
    for fd in
        [net.as_fd(), net.try_clone().unwrap().as_fd(), owner.as_fd(), opened.as_fd(), child.pidfd.as_fd()]
    {
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
}
