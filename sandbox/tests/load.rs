//! Many containers at once and one after another. The tests run as root.
//!
//! Each test counts what this process has before and after: descriptors, threads, memory, mounts, processes and
//! cgroups. `NSPOD_LOAD=full` uses the full counts, which take minutes.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nspod_sandbox::cgroup_core::{Cgroup, Hierarchy};
use nspod_sandbox::{Command, Container, Pod, PodSpec, Stdio};
use nspod_testkit::{eventually, in_own_process, unique};

/// An allocator with one lock, which is not reentrant. A child that shares this memory and allocates while another
/// thread holds the lock waits for ever.
struct OneLock(AtomicBool);

#[global_allocator]
static ALLOCATOR: OneLock = OneLock(AtomicBool::new(false));

impl OneLock {
    fn with<T>(&self, call: impl FnOnce() -> T) -> T {
        while self.0.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
            std::thread::yield_now();
        }
        let result = call();
        self.0.store(false, Ordering::Release);
        result
    }
}

// SAFETY: the calls are those of the system's allocator.
unsafe impl GlobalAlloc for OneLock {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout.
        self.with(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer, which `alloc` has returned for this layout.
        self.with(|| unsafe { System.dealloc(pointer, layout) });
    }
}

/// Returns the count for the lane: `full` with `NSPOD_LOAD=full`, otherwise that of the host or of the guest.
fn many(full: usize, host: usize, guest: usize) -> usize {
    match std::env::var("NSPOD_LOAD") {
        Ok(load) => {
            assert_eq!(load, "full", "the only value of NSPOD_LOAD is full");
            full
        }
        Err(_) if nspod_testkit::is_slow() => guest,
        Err(_) => host,
    }
}

/// A parent cgroup for the containers of a test.
struct Parent(PathBuf);

impl Parent {
    fn new() -> Parent {
        let top = Hierarchy::detect().unwrap().mount_point().unwrap().to_owned();
        let path = top.join(unique("nspod-load"));
        fs::create_dir(&path).unwrap();
        Parent(path)
    }

    fn count(&self) -> usize {
        Cgroup::open(&self.0).unwrap().children().unwrap().len()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = Cgroup::open(&self.0).and_then(|cgroup| cgroup.destroy());
    }
}

/// What this process has.
#[derive(Debug, PartialEq)]
struct Counts {
    /// What each descriptor refers to.
    descriptors: Vec<PathBuf>,
    threads: usize,
    mounts: usize,
    children: usize,
}

impl Counts {
    fn now() -> Counts {
        let entries = |path: &str| fs::read_dir(path).unwrap().count();
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut descriptors: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        descriptors.sort();
        Counts {
            descriptors,
            threads: entries("/proc/self/task"),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            children: children.map(|text| text.split_whitespace().count()).sum(),
        }
    }
}

