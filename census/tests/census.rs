//! Compares the census with the kernel and with `lsns`, for processes that the tests create.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use ns_core::{Kind, Kinds, Namespace, NamespaceSet, raw};
use nspod_census::ErrorKind;
use nspod_census::{Census, Holder, HostFrom, Options, model};

fn me() -> i32 {
    std::process::id() as i32
}

/// Child, killed and reaped when it is dropped. Pid 1 of a pid namespace must be dropped after the other
/// processes there.
struct Sleeper(i32);

impl Drop for Sleeper {
    fn drop(&mut self) {
        // SAFETY: plain system calls on a child that only this value waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Starts a process that sleeps in these namespaces, in new ones of these kinds, and otherwise in the
/// caller's. An intermediate process creates it, because joining a pid namespace takes effect at a
/// clone.
fn sleeper(join: &[Namespace], new: Kinds) -> Sleeper {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    // SAFETY: the child makes raw system calls only, and ends by _exit.
    let middleman = unsafe { raw::clone3(&mut clone_args(0, libc::SIGCHLD)) }.unwrap();
    if middleman == 0 {
        let joined = join.iter().all(|ns| nix::sched::setns(ns, nix::sched::CloneFlags::empty()).is_ok());
        let flags = new.bits() | libc::CLONE_PARENT as u64;
        // SAFETY: as above; the grandchild only sleeps.
        let pid = if joined { unsafe { raw::clone3(&mut clone_args(flags, 0)) }.unwrap_or(-1) } else { -1 };
        // SAFETY: raw system calls on a local buffer. The descriptors of other tests are closed, so
        // that their readers do not wait for this process.
        unsafe {
            if pid == 0 {
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
                loop {
                    libc::pause();
                }
            }
            libc::write(writer.as_raw_fd(), (&raw const pid).cast(), 4);
            libc::_exit(0);
        }
    }
    drop(writer);
    let mut pid = [0; 4];
    let n = nix::unistd::read(&reader, &mut pid).unwrap();
    drop(Sleeper(middleman));
    let pid = i32::from_ne_bytes(pid);
    assert!(n == 4 && pid > 0, "the intermediate process could not join or clone");
    Sleeper(pid)
}

fn clone_args(flags: u64, signal: i32) -> raw::CloneArgs {
    raw::CloneArgs { flags, exit_signal: signal as u64, ..raw::clone_args() }
}

/// Program with piped output, killed and reaped when it is dropped.
struct Program {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Program {
    /// Starts a shell script and waits for its first line.
    fn start(args: &[&str]) -> Program {
        let mut child = Command::new(args[0])
            .args(&args[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut program = Program { child, out };
        assert_eq!(program.line(), "ready", "{args:?}");
        program
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // Ends every `cat` that reads it.
        let _ = self.child.wait();
    }
}

fn all(kinds: Kinds, of: &Sleeper) -> Vec<Namespace> {
    // The user namespace is the last, because it removes the right to join namespaces that it does
    // not own.
    let (user, rest) = (kinds & Kinds::USER, kinds - Kinds::USER);
    rest.kinds().chain(user.kinds()).map(|kind| Namespace::of_pid(of.0, kind).unwrap()).collect()
}

#[test]
fn every_shared_subset_of_kinds_coincides_exactly_and_forms_a_pod() {
    if !nspod_testkit::root() {
        return;
    }
    let first = sleeper(&[], Kinds::all());
    let shared =
        |bits: u32| Kind::ALL.into_iter().filter(|k| bits >> (*k as u32) & 1 == 1).collect::<Kinds>();
    let others: Vec<_> =
        (0..256).map(|bits| sleeper(&all(shared(bits), &first), shared(bits).complement())).collect();
    let census = Census::take().unwrap();
    let host = census.process(me()).unwrap().namespaces;
    assert_eq!(host, NamespaceSet::current().unwrap());
    for (bits, other) in (0..).zip(&others) {
        let shared = shared(bits);
        let pair = [first.0, other.0].map(|pid| census.process(pid).unwrap().clone());
        assert_eq!(pair[0].namespaces.coincide(&pair[1].namespaces), shared);
        assert_eq!(pair[1].namespaces, NamespaceSet::of_pid(other.0).unwrap());
        let model = model::derive(&pair, &host);
        if shared == Kinds::all() {
            assert_eq!(model.containers.len(), 1, "they coincide in every kind");
            continue;
        }
        assert_eq!(model.containers.len(), 2, "{shared}");
        assert!(model.containers.iter().all(|c| c.isolated == Kinds::all()));
        if shared.intersects(Kinds::FIVE) {
            assert_eq!(model.pods.len(), 1, "{shared}");
            assert_eq!(model.pods[0].shared, shared);
        } else {
            assert!(model.pods.is_empty(), "{shared}");
        }
    }
    drop(others);
}

type Listing = BTreeMap<(Kind, u64), (usize, i32)>;

/// Runs `lsns` as this user; returns the number of processes and the lowest pid of each namespace, or
/// `None` if it fails, as it does if a process ends while it reads it.
fn lsns(uid: u32) -> Option<Listing> {
    let args = ["--json", "--list", "--output", "NS,TYPE,NPROCS,PID"];
    let output = Command::new("lsns").args(args).uid(uid).stderr(Stdio::null()).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    // Older versions write numbers as strings.
    let number = |v: &serde_json::Value| {
        v.as_u64().or_else(|| v.as_str().and_then(|s| s.trim().parse().ok())).unwrap_or(0)
    };
    let rows = json["namespaces"].as_array().unwrap().iter().map(|row| {
        let kind: Kind = row["type"].as_str().unwrap().parse().unwrap();
        ((kind, number(&row["ns"])), (number(&row["nprocs"]) as usize, number(&row["pid"]) as i32))
    });
    Some(rows.filter(|(_, (nprocs, _))| *nprocs > 0).collect())
}

/// Returns the same numbers from a census. `lsns` counts zombies and itself, which is in the caller's
/// namespaces. It reads only main threads. One that has ended is only in its pid and user namespaces, even if
/// other threads of its process live.
fn listing(census: &Census) -> Listing {
    let own = census.process(me()).unwrap().namespaces;
    let has_main_thread = |pid: &i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok();
    let led: BTreeSet<i32> = census.processes().iter().map(|p| p.pid).filter(has_main_thread).collect();
    let rows = census.namespaces().iter().filter_map(|namespace| {
        let is_counted = |pid: &i32| matches!(namespace.kind, Kind::Pid | Kind::User) || led.contains(pid);
        let zombies = namespace.holders.iter().filter_map(|holder| match holder {
            Holder::Zombie { pid } => Some(*pid),
            _ => None,
        });
        let pids: Vec<i32> = namespace.processes.iter().copied().filter(is_counted).chain(zombies).collect();
        let itself = usize::from(own[namespace.kind] == namespace.id);
        Some(((namespace.kind, namespace.id.ino), (pids.len() + itself, *pids.iter().min()?)))
    });
    rows.collect()
}

/// Checks that the census agrees with `lsns` before and after it. Repeats the comparison while other
/// processes change the result. Namespaces that `still` selects must always agree.
fn agree_with_lsns(still: &[i32]) {
    let mut last = String::new();
    for _ in 0..200 {
        let before = lsns(nix::unistd::geteuid().as_raw());
        let census = Census::take().unwrap();
        let after = lsns(nix::unistd::geteuid().as_raw());
        let (Some(before), Some(after)) = (before, after) else { continue };
        let ours = listing(&census);
        for pid in still {
            for (kind, id) in census.process(*pid).unwrap().namespaces.iter() {
                if census.namespace(kind, id).unwrap().processes == [*pid] {
                    assert_eq!(ours[&(kind, id.ino)], (1, *pid));
                    assert_eq!(before[&(kind, id.ino)], (1, *pid));
                }
            }
        }
        if before == after && ours == before {
            return;
        }
        last = format!("lsns before: {before:?}\ncensus: {ours:?}\nlsns after: {after:?}");
    }
    panic!("no agreement in 200 attempts; the last:\n{last}");
}

#[test]
fn namespaces_processes_and_lowest_pids_agree_with_lsns_while_processes_churn() {
    if !nspod_testkit::root() {
        return;
    }
    let mut zoo: Vec<_> = Kind::ALL.into_iter().map(|kind| sleeper(&[], kind.into())).collect();
    zoo.push(sleeper(&[], Kinds::all()));
    // Dropped before its pid 1, which waits until it is reaped.
    let guest = sleeper(&all(Kinds::NET | Kinds::PID, &zoo[8]), Kinds::MNT);
    let pids: Vec<i32> = zoo.iter().chain([&guest]).map(|p| p.0).collect();
    let (stop, stopped) = mpsc::channel::<()>();
    let churn = std::thread::spawn(move || {
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            drop(sleeper(&[], Kinds::UTS | Kinds::IPC));
            std::thread::sleep(std::time::Duration::from_millis(150));
        }
    });
    agree_with_lsns(&pids);
    drop(stop);
    churn.join().unwrap();
}

#[test]
fn a_namespace_held_only_by_an_open_descriptor_is_found() {
    if !nspod_testkit::root() {
        return;
    }
    let process = sleeper(&[], Kinds::NET);
    let net = Namespace::of_pid(process.0, Kind::Net).unwrap();
    drop(process);
    assert_eq!(Census::take().unwrap().namespace(Kind::Net, net.id()), None, "fds are not read by default");
    let census = Options { fds: true, owners: true, ..Options::default() }.take().unwrap();
    let found = census.namespace(Kind::Net, net.id()).unwrap();
    assert!(found.processes.is_empty());
    assert_eq!(found.holders, [Holder::Fd { pid: me(), fd: net.as_fd().as_raw_fd() }]);
    assert_eq!(found.owner, Some(census.host()[Kind::User]));
}

#[test]
fn a_namespace_held_only_by_a_mount_in_a_private_mount_namespace_is_found() {
    if !nspod_testkit::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("a pin");
    File::create(&pin).unwrap();
    let script =
        "unshare --net=\"$0\" true && echo ready && readlink -f \"$0\" && stat -Lc %i \"$0\" && exec cat";
    let mut shell = Program::start(&["unshare", "--mount", "sh", "-c", script, pin.to_str().unwrap()]);
    let (path, ino) = (shell.line(), shell.line().parse::<u64>().unwrap());
    let census = Options { owners: true, ..Options::default() }.take().unwrap();
    let mnt_ns = census.process(shell.pid()).unwrap().namespaces[Kind::Mnt];
    assert_ne!(mnt_ns, census.host()[Kind::Mnt]);
    let found = census.namespaces().iter().find(|n| n.kind == Kind::Net && n.id.ino == ino).unwrap();
    assert!(found.processes.is_empty());
    assert_eq!(found.holders, [Holder::Mount { path: path.into(), mnt_ns }]);
    assert_eq!(found.owner, Some(census.host()[Kind::User]));
    let without = Options { mounts: false, ..Options::default() }.take().unwrap();
    assert_eq!(without.namespace(Kind::Net, found.id), None);
}

#[test]
fn a_user_namespace_without_processes_is_found_through_the_namespaces_that_it_owns() {
    if !nspod_testkit::root() {
        return;
    }
    let outer = sleeper(&[], Kinds::USER | Kinds::NET);
    // A process without an id in a user namespace may not create another one in it.
    fs::write(format!("/proc/{}/uid_map", outer.0), "0 0 1").unwrap();
    fs::write(format!("/proc/{}/gid_map", outer.0), "0 0 1").unwrap();
    let inner = sleeper(&all(Kinds::USER, &outer), Kinds::USER);
    let user = Namespace::of_pid(outer.0, Kind::User).unwrap().id();
    drop(outer);
    let census = Options { owners: true, ..Options::default() }.take().unwrap();
    let own = census.process(inner.0).unwrap().namespaces[Kind::User];
    let found = census.namespace(Kind::User, user).unwrap();
    assert!(found.processes.is_empty());
    assert_eq!(found.holders, [Holder::Namespace { kind: Kind::User, id: own }]);
    assert_eq!(found.creator_uid, Some(0));
    assert_eq!(found.parent, Some(census.host()[Kind::User]));
    assert_eq!(census.namespace(Kind::User, own).unwrap().parent, Some(user));
}

#[test]
fn host_pids_and_inner_pids_lead_to_each_other() {
    if !nspod_testkit::root() {
        return;
    }
    let nested = "unshare --pid --fork sh -c 'echo ready && exec cat'; true";
    let shell = Program::start(&["unshare", "--pid", "--fork", "sh", "-c", nested]);
    let census = Options { owners: true, ..Options::default() }.take().unwrap();
    let below = |pid: i32| census.processes().iter().find(|p| p.parent == pid).unwrap();
    // unshare, sh (pid 1), unshare, cat (pid 1 of the nested namespace)
    let outer = below(shell.pid());
    let nested = below(below(outer.pid).pid);
    let (outer_ns, nested_ns) = (outer.namespaces[Kind::Pid], nested.namespaces[Kind::Pid]);
    assert_eq!(census.inside_pids(outer.pid), [outer.pid, 1]);
    let chain = census.inside_pids(nested.pid);
    assert_eq!((chain.len(), chain[0], chain[2]), (3, nested.pid, 1));
    assert_eq!(census.find(nested_ns, 1), Some(nested.pid));
    assert_eq!(census.find(outer_ns, 1), Some(outer.pid));
    assert_eq!(census.find(outer_ns, chain[1]), Some(nested.pid));
    assert_eq!(census.find(census.host()[Kind::Pid], nested.pid), Some(nested.pid));
    assert_eq!(census.find(outer_ns, nested.pid), None, "the container never sees the host's pid");
    assert_eq!(census.namespace(Kind::Pid, nested_ns).unwrap().parent, Some(outer_ns));
}

#[test]
fn a_thread_in_other_namespaces_than_its_process_is_found_on_request() {
    if !nspod_testkit::root() {
        return;
    }
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        ns_core::unshare(Kinds::UTS).unwrap();
        tell.send((nix::unistd::gettid().as_raw(), NamespaceSet::current().unwrap())).unwrap();
        let _ = stopped.recv();
    });
    let (tid, namespaces) = told.recv().unwrap();
    let uts = namespaces[Kind::Uts];
    let census = Options { threads: true, ..Options::default() }.take().unwrap();
    assert_eq!(census.threads().iter().find(|t| t.tid == tid).unwrap().namespaces, namespaces);
    let holders = &census.namespace(Kind::Uts, uts).unwrap().holders;
    assert_eq!(*holders, [Holder::Thread { pid: me(), tid }]);
    assert_eq!(Census::take().unwrap().namespace(Kind::Uts, uts), None, "threads are not read by default");
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn a_zombie_is_distinguished_from_a_process() {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    // Waits for the end of the process without reaping it.
    let awaited = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(pid));
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(awaited, flags).unwrap();
    let census = Census::take().unwrap();
    assert_eq!(census.process(pid), None);
    let zombie = census.zombies().iter().find(|z| z.pid == pid).unwrap();
    assert_eq!((zombie.parent, zombie.name.as_str()), (me(), "true"));
    assert_eq!(zombie.pid_ns, Some(census.process(me()).unwrap().namespaces[Kind::Pid]));
    child.wait().unwrap();
}

#[test]
fn a_procfs_of_an_inner_pid_namespace_shows_only_its_own_processes() {
    if !nspod_testkit::root() {
        return;
    }
    let script = "echo ready && exec cat";
    let shell = Program::start(&["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script]);
    let census = Options::ALL.of(format!("/proc/{}/root/proc", shell.pid())).unwrap();
    assert_eq!(census.host_from(), HostFrom::Init);
    assert_eq!(census.processes().iter().map(|p| p.pid).collect::<Vec<_>>(), [1]);
    assert_eq!(census.model().containers, []);
}

#[test]
fn a_directory_that_is_not_a_procfs_is_refused_with_the_reason() {
    let error = Options::default().of("/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        "cannot read the processes of /: the directory is not a procfs (mount -t proc proc DIR makes one)"
    );
    let error = Options::default().of("/nowhere").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_container_is_recognised_by_its_kinds_its_init_and_its_cgroup() {
    if !nspod_testkit::root() {
        return;
    }
    let process = sleeper(&[], Kinds::FIVE);
    let census = Census::take().unwrap();
    let model = census.model();
    let container = model.containers.iter().find(|c| c.pids == [process.0]).unwrap();
    assert_eq!(container.isolated, Kinds::FIVE);
    assert_eq!(container.init, Some(process.0));
    assert_eq!(container.cgroup, census.process(me()).unwrap().cgroup, "it was left in ours");
    assert!(!container.cgroup_is_own, "and so it is not its own");
    assert!(model.host.contains(&me()));
    let row = census.matrix().rows.into_iter().find(|row| row.pid == process.0).unwrap();
    assert_eq!(row.cells.map(|cell| cell == "."), Kind::ALL.map(|k| !Kinds::FIVE.contains_kind(k)));
    assert!(serde_json::to_value(&census).unwrap()["processes"].is_array());
}

/// Runs one of the ignored tests below in its own process.
fn alone(test: &str, uid: u32) -> Command {
    let exe = std::env::temp_dir().join(format!("census-{}-{uid}-{test}", me()));
    // Another program copies the file: a descriptor open for writing that a child of another test
    // inherits would prevent its execution (ETXTBSY).
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&exe).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(&exe);
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]).uid(uid).current_dir("/");
    command
}

/// Removes the copy when it is dropped.
struct Remove(std::path::PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const NOBODY: u32 = 65534;

#[test]
fn an_ordinary_user_sees_its_own_processes_and_the_number_of_the_others() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = alone("helper_takes_the_census_as_nobody", NOBODY);
    let _remove = Remove(command.get_program().into());
    let output = command.gid(NOBODY).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{output:?}");
}

#[test]
#[ignore = "run by an_ordinary_user_sees_its_own_processes_and_the_number_of_the_others"]
fn helper_takes_the_census_as_nobody() {
    assert_eq!(nix::unistd::geteuid().as_raw(), NOBODY);
    let own = sleeper(&[], Kinds::USER | Kinds::NET | Kinds::PID);
    let census = Options::ALL.take().unwrap();
    let parent = std::os::unix::process::parent_id() as i32;
    assert_eq!(census.process(parent), None);
    assert_eq!(census.unreadable().iter().find(|u| u.pid == parent).unwrap().uid, 0);
    assert!(census.unreadable().iter().any(|u| u.pid == 2 && u.name == "kthreadd"));
    assert!(census.processes().iter().all(|p| p.uid == NOBODY), "only its own");
    assert_eq!(census.host_from(), HostFrom::Caller);
    assert_eq!(*census.host(), NamespaceSet::current().unwrap());
    let model = census.model();
    let container = model.containers.iter().find(|c| c.pids == [own.0]).unwrap();
    assert_eq!(container.isolated, Kinds::USER | Kinds::NET | Kinds::PID);
    let user = census.namespace(Kind::User, container.namespaces[Kind::User]).unwrap();
    assert_eq!(user.creator_uid, Some(NOBODY));
    agree_with_lsns(&[own.0]);
}

#[test]
fn a_process_whose_leader_has_ended_is_still_a_process() {
    let (mut child, _remove) =
        without_leader(alone("helper_ends_its_leader", nix::unistd::geteuid().as_raw()));
    let pid = child.id() as i32;
    let census = Census::take().unwrap();
    if nspod_testkit::root() {
        agree_with_lsns(&[]);
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    let process = census.process(pid).expect("it has a thread that lives");
    assert_eq!(process.namespaces, census.process(me()).unwrap().namespaces);
    assert!(census.zombies().iter().all(|z| z.pid != pid));
}

/// Starts `helper_ends_its_leader`, which ends when its standard input is closed.
fn without_leader(mut command: Command) -> (Child, Remove) {
    let remove = Remove(command.get_program().into());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(out.any(|line| line.unwrap().ends_with("its leader has ended")));
    (child, remove)
}

#[test]
#[ignore = "run by a_process_whose_leader_has_ended_is_still_a_process"]
fn helper_ends_its_leader() {
    extern "C" fn end_this_thread(_: libc::c_int) {
        // SAFETY: ends only the main thread, which waits for the tests. Its stack stays mapped.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let handler: extern "C" fn(libc::c_int) = end_this_thread;
    // SAFETY: the handler makes one raw system call. The signal is sent to the main thread.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        libc::syscall(libc::SYS_tgkill, me(), me(), libc::SIGUSR1);
    }
    while fs::read_link("/proc/self/ns/net").is_ok() {
        std::thread::yield_now();
    }
    println!("\nits leader has ended");
    let _ = std::io::stdin().read_line(&mut String::new());
    // SAFETY: ends the process without the main thread.
    unsafe { libc::_exit(0) };
}
