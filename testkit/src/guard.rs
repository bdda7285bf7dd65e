//! Child processes that end with the test, and tests in a thread or process of their own.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};

use crate::program::{PATIENCE, run_with};

/// A child process. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Guard(pub Child);

impl Guard {
    /// Starts a shell script with pipes for its standard input and output.
    ///
    /// # Panics
    /// If the shell cannot be started.
    pub fn sh(script: &str) -> Guard {
        let mut command = Command::new("sh");
        Guard(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Starts a process that sleeps.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn sleep() -> Guard {
        Guard(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    /// Returns the pid as the kernel's type.
    ///
    /// # Panics
    /// Never: a pid fits.
    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The child may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the function in its own thread, so that a hang fails the test instead of blocking it.
///
/// # Panics
/// If the function panics, or does not return within [`PATIENCE`].
#[track_caller]
pub fn in_time(test: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel();
    let thread = std::thread::spawn(move || {
        test();
        // The receiver is gone if the function took too long.
        let _ = done.send(());
    });
    // If the function panicked, `join` returns its panic.
    let hangs = wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
    assert!(!hangs, "the function hangs");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs one test of this program again in its own process, where no other test opens descriptors or starts
/// threads. Returns `true` in the parent after the run, and `false` in that process.
///
/// # Panics
/// If the test fails in that process.
#[track_caller]
pub fn in_own_process(test: &str) -> bool {
    const VARIABLE: &str = "NSPOD_TEST_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = run_with(command.args(["--exact", test, "--test-threads=1"]).env(VARIABLE, "1"), "");
    assert!(output.status.success() && output.out.contains("1 passed"), "{}{}", output.out, output.err);
    true
}