/// Returns the resident memory of this process in KiB, without pages of files and memory that the allocator has not
/// returned yet.
fn memory() -> usize {
    // SAFETY: the call locks the allocator itself.
    unsafe { libc::malloc_trim(0) };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The state after a warm-up, and the memory that the test may use in addition.
struct Before {
    counts: Counts,
    memory: usize,
    start: Instant,
}

impl Before {
    fn now() -> Before {
        // /proc lists a thread for a moment after it was joined. The main thread and the test's are left.
        eventually("the threads end", || Counts::now().threads == 2);
        Before { counts: Counts::now(), memory: memory(), start: Instant::now() }
    }

    /// Checks that everything is as before, and prints the figures.
    #[track_caller]
    fn check(&self, what: &str, parent: &Parent) {
        eventually("the threads end", || Counts::now().threads <= self.counts.threads);
        assert_eq!(Counts::now(), self.counts, "{what}");
        assert_eq!(parent.count(), 0, "{what}: cgroups are left");
        let (before, after) = (self.memory, memory());
        let seconds = self.start.elapsed().as_secs_f64();
        println!(
            "LOAD {what}: {seconds:.1} s, {before} KiB resident before, {after} KiB after, {} descriptors",
            self.counts.descriptors.len()
        );
        // Pages with some used memory. A leak of 210 bytes a container would exceed this in the full mode.
        assert!(after < before + 4 * 1024, "{what}: {before} KiB resident before, {after} KiB after");
    }
}

fn quiet(program: &str, parent: &Parent) -> Command {
    let mut command = Command::new(program);
    command.cgroup_parent(&parent.0).stdin(Stdio::Null).stdout(Stdio::Null);
    command
}

fn sleeper(parent: &Parent) -> Container {
    quiet("sleep", parent).arg("1000").spawn().unwrap()
}

/// Runs a program to its end and checks that its exit code arrives.
fn run(parent: &Parent, number: usize) {
    let code = number % 100;
    let outcome = quiet("sh", parent).args(["-c", &format!("exit {code}")]).status().unwrap();
    assert_eq!(outcome.status.code(), Some(code as i32), "container {number}");
}

/// Runs containers in 16 threads of this process. Returns how many have ended.
fn sixteen_threads(containers: usize, run: impl Fn(usize) + Sync) -> usize {
    let (next, ended) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                    if number >= containers {
                        break;
                    }
                    run(number);
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    ended.into_inner() as usize
}

/// Threads of the host program that allocate while containers are started.
fn while_others_allocate(test: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let kept: Vec<Vec<u8>> = (0..200).map(|size| vec![1; 16 + size * 50]).collect();
                    std::hint::black_box(kept);
                }
            });
        }
        test();
        done.store(true, Ordering::Relaxed);
    });
}

fn more_descriptors() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(60_000).min(hard), hard).unwrap();
}

/// Returns whether the test is over, because it does not run as root or ran in its own process.
fn is_done(test: &str) -> bool {
    !nspod_testkit::root() || in_own_process(test)
}

#[test]
fn two_thousand_containers_live_at_once() {
    if is_done("two_thousand_containers_live_at_once") {
        return;
    }
    more_descriptors();
    let (parent, all) = (Parent::new(), many(2000, 300, 20));
    sleeper(&parent).delete().unwrap();
    let before = Before::now();
    let containers: Vec<_> = (0..all).map(|_| sleeper(&parent)).collect();
    assert_eq!(parent.count(), all);
    let pids: HashSet<_> = containers.iter().map(Container::pid).collect();
    assert_eq!(pids.len(), all);
    // The list lets each container be seen as long as it lives.
    assert!(containers.iter().all(|container| container.namespaces().is_ok()), "a container has ended");
    let each = (Counts::now().descriptors.len() - before.counts.descriptors.len()) as f64 / all as f64;
    println!("LOAD {all} containers alive: {each} descriptors each, {} KiB resident", memory());
    containers.into_iter().for_each(|container| container.delete().unwrap());
    before.check(&format!("{all} containers alive at once"), &parent);
}

#[test]
fn sixteen_threads_start_containers_while_others_allocate() {
    if is_done("sixteen_threads_start_containers_while_others_allocate") {
        return;
    }
    let (parent, all) = (Parent::new(), many(20_000, 800, 32));
    sixteen_threads(16, |number| run(&parent, number));
    let before = Before::now();
    while_others_allocate(|| assert_eq!(sixteen_threads(all, |number| run(&parent, number)), all));
    before.check(&format!("{all} containers from 16 threads"), &parent);
}

/// Names the parent cgroup in a process of the next test.
const ONE_OF_SIXTEEN: &str = "NSPOD_LOAD_PARENT";

#[test]
fn sixteen_processes_start_containers() {
    let all = many(20_000, 800, 32);
    if let Some(path) = std::env::var_os(ONE_OF_SIXTEEN) {
        let parent = std::mem::ManuallyDrop::new(Parent(path.into()));
        run(&parent, 0);
        let before = Counts::now();
        (0..all / 16).for_each(|number| run(&parent, number));
        assert_eq!(Counts::now(), before);
        println!("ended {}", all / 16);
        return;
    }
    if is_done("sixteen_processes_start_containers") {
        return;
    }
    let parent = Parent::new();
    let process = || {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sixteen_processes_start_containers", "--nocapture", "--test-threads=1"]);
        command.env(ONE_OF_SIXTEEN, &parent.0).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    // The first process of another program makes pages resident.
    process().wait().unwrap();
    let before = Before::now();
    let processes: Vec<_> = (0..16).map(|_| process()).collect();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(&format!("ended {}\n", all / 16)), "{text}");
    }
    before.check(&format!("{all} containers from 16 processes"), &parent);
}

