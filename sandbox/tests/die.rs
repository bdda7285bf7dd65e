//! Containers that end with the program that started them.
//!
//! The test program runs itself again as that program, and ends it.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ns_core::{Extent, IdMap, Kind, Kinds};
use nspod_sandbox::cgroup_core::Cgroup;
use nspod_sandbox::spec::IdMaps;
use nspod_sandbox::{Command, Container, ErrorKind, ExitStatus, Pod, PodSpec, Pool, PoolOptions, Stdio};
use nspod_testkit::eventually;

const STAGE: &str = "NSPOD_TEST_DIE";
/// A program with a grandchild in another session.
const HOSTILE: &str = "setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & wait' & wait";

fn hostile() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", HOSTILE]).stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    command
}

fn say(text: impl std::fmt::Display) {
    // libtest captures only the macros.
    writeln!(std::io::stdout().lock(), "{text}").unwrap();
}

fn show(container: &Container) {
    let cgroup = container.cgroup().map_or("-".into(), |cgroup| cgroup.path().display().to_string());
    say(format_args!("container {} {cgroup}", container.pid()));
}

/// Returns the watcher of a process: its descriptor 0 is a pidfd of the process.
fn watcher_of(pid: u32) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|watcher| {
        let read = |file| std::fs::read_to_string(format!("/proc/{watcher}/{file}")).unwrap_or_default();
        read("comm") == "nspod-watch\n" && read("fdinfo/0").contains(&format!("Pid:\t{pid}\n"))
    })
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X')))
}

/// Not a test itself: the tests below run this function as another program.
#[test]
fn the_stage() {
    let Ok(what) = std::env::var(STAGE) else { return };
    // Ends the line of libtest.
    say("");
    let mut kept = Vec::new();
    match what.as_str() {
        "many" => kept = many(),
        "no cgroup" => {
            for init in [false, true] {
                let mut command = hostile();
                command.no_cgroup().die_with_parent(true);
                command.init(init);
                kept.push(command.spawn().unwrap());
            }
        }
        "detached" => {
            let not_on_drop = hostile().kill_on_drop(false).spawn().unwrap();
            let never = hostile().die_with_parent(false).spawn().unwrap();
            let detached = hostile().spawn().unwrap();
            let pool = Pool::new(PoolOptions { size: 1, ..PoolOptions::default() }).unwrap();
            pool.fill().unwrap();
            let pooled = hostile().pool(&pool).kill_on_drop(false).spawn().unwrap();
            [&not_on_drop, &detached, &pooled].into_iter().for_each(show);
            kept.push(never);
            detached.detach();
            drop(not_on_drop);
            drop(pooled);
        }
        "call" => {
            let container = hostile().spawn().unwrap();
            show(&container);
            let mut call = container.call("sleep").unwrap();
            kept.push(call.arg("1000").die_with_parent(false).spawn().unwrap());
            container.detach();
        }
        "tied without a handle" => {
            let tied = hostile().kill_on_drop(false).die_with_parent(true).spawn().unwrap();
            show(&tied);
            drop(tied);
        }
        "ended" => {
            assert!(Command::new("true").die_with_parent(true).status().unwrap().status.success());
            // This process has no child.
            assert_eq!(nix::sys::wait::wait(), Err(nix::errno::Errno::ECHILD));
        }
        "forked" => kept = forked(),
        "pod" => {
            let spec =
                PodSpec { share: Kinds::from(Kind::Pid) | Kinds::from(Kind::Net), ..PodSpec::default() };
            let mut pod = Pod::create(&nspod_testkit::unique("die"), &spec).unwrap();
            pod.die_with_parent(true).unwrap();
            let cgroup = pod.cgroup().unwrap().path().display();
            say(format_args!("container {} {cgroup}", pod.holder_pid().unwrap()));
            let mut detached = pod.command("sh").unwrap();
            let detached = detached.args(["-c", HOSTILE]).stdin(Stdio::Null).spawn().unwrap();
            show(&detached);
            detached.detach();
            std::mem::forget(pod);
        }
        _ => kept.push(hostile().spawn().unwrap()),
    }
    kept.iter().for_each(show);
    if let Some(watcher) = watcher_of(std::process::id()) {
        say(format_args!("watcher {watcher}"));
    }
    say("ready");
    let mut word = String::new();
    std::io::stdin().read_line(&mut word).unwrap();
    match word.trim() {
        "exit" => {
            std::mem::forget(kept);
            std::process::exit(3)
        }
        "abort" => std::process::abort(),
        "panic" => panic!("with {} containers", kept.len()),
        _ => {}
    }
}

