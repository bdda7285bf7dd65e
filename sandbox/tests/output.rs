//! Output, time limits and the cause of the end. The tests run as root.

mod common;

use std::time::{Duration, Instant};

use nspod_sandbox::{Command, EndedBy, ExitStatus, Output, Overflow, Stdio};

use common::error;

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn end(output: &Output) -> (EndedBy, ExitStatus) {
    (output.outcome.ended_by, output.outcome.status)
}

const KILLED: ExitStatus = ExitStatus::Signaled { signal: 9, core_dumped: false };

#[test]
fn the_output_of_both_streams_is_collected() {
    if !nspod_testkit::root() {
        return;
    }
    let output = sh("cat; echo error >&2; exit 3").stdin(Stdio::Bytes(b"input\n".to_vec())).output().unwrap();
    assert_eq!((&*output.stdout, &*output.stderr), (&b"input\n"[..], &b"error\n"[..]));
    assert_eq!((end(&output), output.truncated), ((EndedBy::Exit, ExitStatus::Exited(3)), false));
    // More than a pipe holds, on both streams at once.
    let output = sh("head -c 1000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait").output().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (1_000_000, 2_000_000));
    // The standard input is empty, and cannot be changed.
    assert_eq!(sh("cat").output().unwrap().stdout, b"");
    let script = "echo no 2>/dev/null 1>&0 || echo refused; cat";
    assert_eq!(sh(script).stdin(Stdio::Bytes(b"kept".to_vec())).output().unwrap().stdout, b"refused\nkept");
}

#[test]
fn a_command_can_be_run_again_with_the_same_input() {
    if !nspod_testkit::root() {
        return;
    }
    let mut command = sh("cat; echo two >&2");
    command.stdin(Stdio::Bytes(b"one\n".to_vec())).stderr(Stdio::Stdout);
    for _ in 0..2 {
        let output = command.output().unwrap();
        assert_eq!((&*output.stdout, &*output.stderr), (&b"one\ntwo\n"[..], &b""[..]));
    }
    let refused = |command: &mut Command| command.spawn().map(drop).unwrap_err().to_string();
    let at_input = refused(sh("").stdin(Stdio::Stdout));
    assert!(at_input.starts_with("standard input: Stdio::Stdout is for"), "{at_input}");
    let at_output = refused(sh("").stdout(Stdio::Bytes(Vec::new())));
    assert!(at_output.starts_with("standard output: Stdio::Stdout is for"), "{at_output}");
}

#[test]
fn long_output_is_truncated_or_ends_the_container() {
    if !nspod_testkit::root() {
        return;
    }
    let script = "head -c 100000 /dev/zero; echo done >&2";
    let output = sh(script).output_max(1000, Overflow::Discard).output().unwrap();
    assert_eq!((output.stdout.len(), &*output.stderr, output.truncated), (1000, &b"done\n"[..], true));
    assert_eq!(end(&output), (EndedBy::Exit, ExitStatus::Exited(0)));
    let output = sh("yes").output_max(1000, Overflow::Kill).output().unwrap();
    assert_eq!((output.stdout.len(), output.truncated), (1000, true));
    assert_eq!(end(&output), (EndedBy::OutputLimit, KILLED));
    // Exactly the limit is not too much.
    let output = sh("head -c 1000 /dev/zero").output_max(1000, Overflow::Kill).output().unwrap();
    assert_eq!((end(&output), output.truncated), ((EndedBy::Exit, ExitStatus::Exited(0)), false));
}

#[test]
fn a_process_that_holds_the_pipes_does_not_delay_the_end() {
    if !nspod_testkit::root() {
        return;
    }
    let began = Instant::now();
    let output = sh("sleep 1000 & echo here").output().unwrap();
    assert_eq!(output.stdout, b"here\n");
    // A process in another container survives the end, and holds the pipe.
    let mut container = Command::new("sleep").arg("1000").spawn().unwrap();
    let mut more = container.exec("sh").unwrap();
    let output = more.args(["-c", "setsid sleep 1000 & echo here"]).output().unwrap();
    assert_eq!((&*output.stdout, output.outcome.status), (&b"here\n"[..], ExitStatus::Exited(0)));
    assert!(began.elapsed() < Duration::from_secs(100));
    container.kill().unwrap();
    container.wait().unwrap();
    container.delete().unwrap();
}

#[test]
fn the_wall_time_ends_a_container_however_it_is_waited_for() {
    if !nspod_testkit::root() {
        return;
    }
    let time = Duration::from_millis(50);
    let mut command = sh("trap '' TERM; sleep 1000 & sleep 1000");
    command.timeout(time);
    let output = command.output().unwrap();
    assert_eq!(end(&output), (EndedBy::WallTime, KILLED));
    assert!(output.outcome.wall_time >= time);
    let outcome = command.status().unwrap();
    assert_eq!((outcome.ended_by, outcome.status), (EndedBy::WallTime, KILLED));
    let mut container = command.spawn().unwrap();
    assert!(container.wait_timeout(Duration::from_millis(1)).unwrap().is_none());
    let outcome = container.wait_timeout(Duration::from_secs(100)).unwrap().unwrap();
    assert_eq!(outcome.ended_by, EndedBy::WallTime);
    container.delete().unwrap();
    // A program that ends before is not affected.
    assert_eq!(sh("exit 2").timeout(Duration::from_secs(1000)).status().unwrap().ended_by, EndedBy::Exit);
}

#[test]
fn the_cpu_time_of_all_processes_together_is_limited() {
    if !nspod_testkit::root() {
        return;
    }
    let time = Duration::from_millis(200);
    let spin = "spin() { while :; do :; done; }; spin & spin & wait";
    let output = sh(spin).cpu_time_max(time).output().unwrap();
    assert_eq!(end(&output), (EndedBy::CpuTime, KILLED));
    assert!(output.outcome.cpu_time >= time, "{:?}", output.outcome);
    // Sleep is not CPU time.
    let outcome = sh("sleep 0.5").cpu_time_max(Duration::from_millis(400)).status().unwrap();
    assert_eq!(outcome.ended_by, EndedBy::Exit);
    let mut without = sh("true");
    without.no_cgroup().cpu_time_max(time);
    assert!(error(&mut without).to_string().starts_with("cpu_time_max: "));
}

#[test]
fn a_kill_a_signal_and_an_exit_are_told_apart() {
    if !nspod_testkit::root() {
        return;
    }
    let ended_by = |script: &str| {
        let mut command = sh(script);
        // Without an init, the program is pid 1 and ignores these signals.
        command.init(true);
        command.status().unwrap().ended_by
    };
    assert_eq!(ended_by("exit 137"), EndedBy::Exit);
    assert_eq!(ended_by("kill -SEGV $$"), EndedBy::Signal);
    assert_eq!(ended_by("kill -KILL $$"), EndedBy::Signal);
    let mut container = sh("sleep 1000").spawn().unwrap();
    let killers = [container.killer().unwrap(), container.killer().unwrap()];
    let waiting = std::thread::spawn(move || {
        let outcome = container.wait().unwrap();
        container.delete().unwrap();
        outcome
    });
    killers[0].kill().unwrap();
    let outcome = waiting.join().unwrap();
    assert_eq!((outcome.ended_by, outcome.status), (EndedBy::Cancelled, KILLED));
    // The container is gone.
    killers[1].kill().unwrap();
    let mut container = sh("sleep 1000").spawn().unwrap();
    container.kill().unwrap();
    assert_eq!(container.wait().unwrap().ended_by, EndedBy::Cancelled);
    container.delete().unwrap();
}