/// Tasks that spawn, wait, and drop a start or a container at any moment. The guest is too slow for 64.
#[test]
fn sixty_four_tasks_spawn_wait_and_cancel() {
    if is_done("sixty_four_tasks_spawn_wait_and_cancel") {
        return;
    }
    let (parent, rounds) = (Parent::new(), many(100, 6, 1));
    let count = if nspod_testkit::is_slow() { 4 } else { 64 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // One program of a round is waited for, one is dropped while it runs, and one start is cancelled.
    let round = |parent: PathBuf, number: usize| async move {
        let command = |program: &str| {
            let mut command = Command::new(program);
            command.cgroup_parent(&parent).stdin(Stdio::Null).stdout(Stdio::Null);
            command
        };
        let code = number % 100;
        let outcome = command("sh").args(["-c", &format!("exit {code}")]).status_async().await.unwrap();
        assert_eq!(outcome.status.code(), Some(code as i32));
        let mut container = command("sleep").arg("1000").spawn_async().await.unwrap();
        let moment = Duration::from_micros((number * 337 % 5000) as u64);
        assert!(tokio::time::timeout(moment, container.wait()).await.is_err());
        drop(container);
        // A timeout of no time still starts the future once.
        let _ = tokio::time::timeout(moment, command("sleep").arg("1000").output_async()).await;
    };
    let all = |rounds: usize| {
        let tasks = (0..count).map(|task| {
            let parent = parent.0.clone();
            runtime.spawn(async move {
                for number in 0..rounds {
                    round(parent.clone(), task * rounds + number).await;
                }
            })
        });
        let tasks: Vec<_> = tasks.collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        eventually("the cgroups are removed", || parent.count() == 0);
    };
    all(1);
    let threads = Counts::now().threads;
    assert!(threads < 64, "{threads} threads");
    eventually("the children are reaped", || Counts::now().children == 0);
    let before = Counts::now();
    let start = Instant::now();
    all(rounds);
    eventually("everything is as before", || {
        let now = Counts::now();
        // The runtime ends its threads for blocking calls after some time without work.
        now.descriptors.len() <= before.descriptors.len() && now.children == 0 && now.mounts == before.mounts
    });
    let containers = count * rounds * 3;
    println!(
        "LOAD {count} tasks, {containers} containers: {:.1} s, {} threads",
        start.elapsed().as_secs_f64(),
        Counts::now().threads
    );
    assert!(Counts::now().threads < 64);
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// The handler is without `SA_RESTART`, so each end of a child interrupts the calls of the other threads.
#[test]
fn a_program_with_a_handler_for_sigchld_starts_containers() {
    if is_done("a_program_with_a_handler_for_sigchld_starts_containers") {
        return;
    }
    let action = SigAction::new(SigHandler::Handler(count_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only changes an atomic number.
    unsafe { sigaction(Signal::SIGCHLD, &action) }.unwrap();
    let (parent, all) = (Parent::new(), many(2000, 160, 16));
    sixteen_threads(16, |number| run(&parent, number));
    let (before, signals) = (Before::now(), SIGNALS.load(Ordering::Relaxed));
    assert_eq!(sixteen_threads(all, |number| run(&parent, number)), all);
    assert!(SIGNALS.load(Ordering::Relaxed) > signals, "the handler has not run");
    // SAFETY: reads the action.
    let kept = unsafe { sigaction(Signal::SIGCHLD, &action) }.unwrap();
    assert!(matches!(kept.handler(), SigHandler::Handler(_)), "a start has changed the handler");
    before.check(&format!("{all} containers of a program with a handler for SIGCHLD"), &parent);
}

/// The kernel reaps the children, so `wait` returns no exit status: the containers are deleted.
#[test]
fn a_program_that_ignores_sigchld_starts_containers() {
    if is_done("a_program_that_ignores_sigchld_starts_containers") {
        return;
    }
    // SAFETY: no handler runs.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    let (parent, all) = (Parent::new(), many(2000, 160, 16));
    let start_and_delete = |_| sleeper(&parent).delete().unwrap();
    sixteen_threads(16, start_and_delete);
    let before = Before::now();
    assert_eq!(sixteen_threads(all, start_and_delete), all);
    before.check(&format!("{all} containers of a program that ignores SIGCHLD"), &parent);
}

#[test]
fn hundreds_of_processes_enter_one_container_at_once() {
    if is_done("hundreds_of_processes_enter_one_container_at_once") {
        return;
    }
    more_descriptors();
    let (parent, all) = (Parent::new(), many(1000, 200, 20));
    let container = sleeper(&parent);
    let inside = || container.cgroup().unwrap().procs().unwrap().len();
    let exec = |program: &str, arg: &str| {
        let mut command = container.exec(program).unwrap();
        command.arg(arg).stdin(Stdio::Null).stdout(Stdio::Null);
        command
    };
    exec("sleep", "0").status().unwrap();
    exec("sleep", "1000").spawn().unwrap().delete().unwrap();
    let (before, of_container) = (Before::now(), inside());
    // All of them live at once.
    let started = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (exec, started) = (&exec, &started);
            scope.spawn(move || {
                for _ in (thread..all).step_by(16) {
                    let process = exec("sleep", "1000").spawn().unwrap();
                    started.lock().unwrap().push(process);
                }
            });
        }
    });
    let started = started.into_inner().unwrap();
    assert_eq!((started.len(), inside()), (all, of_container + all));
    started.into_iter().for_each(|process| process.delete().unwrap());
    eventually("only the container's processes are left", || inside() == of_container);
    // Each exit code arrives.
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let container = &container;
            scope.spawn(move || {
                for number in (thread..all).step_by(16) {
                    let mut command = container.exec("sh").unwrap();
                    command.args(["-c", &format!("exit {}", number % 100)]).stdin(Stdio::Null);
                    let code = command.status().unwrap().status.code();
                    assert_eq!(code, Some(number as i32 % 100));
                }
            });
        }
    });
    assert_eq!(inside(), of_container);
    eventually("the threads end", || Counts::now().threads <= before.counts.threads);
    assert_eq!(Counts::now(), before.counts);
    container.delete().unwrap();
    println!(
        "LOAD {all} processes in one container at once, {all} more to their end: {:.1} s",
        before.start.elapsed().as_secs_f64()
    );
}

