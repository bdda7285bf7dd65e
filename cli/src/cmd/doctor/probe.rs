//! Runs probes in child processes.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nspod_sandbox::ErrorReport;

/// Uid of `nobody`. Root uses it to try what ordinary users can do.
const NOBODY: u32 = 65_534;

/// Runs a probe in a child process.
pub(super) fn run(what: &str) -> std::result::Result<(), String> {
    wait(&mut command(what))
}

/// Runs a probe in a child process as an ordinary user. The caller must be root.
pub(super) fn run_as_nobody(what: &str) -> std::result::Result<(), String> {
    wait(command(what).uid(NOBODY).gid(NOBODY).env_remove("XDG_RUNTIME_DIR"))
}

fn command(what: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--json", "doctor", "--probe", what])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn wait(command: &mut Command) -> std::result::Result<(), String> {
    let output = command.output().map_err(|e| format!("nspod cannot start itself for this probe: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    match serde_json::from_str::<ErrorReport>(said.lines().last().unwrap_or_default()) {
        Ok(report) => Err(report.message),
        Err(_) => Err(format!("the probe ended with {} and printed {:?}", output.status, said.trim())),
    }
}
