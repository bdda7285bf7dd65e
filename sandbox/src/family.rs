//! Processes that this program has started, and must reap for one another.
//!
//! The first process of a pid namespace ends when everybody in it has been reaped, and a
//! further process in a container is a child of this program and not of the container. So
//! who waits for a container reaps its guests as well, and keeps how they ended for
//! whoever asks.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ns_core::{Exit, Pidfd};

use crate::error::{Error, ErrorKind};

/// A child of this program.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) pidfd: Pidfd,
    exit: Mutex<Option<Exit>>,
}

impl Process {
    pub(crate) fn new(pid: i32, pidfd: Pidfd) -> Arc<Process> {
        Arc::new(Process { pid, pidfd, exit: Mutex::new(None) })
    }

    /// How it ended, if it was reaped.
    fn known(&self) -> Option<Exit> {
        *self.exit.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How it ended, if it did; it is then reaped.
    fn reap(&self) -> Result<Option<Exit>, Error> {
        let mut exit = self.exit.lock().unwrap_or_else(|e| e.into_inner());
        if exit.is_none() {
            *exit = self.pidfd.try_wait()?;
        }
        Ok(*exit)
    }

    /// Waits for its end, and reaps those in `guests` that end before.
    pub(crate) fn wait(&self, guests: &Guests, timeout: Option<Duration>) -> Result<Option<Exit>, Error> {
        /// A guest that is started meanwhile is noticed so late at most.
        const NOTICE: Duration = Duration::from_millis(200);
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            // Who waits for ever has the kernel wait first.
            let ended = if deadline.is_some() { self.reap()? } else { self.known() };
            if ended.is_some() {
                return Ok(ended);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let present = guests.present();
            let patience = match (left, guests.is_shared()) {
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
                // One that is traced has ended for its tracer first: not to spin meanwhile.
                Ok(_) if self.reap()?.is_none() => std::thread::sleep(Duration::from_millis(1)),
                Ok(_) => {}
                Err(e) => {
                    return Err(Error::call(ErrorKind::Process, "wait for the container", "poll", e as i32));
                }
            }
        }
    }
}

/// Further processes in a container, as long as they have not been reaped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guests(Arc<Mutex<Vec<Arc<Process>>>>);

impl Guests {
    pub(crate) fn add(&self, process: &Arc<Process>) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(process.clone());
    }

    /// Reaps those that have ended; the others.
    fn present(&self) -> Vec<Arc<Process>> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.retain(|process| matches!(process.reap(), Ok(None)));
        all.clone()
    }

    /// Somebody else can start one.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Reaps a process that was killed; if it is another process's child, that is the other's to do.
///
/// It may take its time: a tracer hears of its end first, and one whose pid namespace it held may
/// be reaped later, by this very thread. So nothing waits here.
pub(crate) fn reap(process: Arc<Process>, guests: &Guests) {
    if let Ok(None) = process.wait(guests, Some(Duration::from_millis(200))) {
        let guests = guests.clone();
        let later = std::thread::Builder::new().name("nspod-reap".into());
        let _ = later.spawn(move || process.wait(&guests, None));
    }
}
