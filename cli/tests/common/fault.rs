//! Faults that strace puts into a program's calls: `-e inject`, see strace(1).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::programs;

/// Returns whether strace is installed. If not, the test is skipped.
pub fn able() -> bool {
    programs(&["strace"])
}

/// Time limit of a test for its faults. A slow machine tries only some of them. The guest covers the v2
/// controllers, and the host tries the other faults.
fn long() -> Duration {
    let guest = std::env::var_os("NSPOD_LANE").is_some();
    Duration::from_secs(if guest { 10 } else { 40 })
}

/// Returns a fault for each time that a program itself makes one of these calls, such as
/// `openat:error=EMFILE:when=3`. Each call is given as `CALL:FAULT`, or as `CALL` with the common fault.
pub fn points(calls: &[&str], fault: &str, program: &mut Command) -> impl Iterator<Item = String> + use<> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "signal=none", "-o"]).arg(trace.path());
    strace.arg(program.get_program()).args(program.get_args());
    if let Some(dir) = program.get_current_dir() {
        strace.current_dir(dir);
    }
    // Processes that the program starts may keep its streams open.
    let status = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success());
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let mut points = Vec::new();
    for of in calls {
        let (call, fault) = of.split_once(':').unwrap_or((of, fault));
        let times = text.lines().filter(|line| line.starts_with(&format!("{call}("))).count();
        points.extend((1..=times).map(|when| format!("{call}:{fault}:when={when}")));
    }
    assert!(points.len() > 10, "{points:?}");
    let start = Instant::now();
    // Spread the faults, so that the first ones come from all parts of the list.
    let spread = (0..7).flat_map(move |first| points.clone().into_iter().skip(first).step_by(7));
    spread.take_while(move |_| start.elapsed() < long())
}

/// Returns a command that runs the program with a fault.
pub fn with(point: &str, program: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &format!("inject={point}")]);
    strace.arg(program.get_program()).args(program.get_args());
    if let Some(dir) = program.get_current_dir() {
        strace.current_dir(dir);
    }
    strace
}

/// Beginning of a shell command that injects a fault; the fault and the program follow.
pub const STRACE: &str = "strace -qq -o /dev/null -e signal=none -e inject=";

/// Calls that find, open, lock, create and remove objects, and their faults.
pub const FAILING: &[&str] = &[
    "openat:error=EMFILE",
    "openat",
    "openat2:error=EMFILE",
    "openat2",
    "mkdirat:error=EAGAIN",
    "mkdirat",
    "fstat",
    "newfstatat",
    "statx",
    "read",
    "pread64",
    "getdents64",
    "fcntl",
    "flock",
    "unlinkat",
    "renameat2",
    "pidfd_open",
];

/// Shell functions. `late FAULT ARGUMENT…` starts nspod in the background with a fault of `signal=STOP`, and
/// waits until it has stopped. Its output goes to the file `/run/late`. `go_on` continues it and prints its
/// exit code. With two stopped processes, pass `go_on` the value of `$late` after each `late`.
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
