//! The isolation matrix. In each test one container attacks another.
//!
//! The attack fails if both have their own namespace of the tested kind. It succeeds if they share the namespace
//! and everything else is equal. This negative control shows that the attack works.
//!
//! `limits.rs` tests attacks that limits stop (memory, processes, processor time).

use ns_core::{IdMap, Kind, Kinds, TimeOffsets};
use nspod_sandbox::spec::{Capabilities, IdMaps, NamespaceMode, Seccomp};
use nspod_sandbox::{Command, Pod, PodSpec};
use nspod_tests::{Cell, GONE, Reply, join, lane, pod, unique};

/// Two containers of a pod that shares these kinds. `edit` changes the command of each.
struct Pair {
    // Dropped first: a living tracer would hide the victim's end from other processes.
    attacker: Cell,
    victim: Cell,
    _pod: Pod,
}

impl Pair {
    fn new(spec: &PodSpec, edit: impl Fn(&mut Command, usize)) -> Pair {
        let pod = Pod::create(&unique("matrix"), spec).unwrap();
        let [victim, attacker] = [0, 1].map(|which| {
            let mut command = join(&pod).unwrap();
            edit(&mut command, which);
            Cell::start(&mut command).unwrap()
        });
        Pair { victim, attacker, _pod: pod }
    }
}

/// Runs the attack without and with the shared namespace.
fn row(kind: Kind, capabilities: &str, attack: impl Fn(&mut Cell, &mut Cell) -> bool) {
    if !lane::root() {
        return;
    }
    let set = capabilities.split(' ').filter_map(Capabilities::bit).fold(0, |all, bit| all | bit);
    for share in [Kinds::empty(), kind.into()] {
        let mut pair = Pair::new(&pod(share.kinds()), |command, _| {
            let process = &mut command.spec_mut().process;
            process.capabilities = Some(Capabilities::of(Capabilities::CONTAINER.bounding | set));
        });
        let succeeded = attack(&mut pair.victim, &mut pair.attacker);
        assert_eq!(succeeded, !share.is_empty(), "the attack, where the containers share {{{share}}}");
    }
}

/// The pids that the attacker tries: the victim's own pid, and its pid on the host. Neither identifies the victim
/// in another pid namespace.
fn pids(victim: &mut Cell) -> [i32; 2] {
    [victim.order("pid").unwrap().parse().unwrap(), victim.container.pid()]
}

#[test]
fn signals_do_not_cross_pid_namespaces() {
    row(Kind::Pid, "", |victim, attacker| {
        for pid in pids(victim) {
            // Pid 1 is the attacker itself, which must not kill itself.
            let _ = attacker.order(&format!("kill {pid} 9"));
        }
        // Add every process that the attacker can see.
        let _ = attacker.order("kill -1 9");
        victim.order("ping") == Err(GONE)
    });
}

#[test]
fn ptrace_does_not_cross_pid_namespaces() {
    row(Kind::Pid, "", |victim, attacker| {
        victim.order("secret").unwrap();
        pids(victim).iter().any(|pid| attacker.order(&format!("ptrace {pid}")).is_ok())
    });
}

#[test]
fn memory_cannot_be_read_across_pid_namespaces() {
    row(Kind::Pid, "", |victim, attacker| {
        let [own, hosts] = pids(victim);
        let at = victim.order("secret").unwrap();
        let elsewhere = |pid| [own, hosts].contains(&pid);
        let mut read = |order: &str, pid: i32| {
            // A pid of the attacker itself would yield the attacker's own secret.
            let itself = attacker.order("pid").unwrap() == pid.to_string();
            !itself
                && elsewhere(pid)
                && attacker.order(&format!("{order} {pid} {at}")).as_deref() == Ok("secret")
        };
        let found = [own, hosts].map(|pid| (read("read-memory", pid), read("process-vm", pid)));
        let all = found.iter().any(|(file, _)| *file) && found.iter().any(|(_, call)| *call);
        assert!(all || !found.iter().any(|(file, call)| *file || *call), "one way alone: {found:?}");
        all
    });
}

#[test]
fn memory_cannot_be_written_across_pid_namespaces() {
    row(Kind::Pid, "", |victim, attacker| {
        let at = victim.order("secret").unwrap();
        for pid in pids(victim) {
            if attacker.order("pid").unwrap() != pid.to_string() {
                let _ = attacker.order(&format!("write-memory {pid} {at}"));
            }
        }
        let own = victim.order("pid").unwrap();
        victim.order(&format!("read-memory {own} {at}")).as_deref() == Ok("broken")
    });
}