/// Starts many containers from two threads at once, which end before the containers.
fn many() -> Vec<Container> {
    let barrier = std::sync::Barrier::new(2);
    let start = || {
        barrier.wait();
        let mut all: Vec<Container> = (0..25).map(|_| hostile().spawn().unwrap()).collect();
        let mut one = hostile();
        one.die_with_parent(true).init(true);
        all.push(one.spawn().unwrap());
        all
    };
    let mut all = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(start));
        threads.map(|thread| thread.join().unwrap()).into_iter().flatten().collect::<Vec<_>>()
    });
    let inner = all[0].cgroup().unwrap().create_child("a").unwrap();
    for name in ["b", "c"] {
        inner.create_child(name).unwrap().create_child("deep").unwrap();
    }
    eventually("the container has several processes", || all[0].cgroup().unwrap().procs().unwrap().len() > 2);
    let escaped = *all[0].cgroup().unwrap().procs().unwrap().last().unwrap();
    inner.create_child("d").unwrap().attach(escaped).unwrap();
    all.pop().unwrap().delete().unwrap();
    all
}

/// Starts a container in this process and one in a forked copy of it.
fn forked() -> Vec<Container> {
    let mine = hostile().spawn().unwrap();
    let (mut started, mut told) = std::io::pipe().unwrap();
    // SAFETY: the tests run this program with a single test. No other thread uses the allocator.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let own = hostile().spawn().unwrap();
            say(format_args!("copy {} {}", std::process::id(), own.cgroup().unwrap().path().display()));
            told.write_all(b"1").unwrap();
            std::thread::sleep(std::time::Duration::from_secs(1000));
            std::process::exit(0)
        }
        nix::unistd::ForkResult::Parent { .. } => {
            drop(told);
            started.read_exact(&mut [0]).unwrap();
            vec![mine]
        }
    }
}

/// A program with containers.
struct Program {
    child: Child,
    /// The pids of the containers with their cgroups, `-` for none.
    containers: Vec<(i32, PathBuf)>,
    watcher: Option<i32>,
    lines: BTreeMap<String, String>,
}

impl Program {
    fn start(what: &str) -> Program {
        Program::start_in(what, None)
    }

    /// Starts the program in this cgroup.
    fn start_in(what: &str, cgroup: Option<&Path>) -> Program {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_stage", "--test-threads=1", "--nocapture"]).env(STAGE, what);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        if let Some(cgroup) = cgroup {
            let procs = cgroup.join("cgroup.procs");
            // SAFETY: the closure makes only system calls, on a path that exists already.
            unsafe { command.pre_exec(move || std::fs::write(&procs, "0")) };
        }
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Program { child, containers: Vec::new(), watcher: None, lines: BTreeMap::new() };
        loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{what}: the program ended early");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["container", pid, cgroup] => program.containers.push((pid.parse().unwrap(), cgroup.into())),
                ["watcher", pid] => program.watcher = Some(pid.parse().unwrap()),
                ["ready"] => break,
                [name, ..] => drop(program.lines.insert(name.to_owned(), line.trim().to_owned())),
                [] => {}
            }
        }
        // The program writes to this pipe when a test of it fails.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        program
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Tells the program how to end.
    fn tell(&mut self, word: &str) {
        let mut stdin = self.child.stdin.take().unwrap();
        writeln!(stdin, "{word}").unwrap();
        self.child.wait().unwrap();
    }

    fn kill(&mut self) {
        kill(self.pid(), Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
    }

    fn assert_nothing_is_left(&self) {
        for (pid, cgroup) in &self.containers {
            eventually(&format!("process {pid} ends"), || !is_alive(*pid));
            eventually(&format!("{} is removed", cgroup.display()), || !cgroup.exists());
        }
        let watcher = self.watcher.expect("the program had a watcher");
        eventually("the watcher ends", || !is_alive(watcher));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for (_, cgroup) in &self.containers {
            if let Ok(cgroup) = Cgroup::open(cgroup) {
                let _ = cgroup.destroy();
            }
        }
    }
}

#[test]
fn a_killed_program_leaves_no_container() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("many");
    assert_eq!(program.containers.len(), 51);
    // A stopped program has not ended.
    kill(program.pid(), Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(program.containers.iter().all(|(pid, _)| is_alive(*pid)));
    program.kill();
    program.assert_nothing_is_left();
    let watchers = || std::fs::read_dir(program.containers[0].1.parent().unwrap()).into_iter().flatten();
    let of_it = format!("-{}-", program.child.id());
    eventually("the cgroup of the watcher is removed", || {
        !watchers().flatten().any(|entry| entry.file_name().to_string_lossy().contains(&of_it))
    });
}

#[test]
fn every_other_end_of_the_program_ends_its_containers_too() {
    if !nspod_testkit::root() {
        return;
    }
    for word in ["exit", "abort", "panic", "return"] {
        let mut program = Program::start(word);
        program.tell(word);
        program.assert_nothing_is_left();
    }
}

