//! Faults in the system calls of a program and of the processes that it starts, for tests.
//!
//! [`trace`] runs a shell script under ptrace(2) and lists the system calls of our programs in it. With a [`Case`]
//! it lets exactly one of these calls fail, or kills the process immediately before or after the call. A call is
//! named by its process, its name and its number among the calls of this name, so a case hits the same call in
//! each run of a deterministic program.
//!
//! Only processes that execute our programs are counted: from `main` of a program, and all of the embedded init,
//! which also is the stage. If such a process executes another program, that program and the init run on
//! untraced.

#![forbid(unsafe_code)]

mod case;
mod table;
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod tracer;

use std::io;
use std::process::Command;

pub use case::{Call, Case, Fault, Run, Script};

/// Returns whether [`trace`] supports this target.
pub const fn is_supported() -> bool {
    cfg!(all(target_arch = "x86_64", target_env = "gnu"))
}

/// Runs a script, and injects the fault of a case into it.
///
/// `set_up` sets the environment and the standard streams. The streams must not be pipes to this process, because
/// nothing reads them meanwhile. The calling thread waits for all children of the calling process: no other
/// thread may start one. If the calling process is a subreaper
/// ([prctl(2)](https://man7.org/linux/man-pages/man2/prctl.2.html), `PR_SET_CHILD_SUBREAPER`), its children
/// include all processes that the script left behind.
///
/// Returns when the shell has ended, and each other traced process has ended or is no longer traced.
///
/// # Errors
/// - `Unsupported`: the target is not x86_64 with the GNU C library.
/// - The errors of [ptrace(2)](https://man7.org/linux/man-pages/man2/ptrace.2.html): `EPERM` without
///   `CAP_SYS_PTRACE`, if the program changes its user or is traced already.
pub fn trace(script: &Script, case: Option<&Case>, set_up: impl FnOnce(&mut Command)) -> io::Result<Run> {
    #[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
    {
        tracer::run(script, case, set_up)
    }
    #[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
    {
        let _ = (script, case, set_up, table::errnos("", [0; 6]));
        Err(io::ErrorKind::Unsupported.into())
    }
}
