//! The processes that this program started and must reap.
//!
//! The init of a pid namespace ends only after every process in that namespace has been reaped. A
//! process that [`exec`](crate::exec) starts in a container is a child of this program, not of the
//! container's init. Therefore a wait for the container also reaps these processes, and keeps their
//! exit statuses for a later wait.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ns_core::{Exit, Pidfd};

use crate::error::Error;

/// Maximum delay before a wait notices a process that is added to its list.
const NOTICE: Duration = Duration::from_millis(200);

/// A process that this program waits for, usually its child.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    pub(crate) pid: i32,
    pub(crate) pidfd: Pidfd,
    /// Whether another process reaps it.
    foreign: bool,
    end: Mutex<Option<End>>,
}

/// The end of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// This program has reaped the process.
    Reaped(Exit),
    /// Another process reaps the process.
    Foreign,
}

impl ChildProcess {
    pub(crate) fn new(pid: i32, pidfd: Pidfd) -> Arc<ChildProcess> {
        Arc::new(ChildProcess { pid, pidfd, foreign: false, end: Mutex::new(None) })
    }

    /// Returns a process that another process reaps.
    pub(crate) fn foreign(pid: i32, pidfd: Pidfd) -> Arc<ChildProcess> {
        Arc::new(ChildProcess { pid, pidfd, foreign: true, end: Mutex::new(None) })
    }

    /// Sends SIGKILL, unless the process has ended.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        match self.pidfd.send_signal(libc::SIGKILL) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Returns the end of the process if it is known already.
    pub(crate) fn known(&self) -> Option<End> {
        *self.end.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Reaps the process if it has ended and is a child.
    pub(crate) fn reap(&self) -> Result<Option<End>, Error> {
        let mut end = self.end.lock().unwrap_or_else(|e| e.into_inner());
        if end.is_none() {
            *end = match self.foreign {
                true => self.pidfd.poll(Some(Duration::ZERO))?.then_some(End::Foreign),
                false => self.pidfd.try_wait()?.map(End::Reaped),
            };
        }
        Ok(*end)
    }

    /// Waits for the process to end, for at most `timeout`. Reaps the processes in `others` that
    /// end earlier.
    pub(crate) fn wait(&self, others: &ReapList, timeout: Option<Duration>) -> Result<Option<End>, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            // Without a timeout, poll(2) comes first: this saves a call.
            let ended = if deadline.is_some() { self.reap()? } else { self.known() };
            if ended.is_some() {
                return Ok(ended);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let present = others.present();
            let patience = match (left, others.is_shared()) {
                (None, false) => PollTimeout::NONE,
                (left, shared) => {
                    let most = if shared { NOTICE } else { Duration::from_secs(3600) };
                    let wait = left.unwrap_or(most).min(most);
                    PollTimeout::try_from(wait.as_millis().max(1)).unwrap_or(PollTimeout::MAX)
                }
            };
            let all = std::iter::once(self).chain(present.iter().map(Arc::as_ref));
            let mut fds: Vec<_> = all.map(|p| PollFd::new(p.pidfd.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut fds, patience) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                // The tracer of a process learns of its end first. Sleep instead of spinning.
                Ok(_) if self.reap()?.is_none() => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) => {}
                Err(e) => {
                    return Err(Error::call("process", "wait for the container", "poll", e as i32));
                }
            }
        }
    }
}

/// The processes that must be reaped before a pid namespace can end.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReapList(Arc<Mutex<Vec<Arc<ChildProcess>>>>);

impl ReapList {
    /// Adds a process, and removes those whose end is known.
    pub(crate) fn add(&self, process: &Arc<ChildProcess>) {
        self.forget_ended();
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(process.clone());
    }

    /// Removes the processes whose end is known: each holds a descriptor.
    pub(crate) fn forget_ended(&self) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).retain(|process| process.known().is_none());
    }

    /// Reaps the processes that have ended, and returns the others.
    fn present(&self) -> Vec<Arc<ChildProcess>> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|process| matches!(process.reap(), Ok(None)));
        all.clone()
    }

    /// Reaps the processes that have ended. Returns the time after which the next call is necessary, if any is.
    #[cfg(feature = "tokio")]
    pub(crate) fn next_look(&self) -> Option<Duration> {
        (!self.present().is_empty() || self.is_shared()).then_some(NOTICE)
    }

    /// Returns whether another handle can add a process.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Reaps a process that was killed. Does not reap a process that is a child of another program.
///
/// The end of a process can be delayed: its tracer learns of it first, and the init of a pid
/// namespace ends after all others in it, which this thread may reap later. Therefore a thread
/// continues after 200 ms.
pub(crate) fn reap(process: Arc<ChildProcess>, others: &ReapList) {
    if let Ok(None) = process.wait(others, Some(Duration::from_millis(200))) {
        let others = others.clone();
        let later = std::thread::Builder::new().name("nspod-reap".into());
        let _ = later.spawn(move || process.wait(&others, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_drops_a_process_whose_end_is_known() {
        let list = ReapList::default();
        for _ in 0..3 {
            let pid = std::process::Command::new("true").spawn().unwrap().id() as i32;
            let process = ChildProcess::new(pid, Pidfd::open(pid).unwrap());
            list.add(&process);
            process.wait(&ReapList::default(), None).unwrap();
        }
        assert_eq!(list.0.lock().unwrap().len(), 1);
        list.forget_ended();
        assert!(list.0.lock().unwrap().is_empty());
    }
}
