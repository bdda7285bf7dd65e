//! Operations that fail in a process with threads, or that need no privilege: user namespaces, id
//! maps, time namespaces.
//!
//! The children here call the library itself, which allocates. That is sound because this
//! process has one thread only: hence no libtest, which runs tests on threads.
// The unsafe blocks are plain system calls on locals. Others have a comment.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)]

mod common;

use std::os::fd::AsFd;

use common::{Child, Gate, pause};
use ns_core::{
    Clone3, CloneFlags, ErrorKind, ExitStatus, Extent, IdMap, Ids, Kind, Kinds, Namespace, NamespaceSet,
    Pidfd, Setgroups, SubIds, TimeOffset, TimeOffsets, setns, setns_pidfd, unshare, write_id_maps,
    write_with_newuidmap,
};

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident)*) => { const TESTS: &[Test] = &[$((stringify!($name), $name as fn())),*]; };
}

tests! {
    maps_give_the_ids_inside_and_outside_and_can_be_written_once
    a_gid_map_of_one_id_denies_setgroups_and_a_range_does_not
    validate_agrees_with_the_kernel
    a_map_of_340_extents_is_taken_by_the_kernel
    an_ordinary_user_maps_itself_and_nobody_else
    an_ordinary_user_gets_the_missing_capability_in_the_error
    a_map_is_written_beneath_an_open_proc_directory_only_if_it_is_procfs
    a_limit_on_namespaces_is_named
    a_child_joins_a_user_namespace_and_those_it_owns_at_once
    clone_parent_makes_a_sibling
    waiting_tells_a_core_dump
    time_offsets_are_set_before_the_first_process_and_never_after
    a_process_outside_the_pid_namespace_has_no_pid_there
    without_the_ioctls_of_newer_kernels_pidfds_answer_by_proc
    newuidmap_maps_the_callers_own_id_and_its_refusal_is_passed_on
    a_missing_newuidmap_names_the_package
    the_callers_ranges_are_those_of_its_files
}

fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += i32::from(!ok);
    }
    assert_eq!(failed, 0, "{failed} tests failed");
}

const NOBODY: u32 = 65534;

fn user() -> Clone3<'static> {
    Clone3 { kinds: Kinds::USER, ..Clone3::default() }
}

/// Becomes an ordinary user without groups and capabilities, which owns its files in /proc.
fn become_nobody() {
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0), 0);
    }
}

fn as_nobody(f: impl FnOnce()) {
    let child = Child::run(Clone3::default(), || {
        become_nobody();
        f();
        0
    });
    child.assert_success();
}

fn maps_give_the_ids_inside_and_outside_and_can_be_written_once() {
    let gate = Gate::new();
    let child = Child::run(user(), || {
        gate.wait();
        unsafe {
            assert_eq!(libc::setresgid(5, 5, 5), 0);
            assert_eq!(libc::setresuid(5, 5, 5), 0);
            assert_eq!((libc::getuid(), libc::getgid()), (5, 5));
        }
        0
    });
    let uid: IdMap = "0 100000 10".parse().unwrap();
    let gid: IdMap = "0 200000 6\n6 300000 4".parse().unwrap();
    assert_eq!(write_id_maps(child.pid, &uid, &gid).unwrap(), Setgroups::Allow);
    assert_eq!(IdMap::of_pid(child.pid, Ids::Uid).unwrap(), uid);
    assert_eq!(IdMap::of_pid(child.pid, Ids::Gid).unwrap(), gid);
    let error = uid.write(child.pid, Ids::Uid).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        error.to_string().split("; ").next().unwrap(),
        format!(
            "cannot write the map \"0 100000 10\" to /proc/{}/uid_map: write: Operation not permitted (EPERM)",
            child.pid
        )
    );
    gate.open();
    child.assert_success();
    let error = uid.write(child.pid, Ids::Uid).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSuchProcess, "{error}");
}

