//! Faults that strace puts into a program's calls: `-e inject`, see strace(1).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::programs;

/// Returns whether strace is installed. If not, the test is skipped.
pub fn able() -> bool {
    programs(&["strace"])
}

/// How long a test goes through faults: on a slow machine it comes to some of them. The guest adds
/// its controllers, and the host goes through the rest.
fn long() -> Duration {
    let guest = std::env::var_os("NSPOD_LANE").is_some();
    Duration::from_secs(if guest { 10 } else { 40 })
}

/// The faults of these calls, each `CALL:FAULT` or `CALL` with the common fault, at each time that a program makes
/// the call itself: `openat:error=EMFILE:when=3`.
pub fn points(calls: &[&str], fault: &str, program: &mut Command) -> impl Iterator<Item = String> + use<> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "signal=none", "-o"]).arg(trace.path());
    strace.arg(program.get_program()).args(program.get_args());
    if let Some(dir) = program.get_current_dir() {
        strace.current_dir(dir);
    }
    // What it starts may keep its streams.
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
    // Those that come first are from everywhere.
    let spread = (0..7).flat_map(move |first| points.clone().into_iter().skip(first).step_by(7));
    spread.take_while(move |_| start.elapsed() < long())
}

/// The same program with such a fault.
pub fn with(point: &str, program: &Command) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &format!("inject={point}")]);
    strace.arg(program.get_program()).args(program.get_args());
    if let Some(dir) = program.get_current_dir() {
        strace.current_dir(dir);
    }
    strace
}

/// What strace is given in a script to have a fault happen.
pub const STRACE: &str = "strace -qq -o /dev/null -e signal=none -e inject=";

/// Calls by which is looked, opened, locked, made and removed, and how they fail.
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
