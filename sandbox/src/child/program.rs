//! The program, and the hooks that run before it.

use ::core::ffi::c_int;
use ::core::option::Option::Some;
use ::core::result::Result::{Err, Ok};
use ::libc;
use ::std::os::fd::AsRawFd;

use super::context::ChildContext;
use super::sys::{
    Done, Fault, clone_copy, close, close_range, dup3, execve, exit, fexecve, kill, seek, unblock_signals,
    wait_readable, wait4,
};
use crate::step::{Call, Exec, Hook};

/// Exit status of a hook that could not be executed, as in a shell.
const NOT_EXECUTED: c_int = 127;

/// Executes the program.
pub(super) fn execute(exec: &Exec, context: &ChildContext<'_>) -> Done {
    if let Some(note) = context.note {
        note.executes();
    }
    if let Some(file) = &exec.file {
        let file = if context.image >= 0 { context.image } else { file.as_raw_fd() };
        return fexecve(file, &exec.argv, &exec.envp);
    }
    // This follows execvp(3): a directory without the program is skipped. If a program may not be
    // executed, its error is returned unless a later candidate can be executed.
    let mut errno = libc::ENOENT;
    for path in exec.candidates.iter() {
        let Err(fault) = execve(path, &exec.argv, &exec.envp) else { return Ok(()) };
        match fault.errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => errno = libc::EACCES,
            _ => return Err(fault),
        }
    }
    Err(Fault { call: Call::Execve, errno })
}

/// Runs a hook and waits for its end. A copy of this process executes the hook. The copy shares no
/// memory or descriptors with this process.
pub(super) fn hook(hook: &Hook, context: &mut ChildContext<'_>) -> Done {
    context.restore_umask();
    seek(context.state, 0)?;
    let (pid, pidfd) = clone_copy()?;
    if pid == 0 {
        let _ = execute_hook(hook, context);
        exit(NOT_EXECUTED)
    }
    let done = wait_for_hook(hook, pid, pidfd);
    close(pidfd);
    done
}

fn execute_hook(hook: &Hook, context: &ChildContext<'_>) -> Done {
    dup3(context.state, 0)?;
    close_range(3, u32::MAX, 0)?;
    unblock_signals()?;
    execve(&hook.path, &hook.argv, &hook.envp)
}

fn wait_for_hook(hook: &Hook, pid: c_int, pidfd: c_int) -> Done {
    // All signals are blocked, so signals do not interrupt this call.
    let ended = wait_readable(pidfd, hook.timeout)?;
    if !ended {
        kill(pid, libc::SIGKILL)?;
    }
    let status = wait4(pid)?;
    match (ended, status) {
        (false, _) => Err(Fault { call: Call::Ppoll, errno: libc::ETIMEDOUT }),
        (true, 0) => Ok(()),
        // The call tells the parent that the value is a wait status.
        (true, status) => Err(Fault { call: Call::Wait4, errno: status }),
    }
}