/// One container creates an object under a name, and the other tries to find it.
fn found(victim: &mut Cell, attacker: &mut Cell, what: &str, name: &str) -> bool {
    victim.order(&format!("{what} make {name}")).unwrap();
    attacker.order(&format!("{what} read {name}")).is_ok()
}

#[test]
fn system_v_memory_semaphores_and_messages_stay_in_their_ipc_namespace() {
    for what in ["shm", "sem", "msg"] {
        row(Kind::Ipc, "", |victim, attacker| found(victim, attacker, what, "4711"));
    }
}

#[test]
fn posix_queues_and_memory_stay_in_their_ipc_namespace() {
    row(Kind::Ipc, "", |victim, attacker| found(victim, attacker, "mq", "/queue"));
    row(Kind::Ipc, "", |victim, attacker| found(victim, attacker, "posix-shm", "memory"));
}

#[test]
fn abstract_sockets_stay_in_their_net_namespace() {
    row(Kind::Net, "", |victim, attacker| {
        victim.order("abstract listen meet-me").unwrap();
        attacker.order("abstract connect meet-me").is_ok()
    });
}

#[test]
fn each_net_namespace_has_its_own_localhost() {
    row(Kind::Net, "", |victim, attacker| {
        victim.order("tcp listen 4711").unwrap();
        // The same port is free in another namespace, and in use in a shared one.
        let connected = attacker.order("tcp connect 4711").is_ok();
        let listened = attacker.order("tcp listen 4711");
        assert_eq!(listened.err(), connected.then_some(libc::EADDRINUSE));
        connected
    });
}

#[test]
fn a_host_name_changes_only_in_its_uts_namespace() {
    row(Kind::Uts, "sys_admin", |victim, attacker| {
        attacker.order("set-hostname attacked").unwrap();
        victim.order("hostname").as_deref() == Ok("attacked")
    });
}

#[test]
fn a_mount_is_visible_only_in_its_mnt_namespace() {
    row(Kind::Mnt, "sys_admin", |victim, attacker| {
        attacker.order("mkdir /tmp/over").unwrap();
        attacker.order("mount-tmpfs /tmp/over").unwrap();
        attacker.order("write /tmp/over/file text").unwrap();
        victim.order("read /proc/self/mountinfo").unwrap().contains(" /tmp/over ")
            && victim.order("read /tmp/over/file").is_ok()
    });
}

#[test]
fn files_are_written_only_in_the_writers_mnt_namespace() {
    row(Kind::Mnt, "", |victim, attacker| {
        let mut all = Vec::new();
        for dir in ["/tmp", "/run", "/dev/shm"] {
            attacker.order(&format!("write {dir}/note text")).unwrap();
            all.push(victim.order(&format!("read {dir}/note")).as_deref() == Ok("text"));
        }
        // No container can write to the host's own files.
        assert_eq!(attacker.order("write /usr/note text"), Err(libc::EROFS));
        assert_eq!(attacker.order("write /etc/hostname text"), Err(libc::EROFS));
        assert!(all.iter().all(|seen| *seen == all[0]), "{all:?}");
        all[0]
    });
}

#[test]
fn clock_offsets_apply_only_in_their_time_namespace() {
    if !lane::root() {
        return;
    }
    let offset = TimeOffsets {
        monotonic: ns_core::TimeOffset { secs: 1_000_000, nanos: 0 },
        ..TimeOffsets::default()
    };
    for shared in [false, true] {
        let share: Kinds = if shared { Kinds::TIME } else { Kinds::empty() };
        let spec = PodSpec { time_offsets: shared.then_some(offset), ..pod(share.kinds()) };
        let mut pair = Pair::new(&spec, |command, which| {
            if !shared {
                command.namespace(Kind::Time, NamespaceMode::New);
                command.spec_mut().time_offsets = (which == 0).then_some(offset);
            }
        });
        let clock = |cell: &mut Cell| cell.order("clock").unwrap().parse::<i64>().unwrap();
        let apart = clock(&mut pair.victim) - clock(&mut pair.attacker);
        assert_eq!(apart < 500_000, shared, "{apart} s apart");
        // The attacker can change neither the victim's offsets nor its own. The victim's pid on the host does not exist
        // in the attacker's pid namespace.
        let [inside, outside] = pids(&mut pair.victim).map(|pid| pid.to_string());
        for (pid, errno) in [(inside, libc::EPERM), (outside, libc::ENOENT), ("self".into(), libc::EPERM)] {
            // The kernel accepts any white space. A space would separate words of the order.
            let order = format!("write /proc/{pid}/timens_offsets monotonic\t5\t0");
            assert_eq!(pair.attacker.order(&order), Err(errno), "{order}");
        }
    }
}

