//! Behaviour of a single container on the real kernel. The tests run as root.
#![allow(unsafe_code)]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ns_core::{Kind, Kinds, NamespaceSet};
use nspod_sandbox::cgroup_core::{Hierarchy, Limits, Max};
use nspod_sandbox::spec::{
    Capabilities, IdMaps, Mount, MountKind, NamespaceMode, Namespaces, Rlimit, Root, Spec, StorageLimit,
    StreamOwner, Terminal, Writes,
};
use nspod_sandbox::{Command, Container, ErrorKind, ExitStatus, Stdio};

use common::{Image, error, output};
use nspod_testkit::in_time;

/// Commands that end by a signal that they cause themselves.
const SELF_INFLICTED: [(&[&str], i32); 4] = [
    (&["perl", "-e", "use POSIX; POSIX::abort()"], libc::SIGABRT),
    (&["sh", "-c", "kill -KILL $$; exit 3"], libc::SIGKILL),
    (&["sh", "-c", "while :; do :; done"], libc::SIGXCPU),
    (&["sh", "-c", "kill -TERM $$; exit 3"], libc::SIGTERM),
];

/// Limits each process to one second of CPU time.
fn limit_cpu(command: &mut Command) {
    command.spec_mut().process.rlimits.push(Rlimit { name: "RLIMIT_CPU".into(), soft: 1, hard: 5 });
}

#[test]
fn a_program_ends_by_the_signals_that_it_sends_itself() {
    if !nspod_testkit::root() {
        return;
    }
    for (words, signal) in SELF_INFLICTED {
        let mut bare = Command::bare(words[0]);
        bare.isolate(Kinds::FIVE);
        for mut command in [Command::new(words[0]), bare] {
            limit_cpu(&mut command);
            let outcome = command.args(&words[1..]).status().unwrap();
            assert_eq!(outcome.status.signal(), Some(signal), "{words:?}: {}", outcome.status);
        }
    }
}

#[test]
fn pid_1_without_an_init_does_not() {
    if !nspod_testkit::root() {
        return;
    }
    let (words, _) = SELF_INFLICTED[1];
    let outcome = Command::new(words[0]).args(&words[1..]).init(false).status().unwrap();
    assert_eq!(outcome.status, ExitStatus::Exited(3));
}

#[test]
fn an_init_is_the_default_exactly_in_a_new_pid_namespace() {
    for (command, init) in [
        (Command::new("true"), true),
        (Command::bare("true"), false),
        (
            Command::from_spec(Spec {
                namespaces: Namespaces::new(Kinds::from(Kind::Net)),
                ..Spec::new("true")
            }),
            false,
        ),
    ] {
        assert_eq!(command.spec().has_init(), init);
    }
    let error = Command::bare("true").init(true).plan().unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("init")));
    let limits = Limits { pids_max: Some(Max::Value(1)), ..Limits::default() };
    let error = Command::new("true").limits(limits.clone()).plan().unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("limits.pids_max")));
    assert!(Command::new("true").limits(limits).init(false).plan().is_ok());
}

#[test]
fn a_program_gets_its_arguments_environment_directory_and_streams() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", "cat; echo $0 $1 $NAME $PWD; exit 3", "zero", "one two"])
        .env("NAME", "value")
        .current_dir("/usr")
        .stdin(Stdio::Piped)
        .stdout(Stdio::Piped);
    let mut container = command.spawn().unwrap();
    container.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "input\nzero one two value /usr\n");
    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
    container.delete().unwrap();
}

#[test]
fn the_container_sees_its_own_processes_only() {
    if !nspod_testkit::root() {
        return;
    }
    let script = "echo $$; cd /proc; echo [0-9]*";
    assert_eq!(output(&mut Command::new("sh"), script), "2\n1 2");
    assert_eq!(output(Command::new("sh").init(false), script), "1\n1");
}

#[test]
fn a_signal_that_ends_the_program_is_in_the_outcome() {
    if !nspod_testkit::root() {
        return;
    }
    for init in [false, true] {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::Null);
        command.init(init);
        let mut container = command.spawn().unwrap();
        assert!(container.wait_timeout(Duration::from_millis(1)).unwrap().is_none());
        // Pid 1 accepts only uncatchable signals from outside. The init forwards other signals.
        container.signal(if init { libc::SIGTERM } else { libc::SIGKILL }).unwrap();
        let signal = if init { libc::SIGTERM } else { libc::SIGKILL };
        assert_eq!(container.wait().unwrap().status, ExitStatus::Signaled { signal, core_dumped: false });
        container.delete().unwrap();
    }
}

#[test]
fn nothing_but_the_given_descriptors_reaches_the_program() {
    if !nspod_testkit::root() {
        return;
    }
    // A descriptor without close-on-exec, as a careless host program has.
    let leak = std::fs::File::open("/etc").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    for init in [false, true] {
        let mut command = Command::new("sh");
        command.fd(std::fs::File::open("/etc/passwd").unwrap(), 7);
        command.init(init);
        let text = output(
            &mut command,
            "cd /proc/self/fd; for f in *; do readlink $f; done; echo; read line <&7; echo $line",
        );
        let (fds, line) = text.split_once("\n\n").unwrap();
        // Descriptors 0, 1, 2 and 7, and two that the shell's glob and readlink open.
        assert!(fds.lines().all(|l| !l.ends_with("/etc")), "{fds}");
        assert!(line.starts_with("root:"), "{line}");
    }
}