fn a_gid_map_of_one_id_denies_setgroups_and_a_range_does_not() {
    for (gid, expected) in [
        (IdMap::single(0, 5), Setgroups::Deny),
        ("0 5 2".parse().unwrap(), Setgroups::Allow),
        (IdMap::identity(), Setgroups::Allow),
    ] {
        let child = Child::run(user(), pause);
        assert_eq!(write_id_maps(child.pid, &IdMap::single(0, 0), &gid).unwrap(), expected);
        assert_eq!(Setgroups::of_pid(child.pid).unwrap(), expected);
        let error = Setgroups::Deny.write(child.pid);
        if expected == Setgroups::Allow {
            let error = error.unwrap_err();
            assert!(error.to_string().contains("only before the gid map"), "{error}");
        }
    }
}

/// Returns whether the kernel accepts a map that root writes.
fn kernel_accepts(map: &IdMap) -> bool {
    let child = Child::run(user(), pause);
    std::fs::write(format!("/proc/{}/uid_map", child.pid), map.to_string()).is_ok()
}

fn validate_agrees_with_the_kernel() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    let near = || prop_oneof![0..12u32, u32::MAX - 6..=u32::MAX];
    let count = prop_oneof![4 => 0..4u32, 1 => u32::MAX - 3..=u32::MAX];
    let extent =
        (near(), near(), count).prop_map(|(inside, outside, count)| Extent { inside, outside, count });
    let maps = prop::collection::vec(extent, 0..4);
    // proptest must neither write files nor fork.
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let mut valid = 0;
    TestRunner::new(config)
        .run(&maps, |extents| {
            let map = IdMap::from(extents);
            // The kernel does not check an empty write.
            prop_assume!(!map.is_empty());
            prop_assert_eq!(map.validate().is_ok(), kernel_accepts(&map), "{:?}", map);
            Ok(())
        })
        .unwrap();
    for text in ["0 0 1", "0 0 4294967295", "7 1 3\n1 7 3"] {
        let map: IdMap = text.parse().unwrap();
        assert!(map.validate().is_ok() && kernel_accepts(&map), "{map}");
        valid += 1;
    }
    assert_eq!(valid, 3);
}

fn a_map_of_340_extents_is_taken_by_the_kernel() {
    let of = |n: u32, from: u32| {
        (0..n).map(|i| Extent { inside: i, outside: from + i, count: 1 }).collect::<IdMap>()
    };
    assert!(kernel_accepts(&of(340, 0)) && of(340, 0).validate().is_ok());
    assert!(!kernel_accepts(&of(341, 0)));
    nspod_testkit::assert_refused(of(341, 0).validate(), "341 extents");
    if unsafe { libc::sysconf(libc::_SC_PAGESIZE) } == 4096 {
        assert!(!kernel_accepts(&of(340, 1_000_000)));
        nspod_testkit::assert_refused(of(340, 1_000_000).validate(), "bytes");
    }
}

fn an_ordinary_user_maps_itself_and_nobody_else() {
    as_nobody(|| {
        let child = Child::run(user(), pause);
        let own = IdMap::single(0, NOBODY);
        let error = IdMap::single(0, 1).write(child.pid, Ids::Uid).unwrap_err();
        assert!(error.to_string().contains("CAP_SETUID"), "{error}");
        // The kernel requires that setgroups is denied first.
        let error = own.write(child.pid, Ids::Gid).unwrap_err();
        assert!(error.to_string().contains("after setgroups is denied"), "{error}");
        assert_eq!(write_id_maps(child.pid, &own, &own).unwrap(), Setgroups::Deny);
        assert_eq!(Setgroups::of_pid(child.pid).unwrap(), Setgroups::Deny);
    });
}

