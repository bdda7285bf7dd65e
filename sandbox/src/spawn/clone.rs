//! The clone, and the processes that it makes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicI32;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use ns_core::{Clone3, Kinds, Pidfd};

use crate::child::ChildContext;
use crate::error::{Error, ErrorKind};
use crate::plan::Plan;
use crate::spawn::failure::killed;
use crate::spawn::stack::{Memory, Stack};

/// Clones the first process into new namespaces of these kinds. The process also enters the cgroup,
/// unless a later clone does. The kernel stores its pid in `parent_tid`.
pub(super) fn clone_first(
    plan: &Plan,
    kinds: Kinds,
    stack: &Stack,
    context: &mut ChildContext<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    parent_tid: Option<&AtomicI32>,
) -> Result<Processes, Error> {
    let cgroup = cgroup.filter(|_| !plan.cgroup_at_second);
    let memory = if plan.shared_memory { Memory::Shared } else { Memory::Copied };
    let (pid, first) =
        stack.start(Clone3 { kinds, cgroup, parent_tid, ..Clone3::default() }, memory, context)?;
    Ok(Processes { pid, first, second: None })
}

/// Returns whether a process is a child of this process that has not been reaped.
fn is_child(pidfd: &Pidfd) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
            Err(Errno::EINTR) => {}
            waited => return waited.is_ok(),
        }
    }
}

/// The processes of one start: the first, and its sibling if a step clones again.
pub(super) struct Processes {
    pub(super) pid: i32,
    pub(super) first: Pidfd,
    pub(super) second: Option<(i32, Pidfd)>,
}

impl Processes {
    /// Returns the process that executes the program, or the first process if the second is not
    /// known yet.
    pub(super) fn last(&self) -> (i32, &Pidfd) {
        self.second.as_ref().map_or((self.pid, &self.first), |(pid, pidfd)| (*pid, pidfd))
    }

    /// Returns the process that executed the program. If that is the second process, reaps the
    /// first.
    pub(super) fn settle(self) -> (i32, Pidfd) {
        let Some(second) = self.second else { return (self.pid, self.first) };
        let _ = self.first.wait();
        second
    }

    /// Adds the sibling. The stage sends a pidfd, which it can have only of a process that it sees.
    /// Without a pidfd, the process must be a child of this process: a tracer of the sender could
    /// name any pid, and this process would later kill the process with that pid. The pid of a child
    /// stays valid until this process reaps the child.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`]: the pidfd is missing, or the process is not a child.
    pub(super) fn add(&mut self, plan: &Plan, pid: i32, fd: Option<OwnedFd>) -> Result<(), Error> {
        self.second = Some(match fd {
            Some(fd) => {
                let pidfd = Pidfd::from_owned_fd(fd)?;
                (pidfd.pid()?, pidfd)
            }
            None if plan.enters() => {
                let what = "the stage did not send the pidfd of its sibling";
                return Err(Error::new(ErrorKind::Protocol, "process", what));
            }
            None => {
                let pidfd = Pidfd::open(pid)?;
                if !is_child(&pidfd) {
                    let problem = format!("the child reported process {pid}, which is not its sibling");
                    return Err(Error::new(ErrorKind::Protocol, "process", problem));
                }
                (pid, pidfd)
            }
        });
        Ok(())
    }

    /// Waits until the socket is readable.
    ///
    /// The second process already waits for this process, and the first process has not reported it
    /// yet.
    ///
    /// # Errors
    /// The first process was killed before it reported the second.
    pub(super) fn wait_for_second(&self, plan: &Plan, socket: &OwnedFd) -> Result<(), Error> {
        let mut fds = [socket.as_fd(), self.first.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(e) => {
                    return Err(Error::call("process", "wait for the child", "poll", e as i32));
                }
                Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                Ok(_) => return Err(killed(&plan.program(), self.first.wait().ok().map(|exit| exit.status))),
            }
        }
    }

    /// Kills and reaps all processes.
    pub(super) fn destroy(self) {
        let second = self.second.iter().map(|(_, pidfd)| pidfd);
        for pidfd in second.chain([&self.first]) {
            let _ = pidfd.send_signal(libc::SIGKILL);
        }
        let _ = self.first.wait();
        if let Some((_, pidfd)) = self.second {
            let _ = pidfd.wait();
        }
    }
}
