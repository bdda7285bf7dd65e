//! The createContainer hooks of a container that joins a pid namespace.
//!
//! The child that sets such a container up must not make processes: they would be born into that
//! pid namespace, with the caller's memory, where the container's processes see them. So its
//! parent runs these hooks, in all the other namespaces of the child.

use std::fs::File;
use std::io::Seek;
use std::time::Duration;

use ns_core::{ExitStatus, Kind, Pidfd};

use super::hook_failure;
use crate::command::Stdio;
use crate::container;
use crate::error::{Error, ErrorKind};
use crate::spec::{Hook, Namespace, Spec};

/// Runs a hook to its end, with the state on standard input.
pub(super) fn run(hook: &Hook, pid: i32, pidfd: &Pidfd, state: Option<&File>) -> Result<(), Error> {
    let what = format!("run the createContainer hook {}", hook.path.display());
    let mut command = container::exec(pidfd, pid, &Spec::bare(&hook.path), None, &hook.path)?;
    command.file(&hook.path);
    let spec = command.spec_mut();
    *spec.namespaces.get_mut(Kind::Pid) = Namespace::Host;
    spec.process.env = hook.env.clone().unwrap_or_default();
    spec.process.args = hook.args.clone();
    if let Some(state) = state {
        let failed = |call| move |e| Error::io(ErrorKind::Process, "hand on the state for hooks", call, &e);
        let copy = state.try_clone().map_err(failed("fcntl"))?;
        (&copy).rewind().map_err(failed("lseek"))?;
        command.stdin(Stdio::Fd(copy.into()));
    }
    let mut process = command.spawn()?;
    let limit = hook.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let outcome = match limit {
        Some(limit) => process.wait_timeout(limit)?,
        None => Some(process.wait()?),
    };
    let Some(outcome) = outcome else {
        process.kill()?;
        process.wait()?;
        let hint = "it took longer than its timeout and was killed";
        return Err(Error::new(ErrorKind::Step, format!("cannot {what}: {hint}")));
    };
    match outcome.status {
        ExitStatus::Exited(0) => Ok(()),
        ExitStatus::Exited(code) => Err(hook_failure(&what, code << 8)),
        ExitStatus::Signaled { signal, .. } => Err(hook_failure(&what, signal)),
    }
}
