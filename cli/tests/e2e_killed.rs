//! If the first process is killed during setup, the start fails, regardless of the call.

mod common;

use std::process::Command;

use common::{NSPOD, Name, fault, nspod, root, run_with};

/// Runs nspod, and kills the first process when it makes this call for the first time.
fn killed_at(call: &str, args: &[&str]) -> common::Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e"]);
    command.arg(format!("inject={call}:signal=KILL:when=1")).arg(NSPOD).args(args);
    run_with(&mut command, "")
}

#[test]
fn a_first_process_killed_during_its_setup_is_reported_and_leaves_nothing() {
    if !root() || !fault::able() {
        return;
    }
    // These calls are spread over the whole setup. The program makes none of them.
    for call in ["umask", "pivot_root", "sethostname", "capset", "setresuid", "seccomp"] {
        for detached in [true, false] {
            let name = Name::container();
            let mut args = vec!["run", "--name", &name];
            args.extend(if detached { &["-d"][..] } else { &["--rm"] });
            args.extend(["--", "sleep", "1000"]);
            let output = killed_at(call, &args);
            assert_eq!((output.code(), output.out.as_str()), (125, ""), "{call}: {}", output.err);
            assert!(
                output.err.contains("was ended by SIGKILL while it was set up"),
                "{call}: {}",
                output.err
            );
            assert_eq!(nspod(&["inspect", &name]).code(), 125, "{call}: the container is left");
            assert!(!common::cgroup(&name).exists(), "{call}: its cgroup is left");
        }
    }
}

#[test]
fn a_start_whose_report_cannot_be_read_ends_the_container() {
    if !root() || !fault::able() {
        return;
    }
    let name = Name::container();
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", "signal=none", "-e", "inject=recvmsg:error=EIO:when=1"]);
    command.arg(NSPOD).args(["run", "-d", "--name", &name, "--", "sleep", "1000"]);
    let output = run_with(&mut command, "");
    assert_eq!((output.code(), output.out.as_str()), (125, ""), "{}", output.err);
    assert!(output.err.contains("recvmsg: I/O error (EIO)"), "{}", output.err);
    assert!(!common::cgroup(&name).exists());
}

#[test]
fn an_init_killed_before_its_program_runs_is_reported() {
    if !root() || !fault::able() {
        return;
    }
    // The init makes the first call, and the process that it starts makes the second.
    for call in ["clone", "setpgid"] {
        let name = Name::container();
        let output = killed_at(call, &["run", "-d", "--name", &name, "--", "sleep", "1000"]);
        assert_eq!((output.code(), output.out.as_str()), (125, ""), "{call}: {}", output.err);
        assert!(output.err.contains("while it was set up"), "{call}: {}", output.err);
    }
}

#[test]
fn an_exec_whose_first_process_is_killed_during_its_setup_is_reported() {
    if !root() || !fault::able() {
        return;
    }
    let name = Name::detached(&[], &["sleep", "1000"]);
    // With sendmsg the first process reports the process that continues.
    for call in ["setns", "execveat", "clone", "sendmsg"] {
        let output = killed_at(call, &["exec", &name, "true"]);
        assert_eq!((output.code(), output.out.as_str()), (125, ""), "{call}: {}", output.err);
        assert!(output.err.contains("was ended by SIGKILL while it was set up"), "{call}: {}", output.err);
    }
}
