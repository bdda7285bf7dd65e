//! Sessions and calls: process trees in a running container with cgroups and limits of their own.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Controllers, Limits, Max};
use nspod_sandbox::{Command, Container, EndedBy, Error, ErrorKind, Oom, OomLevel, Output, Overflow, Stdio};
use nspod_tests::{eventually, lane};

const MIB: u64 = 1 << 20;
/// A program that needs 64 MiB: tail keeps a line until it ends.
const HOG: &str = "head -c 67108864 /dev/zero | tail -n 1 | wc -c";

fn memory(max: u64) -> Limits {
    // Limit swap too: otherwise the kernel would swap pages out.
    let unified = [("memory.swap.max".to_owned(), "0".to_owned())].into();
    Limits { memory_max: Some(Max::Value(max)), unified, ..Limits::default() }
}

fn pids(max: u64) -> Limits {
    Limits { pids_max: Some(Max::Value(max)), ..Limits::default() }
}

fn session(limits: Limits) -> Container {
    let mut command = Command::new("sleep");
    command.arg("1000").limits(limits).stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    // It reaps the processes that calls leave.
    command.spec_mut().init = Some(true);
    command.spawn().unwrap()
}

fn call(session: &Container, script: &str) -> Command {
    let mut command = session.call("sh").unwrap();
    command.args(["-c", script]);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// Checks that the session runs, that later calls work, and that no call has left anything.
fn check(session: &Container) {
    assert_eq!(run(&mut call(session, "echo works")).stdout, b"works\n");
    let cgroup = session.cgroup().unwrap();
    eventually("only the init and the program run", || cgroup.procs_recursive().unwrap().len() == 2);
    assert_eq!(calls(cgroup), [""; 0]);
}

/// Returns the names of the cgroups of calls.
fn calls(session: &Cgroup) -> Vec<String> {
    let names =
        session.children().unwrap().into_iter().map(|child| child.name().to_str().unwrap().to_owned());
    names.filter(|name| name != "nspod-main").collect()
}

#[test]
fn memory_max_of_a_call_kills_the_call_and_not_the_session() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let mut session = session(Limits::default());
    let killed = run(session.call("tail").unwrap().arg("/dev/zero").limits(memory(16 * MIB))).outcome;
    assert_eq!(killed.oom, Some(Oom { level: OomLevel::Call, killed: 1 }));
    assert_eq!(killed.oom.unwrap().to_string(), "the OOM killer ended 1 process at the call's memory.max");
    assert_eq!((killed.ended_by, killed.status.signal()), (EndedBy::Oom, Some(libc::SIGKILL)));
    assert!(killed.peak_memory.unwrap() <= 16 * MIB, "{:?}", killed.peak_memory);
    // The control: the same program with enough memory.
    let enough = run(call(&session, HOG).limits(memory(256 * MIB)));
    assert_eq!((&*enough.stdout, &enough.outcome.oom), (&b"67108864\n"[..], &None));
    assert!(enough.outcome.peak_memory.unwrap() > 60 * MIB, "{:?}", enough.outcome);
    check(&session);
    // The OOM kill in the call is not one of the session.
    session.kill().unwrap();
    let outcome = session.wait().unwrap();
    assert_eq!((outcome.oom, outcome.ended_by), (None, EndedBy::Cancelled));
    assert!(outcome.peak_memory.unwrap() > 60 * MIB);
    session.delete().unwrap();
}

#[test]
fn the_limits_of_a_session_apply_to_its_calls_together() {
    if !lane::controllers(Controllers::MEMORY | Controllers::PIDS) {
        return;
    }
    let mut limits = memory(100 * MIB);
    limits.pids_max = Some(Max::Value(12));
    let session = session(limits);
    // The limit of the call is higher than what the session has left.
    let hog = |limits| session.call("tail").unwrap().arg("/dev/zero").limits(limits).output().unwrap();
    let killed = hog(memory(1 << 30)).outcome;
    assert_eq!((killed.oom.map(|oom| oom.level), killed.ended_by), (Some(OomLevel::Container), EndedBy::Oom));
    // Each call may use 64 MiB, but not both at once.
    let holder = "{ head -c 62914560 /dev/zero; sleep 5; } | tail -n 1 | wc -c";
    let both: Vec<Output> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| run(call(&session, holder).limits(memory(80 * MIB))));
        [start(), start()].map(|thread| thread.join().unwrap()).into()
    });
    assert!(both.iter().any(|output| output.outcome.oom.is_some()), "{both:?}");
    let events = session.cgroup().unwrap().memory_events_local().unwrap();
    assert!(events.oom.unwrap() > 0, "{events:?}");
    let script = "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); done; wait";
    let forks = run(call(&session, script).limits(pids(100)));
    assert!(!forks.outcome.status.success() && !forks.stderr.is_empty(), "{forks:?}");
    eventually("the init reaps the processes", || session.usage().unwrap().pids.current == Some(2));
    check(&session);
    session.delete().unwrap();
}

