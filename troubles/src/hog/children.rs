//! Processes that a hog or a victim starts: this program with the argument `child`.

use std::io::{self, Read};
use std::process::{Child, Command, ExitCode, Stdio};

use super::act::touched;

/// Runs as a child: does what the arguments say. `end` ends at once, `wait` waits for ever, and `hold BYTES` holds
/// memory for ever.
pub fn child(work: &[&str]) -> ExitCode {
    match work {
        ["end"] => ExitCode::SUCCESS,
        ["wait"] => park(),
        ["hold", bytes] => {
            let held = touched(bytes.parse().unwrap_or(0));
            println!("{}", held.len());
            park()
        }
        _ => ExitCode::from(2),
    }
}

fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Starts this program again, with a pipe as its standard output.
///
/// # Errors
/// As clone(2) and execve(2).
pub(super) fn start(work: &[&str]) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("child").args(work).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// Waits until the child prints something or ends. Returns whether it printed something.
pub(super) fn is_ready(child: &mut Child) -> bool {
    let mut first = [0];
    child.stdout.as_mut().is_some_and(|out| out.read(&mut first).is_ok_and(|len| len == 1))
}