fn an_ordinary_user_gets_the_missing_capability_in_the_error() {
    as_nobody(|| {
        let error = unshare(Kinds::NET).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot move the calling thread into new net namespaces: unshare: Operation not \
             permitted (EPERM); new namespaces require CAP_SYS_ADMIN: run as root, or create a user \
             namespace together with the others"
        );
        let error = Child::try_run(Clone3 { kinds: Kinds::NET, ..Clone3::default() }, || 0).err();
        assert_eq!(error.unwrap().kind(), ErrorKind::PermissionDenied);
        // Together with a user namespace it is allowed.
        Child::run(Clone3 { kinds: Kinds::NET | Kinds::USER, ..Clone3::default() }, || 0).assert_success();
        // It may not read the processes of other users.
        for error in [
            NamespaceSet::of_pid(1).unwrap_err(),
            Namespace::of_pid(1, Kind::Net).unwrap_err(),
            Namespace::of_pidfd(Pidfd::open(1).unwrap(), Kind::Net).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            assert!(error.to_string().contains("CAP_SYS_PTRACE"), "{error}");
        }
        let init = Pidfd::open(1).unwrap();
        assert!(init.send_signal(0).unwrap_err().to_string().contains("CAP_KILL"));
        assert!(init.get_fd(0).unwrap_err().to_string().contains("ptrace"));
        let net = Namespace::current(Kind::Net).unwrap();
        assert!(setns(&net).unwrap_err().to_string().contains("CAP_SYS_ADMIN"));
        let dir = std::env::temp_dir().join(format!("ns-core-pin-{}", std::process::id()));
        let error = net.pin(&dir).unwrap_err();
        assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
        assert!(!dir.exists(), "the file is removed when the mount fails");
        // The initial user namespace has no parent.
        let error = Namespace::current(Kind::User).unwrap().parent().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    });
}

fn a_map_is_written_beneath_an_open_proc_directory_only_if_it_is_procfs() {
    let child = Child::run(user(), pause);
    let dir = std::fs::File::open(format!("/proc/{}", child.pid)).unwrap();
    IdMap::single(0, 7).write_at(dir.as_fd(), Ids::Uid).unwrap();
    assert_eq!(IdMap::of_pid(child.pid, Ids::Uid).unwrap(), IdMap::single(0, 7));
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("uid_map");
    std::fs::write(&file, "").unwrap();
    let dir = std::fs::File::open(elsewhere.path()).unwrap();
    let error = IdMap::single(0, 7).write_at(dir.as_fd(), Ids::Uid).unwrap_err();
    assert!(error.to_string().contains("not on a procfs"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
}

fn a_limit_on_namespaces_is_named() {
    let gate = Gate::new();
    let child = Child::run(user(), || {
        gate.wait();
        // Each user namespace has its own limits.
        std::fs::write("/proc/sys/user/max_uts_namespaces", "0").unwrap();
        let error = unshare(Kinds::UTS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert_eq!(
            error.to_string(),
            "cannot move the calling thread into new uts namespaces: unshare: No space left \
             on device (ENOSPC); the sysctl user.max_uts_namespaces is 0: no such namespace may be created"
        );
        std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let error = Child::try_run(user(), || 0).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("user.max_user_namespaces is 0"), "{error}");
        0
    });
    write_id_maps(child.pid, &IdMap::identity(), &IdMap::identity()).unwrap();
    gate.open();
    child.assert_success();
}

fn a_child_joins_a_user_namespace_and_those_it_owns_at_once() {
    let kinds = Kinds::USER | Kinds::FIVE | Kinds::CGROUP;
    let target = Child::run(Clone3 { kinds, ..Clone3::default() }, pause);
    let its = NamespaceSet::of_pidfd(&target.pidfd).unwrap();
    let all = || {
        setns_pidfd(&target.pidfd, kinds).unwrap();
        assert_eq!(its.coincide(&NamespaceSet::current().unwrap()), !Kinds::PID);
        let error = setns_pidfd(&target.pidfd, Kinds::USER).unwrap_err();
        assert!(error.to_string().contains("that it is in"), "{error}");
        0
    };
    Child::run(Clone3::default(), all).assert_success();
    let by_fd = || {
        // All descriptors are opened before the first join, because it changes /proc.
        let handles =
            [Kind::User, Kind::Net, Kind::Mnt].map(|kind| Namespace::of_pidfd(&target.pidfd, kind).unwrap());
        handles.iter().for_each(|handle| setns(handle).unwrap());
        let now = its.coincide(&NamespaceSet::current().unwrap());
        assert_eq!(now, Kinds::USER | Kinds::NET | Kinds::MNT | Kinds::TIME);
        0
    };
    Child::run(Clone3::default(), by_fd).assert_success();
}

fn clone_parent_makes_a_sibling() {
    let gate = Gate::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let between = Child::run(Clone3::default(), || {
        let clone = Clone3 { flags: CloneFlags::PARENT, ..Clone3::default() };
        // Only the grandparent can wait for the sibling.
        match unsafe { clone.spawn() }.unwrap() {
            ns_core::Cloned::Child => {
                gate.wait();
                unsafe { libc::_exit(12) }
            }
            ns_core::Cloned::Parent { pid, .. } => {
                nix::unistd::write(&writer, &pid.to_ne_bytes()).unwrap();
                0
            }
        }
    });
    between.assert_success();
    let mut pid = [0; 4];
    nix::unistd::read(&reader, &mut pid).unwrap();
    let sibling = Pidfd::open(i32::from_ne_bytes(pid)).unwrap();
    gate.open();
    assert_eq!(sibling.wait().unwrap().status, ExitStatus::Exited(12));
}

fn waiting_tells_a_core_dump() {
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        return nspod_testkit::skip_test(
            "waiting_tells_a_core_dump",
            "kernel.core_pattern sends cores elsewhere",
        );
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut limit) };
    if limit.rlim_max == 0 {
        return nspod_testkit::skip_test("waiting_tells_a_core_dump", "the hard limit of RLIMIT_CORE is 0");
    }
    limit.rlim_cur = limit.rlim_max;
    let dir = tempfile::tempdir().unwrap();
    let child = Child::run(Clone3::default(), || {
        std::env::set_current_dir(dir.path()).unwrap();
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &limit);
            libc::abort()
        }
    });
    let status = child.wait();
    assert_eq!(status, ExitStatus::Signaled { signal: libc::SIGABRT, core_dumped: true });
    assert_eq!(status.shell_code(), 134);
}