#[test]
fn an_oom_of_the_session_is_not_that_of_a_call() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "read line; exec tail /dev/zero"]).limits(memory(32 * MIB)).stdin(Stdio::Piped);
    let mut session = command.spawn().unwrap();
    run(&mut call(&session, "true"));
    drop(session.stdin.take());
    let outcome = session.wait().unwrap();
    assert_eq!(outcome.oom, Some(Oom { level: OomLevel::Container, killed: 1 }));
    assert_eq!(outcome.ended_by, EndedBy::Oom);
    session.delete().unwrap();
}

#[test]
fn a_fork_bomb_in_a_call_is_bounded_and_killed() {
    if !lane::controllers(Controllers::PIDS) {
        return;
    }
    let session = session(Limits::default());
    let bomb = "while :; do setsid sleep 1000 & done";
    let output = run(call(&session, bomb).limits(pids(20)).timeout(Duration::from_secs(60)));
    assert!(output.outcome.pids_refused.unwrap() > 0, "{output:?}");
    // A bomb that never ends.
    let bomb = "while :; do (setsid sh -c 'sleep 1000 & sleep 1000') & done 2>/dev/null; sleep 1000";
    let mut endless = call(&session, bomb);
    let output = run(endless.limits(pids(20)).timeout(Duration::from_secs(2)).stderr(Stdio::Null));
    assert!(matches!(output.outcome.ended_by, EndedBy::WallTime | EndedBy::Exit), "{output:?}");
    assert!(output.outcome.pids_refused.unwrap() > 0, "{output:?}");
    check(&session);
    session.delete().unwrap();
}