#[test]
fn descriptors_may_swap_places() {
    if !nspod_testkit::root() {
        return;
    }
    // Each file is requested at the descriptor number of the other file.
    let (a, b) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    (&a).write_all(b"a").unwrap();
    (&b).write_all(b"b").unwrap();
    let rewound = |mut f: std::fs::File| {
        std::io::Seek::rewind(&mut f).unwrap();
        std::os::fd::OwnedFd::from(f)
    };
    let (a, b) = (rewound(a), rewound(b));
    let (at_a, at_b) = (std::os::fd::AsRawFd::as_raw_fd(&a), std::os::fd::AsRawFd::as_raw_fd(&b));
    let mut command = Command::new("sh");
    command.fd(a, at_b).fd(b, at_a);
    assert_eq!(output(&mut command, &format!("cat /proc/self/fd/{at_a} /proc/self/fd/{at_b}")), "ba");
}

#[test]
fn missing_and_non_executable_programs_are_distinguished() {
    if !nspod_testkit::root() {
        return;
    }
    for init in [false, true] {
        let mut command = Command::new("no-such-program");
        command.init(init);
        let e = error(&mut command);
        assert_eq!(e.kind(), ErrorKind::ProgramNotFound, "{e}");
        assert_eq!(
            e.to_string(),
            "cannot execute no-such-program: execve: No such file or directory (ENOENT); no such program in the container's PATH, or its interpreter or loader is missing"
        );
        let mut command = Command::new("/etc/passwd");
        command.init(init);
        let e = error(&mut command);
        assert_eq!(e.kind(), ErrorKind::ProgramNotExecutable, "{e}");
        assert_eq!(e.raw_os_error(), Some(libc::EACCES));
    }
}

#[test]
fn a_failed_start_leaves_no_cgroup_and_no_process() {
    if !nspod_testkit::root() {
        return;
    }
    // Other tests of this program have children, so this test needs its own process.
    if nspod_testkit::in_own_process("a_failed_start_leaves_no_cgroup_and_no_process") {
        return;
    }
    let name = format!("fails-{}", std::process::id());
    let mut command = Command::new("true");
    command.name(&name).current_dir("/no/such/directory");
    let e = error(&mut command);
    assert_eq!(
        e.to_string(),
        "cannot enter the directory /no/such/directory: chdir: No such file or directory (ENOENT); there is no such directory in the container: create it, or choose another one"
    );
    let root = cgroup_core::Hierarchy::detect().unwrap().root().unwrap();
    assert!(!root.path().join("nspod").join(&name).exists());
    assert_eq!(children(), "", "a child is left");
}

/// Returns the pids of this process's children, zombies included.
fn children() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap()).collect()
}

#[test]
fn delete_ends_remaining_processes_in_the_callers_pid_namespace() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 > /dev/null & echo $!"]).stdin(Stdio::Null).stdout(Stdio::Piped);
    let mut container = command.namespace(Kind::Pid, NamespaceMode::Host).spawn().unwrap();
    let mut pid = String::new();
    container.stdout.take().unwrap().read_to_string(&mut pid).unwrap();
    assert!(container.wait().unwrap().status.success());
    let cgroup = container.cgroup().unwrap().path().to_owned();
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert_eq!(procs, pid);
    container.delete().unwrap();
    assert!(!cgroup.exists(), "{pid} is left in {}", cgroup.display());
}

#[test]
fn the_standard_streams_belong_to_the_user_as_the_spec_says() {
    if !nspod_testkit::root() {
        return;
    }
    let script = "cat /dev/stdin > /dev/null && echo in; echo out > /dev/stdout";
    let readable = || tempfile::tempfile().unwrap();
    let opened = |owner: StreamOwner, stdin: std::fs::File| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).user(1000, 1000).stdin(stdin).stdout(Stdio::Piped).stderr(Stdio::Null);
        command.spec_mut().process.streams = owner;
        let mut container = command.spawn().unwrap();
        let mut text = String::new();
        container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        container.wait().unwrap();
        container.delete().unwrap();
        text
    };
    let only_read = |file: &std::fs::File| {
        std::fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file))).unwrap()
    };
    assert_eq!(Spec::new("true").process.streams, StreamOwner::Needed);
    assert_eq!(Spec::bare("true").process.streams, StreamOwner::Caller);
    let wanted = [
        (StreamOwner::Caller, "", 0),
        (StreamOwner::Needed, "out\n", 0),
        (StreamOwner::User, "in\nout\n", 1000),
    ];
    for (owner, text, uid) in wanted {
        let file = readable();
        std::fs::set_permissions(
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        assert_eq!(opened(owner, only_read(&file)), text, "{owner:?}");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap()), uid, "{owner:?}");
    }
    // Root without CAP_DAC_OVERRIDE can open the file only if it owns the file.
    let mut command = Command::new("sh");
    command.spec_mut().process.capabilities = Some(Capabilities::NONE);
    let file = readable();
    std::os::unix::fs::fchown(&file, Some(1000), None).unwrap();
    command.stderr(file.try_clone().unwrap());
    assert_eq!(output(&mut command, "echo >> /dev/stderr && echo opened"), "opened");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap()), 0);
}

