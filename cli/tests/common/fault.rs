//! Faults that strace puts into a program's calls: `-e inject`, see strace(1).

use std::process::Command;

use super::{run_with, skip};

/// Whether strace is there; if not, the test is skipped.
pub fn able() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    if !there {
        skip("this takes strace");
    }
    there
}

/// A program, in whose own calls these faults happen: `mkdirat:error=EIO:when=2`. What it starts has none.
pub fn with(faults: &[&str], program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e", "signal=none"]);
    for fault in faults {
        command.args(["-e", &format!("inject={fault}")]);
    }
    command.arg(program).args(args);
    command
}

/// How often a program makes each of these calls itself.
pub fn count(calls: &[&'static str], program: &str, args: &[&str]) -> Vec<(&'static str, usize)> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", "signal=none", "-e", &format!("trace={}", calls.join(",")), "-o"]);
    command.arg(trace.path()).arg(program).args(args);
    assert_eq!(run_with(&mut command, "").code(), 0);
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let of = |call: &str| text.lines().filter(|line| line.starts_with(&format!("{call}("))).count();
    calls.iter().map(|call| (*call, of(call))).collect()
}

/// A shell function that starts nspod with a fault of `signal=STOP` in the background, with what it says in the
/// file `/run/late`, and waits until it has stopped: `late FAULT ARGUMENT…`. Then `go_on` lets it, and says how it
/// ends. Of two, what `$late` was after the first is given to `go_on`.
pub const LATE: &str = r#"
    late() {
        fault=$1; shift
        strace -qq -o /dev/null -e signal=none -e inject=$fault $N "$@" > /run/late 2>&1 &
        strace=$!; stopped=0
        # Under strace a process stops for each call; one that has stopped stays so.
        until [ $stopped = 10 ]; do
            sleep 0.02; stopped=$((stopped + 1))
            pid=$(cat /proc/$strace/task/$strace/children) && grep -qs '^State:.[tT] ' /proc/${pid% }/status || stopped=0
        done
        late="${pid% } $strace"
    }
    go_on() { kill -CONT $1; wait $2; echo $?; }
    "#;
