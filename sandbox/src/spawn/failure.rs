//! Errors of a start: the child's reports as messages.

use ns_core::ExitStatus;

use crate::child::{Message, PremadeParts};
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::plan::Plan;
use crate::spec::Spec;
use crate::step::{Call, MountStep, Place, Step};

/// Returns the error for a message of the child.
pub(super) fn reported(plan: &Plan, message: Message) -> Error {
    let call = Call::from_u8(message.call);
    match plan.steps.get(usize::from(message.step)) {
        Some(step) => step_failed(step, Some(plan.spec()), call, message.value),
        None if message.step == PremadeParts::STEP => {
            let what = "enter the namespaces of the pool";
            Error::call("namespace", what, call.name(), message.value)
        }
        None => {
            Error::new(ErrorKind::Protocol, "process", "the child reported a step that is not in the plan")
        }
    }
}

/// Returns the error of a step. `value` is an errno, with the number of an option in the upper
/// bits. If the call is wait4(2), `value` is a wait status.
pub(super) fn step_failed(step: &Step, spec: Option<&Spec>, call: Call, value: i32) -> Error {
    if let (Step::Hook(_), Call::Wait4) = (step, call) {
        let object = step.object().unwrap_or_default();
        return hook_failed(&step.to_string(), value).on(object);
    }
    if let (Step::Exec(exec), Call::Wait4) = (step, call) {
        return killed(&exec.name, Some(ExitStatus::from_wait(value)));
    }
    let (option, errno) = (value >> Call::OPTION, value & ((1 << Call::OPTION) - 1));
    let mut error = Error::call(step.name(), step.to_string(), call.name(), errno);
    if let Step::Exec(_) = step {
        error = error.with_kind(exec_kind(errno));
    }
    // The kernel lacks the file system.
    if (call, errno) == (Call::Fsopen, libc::ENODEV) {
        error = error.with_kind(ErrorKind::Unsupported);
    }
    let object = match (step, call) {
        // This call opens the destination.
        (Step::Mount(MountStep { place: Place::In(dest), .. }), Call::Openat2) => Some(dest.to_string()),
        _ => step.object(),
    };
    match object {
        Some(object) => error.on(object),
        None => error,
    }
    .with_hint(hint::option(step, option).or_else(|| hint::step(step, spec, call, errno)))
}

/// Returns the kind of a failed execve(2).
pub(crate) fn exec_kind(errno: i32) -> ErrorKind {
    match errno {
        libc::ENOENT | libc::ENOTDIR => ErrorKind::ProgramNotFound,
        _ => ErrorKind::ProgramNotExecutable,
    }
}

/// Returns the error of a hook that ended with this wait status.
pub(crate) fn hook_failed(what: &str, status: i32) -> Error {
    let ended = match libc::WIFSIGNALED(status) {
        true => format!("it was ended by signal {}", libc::WTERMSIG(status)),
        false => match libc::WEXITSTATUS(status) {
            127 => {
                "it exited with code 127, which usually means that its program does not exist or cannot be executed".into()
            }
            code => format!("it exited with code {code}"),
        },
    };
    Error::new(ErrorKind::HookFailed, "hook", format!("cannot {what}: {ended}"))
}

/// Returns the error for a first process that ended before it executed the program.
pub(super) fn killed(program: &str, status: Option<ExitStatus>) -> Error {
    let how = match status {
        Some(exited @ ExitStatus::Exited(_)) => exited.to_string(),
        Some(signaled @ ExitStatus::Signaled { .. }) => format!("was {signaled}"),
        None => "ended".to_owned(),
    };
    let what = format!("cannot start {program}: the first process {how} while it was set up");
    Error::new(ErrorKind::Killed, "process", what).on(program)
}
