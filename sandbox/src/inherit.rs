//! Prevents a program that `std::process::Command` starts from inheriting descriptors and signal
//! state.

use nix::sys::signal::Signal;

use crate::child;

/// Makes a command start with only its standard streams, and with all signals unblocked and at
/// their default actions.
///
/// Without this, the program inherits descriptors without `FD_CLOEXEC`, blocked signals and ignored
/// signals from the caller.
///
/// Since Linux 5.11, which has `CLOSE_RANGE_CLOEXEC`
/// ([close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html)). On an older kernel
/// the command fails with `EINVAL` or `ENOSYS`.
///
/// ```
/// # use std::os::fd::AsRawFd;
/// let file = std::fs::File::open("/dev/null")?;
/// // Remove FD_CLOEXEC, as for a descriptor that the caller has inherited.
/// nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
/// let mut command = std::process::Command::new("test");
/// command.arg("-e").arg(format!("/dev/fd/{}", file.as_raw_fd()));
/// assert!(command.status()?.success());
/// nspod_sandbox::inherit_nothing(&mut command);
/// assert!(!command.status()?.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn inherit_nothing(command: &mut std::process::Command) {
    child::inherit_nothing(command);
}

/// Resets `SIGCHLD` to its default action in this process.
///
/// A process that ignores `SIGCHLD` cannot wait for its children, and its children inherit the
/// setting. A program that starts containers calls this once, before anything else. The library
/// does not call it itself, because signal actions belong to the whole process.
pub fn notice_children() {
    child::default_signal(Signal::SIGCHLD as i32);
}