#[test]
fn setting_the_clock_requires_the_capability() {
    if !lane::root() {
        return;
    }
    let try_it = |capability: u64| -> [Reply; 2] {
        let mut command = nspod_tests::command();
        let process = &mut command.spec_mut().process;
        process.capabilities = Some(Capabilities::of(Capabilities::CONTAINER.bounding | capability));
        process.seccomp = Seccomp::Unconfined;
        let mut cell = Cell::start(&mut command).unwrap();
        [cell.order("set-tick"), cell.order("set-monotonic")]
    };
    // The requested value is invalid, so that the control changes no clock. With the capability the call fails with
    // EINVAL.
    assert_eq!(try_it(0)[0], Err(libc::EPERM));
    assert_eq!(try_it(Capabilities::bit("sys_time").unwrap())[0], Err(libc::EINVAL));
    // No process can set the monotonic clock.
    assert_eq!(try_it(Capabilities::bit("sys_time").unwrap())[1], Err(libc::EINVAL));
}

fn ids(first: u32) -> IdMaps {
    let map = |inside| IdMap::from_iter([ns_core::Extent { inside, outside: first, count: 65_536 }]);
    IdMaps::Maps { uid: map(0), gid: map(0) }
}

#[test]
fn users_of_different_user_namespaces_reach_neither_each_others_processes_nor_files() {
    if !lane::root() {
        return;
    }
    // All are in the host's pid namespace, so that they can address each other.
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().join("open");
    std::fs::create_dir(&path).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(&path, open).unwrap();
    for together in [false, true] {
        let cell = |first: u32| {
            let mut command = nspod_tests::command();
            command.namespace(Kind::Pid, NamespaceMode::Host).namespace(Kind::User, NamespaceMode::New);
            command.spec_mut().id_maps = ids(first);
            let kind = nspod_sandbox::spec::MountKind::Bind { source: path.clone(), recursive: false };
            command.mount(nspod_sandbox::spec::Mount::new("/run/open", kind));
            Cell::start(&mut command).unwrap()
        };
        let (mut victim, mut attacker) = (cell(300_000), cell(if together { 300_000 } else { 400_000 }));
        // Each is root inside, and a different ordinary user on the host.
        assert_eq!(victim.order("uid").as_deref(), Ok("0"));
        let host_uid = |cell: &Cell| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(format!("/proc/{}", cell.container.pid())).unwrap().uid()
        };
        assert_eq!(host_uid(&victim), 300_000);
        assert_eq!(host_uid(&victim) == host_uid(&attacker), together);
        // Neither can signal a process of the host's root.
        assert_eq!(attacker.order(&format!("kill {} 0", std::process::id())), Err(libc::EPERM));

        let name = if together { "b" } else { "a" };
        victim.order(&format!("write /run/open/{name} mine")).unwrap();
        let overwritten = attacker.order(&format!("write /run/open/{name} theirs"));
        let killed = attacker.order(&format!("kill {} 9", victim.container.pid()));
        match together {
            false => assert_eq!((overwritten, killed), (Err(libc::EACCES), Err(libc::EPERM))),
            true => assert_eq!((overwritten, killed), (Ok(String::new()), Ok(String::new()))),
        }
        assert_eq!(victim.order("ping") == Err(GONE), together);
    }
}

#[test]
fn a_cgroup_namespace_hides_its_place_in_the_hosts_tree_and_the_other_cgroups() {
    if !lane::root() {
        return;
    }
    for shared in [false, true] {
        let mut pair = Pair::new(&pod([]), |command, _| {
            if shared {
                command.namespace(Kind::Cgroup, NamespaceMode::Host);
            }
        });
        let path = pair.victim.container.cgroup().unwrap().path().to_owned();
        let name = path.file_name().unwrap().to_str().unwrap();
        let own = pair.attacker.order("read /proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
        assert_eq!(own == "/", !shared, "{own}");
        // The children of the parent, which include the victim if it is visible.
        let parent = std::path::Path::new(&own).parent().map_or("".into(), |dir| dir.display().to_string());
        let names = pair.attacker.order(&format!("list /sys/fs/cgroup{parent}")).unwrap();
        assert_eq!(names.split(' ').any(|other| other == name), shared, "{names}");
    }
}