#[test]
fn a_working_directory_cannot_leave_the_root_through_a_host_descriptor() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = Command::new("true");
    command.root(Root::Dir { path: image.path(), readonly: false });
    command.fd(std::fs::File::open("/").unwrap(), 7).current_dir("/proc/self/fd/7");
    let error = error(&mut command);
    assert_eq!(error.failed_call(), Some("getcwd"), "{error}");
    assert!(error.to_string().contains("outside the container's root"), "{error}");
}

#[test]
fn deleting_leaves_no_cgroup_and_dropping_kills() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::Null);
    let container = command.spawn().unwrap();
    let (pid, path) = (container.pid(), container.cgroup().unwrap().path().to_owned());
    assert!(path.exists());
    drop(container);
    assert!(!path.exists());
    assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
}

#[test]
fn dropping_kills_what_outlived_the_first_process() {
    if !nspod_testkit::root() {
        return;
    }
    let session = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let mut call = session.call("sh").unwrap();
        call.args(["-c", "setsid sleep 1000 &"]).stdin(Stdio::Null).stdout(Stdio::Null);
        let mut call = call.die_with_parent(false).spawn().unwrap();
        assert!(call.wait().unwrap().status.success());
        let cgroup = call.cgroup().unwrap();
        assert_eq!(cgroup.procs().unwrap().len(), 1);
        let path = cgroup.path().to_owned();
        let before = Instant::now();
        drop(call);
        shortest = shortest.min(before.elapsed());
        assert!(!path.exists());
    }
    // A drop waits for at most 200 ms.
    assert!(shortest < Duration::from_millis(150), "{shortest:?}");
    session.delete().unwrap();
}

#[test]
fn each_kind_can_be_new_alone() {
    if !nspod_testkit::root() {
        return;
    }
    let ours = NamespaceSet::current().unwrap();
    for kind in Kind::ALL {
        let mut command = Command::bare("sleep");
        command.arg("1000").isolate(kind.into()).stdin(Stdio::Null);
        let container = command.spawn().unwrap_or_else(|e| panic!("{kind}: {e}"));
        let theirs = container.namespaces().unwrap();
        assert_eq!(ours.coincide(&theirs), Kinds::all() - Kinds::from(kind), "{kind}");
    }
}

#[test]
fn each_kind_can_be_joined_alone_and_all_at_once() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::bare("sleep");
    command.arg("1000").isolate(Kinds::all()).stdin(Stdio::Null);
    let host = command.spawn().unwrap();
    let (ours, theirs) = (NamespaceSet::current().unwrap(), host.namespaces().unwrap());
    assert!(ours.coincide(&theirs).is_empty());
    let sets =
        Kind::ALL.map(Kinds::from).into_iter().chain([Kinds::all(), Kinds::all() - Kinds::from(Kind::User)]);
    for kinds in sets {
        let mut command = Command::bare("sleep");
        command.arg("1000").stdin(Stdio::Null).join_pidfd(kinds, host.pidfd()).unwrap();
        let guest = command.spawn().unwrap_or_else(|e| panic!("{kinds}: {e}"));
        let set = guest.namespaces().unwrap();
        assert_eq!(set.coincide(&theirs), kinds, "{kinds}");
        assert_eq!(set.coincide(&ours), Kinds::all() - kinds, "{kinds}");
    }
}

#[test]
fn a_joined_user_namespace_owns_the_containers_new_namespaces() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::bare("sleep");
    command.arg("1000").isolate(Kind::User.into()).stdin(Stdio::Null);
    let host = command.spawn().unwrap();
    let mut command = Command::bare("sleep");
    command.arg("1000").isolate(Kind::Net.into()).stdin(Stdio::Null);
    command.join_pidfd(Kind::User.into(), host.pidfd()).unwrap();
    let guest = command.spawn().unwrap();
    let net = ns_core::Namespace::of_pidfd(guest.pidfd(), Kind::Net).unwrap();
    let user = ns_core::Namespace::of_pidfd(host.pidfd(), Kind::User).unwrap();
    assert_eq!(net.owner_user().unwrap().id(), user.id());
}

#[test]
fn a_new_user_namespace_works_beside_a_joined_net_namespace() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::bare("sleep");
    command.arg("1000").isolate(Kind::Net.into()).stdin(Stdio::Null);
    let host = command.spawn().unwrap();
    let mut command = Command::bare("sh");
    command.isolate(Kind::User.into());
    command.join_pidfd(Kind::Net.into(), host.pidfd()).unwrap();
    let text = output(&mut command, "readlink /proc/self/ns/net; cat /proc/self/uid_map; id -u");
    let theirs = host.namespaces().unwrap()[Kind::Net];
    assert!(text.starts_with(&format!("net:[{}]", theirs.ino)), "{text}");
    assert!(text.contains("65536") && text.ends_with("\n0"), "{text}");
}

#[test]
fn clocks_of_a_new_time_namespace_are_set() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::bare("sh");
    command.isolate(Kind::Time.into());
    command.spec_mut().time_offsets = Some("monotonic 0 0\nboottime 864000 0\n".parse().unwrap());
    let days: f64 = output(&mut command, "cat /proc/uptime").split(' ').next().unwrap().parse().unwrap();
    let host = std::fs::read_to_string("/proc/uptime").unwrap();
    let host: f64 = host.split(' ').next().unwrap().parse().unwrap();
    assert!((days - host - 864000.0).abs() < 600.0, "{days} {host}");
}

