//! Runs probes in child processes.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nspod_sandbox::ErrorReport;

use crate::error::Error;

/// Uid of `nobody`. Root uses it to try what ordinary users can do.
const NOBODY: u32 = 65_534;

/// Runs a probe in a child process.
pub(super) fn run(what: &str) -> std::result::Result<(), String> {
    wait(&mut nspod(&["doctor", "--probe", what]))
}

/// Runs a probe in a child process as an ordinary user. The caller must be root.
pub(super) fn run_as_nobody(what: &str) -> std::result::Result<(), String> {
    let mut command = nspod(&["doctor", "--probe", what]);
    wait(command.uid(NOBODY).gid(NOBODY).env_remove("XDG_RUNTIME_DIR"))
}

/// Runs `nspod run` in a child process, so that the probe fails at the same step.
pub(super) fn container() -> std::result::Result<(), String> {
    wait(&mut nspod(CONTAINER))
}

/// Does the same as an ordinary user. This directory has the state of the container.
pub(super) fn container_of_nobody(state: &Path) -> std::result::Result<(), String> {
    let owned = std::os::unix::fs::chown(state, Some(NOBODY), Some(NOBODY));
    owned.map_err(|e| Error::io("doctor", "change the owner of", state, &e).to_string())?;
    wait(nspod(CONTAINER).uid(NOBODY).gid(NOBODY).env("XDG_RUNTIME_DIR", state))
}

const CONTAINER: &[&str] = &["run", "true"];

fn nspod(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--json").args(args).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
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
