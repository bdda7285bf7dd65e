//! Restrictions on the child: it never calls the allocator, and any thread of a program can start it while other
//! threads hold locks.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use ns_core::{Kind, Kinds};
use nspod_sandbox::spec::{
    Link, Mount, MountKind, NamespaceMode, Node, NodeKind, Propagation, PropagationKind, Spec, Terminal,
};
use nspod_sandbox::{Command, Pool, PoolOptions, Stdio};

/// Allocator that passes every call on, and records calls from processes other than the test's.
struct Trap;

/// Pid of the test's process while the trap is armed, otherwise 0.
static ARMED: AtomicI32 = AtomicI32::new(0);
/// Whether a child called the allocator. With copied memory the parent does not see the change, so the child also
/// ends with its own exit code.
static SPRUNG: AtomicBool = AtomicBool::new(false);
const SPRUNG_CODE: i32 = 98;

fn check() {
    let armed = ARMED.load(Ordering::Relaxed);
    // SAFETY: plain system calls. getpid is called by number, because libc may cache the parent's pid.
    unsafe {
        if armed != 0 && libc::syscall(libc::SYS_getpid) as i32 != armed {
            SPRUNG.store(true, Ordering::SeqCst);
            libc::syscall(libc::SYS_exit_group, SPRUNG_CODE);
        }
    }
}

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Trap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller upholds the contract of the forwarded call.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller upholds the contract of the forwarded call.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: the caller upholds the contract of the forwarded call.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Trap = Trap;

fn arm() {
    ARMED.store(std::process::id() as i32, Ordering::SeqCst);
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null)
}

#[test]
fn the_child_of_every_kind_of_plan_allocates_nothing() {
    if !nspod_testkit::root() {
        return;
    }
    arm();
    let mut plans: Vec<(&str, Spec)> = Vec::new();
    let full = Spec::new("true");
    plans.push(("full", full.clone()));
    plans.push(("bare", Spec { process: Spec::bare("/bin/true").process, ..Spec::default() }));
    let mut user = full.clone();
    user.namespaces.user = NamespaceMode::New;
    plans.push(("id ranges, memory copied", user));
    let mut time = full.clone();
    time.namespaces.time = NamespaceMode::New;
    time.time_offsets = Some("monotonic 10 0\nboottime 20 0\n".parse().unwrap());
    plans.push(("a second clone", time));
    let mut init = full.clone();
    init.init = Some(true);
    plans.push(("init", init));
    let mut terminal = full.clone();
    terminal.process.terminal = Some(Terminal { rows: 24, columns: 80 });
    plans.push(("terminal", terminal));
    let mut files = full.clone();
    let tmpfs = MountKind::Tmpfs { mode: None };
    files.mounts.push(Mount { copy_up: true, readonly: true, ..Mount::new("/etc", tmpfs) });
    let mut remount = Mount::new("/tmp", MountKind::Remount);
    remount.propagation = vec![Propagation { kind: PropagationKind::Slave, recursive: true }];
    files.mounts.push(remount);
    files.nodes = vec![Node { path: "/tmp/a/b".into(), kind: NodeKind::Fifo, mode: 0o600, uid: 1, gid: 1 }];
    files.links = vec![Link { path: "/tmp/c/d".into(), target: "/e".into() }];
    (files.process.cwd, files.process.create_cwd) = (Some("/tmp/f/g".into()), true);
    plans.push(("files", files));
    for (name, spec) in plans {
        let outcome = quiet(&mut Command::from_spec(spec)).status().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(outcome.status.success(), "{name}: {}", outcome.status);
        assert!(!SPRUNG.load(Ordering::SeqCst), "{name}: the child called the allocator");
    }
    let pool = Pool::new(PoolOptions { size: 1, ..PoolOptions::default() }).unwrap();
    let outcome = quiet(Command::from_spec(full.clone()).pool(&pool)).status().unwrap();
    assert!(outcome.status.success() && pool.namespaces().taken == 1);
    assert!(!SPRUNG.load(Ordering::SeqCst), "from a pool: the child called the allocator");
    // A failing step uses another exit path.
    let mut fails = full;
    fails.process.cwd = Some("/nowhere".into());
    let error = quiet(&mut Command::from_spec(fails)).spawn().unwrap_err();
    assert_eq!(error.failed_call(), Some("chdir"), "{error}");
    assert!(!SPRUNG.load(Ordering::SeqCst), "the failing child called the allocator");
}

/// Tests the trap itself: a child that allocates is detected.
#[test]
fn an_allocating_child_triggers_the_trap() {
    arm();
    // SAFETY: the child only trips the trap, which ends it by a system call.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        std::hint::black_box(Box::new(1));
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child created above.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), SPRUNG_CODE);
}

#[test]
fn eight_threads_spawn_while_others_churn_the_allocator() {
    if !nspod_testkit::root() {
        return;
    }
    static DONE: AtomicBool = AtomicBool::new(false);
    let rounds = if std::env::var_os("NSPOD_LANE").is_some() { 4 } else { 25 };
    let deadline = Instant::now() + Duration::from_secs(300);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut kept = Vec::new();
                while !DONE.load(Ordering::Relaxed) && Instant::now() < deadline {
                    for size in [16, 4096, 100_000] {
                        kept.push(vec![1u8; size]);
                    }
                    kept.truncate(50);
                    kept.reverse();
                }
            });
        }
        let spawners: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    for round in 0..rounds {
                        let mut command = Command::new("sh");
                        command.args(["-c", "exit $1", "sh", &(thread * 10 + round % 10).to_string()]);
                        // Every second start copies the memory.
                        if round % 2 == 1 {
                            command.namespace(Kind::User, NamespaceMode::New);
                        } else {
                            command.isolate(Kinds::FIVE);
                        }
                        let status = quiet(&mut command).status().unwrap().status;
                        assert_eq!(status.shell_code(), thread * 10 + round % 10);
                    }
                })
            })
            .collect();
        for spawner in spawners {
            spawner.join().unwrap();
        }
        DONE.store(true, Ordering::Relaxed);
    });
}