#[test]
fn root_of_a_user_namespace_is_nobody_outside() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.namespace(Kind::User, NamespaceMode::New);
    let text = output(
        &mut command,
        "id -u; cat /proc/self/uid_map; touch /tmp/x && stat -c %u /tmp/x; ls /dev/null /dev/pts/ptmx; echo x > /dev/null; head -c1 /dev/zero | od -An -tx1",
    );
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("0", "0", "/dev/null"), "{text}");
    let map: Vec<u32> = lines[1].split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!((map[0], map[2]), (0, 65536));
    assert_ne!(map[1], 0);
}

#[test]
fn a_single_id_map_denies_setgroups() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.namespace(Kind::User, NamespaceMode::New);
    command.spec_mut().id_maps = IdMaps::Single;
    assert_eq!(output(&mut command, "cat /proc/self/setgroups"), "deny");
    command.spec_mut().process.user.as_mut().unwrap().groups = vec![0];
    assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec);
}

#[test]
fn a_directory_as_root_shows_nothing_of_the_host() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::fs::write(image.path().join("mark"), "").unwrap();
    let mut command = Command::new("sh");
    command.root(Root::Dir { path: image.path(), readonly: true });
    command.spec_mut().mounts.retain(|m| m.destination != Path::new("/run"));
    assert_eq!(
        output(&mut command, "cd /; echo *; touch /x 2>/dev/null || echo read-only"),
        "bin dev lib lib64 mark proc sys tmp\nread-only"
    );
    command.root(Root::Dir { path: image.path(), readonly: false });
    output(&mut command, "touch /x");
    assert!(image.path().join("x").exists());
}

#[test]
fn an_overlay_receives_the_writes() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    let mut command = Command::new("sh");
    let lower = vec![image.path()];
    let limit = StorageLimit::of_size(1 << 20);
    command.root(Root::Overlay { lower: lower.clone(), writes: Writes::Tmpfs, limit });
    assert_eq!(
        output(&mut command, "touch /x; echo /x; ls /upper /work 2>/dev/null || echo hidden"),
        "/x\nhidden"
    );
    assert!(!image.path().join("x").exists());
    let writes = tempfile::tempdir().unwrap();
    let (upper, work) = (writes.path().join("upper"), writes.path().join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let writes = Writes::Dir { upper: upper.clone(), work };
    command.root(Root::Overlay { lower, writes, limit: StorageLimit::default() });
    output(&mut command, "touch /y");
    assert!(upper.join("y").exists() && !image.path().join("y").exists());
}

#[test]
fn binds_and_tmpfs_are_mounted_with_their_flags() {
    if !nspod_testkit::root() {
        return;
    }
    let (image, data) = (Image::new(), tempfile::tempdir().unwrap());
    std::fs::write(data.path().join("file"), "text").unwrap();
    let bind = |to: &str, readonly| Mount {
        readonly,
        ..Mount::new(to, MountKind::Bind { source: data.path().into(), recursive: true })
    };
    let mut command = Command::new("sh");
    command
        .root(Root::Dir { path: image.path(), readonly: false })
        .mount(bind("/made/for/it", true))
        .mount(bind("/rw", false))
        .mount(Mount::new(
            "/etc/file",
            MountKind::Bind { source: data.path().join("file"), recursive: false },
        ))
        .mount(Mount {
            noexec: true,
            limit: StorageLimit::of_size(4096),
            ..Mount::new("/t", MountKind::Tmpfs { mode: Some(0o700) })
        });
    let text = output(
        &mut command,
        "cat /made/for/it/file /etc/file; touch /made/for/it/x 2>/dev/null || echo ro; touch /rw/x; stat -c %a /t; cp /bin/sh /t/sh 2>/dev/null; echo; while read a b c d e f g; do [ $e = /t ] && echo $f; done < /proc/self/mountinfo; true",
    );
    assert_eq!(text, "texttextro\n700\n\nrw,nosuid,nodev,noexec,relatime");
    assert!(data.path().join("x").exists());
}

#[test]
fn mounts_of_the_container_do_not_reach_the_host() {
    if !nspod_testkit::root() {
        return;
    }
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let container = Command::new("sleep").arg("1000").stdin(Stdio::Null).spawn().unwrap();
    let after = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    assert_eq!(before, after);
    drop(container);
}

#[test]
fn masked_paths_are_empty_and_readonly_paths_refuse_writes() {
    if !nspod_testkit::root() {
        return;
    }
    let text = output(
        &mut Command::new("sh"),
        "cat /proc/interrupts /proc/keys | wc -c; ls /sys/firmware | wc -l; (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo refused",
    );
    assert_eq!(text, "0\n0\nrefused");
}

