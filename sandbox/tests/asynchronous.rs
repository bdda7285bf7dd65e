//! Containers in a tokio runtime. The tests run as root.
#![allow(unsafe_code)]

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::ForkResult;
use nspod_sandbox::{AsyncContainer, Command, EndedBy, Overflow, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// The tests count threads and descriptors of this process, so they run one after another.
static ALONE: Mutex<()> = Mutex::new(());

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs a test in a runtime of two threads, as root.
fn test<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    if nspod_testkit::root() {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        runtime().block_on(test());
    }
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(100);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn the_streams_are_asynchronous() {
    test(|| async {
        let mut container = sh("cat; echo error >&2; exit 3")
            .stdin(Stdio::Piped)
            .stdout(Stdio::Piped)
            .stderr(Stdio::Piped)
            .spawn_async()
            .await
            .unwrap();
        let (mut stdin, mut text) = (container.stdin.take().unwrap(), [const { String::new() }; 2]);
        let input = "line\n".repeat(100_000);
        let (written, read) = tokio::join!(
            async {
                stdin.write_all(input.as_bytes()).await.unwrap();
                drop(stdin);
            },
            container.stdout.as_mut().unwrap().read_to_string(&mut text[0])
        );
        let ((), _) = (written, read.unwrap());
        container.stderr.as_mut().unwrap().read_to_string(&mut text[1]).await.unwrap();
        assert_eq!((text[0] == input, &*text[1]), (true, "error\n"));
        assert_eq!(container.wait().await.unwrap().status.code(), Some(3));
        assert_eq!(container.wait().await.unwrap().status.code(), Some(3));
        container.delete().await.unwrap();
    });
}

#[test]
fn the_output_and_its_limits_are_those_of_the_blocking_call() {
    test(|| async {
        let output = sh("head -c 1000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait; exit 2")
            .output_async()
            .await
            .unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.len(), output.truncated),
            (1_000_000, 2_000_000, false)
        );
        assert_eq!(output.outcome.status.code(), Some(2));
        let output = sh("yes").output_max(1000, Overflow::Kill).output_async().await.unwrap();
        assert_eq!((output.stdout.len(), output.outcome.ended_by), (1000, EndedBy::OutputLimit));
        // A flood of output does not delay the time limit, and a process that remains does not delay the end.
        let time = Duration::from_millis(300);
        let output = sh("yes").output_max(10, Overflow::Discard).timeout(time).output_async().await.unwrap();
        assert_eq!((output.truncated, output.outcome.ended_by), (true, EndedBy::WallTime));
        let outcome = sh("while :; do :; done").cpu_time_max(time).status_async().await.unwrap();
        assert_eq!(outcome.ended_by, EndedBy::CpuTime);
        let output = sh("sleep 1000 & echo here").output_async().await.unwrap();
        assert_eq!(output.stdout, b"here\n");
        let missing = Command::new("/no/such/program").output_async().await.unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    });
}

#[test]
fn the_processes_of_exec_do_not_delay_the_end() {
    test(|| async {
        let mut container = Command::new("sleep").arg("1000").spawn_async().await.unwrap();
        let _process = container.exec("sleep").unwrap().arg("1000").spawn_async().await.unwrap();
        container.kill().unwrap();
        assert_eq!(container.wait().await.unwrap().ended_by, EndedBy::Cancelled);
        container.delete().await.unwrap();
    });
}

/// Many containers wait for their input at once. Half of them get it, and the tasks of the others are cancelled.
#[test]
fn a_thousand_containers_need_two_threads() {
    let many = if nspod_testkit::is_slow() { 60 } else { 1000 };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(20_000).min(hard), hard).unwrap();
    test(|| async move {
        sh("exit 0").status_async().await.unwrap();
        let before = descriptors();
        let mut tasks = Vec::new();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = tokio::sync::watch::channel(false);
        for number in 0..many {
            let (started, mut released) = (started.clone(), released.clone());
            tasks.push(tokio::spawn(async move {
                let mut command = sh(&format!("read line; exit {}", number % 100));
                let mut container = command.stdin(Stdio::Piped).spawn_async().await.unwrap();
                started.send(container.cgroup().unwrap().path().to_owned()).unwrap();
                let (mut stdin, wait) = (container.stdin.take().unwrap(), container.wait());
                let answer = async {
                    released.wait_for(|released| *released).await.unwrap();
                    stdin.write_all(b"end\n").await.unwrap();
                };
                let (outcome, ()) = tokio::join!(wait, answer);
                container.delete().await.unwrap();
                outcome.unwrap().status.code()
            }));
        }
        let mut cgroups = Vec::new();
        for _ in 0..many {
            cgroups.push(starts.recv().await.unwrap());
        }
        assert!(threads() < 20, "{} threads wait for {many} containers", threads());
        let cancelled = tasks.split_off(many / 2);
        cancelled.iter().for_each(|task| task.abort());
        release.send(true).unwrap();
        for (number, task) in tasks.into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), Some(number as i32 % 100));
        }
        for task in cancelled {
            assert!(task.await.unwrap_err().is_cancelled());
        }
        eventually("the cgroups are removed", || cgroups.iter().all(|path| !path.exists())).await;
        eventually("the descriptors are closed", || descriptors() <= before).await;
        assert!(threads() < 20, "{} threads", threads());
    });
}

