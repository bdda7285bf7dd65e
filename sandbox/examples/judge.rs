//! An online judge: runs untrusted submissions at the same time, each with its own limits, and prints the verdicts.
//! `cargo run -p nspod-sandbox --features tokio --example judge -- 'echo 42' 'sleep 1000' 'f() { f | f & f; }; f'`
use std::time::Duration;

use nspod_sandbox::cgroup_core::{Limits, Max};
use nspod_sandbox::spec::{Mount, MountKind, StorageLimit};
use nspod_sandbox::{Command, EndedBy, Error, Overflow, Stdio};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accepted,
    WrongAnswer,
    TimeLimit,
    MemoryLimit,
    OutputLimit,
    RuntimeError,
}

/// Returns the command of a submission, a script. It has no network, and can write only to `/tmp`.
fn submission(script: &str, input: &str) -> Command {
    // With a weight, the submissions share the processors equally, so that many processes are not faster than one.
    let limits = Limits {
        cpu_weight: Some(100),
        memory_max: Some(Max::Value(32 << 20)),
        memory_swap_max: Some(Max::Value(0)),
        pids_max: Some(Max::Value(32)),
        ..Limits::default()
    };
    let tmpfs = Mount::new("/tmp", MountKind::Tmpfs { mode: Some(0o1777) });
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(Stdio::Bytes(input.into()))
        .user(65_534, 65_534)
        .mount(Mount { limit: StorageLimit { size: Some(8 << 20), inodes: Some(200) }, ..tmpfs })
        .limits(limits)
        .timeout(Duration::from_secs(10))
        .cpu_time_max(Duration::from_secs(2))
        .output_max(1 << 16, Overflow::Kill);
    command
}

/// Runs a submission, and compares its output with the answer. If the future is dropped, the submission ends.
pub(crate) async fn judge(script: &str, input: &str, answer: &str) -> Result<Verdict, Error> {
    let output = submission(script, input).output_async().await?;
    let outcome = &output.outcome;
    Ok(match outcome.ended_by {
        _ if outcome.pids_refused > Some(0) => Verdict::RuntimeError,
        _ if outcome.oom.is_some() => Verdict::MemoryLimit,
        EndedBy::WallTime | EndedBy::CpuTime => Verdict::TimeLimit,
        EndedBy::OutputLimit => Verdict::OutputLimit,
        _ if !outcome.status.success() => Verdict::RuntimeError,
        _ if output.stdout == answer.as_bytes() => Verdict::Accepted,
        _ => Verdict::WrongAnswer,
    })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut judged = tokio::task::JoinSet::new();
    for script in std::env::args().skip(1) {
        judged.spawn(async move {
            let verdict = judge(&script, "6 7\n", "42\n").await;
            (script, verdict)
        });
    }
    while let Some(ended) = judged.join_next().await {
        let (script, verdict) = ended.expect("no task panics");
        println!("{:?}: {script}", verdict?);
    }
    Ok(())
}