#[test]
fn hostname_sysctls_and_loopback_are_the_containers_own() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.hostname("box");
    command.spec_mut().domainname = Some("example".into());
    for (name, value) in [("net.ipv4.ip_forward", "1"), ("kernel.shmmni", "77"), ("fs.mqueue.msg_max", "11")]
    {
        command.spec_mut().sysctls.insert(name.into(), value.into());
    }
    let text = output(
        &mut command,
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max; cat /sys/class/net/lo/operstate",
    );
    assert_eq!(text, "box\nexample\n1\n77\n11\nunknown");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), "box\n");
    for bad in ["kernel.panic", "net/../kernel/panic", "vm.swappiness"] {
        let mut command = Command::new("true");
        command.spec_mut().sysctls.insert(bad.into(), "1".into());
        assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec, "{bad}");
    }
}

#[test]
fn a_sysctl_of_each_kind_is_set_in_a_namespace_of_that_kind_alone() {
    if !nspod_testkit::root() {
        return;
    }
    let cases = [
        ("net.ipv4.ip_forward", "1", Kind::Net),
        ("kernel.msgmni", "77", Kind::Ipc),
        ("kernel.msg_next_id", "5", Kind::Ipc),
        ("kernel.shmall", "88", Kind::Ipc),
        ("kernel.shm_rmid_forced", "1", Kind::Ipc),
        ("kernel.sem_next_id", "6", Kind::Ipc),
        ("fs.mqueue.queues_max", "9", Kind::Ipc),
        ("kernel.domainname", "example", Kind::Uts),
        ("user.max_net_namespaces", "3", Kind::User),
    ];
    for (name, value, kind) in cases {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let command = || {
            let mut command = Command::new("sh");
            command.namespace(kind, NamespaceMode::New);
            command.spec_mut().sysctls.insert(name.into(), value.into());
            command
        };
        let host = std::fs::read_to_string(&file).unwrap();
        assert_eq!(output(&mut command(), &format!("cat {file}")), value, "{name}");
        let said = error(command().namespace(kind, NamespaceMode::Host)).to_string();
        assert!(
            said.starts_with(&format!("sysctls.{name}: this requires a new or joined {kind} namespace")),
            "{said}"
        );
        assert_eq!(std::fs::read_to_string(&file).unwrap(), host, "{name}");
    }
    let mut named = Command::new("true");
    named.spec_mut().sysctls.insert("kernel.hostname".into(), "box".into());
    let said = error(&mut named).to_string();
    assert!(said.starts_with("sysctls.kernel.hostname: set the hostname instead"), "{said}");
}

#[test]
fn unenforceable_limits_are_refused_by_name() {
    if !nspod_testkit::root() {
        return;
    }
    let container = Command::new("sleep").arg("1000").spawn().unwrap();
    let cgroup = container.cgroup().unwrap().path();
    type Way<'a> = (&'static str, Box<dyn Fn() -> Command + 'a>);
    let ways: [Way<'_>; 4] = [
        ("exec", Box::new(|| container.exec("true").unwrap())),
        ("cgroup_inside", Box::new(|| take(Command::new("true").cgroup_inside(cgroup)))),
        ("no_cgroup", Box::new(|| take(Command::new("true").no_cgroup()))),
        ("bare", Box::new(|| Command::bare("true"))),
    ];
    for (way, command) in &ways {
        // The control: it starts without.
        assert!(command().stdin(Stdio::Null).status().unwrap().status.success(), "{way}");
        let limits = Limits { memory_max: Some((16 << 20).into()), ..Limits::default() };
        let refused = error(command().limits(limits));
        assert_eq!(refused.kind(), ErrorKind::InvalidSpec, "{way}: {refused}");
        assert!(refused.to_string().starts_with("limits.memory.max: "), "{way}: {refused}");
        let mut filtered = command();
        filtered.spec_mut().devices = Some(Vec::new());
        let refused = error(&mut filtered);
        assert!(refused.to_string().starts_with("devices: "), "{way}: {refused}");
    }
    drop(ways);
    container.delete().unwrap();
}

/// Final state of a builder.
fn take(command: &mut Command) -> Command {
    std::mem::replace(command, Command::new("true"))
}

#[test]
fn a_container_has_every_controller_that_the_host_has() {
    if !nspod_testkit::root() {
        return;
    }
    let container = Command::new("sleep").arg("1000").spawn().unwrap();
    let has = container.cgroup().unwrap().available().unwrap();
    assert_eq!(has, Hierarchy::detect().unwrap().controllers());
    container.delete().unwrap();
}

#[test]
fn the_five_capability_sets_are_set() {
    if !nspod_testkit::root() {
        return;
    }
    let bit = |name| Capabilities::bit(name).unwrap();
    let mut command = Command::new("sh");
    command.user(1234, 5678);
    let both = bit("CAP_NET_BIND_SERVICE") | bit("kill");
    command.spec_mut().process.capabilities = Some(Capabilities {
        bounding: both | bit("chown"),
        effective: both,
        permitted: both,
        inheritable: both,
        ambient: bit("kill"),
    });
    let text = output(&mut command, "id -u; id -g; grep ^Cap /proc/self/status");
    let sets: Vec<u64> = text
        .lines()
        .filter_map(|l| {
            l.strip_prefix("Cap")?.split_once(":\t").map(|(_, v)| u64::from_str_radix(v, 16).unwrap())
        })
        .collect();
    // Inheritable, permitted, effective, bounding, ambient. An ordinary user keeps only the ambient capabilities
    // across execve.
    let kill = bit("kill");
    assert_eq!(sets, [both, kill, kill, both | bit("chown"), kill], "{text}");
    assert!(text.starts_with("1234\n5678\n"), "{text}");
}