#[test]
fn a_pod_has_a_thousand_containers() {
    if is_done("a_pod_has_a_thousand_containers") {
        return;
    }
    more_descriptors();
    let (parent, all) = (Parent::new(), many(1000, 150, 20));
    let spec = PodSpec::default();
    let member = |pod: &Pod| {
        pod.command("sleep").unwrap().arg("1000").stdin(Stdio::Null).stdout(Stdio::Null).spawn().unwrap()
    };
    let warm = Pod::create(&unique("warm"), &spec).unwrap();
    drop(member(&warm));
    warm.delete().unwrap();
    let before = Before::now();
    let pod = Pod::create(&unique("thousand"), &spec).unwrap();
    let mut members: Vec<_> = (0..all).map(|_| member(&pod)).collect();
    assert_eq!(pod.cgroup().unwrap().children().unwrap().len(), all);
    let first = members[0].namespaces().unwrap();
    for container in &members {
        let shared = container.namespaces().unwrap().coincide(&first);
        assert!(shared.contains(PodSpec::default().share), "{shared}");
    }
    let cgroup = pod.cgroup().unwrap().path().to_owned();
    pod.delete().unwrap();
    assert!(!cgroup.exists(), "the pod's cgroup is left");
    for container in &mut members {
        assert_eq!(container.wait().unwrap().status.shell_code(), 128 + libc::SIGKILL);
    }
    drop(members);
    before.check(&format!("a pod with {all} containers"), &parent);
}
