//! A scope that a placeholder process keeps alive.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::pipe2;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys;

/// A scope with a placeholder in it, so that it lives although nothing runs in it yet.
///
/// The placeholder counts as a process of the cgroup: a `pids.max` of 1 leaves no room beside it,
/// and the cgroup cannot hand controllers down.
#[derive(Debug)]
pub struct Held {
    pub(super) cgroup: Cgroup,
    pub(super) placeholder: Placeholder,
}

impl Held {
    /// The scope's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends the placeholder, which is gone and reaped on return. If there is no other process in
    /// the scope, it ends as well. So it does when this is dropped.
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
    /// It ends when this does.
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
        // Even where the scope is frozen.
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
    fn a_placeholder_waits_and_is_gone_when_it_is_dropped() {
        let placeholder = Placeholder::start().unwrap();
        let dir = PathBuf::from(format!("/proc/{}", placeholder.pid));
        let descriptors = || std::fs::read_dir(dir.join("fd")).unwrap().count();
        while descriptors() > 1 {
            std::thread::yield_now(); // It is on its way.
        }
        assert_eq!(descriptors(), 1);
        drop(placeholder);
        assert!(!dir.exists());
    }
}