#[test]
fn calls_at_the_same_time_have_different_limits() {
    if !lane::controllers(Controllers::MEMORY | Controllers::CPU) {
        return;
    }
    let session = session(Limits::default());
    let [small, large] = std::thread::scope(|scope| {
        let session = &session;
        let limits = [memory(16 * MIB), memory(256 * MIB)];
        let threads = limits.map(|limits| scope.spawn(move || run(call(session, HOG).limits(limits))));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(small.outcome.oom.clone().map(|oom| oom.level), Some(OomLevel::Call), "{small:?}");
    assert_eq!((&*large.stdout, &large.outcome.oom), (&b"67108864\n"[..], &None));
    check(&session);
    session.delete().unwrap();
}

#[test]
fn a_call_has_the_controllers_and_settings_that_its_limits_name() {
    if !lane::controllers(Controllers::MEMORY | Controllers::CPU | Controllers::PIDS) {
        return;
    }
    let session = session(Limits::default());
    let mut limits = memory(64 * MIB);
    limits.pids_max = Some(Max::Value(7));
    limits.unified.insert("memory.oom.group".into(), "1".into());
    let mut running =
        session.call("sleep").unwrap().arg("1000").limits(limits).name("build").spawn().unwrap();
    let cgroup = running.cgroup().unwrap();
    assert!(cgroup.path().ends_with("nspod-call-build"), "{}", cgroup.path().display());
    for (file, value) in [("memory.max", "67108864\n"), ("pids.max", "7\n"), ("memory.oom.group", "1\n")] {
        assert_eq!(cgroup.read(file).unwrap(), value);
    }
    running.update(&pids(9)).unwrap();
    assert_eq!(cgroup.read("pids.max").unwrap(), "9\n");
    running.freeze().unwrap();
    assert!(!session.cgroup().unwrap().events().unwrap().frozen);
    running.thaw().unwrap();
    assert!(running.usage().unwrap().memory.current.is_some());
    // A name is used once at a time.
    let again = session.call("true").unwrap().name("build").spawn().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
    running.kill().unwrap();
    assert_eq!(running.wait().unwrap().ended_by, EndedBy::Cancelled);
    running.delete().unwrap();
    check(&session);
    session.delete().unwrap();
}

#[test]
fn a_call_in_a_pod_names_the_pod_whose_memory_max_was_exceeded() {
    if !lane::controllers(Controllers::MEMORY) {
        return;
    }
    let spec = nspod_sandbox::PodSpec { limits: memory(32 * MIB), ..Default::default() };
    let pod = nspod_sandbox::Pod::create(&nspod_tests::unique("calls"), &spec).unwrap();
    let mut command = pod.command("sleep").unwrap();
    command.arg("1000").stdin(Stdio::Null).spec_mut().init = Some(true);
    let session = command.spawn().unwrap();
    let killed = run(session.call("tail").unwrap().arg("/dev/zero")).outcome;
    assert_eq!(killed.oom, Some(Oom { level: OomLevel::Pod, killed: 1 }));
    check(&session);
    session.delete().unwrap();
    pod.delete().unwrap();
}

#[test]
fn the_processes_of_a_session_are_moved_although_they_fork_all_the_time() {
    // Nothing else would bound the processes.
    if !lane::controllers(Controllers::PIDS) {
        return;
    }
    // Each process lives until it has started the next.
    let storm = "chain() { (chain & chain 2>/dev/null &); }; chain; sleep 1000";
    let mut command = Command::new("sh");
    command.args(["-c", storm]).limits(pids(30)).stdin(Stdio::Null).stderr(Stdio::Null);
    command.spec_mut().init = Some(true);
    let session = command.spawn().unwrap();
    sleep(Duration::from_millis(100));
    let cgroup = session.cgroup().unwrap();
    let moved = session.call("true").unwrap().name("x").timeout(Duration::from_secs(60)).spawn();
    // The call itself can fail, because the processes are as many as pids.max allows.
    let moved = moved.err();
    assert!(cgroup.procs().unwrap().is_empty(), "{moved:?}");
    assert_eq!(cgroup.enabled().unwrap(), cgroup.available().unwrap(), "{moved:?}");
    assert!(!cgroup.events().unwrap().frozen, "{moved:?}");
    session.delete().unwrap();
}

// What follows also holds without controllers.

#[test]
fn the_bounds_of_a_call_end_all_of_it() {
    if !lane::root() {
        return;
    }
    let session = session(Limits::default());
    let tree = "setsid sh -c 'setsid sleep 1000 & sleep 1000' & sleep 1000";
    let output = run(call(&session, tree).timeout(Duration::from_millis(300)));
    assert_eq!(output.outcome.ended_by, EndedBy::WallTime);
    check(&session);
    let spin = "spin() { while :; do :; done; }; setsid sh -c 'while :; do :; done' & spin";
    let output = run(call(&session, spin).cpu_time_max(Duration::from_millis(200)));
    assert_eq!(output.outcome.ended_by, EndedBy::CpuTime);
    let flood = "setsid sleep 1000 & yes";
    let output = run(call(&session, flood).output_max(1000, Overflow::Kill));
    assert_eq!((output.outcome.ended_by, output.stdout.len()), (EndedBy::OutputLimit, 1000));
    let mut running = call(&session, tree).spawn().unwrap();
    let killer = running.killer().unwrap();
    std::thread::spawn(move || killer.kill());
    assert_eq!(running.wait().unwrap().ended_by, EndedBy::Cancelled);
    drop(running);
    // The rest of a call ends with its first process.
    let began = Instant::now();
    let output = run(&mut call(&session, "setsid sleep 1000 & echo done"));
    assert_eq!((&*output.stdout, output.outcome.ended_by), (&b"done\n"[..], EndedBy::Exit));
    assert!(began.elapsed() < Duration::from_secs(100));
    check(&session);
    session.delete().unwrap();
}

#[test]
fn a_hundred_calls_leave_no_cgroup() {
    if !lane::root() {
        return;
    }
    let session = session(Limits::default());
    for i in 0..100 {
        let mut call = session.call("true").unwrap();
        match i % 2 {
            0 => assert!(call.status().unwrap().status.success()),
            _ => drop(call.spawn().unwrap()),
        }
    }
    check(&session);
    let path = session.cgroup().unwrap().path().to_owned();
    drop(session);
    assert!(!path.exists());
}

#[test]
fn a_call_that_nothing_owns_is_removed_by_the_next_or_with_the_session() {
    if !lane::root() {
        return;
    }
    let session = session(Limits::default());
    let detached = session.call("sleep").unwrap().arg("1000").spawn().unwrap();
    let (pid, name) = (detached.pid(), detached.cgroup().unwrap().name().to_owned());
    detached.detach();
    run(&mut call(&session, "true"));
    assert_eq!(calls(session.cgroup().unwrap()), [name.to_str().unwrap()]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    check(&session);
    let last = session.call("sleep").unwrap().arg("1000").spawn().unwrap();
    let path = session.cgroup().unwrap().path().to_owned();
    session.delete().unwrap();
    assert!(!path.exists());
    drop(last);
}

#[test]
fn additional_processes_and_calls_work_beside_and_in_calls() {
    if !lane::root() {
        return;
    }
    let session = session(Limits::default());
    let mut first = session.call("sleep").unwrap().arg("1000").spawn().unwrap();
    // An additional process of the session is beside its first process.
    let seen = run(session.exec("cat").unwrap().arg("/proc/self/cgroup")).stdout;
    let beside = if session.cgroup().unwrap().available().unwrap().is_empty() { "/" } else { "/nspod-main" };
    assert!(String::from_utf8_lossy(&seen).contains(&format!("0::{beside}\n")), "{seen:?}");
    // One of the call is in the call's cgroup.
    let seen = run(first.exec("cat").unwrap().arg("/proc/self/cgroup")).stdout;
    assert!(String::from_utf8_lossy(&seen).contains("0::/nspod-call-"), "{seen:?}");
    let inner = run(first.call("sh").unwrap().args(["-c", "setsid sleep 1000 & cat /proc/self/cgroup"]));
    assert_eq!(String::from_utf8_lossy(&inner.stdout).matches("/nspod-call-").count(), 2, "{inner:?}");
    assert_eq!(first.cgroup().unwrap().procs_recursive().unwrap(), [first.pid()]);
    first.kill().unwrap();
    first.wait().unwrap();
    drop(first);
    check(&session);
    session.freeze().unwrap();
    let frozen = session.call("true").unwrap().spawn().unwrap_err();
    assert_eq!(frozen.kind(), ErrorKind::State, "{frozen}");
    session.thaw().unwrap();
    session.delete().unwrap();
}

#[test]
fn a_call_is_refused_where_nothing_could_enforce_it() {
    if !lane::root() {
        return;
    }
    fn refused<T>(result: Result<T, Error>) -> Error {
        result.map(drop).unwrap_err()
    }
    let mut without = Command::new("sleep");
    let without = without.arg("1000").no_cgroup().spawn().unwrap();
    let error = refused(without.call("true"));
    assert_eq!(error.kind(), ErrorKind::State);
    assert!(error.to_string().contains("the container does not have its own cgroup"), "{error}");
    without.delete().unwrap();
    let session = session(Limits::default());
    // Limits of an additional process would apply to the session.
    let error = refused(session.exec("true").unwrap().limits(pids(9)).spawn());
    assert!(error.to_string().contains("(`Container::call` starts it in a cgroup of its own)"), "{error}");
    let error = refused(session.exec("true").unwrap().cpu_time_max(Duration::from_secs(1)).spawn());
    assert_eq!(error.field(), Some("cpu_time_max"));
    let limited = session.call("true").unwrap().limits(memory(64 * MIB)).status();
    if !session.cgroup().unwrap().available().unwrap().contains(Controllers::MEMORY) {
        let error = refused(limited);
        assert_eq!((error.kind(), error.field()), (ErrorKind::Unenforceable, Some("memory.max")), "{error}");
        assert!(error.to_string().contains("the memory controller is"), "{error}");
    } else {
        assert!(limited.unwrap().status.success());
    }
    // A call refuses the options that a running container cannot change.
    let changes: [fn(&mut Command); 3] = [
        |command| command.spec_mut().mounts.push(nspod_sandbox::spec::Mount::bind("/usr", "/mnt")),
        |command| command.spec_mut().root = nspod_sandbox::spec::Root::Empty,
        |command| command.spec_mut().init = Some(true),
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut command = session.call("true").unwrap();
        change(&mut command);
        assert_eq!(refused(command.spawn()).kind(), ErrorKind::InvalidSpec, "{at}");
    }
    check(&session);
    session.delete().unwrap();
}

#[test]
fn a_threaded_cgroup_has_no_calls() {
    if !lane::root() {
        return;
    }
    let session = session(Limits::default());
    let threads = session.cgroup().unwrap().create_child("threads").unwrap();
    threads.set_type_threaded().unwrap();
    let error = session.call("true").unwrap().spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("is \"domain threaded\" (cgroup.type)"), "{error}");
    threads.remove().unwrap();
    eventually("the cgroup is a domain again", || {
        session.cgroup().unwrap().read("cgroup.type").unwrap() == "domain\n"
    });
    check(&session);
    session.delete().unwrap();
}