#[test]
fn no_new_privs_seccomp_umask_rlimits_and_oom_score_are_set() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    let process = &mut command.spec_mut().process;
    process.umask = Some(0o027);
    process.oom_score_adj = Some(500);
    process.rlimits = vec![Rlimit { name: "RLIMIT_NOFILE".into(), soft: 64, hard: 128 }];
    let text = output(
        &mut command,
        "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; umask; cat /proc/self/oom_score_adj; ulimit -n; ulimit -Hn",
    );
    assert_eq!(text, "NoNewPrivs:\t1\nSeccomp:\t2\n0027\n500\n64\n128");
}

#[test]
fn a_container_has_its_own_terminal() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "tty; stty size; test -c /dev/console && echo console; ps -o tty= -p 1 2>/dev/null; read x; echo got $x"]);
    command.spec_mut().process.terminal = Some(Terminal { rows: 33, columns: 99 });
    let mut container = command.spawn().unwrap();
    let mut terminal = container.terminal.take().unwrap();
    terminal.write_all(b"word\n").unwrap();
    let mut text = Vec::new();
    // Reading a terminal fails with EIO after the other end is closed.
    let _ = terminal.read_to_end(&mut text);
    let text = String::from_utf8(text).unwrap();
    for expected in ["/dev/pts/0", "33 99", "console", "got word"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(container.wait().unwrap().status.success());
}

#[test]
fn a_held_container_starts_on_request() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "echo ran"]).stdin(Stdio::Null).stdout(Stdio::Piped).hold();
    let mut container = command.spawn().unwrap();
    // Setup is complete, and the program does not run yet.
    assert_ne!(NamespaceSet::current().unwrap(), container.namespaces().unwrap());
    assert!(container.wait_timeout(Duration::from_millis(1)).unwrap().is_none());
    container.start().unwrap();
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "ran\n");
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::State);
    assert!(container.wait().unwrap().status.success());

    let mut command = Command::new("no-such-program");
    command.stdin(Stdio::Null).hold();
    let mut container = command.spawn().unwrap();
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::ProgramNotFound);
}

fn sleeper(edit: impl FnOnce(&mut Command)) -> Container {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    edit(&mut command);
    command.spawn().unwrap()
}

#[test]
fn a_further_process_shares_everything_with_its_container() {
    if !nspod_testkit::root() {
        return;
    }
    for user in [NamespaceMode::Host, NamespaceMode::New] {
        let container = sleeper(|c| {
            c.hostname("inner").namespace(Kind::User, user.clone());
        });
        let mut exec = container.exec("sh").unwrap();
        let text = output(
            &mut exec,
            "cat /proc/sys/kernel/hostname; readlink /proc/2/exe; for k in mnt net pid user uts ipc cgroup; do [ $(readlink /proc/self/ns/$k) = $(readlink /proc/2/ns/$k) ] || echo differs $k; done; grep ^CapBnd /proc/self/status; grep ^Seccomp: /proc/self/status; cat /proc/self/cgroup | grep ^0::",
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "inner", "{text}");
        assert!(lines[1].ends_with("sleep"), "{text}");
        assert_eq!(lines[2..], ["CapBnd:\t00000000a00425fb", "Seccomp:\t2", "0::/"], "{text}");
        container.delete().unwrap();
    }
}

#[test]
fn freeze_stops_a_container_and_thaw_continues_it() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do echo; done"]).stdin(Stdio::Null).stdout(Stdio::Piped);
    let mut container = command.spawn().unwrap();
    let mut stdout = container.stdout.take().unwrap();
    let mut byte = [0];
    stdout.read_exact(&mut byte).unwrap();
    container.freeze().unwrap();
    assert!(container.cgroup().unwrap().events().unwrap().frozen);
    let cpu = || container.usage().unwrap().cpu.usage_usec.unwrap();
    let (before, _) = (cpu(), std::thread::sleep(Duration::from_millis(50)));
    assert_eq!(before, cpu());
    container.thaw().unwrap();
    for _ in 0..100_000 {
        stdout.read_exact(&mut byte).unwrap();
    }
    container.delete().unwrap();
}

#[test]
fn a_start_leaves_the_callers_process_unchanged() {
    if !nspod_testkit::root() {
        return;
    }
    let look = || {
        // Read the status of the thread that starts the container: another thread may block signals while it
        // creates a thread.
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let kept: Vec<_> = status
            .lines()
            .filter(|l| {
                ["Umask", "SigBlk", "SigIgn", "SigCgt", "Cap", "Uid", "Groups"]
                    .iter()
                    .any(|p| l.starts_with(p))
            })
            .map(str::to_owned)
            .collect();
        (kept, std::env::current_dir().unwrap(), NamespaceSet::current().unwrap())
    };
    let before = look();
    let mut command = Command::new("sh");
    command.user(65534, 65534).current_dir("/tmp");
    command.spec_mut().process.umask = Some(0o77);
    output(&mut command, "true");
    assert_eq!(before, look());
    // The process becomes dumpable again when no start of another test is in progress.
    nspod_testkit::eventually("this process is dumpable", || nix::sys::prctl::get_dumpable().unwrap());
}