#[test]
fn a_drop_does_not_block_the_runtime() {
    test(|| async {
        let mut shortest = Duration::MAX;
        // Other work on the machine can delay one of them.
        for _ in 0..3 {
            // The process ignores signals until it is killed, and holds its children.
            let container = sh("for i in 1 2 3 4 5 6 7 8; do setsid sleep 1000 & done; wait")
                .spawn_async()
                .await
                .unwrap();
            let (pid, cgroup) = (container.pid(), container.cgroup().unwrap().path().to_owned());
            let before = Instant::now();
            drop(container);
            shortest = shortest.min(before.elapsed());
            eventually("the cgroup is removed", || !cgroup.exists()).await;
            assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
        }
        assert!(shortest < Duration::from_millis(150), "{shortest:?}");
        // Also at the timeout of a future that owns the container.
        let mut command = sh("sleep 1000");
        let time = Duration::from_millis(50);
        assert!(tokio::time::timeout(time, command.output_async()).await.is_err());
        let mut kept = Command::new("sleep");
        let kept = kept.arg("1000").kill_on_drop(false).spawn_async().await.unwrap();
        let killer = kept.killer().unwrap();
        let cgroup = kept.cgroup().unwrap().path().to_owned();
        drop(kept);
        tokio::time::sleep(time).await;
        assert!(cgroup.exists());
        killer.kill().unwrap();
        eventually("the cgroup is removed", || fs::remove_dir(&cgroup).is_ok()).await;
    });
}

#[test]
fn the_end_of_the_runtime_ends_its_containers() {
    if !nspod_testkit::root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let own = runtime();
    let container = own.block_on(async { Command::new("sleep").arg("1000").spawn_async().await.unwrap() });
    let cgroup = container.cgroup().unwrap().path().to_owned();
    own.spawn(async move {
        let _container: AsyncContainer = container;
        std::future::pending::<()>().await;
    });
    drop(own);
    nspod_testkit::eventually("the cgroup is removed", || !cgroup.exists());
    // Without a runtime, the handle is used as a blocking one.
    let own = runtime();
    let container = own.block_on(async { Command::new("sleep").arg("1000").spawn_async().await.unwrap() });
    drop(own);
    let mut container = container.into_inner();
    container.kill().unwrap();
    assert_eq!(container.wait().unwrap().ended_by, EndedBy::Cancelled);
    container.delete().unwrap();
}

#[test]
fn a_start_that_is_cancelled_before_it_begins_keeps_the_function() {
    test(|| async {
        // These starts use all permits until they are released.
        let count = std::thread::available_parallelism().unwrap().get();
        let (waiting, waits) = std::sync::mpsc::channel();
        let mut releases = Vec::new();
        let blocked: Vec<_> = (0..count)
            .map(|_| {
                let (release, released) = std::sync::mpsc::channel::<()>();
                let waiting = waiting.clone();
                releases.push(release);
                tokio::spawn(async move {
                    let mut command = sh("exit 0");
                    command.prepared(move |_| {
                        waiting.send(()).unwrap();
                        let _ = released.recv();
                        Ok(Vec::new())
                    });
                    command.status_async().await.unwrap();
                })
            })
            .collect();
        tokio::task::spawn_blocking(move || (0..count).for_each(|_| waits.recv().unwrap())).await.unwrap();
        let mut command = sh("exit 5");
        command.prepared(|_| Ok(Vec::new()));
        let time = Duration::from_millis(50);
        assert!(tokio::time::timeout(time, command.spawn_async()).await.is_err());
        drop(releases);
        assert_eq!(command.status_async().await.unwrap().status.code(), Some(5));
        for task in blocked {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_container_is_deleted_if_the_program_ignores_its_children() {
    if nspod_testkit::in_own_process("a_container_is_deleted_if_the_program_ignores_its_children") {
        return;
    }
    // SAFETY: no handler runs.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    test(|| async {
        let container = Command::new("sleep").arg("1000").spawn_async().await.unwrap();
        let cgroup = container.cgroup().unwrap().path().to_owned();
        container.delete().await.unwrap();
        assert!(!cgroup.exists());
    });
}

/// A traced process is reaped only after its tracer has learned of its end.
#[test]
fn deleting_a_process_that_does_not_end_does_not_block_the_runtime() {
    if !nspod_testkit::root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let one_thread = Builder::new_current_thread().enable_all().build().unwrap();
    one_thread.block_on(async {
        let container = Command::new("sleep").arg("1000").spawn_async().await.unwrap();
        let (pid, cgroup) = (container.pid(), container.cgroup().unwrap().path().to_owned());
        // SAFETY: the child only makes system calls.
        let tracer = match unsafe { nix::unistd::fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                // SAFETY: system calls that use no memory.
                unsafe {
                    libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0);
                    libc::alarm(100);
                    libc::pause();
                    libc::_exit(1)
                }
            }
        };
        let traced = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains(&format!("TracerPid:\t{tracer}\n"))
        };
        eventually("the process is traced", traced).await;
        let delete = tokio::spawn(container.delete());
        let mut longest = Duration::ZERO;
        while !delete.is_finished() {
            let before = Instant::now();
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(before.elapsed());
        }
        nix::sys::signal::kill(tracer, Signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(tracer, None).unwrap();
        delete.await.unwrap().unwrap();
        // Waiting for a process that does not end blocks a thread for 200 ms.
        let blocked = longest > Duration::from_millis(190) && !nspod_testkit::is_slow();
        assert!(!blocked, "the runtime was blocked for {longest:?}");
        eventually("the process is reaped", || !fs::exists(format!("/proc/{pid}")).unwrap()).await;
        assert!(!cgroup.exists());
    });
}