fn boottime() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) }, 0);
    time.tv_sec
}

fn time_offsets_are_set_before_the_first_process_and_never_after() {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        let name = "time_offsets_are_set_before_the_first_process_and_never_after";
        return nspod_testkit::skip_test(name, "this kernel has no time namespaces");
    }
    const DAY: i64 = 86_400;
    let before = boottime();
    let offsets = TimeOffsets {
        monotonic: TimeOffset { secs: 10, nanos: 5 },
        boottime: TimeOffset { secs: 30 * DAY, nanos: 0 },
    };
    let child = Child::run(Clone3::default(), || {
        let myself = unsafe { libc::getpid() };
        unshare(Kinds::TIME).unwrap();
        let own = Namespace::current(Kind::Time).unwrap().id();
        assert_ne!(Namespace::for_children(myself, Kind::Time).unwrap().id(), own);
        let negative = TimeOffset { secs: -before - DAY, nanos: 0 };
        let error = TimeOffsets { boottime: negative, ..offsets }.write(myself).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ERANGE));
        let long = TimeOffset { secs: 0, nanos: 1_000_000_000 };
        let error = TimeOffsets { boottime: long, ..offsets }.write(myself).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidInput, None));
        offsets.write(myself).unwrap();
        assert_eq!(TimeOffsets::of_pid(myself).unwrap(), offsets);
        let there = Child::run(Clone3::default(), || {
            assert!((boottime() - before - 30 * DAY) < DAY && boottime() > 30 * DAY);
            0
        });
        there.assert_success();
        let error = offsets.write(myself).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Busy, Some(libc::EACCES)));
        assert!(boottime() < before + DAY, "the caller itself stays");
        0
    });
    child.assert_success();
    // clone3 enters a new time namespace at once, so its offsets cannot be set.
    let child = Child::run(Clone3 { kinds: Kinds::TIME, ..Clone3::default() }, pause);
    assert_eq!(offsets.write(child.pid).unwrap_err().kind(), ErrorKind::Busy);
}

