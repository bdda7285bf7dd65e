//! `nspod exec`: runs another process in a container.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use nspod_sandbox::{Command, Container, Stdio};

use super::print_id;
use crate::error::{Error, Result};
use crate::flags::Facts;
use crate::flags::bounds::{BoundArgs, ended};
use crate::flags::limits::LimitArgs;
use crate::flags::process::{CommonArgs, separate_keys};
use crate::report::End;
use crate::state::{Entry, State, Store};
use crate::{foreground, output, terminal};

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Run in the background and discard the output. No keys leave a command with -it running: its terminal ends with
    /// nspod, and `nspod attach` returns only to the terminal of a container
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    process: CommonArgs,
    #[command(flatten)]
    bounds: BoundArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(crate) fn exec(args: &ExecArgs, json: bool) -> Result<i32> {
    args.bounds.reported(json, |end| start(args, json, end))
}

/// Runs the command, and stores its end in `end`.
fn start(args: &ExecArgs, json: bool, end: &mut End) -> Result<i32> {
    if args.detach && (args.process.tty || args.process.interactive) {
        return Err(Error::usage("--detach", "-d conflicts with -t and -i"));
    }
    let entry = Store::open()?.find(&args.id)?;
    end.id = Some(entry.id().into());
    let container = entry.open()?;
    // In a frozen cgroup the new process would stop, and this process would wait for its vfork: only
    // SIGKILL ends that wait.
    if entry.state()? == State::Paused {
        return Err(Error::state("exec", entry.id(), format!("the container {} is paused", entry.id()))
            .hint(format!("`nspod unpause {}` resumes it", entry.id())));
    }
    let mut command = args.command_in(&container).map_err(|e| or_ended(&entry, e))?;
    command.args(&args.command[1..]);
    let root = PathBuf::from(format!("/proc/{}/root", container.pid()));
    args.process.apply(command.spec_mut(), &Facts::detect()?, &[root])?;
    let keyring = entry.record()?.container.spec.process.keyring.as_deref();
    separate_keys(&mut command.spec_mut().process, entry.id(), keyring);
    if args.process.tty {
        command.spec_mut().process.terminal = Some(terminal::size());
    } else if !args.process.interactive {
        command.stdin(Stdio::Null);
    }
    if args.detach {
        command.stdout(Stdio::Null).stderr(Stdio::Null);
        command.spawn().map_err(|e| or_ended(&entry, e.into()))?.detach();
        if json {
            print_id(entry.id(), json)?;
        }
        return Ok(0);
    }
    let signals = foreground::Signals::hold()?;
    let mut process = command.spawn().map_err(|e| or_ended(&entry, e.into()))?;
    let terminal = process.terminal.take();
    let attended = terminal
        .map(|master| terminal::Relay::new(master, args.process.interactive))
        .transpose()
        .and_then(|relay| foreground::attend(&mut process, &signals, relay));
    if attended.is_err() {
        let _ = process.kill();
        let _ = process.wait();
    }
    let outcome = end.outcome.insert(attended?);
    // Without a cgroup of its own, the process shares this count with the container.
    if let Some(oom) = outcome.oom.as_ref().filter(|_| process.cgroup().is_some()) {
        output::note(oom);
    }
    let code = ended("the command", outcome);
    process.delete()?;
    Ok(code)
}

/// Returns the error of a start. If the container is ending, any step can have failed because of that.
fn or_ended(entry: &Entry, error: Error) -> Error {
    let ends = entry.saved().is_some_and(|saved| saved.container.process.is_ending().unwrap_or(false));
    if !ends {
        return error;
    }
    let problem = format!("the container {} is not running: it has just ended ({error})", entry.id());
    Error::state("exec", entry.id(), problem)
}

impl ExecArgs {
    /// Returns the command for an additional process, or for a call if it has limits of its own.
    fn command_in(&self, container: &Container) -> Result<Command> {
        let program = self.command.first().cloned().unwrap_or_default();
        let limits = self.limits.resolve()?;
        let limited = !limits.is_empty() || self.bounds.limits_time();
        // The report then has the usage of all processes of the command.
        let reported = self.bounds.reports() && container.cgroup().is_some();
        if !limited && !reported {
            return Ok(container.exec(program)?);
        }
        let mut command = container.call(program)?;
        command.limits(limits).die_with_parent(false);
        self.bounds.apply(&mut command);
        Ok(command)
    }
}