#[test]
fn a_container_without_a_cgroup_ends_with_its_pid_namespace() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("no cgroup");
    let namespaces: Vec<_> = program.containers.iter().map(|(pid, _)| pid_namespace(*pid).unwrap()).collect();
    program.kill();
    program.assert_nothing_is_left();
    eventually("all processes of the namespaces end", || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        !pids.any(|pid| pid_namespace(pid).is_some_and(|of| namespaces.contains(&of)))
    });
}

fn pid_namespace(pid: i32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

#[test]
fn a_detached_container_outlives_the_program_and_a_tied_one_does_not() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("detached");
    program.kill();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(program.containers.iter().all(|(pid, _)| is_alive(*pid)), "{:?}", program.containers);
    // A container that was kept on purpose is not stale, nor is one of a living program.
    let mut living = Program::start("one");
    let [(_, not_on_drop), (_, detached), (_, pooled), (_, left)] = &program.containers[..] else {
        panic!("{:?}", program.containers)
    };
    let removed = nspod_sandbox::reap_stale().unwrap();
    // A `nspod prune` of another test can have been faster.
    assert!(!left.exists(), "{removed:?}");
    for kept in [not_on_drop, detached, pooled, &living.containers[0].1] {
        assert!(kept.exists() && !removed.contains(kept), "{removed:?}");
    }
    living.tell("return");

    let mut program = Program::start("tied without a handle");
    program.kill();
    program.assert_nothing_is_left();
}

#[test]
fn a_detached_container_of_root_in_a_user_namespace_outlives_the_program() {
    if !nspod_testkit::root() {
        return;
    }
    // There the kernel rejects attributes of the kind `trusted`.
    let mut program = Command::bare("sh");
    program
        .args(["-c", "mount -t proc proc /proc && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap());
    program.args(["--exact", "a_detached_container_outlives_the_program_and_a_tied_one_does_not"]);
    program.arg("--nocapture").isolate(Kinds::FIVE | Kinds::USER);
    let map = IdMap::from(vec![Extent { inside: 0, outside: 0, count: 65536 }]);
    program.spec_mut().id_maps = IdMaps::Maps { uid: map.clone(), gid: map };
    let output = program.output().unwrap();
    assert!(output.outcome.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_call_of_a_killed_program_in_a_detached_container_is_stale() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("call");
    program.kill();
    let [(pid, container), (in_call, call)] = &program.containers[..] else {
        panic!("{:?}", program.containers)
    };
    assert!(call.starts_with(container) && is_alive(*in_call));
    nspod_sandbox::reap_stale().unwrap();
    assert!(!call.exists() && !is_alive(*in_call));
    assert!(container.exists() && is_alive(*pid));
}

#[test]
fn a_program_that_may_make_only_small_files_has_a_watcher() {
    if !nspod_testkit::root() {
        return;
    }
    // 2000 KiB or 4000 KiB, depending on the shell.
    let mut program = std::process::Command::new("sh");
    program.args(["-c", "ulimit -f 4000 && exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    let output = program.args(["--exact", "a_container_does_not_see_the_watcher"]).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_program_whose_watcher_was_killed_too_leaves_nothing_after_reap_stale() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("many");
    let watcher = program.watcher.unwrap();
    kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
    eventually("the watcher ends", || !is_alive(watcher));
    program.kill();
    assert!(program.containers.iter().all(|(pid, _)| is_alive(*pid)));
    nspod_sandbox::reap_stale().unwrap();
    assert!(program.containers.iter().all(|(_, cgroup)| !cgroup.exists()));
    program.assert_nothing_is_left();
}

#[test]
fn a_pod_that_is_tied_ends_with_the_program() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("pod");
    assert_eq!(program.containers.len(), 2);
    program.kill();
    program.assert_nothing_is_left();
}

#[test]
fn the_watcher_has_nothing_of_the_program_and_is_not_its_child() {
    if !nspod_testkit::root() {
        return;
    }
    // The program itself checks that it has no child.
    let mut program = Program::start("ended");
    let watcher = program.watcher.expect("a watcher");
    let at = |file: &str| format!("/proc/{watcher}/{file}");
    let fds: Vec<_> = std::fs::read_dir(at("fd")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(fds, ["0"]);
    assert_eq!(std::fs::read(at("environ")).unwrap(), b"");
    assert_eq!(std::fs::read_link(at("cwd")).unwrap(), Path::new("/"));
    assert!(std::fs::read_link(at("exe")).unwrap().to_string_lossy().starts_with("/memfd:nspod-init"));
    let maps = std::fs::read_to_string(at("maps")).unwrap();
    assert!(!maps.contains("libc") && maps.lines().count() < 12, "{maps}");
    let status = std::fs::read_to_string(at("status")).unwrap();
    assert!(!status.contains(&format!("PPid:\t{}\n", program.child.id())), "{status}");
    let cgroup = std::fs::read_to_string(at("cgroup")).unwrap();
    assert!(cgroup.contains("/nspod/watch-"), "{cgroup}");
    // Signals of a terminal do not end it.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        kill(Pid::from_raw(watcher), signal).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(is_alive(watcher));
    program.tell("return");
    program.assert_nothing_is_left();
}

#[test]
fn a_container_does_not_see_the_watcher() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "cat /proc/[0-9]*/comm"]).stdout(Stdio::Piped).init(false).die_with_parent(true);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "sh\n");
    assert!(watcher_of(std::process::id()).is_some());
}

#[test]
fn a_forked_copy_of_the_program_keeps_only_its_own_containers() {
    if !nspod_testkit::root() {
        return;
    }
    let mut program = Program::start("forked");
    let copy = program.lines.remove("copy").map_or_else(
        || panic!("the copy started no container: {:?}", program.lines),
        |line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
    );
    let (pid, cgroup) = (copy[1].parse().unwrap(), PathBuf::from(&copy[2]));
    program.kill();
    program.assert_nothing_is_left();
    assert!(is_alive(pid) && cgroup.exists());
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("the container of the copy ends", || !cgroup.exists());
}

#[test]
fn a_kill_of_the_programs_whole_cgroup_ends_its_containers() {
    if !nspod_testkit::root() {
        return;
    }
    let top = Cgroup::top().unwrap();
    let service = top.create_child(nspod_testkit::unique("nspod-test-service")).unwrap();
    let mut program = Program::start_in("one", Some(service.path()));
    service.kill().unwrap();
    program.child.wait().unwrap();
    program.assert_nothing_is_left();
    service.destroy().unwrap();
}

#[test]
fn a_watcher_that_was_killed_is_replaced_and_knows_all_containers() {
    if !nspod_testkit::root() {
        return;
    }
    if nspod_testkit::in_own_process("a_watcher_that_was_killed_is_replaced_and_knows_all_containers") {
        return;
    }
    let first = hostile().spawn().unwrap();
    let watcher = watcher_of(std::process::id()).unwrap();
    kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
    eventually("the watcher ends", || !is_alive(watcher));
    let second = hostile().spawn().unwrap();
    assert!(watcher_of(std::process::id()).is_some_and(|now| now != watcher));
    first.delete().unwrap();
    second.delete().unwrap();
}

#[test]
fn a_container_whose_processes_cannot_be_found_is_refused() {
    if !nspod_testkit::root() {
        return;
    }
    let mut bare = Command::bare("true");
    let error = bare.die_with_parent(true).spawn().unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("die_with_parent")), "{error}");
    assert!(bare.die_with_parent(true).isolate(Kinds::from(Kind::Pid)).status().unwrap().status.success());

    let container = hostile().spawn().unwrap();
    let mut exec = container.exec("true").unwrap();
    let error = exec.die_with_parent(true).spawn().unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidSpec, Some("die_with_parent")), "{error}");
    container.delete().unwrap();
}