fn a_process_outside_the_pid_namespace_has_no_pid_there() {
    let outside = Child::run(Clone3::default(), pause);
    let clone = Clone3 { kinds: Kinds::PID | Kinds::MNT, ..Clone3::default() };
    let inside = Child::run(clone, || {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).unwrap();
        let error = outside.pidfd.pid().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
        assert!(error.to_string().ends_with("the process is outside this pid namespace"), "{error}");
        let error = NamespaceSet::of_pidfd(&outside.pidfd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
        assert_eq!(ns_core::pid_chain(1).unwrap(), [1]);
        0
    });
    inside.assert_success();
}

/// Makes the ioctls of pidfds fail in this process as on an older kernel.
fn forget_pidfd_ioctls() {
    const NUMBER: u32 = 0;
    const SECOND_ARGUMENT: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        op(load, NUMBER, 0, 0),
        op(equal, libc::SYS_ioctl as u32, 0, 4),
        op(load, SECOND_ARGUMENT, 0, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xff00, 0, 0),
        op(equal, 0xff00, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOTTY as u32, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

fn without_the_ioctls_of_newer_kernels_pidfds_answer_by_proc() {
    let target = Child::run(Clone3 { kinds: Kinds::FIVE, ..Clone3::default() }, pause);
    let its = NamespaceSet::of_pidfd(&target.pidfd).unwrap();
    let gone = Child::run(Clone3::default(), || 0);
    gone.assert_success();
    let child = Child::run(Clone3::default(), || {
        forget_pidfd_ioctls();
        assert_eq!(target.pidfd.exit_info().unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(target.pidfd.pid().unwrap(), target.pid);
        assert_eq!(NamespaceSet::of_pidfd(&target.pidfd).unwrap(), its);
        for kind in Kind::ALL {
            assert_eq!(Namespace::of_pidfd(&target.pidfd, kind).unwrap().id(), its[kind]);
        }
        let error = Namespace::of_pidfd(&gone.pidfd, Kind::Net).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSuchProcess);
        let null = std::fs::File::open("/dev/null").unwrap();
        let error = Namespace::of_pidfd(&null, Kind::Net).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        0
    });
    child.assert_success();
}

fn newuidmap_maps_the_callers_own_id_and_its_refusal_is_passed_on() {
    let name = "newuidmap_maps_the_callers_own_id_and_its_refusal_is_passed_on";
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join("newuidmap").exists()) {
        return nspod_testkit::skip_test(name, "newuidmap is not installed: apt install uidmap");
    }
    let child = Child::run(user(), pause);
    let own = IdMap::single(0, 0);
    write_with_newuidmap(child.pid, &own, &own).unwrap();
    assert_eq!(IdMap::of_pid(child.pid, Ids::Uid).unwrap(), own);
    assert_eq!(IdMap::of_pid(child.pid, Ids::Gid).unwrap(), own);
    let child = Child::run(user(), pause);
    let others: IdMap = "0 4000000000 7".parse().unwrap();
    let error = write_with_newuidmap(child.pid, &others, &others).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramFailed);
    assert!(
        error.to_string().contains("newuidmap: ") && error.to_string().contains("/etc/subuid"),
        "{error}"
    );
}

fn a_missing_newuidmap_names_the_package() {
    let child = Child::run(Clone3::default(), || {
        // SAFETY: the process has one thread.
        unsafe { std::env::set_var("PATH", "/nonexistent") };
        let own = IdMap::single(0, 0);
        let error = write_with_newuidmap(1, &own, &own).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot map ids of process 1 with newuidmap: the program is not on PATH; \
             on Debian and Ubuntu: apt install uidmap"
        );
        0
    });
    child.assert_success();
}

fn the_callers_ranges_are_those_of_its_files() {
    for (ids, path) in [(Ids::Uid, "/etc/subuid"), (Ids::Gid, "/etc/subgid")] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(SubIds::read(ids).unwrap(), SubIds::parse(&text));
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let uid = nix::unistd::Uid::current().as_raw();
        let name = ns_core::user_name(&passwd, uid);
        let expected = SubIds::parse(&text).of_user(name, uid);
        assert_eq!(SubIds::of_caller(ids).unwrap(), expected);
    }
}
