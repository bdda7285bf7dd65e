//! A thread that does a part of a start for the thread that clones.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::error::Error;
use crate::signals::BlockedSignals;

/// The thread, and the name of its step and what it does, for errors.
pub(super) struct Helper {
    thread: JoinHandle<Result<(), Error>>,
    step: &'static str,
    what: &'static str,
}

impl Helper {
    /// Starts the thread. Handlers of this program do not run in it.
    ///
    /// # Errors
    /// `EAGAIN`: the user or a cgroup has reached its limit on processes.
    pub(super) fn start(
        name: &str,
        stack: usize,
        (step, what): (&'static str, &'static str),
        work: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<Helper, Error> {
        let _signals = BlockedSignals::new();
        let thread = Builder::new().name(name.into()).stack_size(stack).spawn(work);
        let thread = thread.map_err(|e| Error::io(step, format!("start a thread to {what}"), "clone", &e))?;
        Ok(Helper { thread, step, what })
    }

    /// Waits for the end of the thread, and returns its result.
    pub(super) fn join(self) -> Result<(), Error> {
        self.thread.join().unwrap_or_else(|_| {
            Err(Error::io(self.step, self.what, "clone", &io::Error::other("the thread panicked")))
        })
    }
}