#[test]
fn a_container_that_is_held_to_be_tied_reports_its_end_and_its_failure() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "exit 7"]).no_cgroup().die_with_parent(true);
    assert_eq!(command.status().unwrap().status, ExitStatus::Exited(7));
    assert_eq!(command.status().unwrap().status, ExitStatus::Exited(7));
    let error = Command::new("no-such-program").no_cgroup().die_with_parent(true).spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramNotFound, "{error}");
}

#[test]
fn a_cgroup_with_a_long_path_is_not_tied_by_default() {
    if !nspod_testkit::root() {
        return;
    }
    let top = Cgroup::top().unwrap().create_child(nspod_testkit::unique("nspod-test-long")).unwrap();
    let long = (0..4).fold(top.path().to_owned(), |path, _| path.join("n".repeat(250)));
    std::fs::create_dir_all(&long).unwrap();
    let mut command = Command::new("true");
    command.cgroup_parent(&long);
    let by_default = command.status();
    let tied = command.die_with_parent(true).status();
    top.destroy().unwrap();
    assert!(by_default.unwrap().status.success());
    let error = tied.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn a_command_whose_container_was_held_to_be_tied_can_hold_another_at_a_directory() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = Command::new("true");
    command.no_cgroup().die_with_parent(true);
    assert!(command.status().unwrap().status.success());
    let directory = tempfile::tempdir().unwrap();
    let mut held = command.hold_at(directory.path()).spawn().unwrap();
    assert!(nspod_sandbox::is_held(directory.path()).unwrap());
    nspod_sandbox::start_held(directory.path()).unwrap();
    assert!(held.wait().unwrap().status.success());
}
