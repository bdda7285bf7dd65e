//! Programs that are run on the host as a container comes and goes, each with its state on
//! standard input.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use ns_core::Pidfd;
use nspod_cli::error::{Error, Result};
use nspod_sandbox::spec::Hook;

use crate::log;
use crate::state::{Entry, Record, Status};

/// Runs hooks in order up to the first that fails.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &[u8]) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        one(kind, hook, state).map_err(|e| {
            Error::new(format!("hooks.{kind}[{number}]: error running hook {}: {e}", hook.path.display()))
        })?;
    }
    Ok(())
}

/// Runs the hooks after the start. An error is due to stop the container; before 1.3 of the
/// specification a hook that fails was spoken of and no more.
pub(crate) fn poststart(entry: &Entry, record: &Record) -> Result<()> {
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

/// Runs all hooks; one that fails is spoken of and no more.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &[u8]) {
    for hook in hooks {
        if let Err(e) = one(kind, hook, state) {
            log::warn(&format_args!("{kind} hook {}: {e}", hook.path.display()));
        }
    }
}

fn one(kind: &str, hook: &Hook, state: &[u8]) -> Result<()> {
    log::debug(&format_args!("run the {kind} hook {}", hook.path.display()));
    let done = execute(hook, state);
    let end = if done.is_ok() { "has succeeded" } else { "has failed" };
    log::debug(&format_args!("the {kind} hook {} {end}", hook.path.display()));
    done
}

fn execute(hook: &Hook, state: &[u8]) -> Result<()> {
    let mut input = memory("state")?;
    let output = memory("output")?;
    let failed = |e: std::io::Error| Error::io("hand the state to", &hook.path, &e);
    input.write_all(state).and_then(|()| input.rewind()).map_err(failed)?;
    let copy = || output.try_clone().map_err(failed);
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    // One that names no environment has this program's, as with runc and crun.
    if let Some(env) = &hook.env {
        command.env_clear().envs(env.iter().cloned());
    }
    command.stdin(input).stdout(copy()?).stderr(copy()?);
    nspod_sandbox::inherit_nothing(&mut command);
    let mut child = command.spawn().map_err(|e| Error::io("execute", &hook.path, &e))?;
    if let Some(seconds) = hook.timeout {
        let pidfd = Pidfd::open(child.id() as i32)?;
        if !pidfd.poll(Some(Duration::from_secs(seconds.into())))? {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::new(format!("it was killed after its timeout of {seconds} s")));
        }
    }
    let status = child.wait().map_err(|e| Error::io("wait for", &hook.path, &e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(format!("{}{}", how(status), said(output)))),
    }
}

fn memory(name: &str) -> Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create(name, flags);
    fd.map(File::from).map_err(|e| {
        let errno = nix::errno::Errno::from_raw(e.raw_os_error());
        Error::call("make a file in memory", "memfd_create", errno)
    })
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// What a hook had to say, up to a length that a message may have.
fn said(mut output: File) -> String {
    const MOST: u64 = 4096;
    let mut bytes = Vec::new();
    let _ = output.rewind().and_then(|()| output.take(MOST).read_to_end(&mut bytes));
    match String::from_utf8_lossy(&bytes).trim() {
        "" => String::new(),
        text => format!(", output: {text}"),
    }
}
