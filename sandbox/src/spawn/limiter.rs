//! The network limits of a start. To load their programs costs as much as the rest of a start, so another thread
//! sets the limits while the child makes namespaces and mounts.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use cgroup_core::Cgroup;
use rustix::net::{Shutdown, shutdown};

use crate::error::Error;
use crate::plan::Plan;
use crate::spawn::helper::Helper;
use crate::spawn::socket::{send_word, socket_pair};

/// A thread that sets the network limits, and then lets the child continue after [`Step::AwaitLimits`](crate::step::Step::AwaitLimits).
pub(crate) struct NetLimiter {
    child_end: OwnedFd,
    thread: Option<Helper>,
}

impl NetLimiter {
    const STACK: usize = 256 << 10;

    /// Starts the thread, if the plan has network limits.
    ///
    /// # Errors
    /// - `EAGAIN`: the user or a cgroup has reached its limit on processes.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub(crate) fn start(plan: &Arc<Plan>, cgroup: Option<&Cgroup>) -> Result<Option<NetLimiter>, Error> {
        let (Some(_), Some(cgroup)) = (plan.net_limits(), cgroup) else { return Ok(None) };
        let (parent_end, child_end) = socket_pair(0)?;
        let (child, cgroup, plan) = (Child(parent_end), cgroup.try_clone()?, plan.clone());
        let work = move || {
            if let Some(net) = plan.net_limits() {
                cgroup.limit_net(net)?;
            }
            send_word(&child.0)
        };
        let thread =
            Helper::start("nspod-net", NetLimiter::STACK, ("limits", "set the network limits"), work)?;
        Ok(Some(NetLimiter { child_end, thread: Some(thread) }))
    }

    /// Returns the descriptor from which the child reads.
    pub(super) fn child_end(&self) -> RawFd {
        self.child_end.as_raw_fd()
    }

    /// Waits until the limits are set.
    ///
    /// # Errors
    /// The limits cannot be set. The child has ended, or is about to end.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.thread.take().map_or(Ok(()), Helper::join)
    }
}

impl Drop for NetLimiter {
    /// Waits for the end of the thread, so that it does not use a cgroup that the caller removes.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The parent's end of the socket. The child ends when it finds the end of the file, unless it has read a byte.
struct Child(OwnedFd);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = shutdown(&self.0, Shutdown::Write);
    }
}
