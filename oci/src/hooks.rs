//! Hooks: programs that run on the host during the life cycle. Each reads the container's state from its
//! standard input.
//!
//! [Specification](https://github.com/opencontainers/runtime-spec/blob/main/config.md#posix-platform-hooks)

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use ns_core::Pidfd;
use nspod_sandbox::spec::Hook;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{OciRecord, Status};
use crate::state::Entry;

/// Runs hooks in order until one fails.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        one(kind, hook, state).map_err(|e| {
            let (path, field) = (hook.path.display(), format!("hooks.{kind}[{number}]"));
            let sentence = format!("{field}: error running hook {path}: {e}");
            e.rephrased(sentence).with_field(field)
        })?;
    }
    Ok(())
}

/// Runs the poststart hooks. If one fails, the caller must stop the container. Before version 1.3 of
/// the specification the container continues, and the failure is logged.
pub(crate) fn poststart(entry: &Entry, record: &OciRecord) -> Result<()> {
    if record.poststart.is_empty() {
        return Ok(());
    }
    let state = record.state_json(Status::Running)?;
    match entry.config()?.poststart_stops()? {
        true => run("poststart", &record.poststart, &state),
        false => {
            run_all("poststart", &record.poststart, &state);
            Ok(())
        }
    }
}

/// Runs all hooks, and logs those that fail.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &[u8]) {
    for hook in hooks {
        if let Err(e) = one(kind, hook, state) {
            log::warn!("{kind} hook {}: {e}", hook.path.display());
        }
    }
}

fn one(kind: &str, hook: &Hook, state: &[u8]) -> Result<()> {
    log::debug!("run the {kind} hook {}", hook.path.display());
    let done = execute(hook, state);
    let end = if done.is_ok() { "has succeeded" } else { "has failed" };
    log::debug!("the {kind} hook {} {end}", hook.path.display());
    done
}

fn execute(hook: &Hook, state: &[u8]) -> Result<()> {
    let mut input = memory_file("state")?;
    let output = memory_file("output")?;
    let failed = |what: &'static str| {
        move |e| Error::io("hook", what, &hook.path, &e).with_kind(ErrorKind::HookFailed)
    };
    input.write_all(state).and_then(|()| input.rewind()).map_err(failed("pass the state to"))?;
    let copy = || output.try_clone().map_err(failed("pass the state to"));
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    // A hook without an environment inherits the caller's, as with runc and crun.
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().cloned());
    }
    command.stdin(input).stdout(copy()?).stderr(copy()?);
    nspod_sandbox::inherit_nothing(&mut command);
    let ended_badly =
        |problem| Error::new(ErrorKind::HookFailed, "hook", problem).on(hook.path.display().to_string());
    let mut child = command.spawn().map_err(failed("execute"))?;
    if let Some(seconds) = hook.timeout {
        let limit = Duration::from_secs(seconds.into());
        let ended = Pidfd::open(child.id() as i32).and_then(|pidfd| pidfd.poll(Some(limit)));
        if !matches!(ended, Ok(true)) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !ended? {
            let problem = format!("it was killed after its timeout of {seconds} s");
            return Err(ended_badly(problem));
        }
    }
    let status = child.wait().map_err(failed("wait for"))?;
    match status.success() {
        true => Ok(()),
        false => Err(ended_badly(format!("{}{}", outcome(status), beginning(output)))),
    }
}

fn memory_file(name: &str) -> Result<File> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC);
    fd.map(File::from).map_err(|e| Error::call("hook", "make a file in memory", "memfd_create", e as i32))
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// Returns the first 4 KiB of a hook's output, for the error.
fn beginning(mut output: File) -> String {
    const MAX: u64 = 4096;
    let mut bytes = Vec::new();
    let _ = output.rewind().and_then(|()| output.take(MAX).read_to_end(&mut bytes));
    match String::from_utf8_lossy(&bytes).trim() {
        "" => String::new(),
        text => format!(", output: {text}"),
    }
}