#[test]
fn a_spec_survives_json() {
    use std::os::unix::ffi::OsStringExt;
    let mut spec = Spec::new("sh");
    let odd = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    spec.process.args.push(odd.clone());
    spec.process.env.push(("ODD".into(), odd.clone()));
    spec.process.cwd = Some(odd.clone().into());
    spec.masked_paths.push(odd.clone().into());
    spec.mounts.push(Mount::new(&odd, MountKind::Bind { source: odd.clone().into(), recursive: false }));
    spec.root = Root::Dir { path: odd.into(), readonly: true };
    let json = serde_json::to_string_pretty(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
}

#[test]
fn a_descriptor_has_one_number_of_3_or_more() {
    if !nspod_testkit::root() {
        return;
    }
    for numbers in [&[2][..], &[-1], &[i32::MAX], &[5, 5]] {
        let mut command = Command::new("true");
        for number in numbers {
            command.fd(std::fs::File::open("/dev/null").unwrap(), *number);
        }
        assert_eq!(error(&mut command).kind(), ErrorKind::InvalidSpec, "{numbers:?}");
    }
}

#[test]
fn wait_reaps_further_processes_that_keep_the_container_from_ending() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        let mut command = Command::new("sh");
        command.args(["-c", "read x; exit 7"]).stdin(Stdio::Piped);
        let mut container = command.spawn().unwrap();
        let mut exec = container.exec("sleep").unwrap();
        let mut guest = exec.arg("1000").stdin(Stdio::Null).spawn().unwrap();
        drop(container.stdin.take());
        // The end of the container kills the guest, while its handle still exists.
        assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(7));
        assert_eq!(guest.wait().unwrap().status.shell_code(), 128 + libc::SIGKILL);
        container.delete().unwrap();
    });
}

#[test]
fn a_further_process_that_cannot_start_leaves_no_zombie() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        let container = sleeper(|_| {});
        for _ in 0..3 {
            let mut exec = container.exec("/nonexistent").unwrap();
            assert_eq!(error(&mut exec).kind(), ErrorKind::ProgramNotFound);
        }
        let mut exec = container.exec("sh").unwrap();
        assert_eq!(output(&mut exec, "cd /proc; cat [0-9]*/stat | grep -c ' Z ' || true"), "0");
        container.delete().unwrap();
    });
}

#[test]
fn nothing_is_started_in_a_frozen_container() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        let container = sleeper(|_| {});
        container.freeze().unwrap();
        let e = error(&mut container.exec("true").unwrap());
        assert_eq!(e.kind(), ErrorKind::State, "{e}");
        assert!(e.to_string().ends_with("which is frozen: thaw it first"), "{e}");
        container.thaw().unwrap();
        assert!(container.exec("true").unwrap().status().unwrap().status.success());
    });
}

#[test]
fn a_command_can_be_planned_and_started_again_and_again() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.fd(std::fs::File::open("/etc/passwd").unwrap(), 5);
    for _ in 0..3 {
        command.plan().unwrap();
        assert!(
            output(&mut command, "readlink /proc/self/fd/5; readlink /proc/$$/fd/5")
                .starts_with("/etc/passwd")
        );
    }
}

#[test]
fn the_supplementary_groups_of_the_caller_are_dropped() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        // The raw system call changes the groups of this thread only.
        // SAFETY: reads one gid.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setgroups, 1, [42u32].as_ptr()) }, 0);
        for user in [None, Some(nspod_sandbox::spec::User::default())] {
            let mut command = Command::new("sh");
            command.namespace(Kind::User, NamespaceMode::New);
            command.spec_mut().process.user = user;
            assert_eq!(output(&mut command, "grep ^Groups: /proc/self/status").trim(), "Groups:");
        }
    });
}

#[test]
fn a_host_with_shared_mounts_sees_no_mount_of_the_container() {
    if !nspod_testkit::root() {
        return;
    }
    in_time(|| {
        use nix::mount::{MsFlags, mount};
        // A mount namespace for this thread only, with shared mounts like systemd's.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).unwrap();
        let mounts = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
        let before = mounts();
        for user in [NamespaceMode::Host, NamespaceMode::New] {
            let mut command = Command::new("true");
            command.namespace(Kind::User, user).stdin(Stdio::Null);
            assert!(command.status().unwrap().status.success());
            assert_eq!(mounts(), before);
        }
    });
}

#[test]
fn proc_is_not_mounted_through_a_link() {
    if !nspod_testkit::root() {
        return;
    }
    let image = Image::new();
    std::fs::rename(image.path().join("proc"), image.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", image.path().join("proc")).unwrap();
    let mut command = Command::new("sh");
    command.root(Root::Dir { path: image.path(), readonly: true });
    let e = error(&mut command);
    assert_eq!((e.failed_call(), e.raw_os_error()), (Some("openat2"), Some(libc::ELOOP)), "{e}");
}

#[test]
fn an_image_that_names_its_runtime_as_interpreter_finds_the_sealed_init() {
    if !nspod_testkit::root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let image = Image::new();
    let path = image.path().join("bin/evil");
    std::fs::write(&path, "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("/bin/evil");
    command.root(Root::Dir { path: image.path(), readonly: true }).stdin(Stdio::Null);
    // The init rejects the unknown arguments with exit code 125. The test's own program would have run its tests.
    assert_eq!(command.status().unwrap().status, ExitStatus::Exited(125));
}

#[test]
fn a_command_is_planned_once_until_it_is_changed() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "exit 3"]);
    let plan = command.plan().unwrap();
    for _ in 0..3 {
        let mut container = command.stdin(Stdio::Null).spawn().unwrap();
        assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
    }
    assert!(std::sync::Arc::ptr_eq(&plan, &command.plan().unwrap()));
    command.spec_mut().process.args = vec!["sh".into(), "-c".into(), "exit 4".into()];
    assert_eq!(command.status().unwrap().status, ExitStatus::Exited(4));
}

