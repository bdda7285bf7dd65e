//! A scope that a placeholder process keeps alive.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys;

/// A scope with a placeholder process, which keeps the scope alive while no program runs in it.
/// [systemd.scope(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.scope.html).
///
/// The placeholder counts as a process of the cgroup. So a `pids.max` of 1 permits no other
/// process, and the cgroup cannot enable controllers for children. Dropping this ends the
/// placeholder.
#[derive(Debug)]
pub struct Held {
    pub(super) cgroup: Cgroup,
    pub(super) placeholder: Placeholder,
}

impl Held {
    /// Returns the cgroup of the scope.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends the placeholder and returns the cgroup. On return the placeholder is reaped. If no
    /// other process is in the scope, the scope ends too.
    pub fn release(self) -> Cgroup {
        drop(self.placeholder);
        self.cgroup
    }
}

/// A child that does nothing. It ends with the caller at the latest.
#[derive(Debug)]
pub(super) struct Placeholder {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// Write end of the pipe. The child ends when it is closed.
    _alive: OwnedFd,
}

impl Placeholder {
    pub(super) fn start() -> Result<Self> {
        let fail = |call, errno| Error::os("start a process to hold a scope".to_owned(), call, errno, None);
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| fail("pipe2", errno))?;
        let (pid, pidfd) = sys::idle_child(&theirs).map_err(|errno| fail("clone3", errno))?;
        Ok(Self { pid, pidfd, _alive: ours })
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // SIGKILL also ends a frozen process.
        let _ = sys::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        let wait = || waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::__WALL);
        while wait() == Err(Errno::EINTR) {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_placeholder_waits_and_ends_when_it_is_dropped() {
        let placeholder = Placeholder::start().unwrap();
        let dir = PathBuf::from(format!("/proc/{}", placeholder.pid));
        let descriptors = || std::fs::read_dir(dir.join("fd")).unwrap().count();
        while descriptors() > 1 {
            std::thread::yield_now(); // The child has not yet closed its descriptors.
        }
        assert_eq!(descriptors(), 1);
        drop(placeholder);
        assert!(!dir.exists());
    }
}
