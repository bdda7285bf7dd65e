//! The createContainer hooks of a container that joins a pid namespace.
//!
//! The child of such a start must not clone processes: they would start in that pid namespace,
//! where the container's processes can see them while they hold the caller's memory. Therefore the
//! parent runs these hooks, in the child's other namespaces.

use std::fs::File;
use std::io::Seek;
use std::sync::Arc;
use std::time::Duration;

use ns_core::{ExitStatus, Kind};

use crate::error::{Error, ErrorKind};
use crate::fd::duplicate;
use crate::join;
use crate::plan::{Handles, Plan};
use crate::spawn::failure::hook_failed;
use crate::spawn::{self, Premade, Prepared, Start};
use crate::spec::{Hook, NamespaceMode, Spec};
use crate::stdio::{Stdio, Streams};

/// Runs a hook and waits for its end. The hook gets the state on standard input.
pub(super) fn run(hook: &Hook, container: &Prepared<'_>) -> Result<(), Error> {
    let what = format!("run the createContainer hook {}", hook.path.display());
    let plan = plan(hook, container)?;
    let stdio = [stdin(container.state)?, Stdio::Inherit, Stdio::Inherit].map(Arc::new);
    let mut streams = Streams::open(&stdio, false)?;
    let spawned = spawn::spawn(Start {
        plan: &plan,
        stdio: streams.child(),
        cgroup: None,
        exit_file: None,
        kill_file: None,
        premade: Premade::default(),
        limiter: None,
        on_ready: &mut |_| Ok(()),
    })?;
    streams.close_child();
    let pidfd = spawned.pidfd;
    let ended = match hook.timeout {
        Some(seconds) => pidfd.wait_timeout(Duration::from_secs(seconds.into()))?,
        None => Some(pidfd.wait()?),
    };
    let Some(exit) = ended else {
        pidfd.send_signal(libc::SIGKILL)?;
        pidfd.wait()?;
        let hint = "it took longer than its timeout and was killed";
        let error = Error::new(ErrorKind::HookFailed, "hook", format!("cannot {what}: {hint}"));
        return Err(error.on(hook.path.display().to_string()));
    };
    let failed = |status| hook_failed(&what, status).on(hook.path.display().to_string());
    match exit.status {
        ExitStatus::Exited(0) => Ok(()),
        ExitStatus::Exited(code) => Err(failed(code << 8)),
        ExitStatus::Signaled { signal, .. } => Err(failed(signal)),
    }
}

/// Plans the hook as a process that joins all of the container's namespaces except its pid
/// namespace.
fn plan(hook: &Hook, container: &Prepared<'_>) -> Result<Plan, Error> {
    let mut spec = Spec::bare(&hook.path);
    spec.namespaces = join::namespaces_of(container.pid, container.pidfd)?;
    *spec.namespaces.get_mut(Kind::Pid) = NamespaceMode::Host;
    spec.process.env = hook.env.clone().unwrap_or_default();
    spec.process.args = hook.args.clone();
    let process = Some((container.pid, duplicate(container.pidfd)?));
    Plan::new(&spec, Handles { process, file: Some(hook.path.clone()), ..Handles::default() })
}

fn stdin(state: Option<&File>) -> Result<Stdio, Error> {
    let Some(state) = state else { return Ok(Stdio::Inherit) };
    let failed = |call| move |e| Error::io("hook", "pass the state to a hook", call, &e);
    let copy = state.try_clone().map_err(failed("fcntl"))?;
    (&copy).rewind().map_err(failed("lseek"))?;
    Ok(Stdio::Fd(copy.into()))
}
