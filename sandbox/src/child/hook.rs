//! Programs that are run on the way, by this process as their parent.

use ::core::ffi::c_int;
use ::core::option::Option::{None, Some};
use ::core::ptr;
use ::core::result::Result::{Err, Ok};
use ::libc;

use super::Loan;
use super::sys::{Done, Fault, call, close, drop, exit, unblock_signals};
use crate::step::{Call, Hook};

/// Exit status of a hook that could not be executed, as a shell's.
const NOT_EXECUTED: c_int = 127;

/// Runs it to its end. A copy of this process becomes it: clone3, which filters forbid, is
/// not needed, and nothing is shared that it could harm.
pub(super) fn run(hook: &Hook, loan: &Loan<'_>) -> Done {
    call!(Lseek, libc::SYS_lseek, loan.state, 0, libc::SEEK_SET)?;
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    let pid = call!(Clone, libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0)?;
    if pid == 0 {
        let _ = r#become(hook, loan);
        exit(NOT_EXECUTED)
    }
    let done = wait(hook, pid, pidfd);
    close(pidfd);
    done
}

fn r#become(hook: &Hook, loan: &Loan<'_>) -> Done {
    call!(Dup3, libc::SYS_dup3, loan.state, 0, 0)?;
    call!(CloseRange, libc::SYS_close_range, 3, u32::MAX, 0)?;
    unblock_signals()?;
    call!(Execve, libc::SYS_execve, hook.path.as_ptr(), hook.argv.as_ptr(), hook.envp.as_ptr()).map(drop)
}

fn wait(hook: &Hook, pid: c_int, pidfd: c_int) -> Done {
    let mut poll = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
    let limit = libc::timespec {
        tv_sec: match hook.timeout {
            Some(seconds) => seconds as libc::time_t,
            None => 0,
        },
        tv_nsec: 0,
    };
    let limit = match hook.timeout {
        Some(_) => &raw const limit,
        None => ptr::null(),
    };
    // All signals are blocked, so this is not interrupted.
    let ready = call!(Ppoll, libc::SYS_ppoll, &raw mut poll, 1, limit, ptr::null::<u64>(), 8)?;
    if ready == 0 {
        call!(Kill, libc::SYS_kill, pid, libc::SIGKILL)?;
    }
    let mut status: c_int = 0;
    call!(Wait4, libc::SYS_wait4, pid, &raw mut status, 0, ptr::null_mut::<libc::rusage>())?;
    match (ready, status) {
        (0, _) => Err(Fault { call: Call::Ppoll, errno: libc::ETIMEDOUT }),
        (_, 0) => Ok(()),
        (_, status) => Err(Fault { call: Call::Wait4, errno: status }),
    }
}