#[test]
fn a_launcher_is_used_by_many_threads_at_once() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "exit 3"]);
    let launcher = command.launcher().unwrap();
    let cgroups = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let mut container = launcher.spawn().unwrap();
                    let path = container.cgroup().unwrap().path().to_owned();
                    assert_eq!(container.wait().unwrap().status, ExitStatus::Exited(3));
                    container.delete().unwrap();
                    assert!(!path.exists(), "{}", path.display());
                    cgroups.lock().unwrap().insert(path);
                }
            });
        }
    });
    assert_eq!(cgroups.into_inner().unwrap().len(), 12);
}

#[test]
fn a_container_that_joins_a_pid_namespace_sees_its_processes_and_no_others() {
    if !nspod_testkit::root() {
        return;
    }
    let first = sleeper(|_| {});
    let pid = ns_core::Namespace::of_pidfd(first.pidfd(), Kind::Pid).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "cd /proc; echo [0-9]*"]).stdin(Stdio::Null).stdout(Stdio::Piped).join(pid);
    let mut container = command.spawn().unwrap();
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    // The init, the sleeper and the shell. Processes that ended in between may have used the numbers between.
    let seen: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(matches!(seen[..], [1, 2, 3..10]), "{seen:?}");
    assert!(container.wait().unwrap().status.success());
}

#[test]
fn a_program_cannot_change_the_mode_of_the_init_that_starts_the_next() {
    if !nspod_testkit::root() {
        return;
    }
    const SETS: u64 = 1 << 3 /* CAP_FOWNER */ | 1 << 19 /* CAP_SYS_PTRACE */;
    // Before Linux 6.3 the program can change the mode, but only of its container's own copy.
    for line in ["chmod 0 /proc/1/exe 2> /dev/null; true", "test -x /proc/1/exe"] {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command.init(true);
        command.spec_mut().process.capabilities =
            Some(Capabilities { bounding: SETS, permitted: SETS, effective: SETS, ..Capabilities::NONE });
        assert_eq!(command.status().unwrap().status, ExitStatus::Exited(0), "{line}");
    }
}

#[test]
fn the_outcome_has_the_network_counters_of_limits_that_were_set_later() {
    if !nspod_testkit::root() {
        return;
    }
    let ends = |limits: Option<Limits>| {
        let script = "read go; exec 3<>/dev/tcp/127.0.0.1/80";
        let mut container = Command::new("bash")
            .args(["-c", script])
            .stdin(Stdio::Piped)
            .stderr(Stdio::Null)
            .spawn()
            .unwrap();
        limits.iter().for_each(|limits| container.update(limits).unwrap());
        drop(container.stdin.take());
        container.wait().unwrap().net
    };
    let net =
        nspod_sandbox::cgroup_core::net::Limits { deny: vec!["*:80".parse().unwrap()], ..Default::default() };
    let net = ends(Some(Limits { net: Some(net), ..Limits::default() })).unwrap();
    assert_eq!((net.egress.denied, net.egress.packets), (1, 0));
    assert_eq!(ends(None), None);
}

#[test]
fn errors_about_cgroups_name_the_true_cause() {
    if !nspod_testkit::root() {
        return;
    }
    for mut relative in
        [take(Command::new("true").cgroup_parent("a/b")), take(Command::new("true").cgroup_inside("a/b"))]
    {
        let refused = error(&mut relative);
        assert_eq!(refused.kind(), ErrorKind::InvalidSpec);
        assert!(refused.to_string().ends_with(": a/b is not an absolute path"), "{refused}");
    }
    let container = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut more = container.exec("sleep").unwrap().arg("1000").spawn().unwrap();
    for refused in [more.usage().map(drop).unwrap_err(), more.freeze().unwrap_err()] {
        assert_eq!(refused.kind(), ErrorKind::State);
        assert!(refused.to_string().contains("the process was started in an existing cgroup"), "{refused}");
    }
    more.kill().unwrap();
    more.wait().unwrap();
    container.delete().unwrap();
}

#[test]
fn an_empty_root_holds_only_its_mounts_and_is_read_only() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.root(Root::Empty);
    command.spec_mut().mounts.retain(|mount| mount.destination == Path::new("/proc"));
    for dir in ["/usr", "/bin", "/lib", "/lib64"] {
        if Path::new(dir).exists() {
            command.mount(Mount::bind_ro(dir, dir));
        }
    }
    let text = output(
        &mut command,
        "ls / | tr '\\n' ' '; mkdir /new 2>&1 | grep -o 'Read-only'; echo $(cat /proc/self/comm)",
    );
    assert_eq!(text, "bin lib lib64 proc usr Read-only\ncat");
}
