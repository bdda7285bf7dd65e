//! Running programs with every wait bounded.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The time after which a wait counts as hanging. The guest lane is an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The end and the output of a program.
#[derive(Debug)]
pub struct Output {
    /// How the program ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// Returns the exit code as a shell reports it: 128 and the number for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Returns the standard output of a program that succeeded.
    ///
    /// # Panics
    /// If the exit code is not 0 or something was written to standard error.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!((self.code(), self.err.as_str()), (0, ""), "{}", self.out);
        &self.out
    }
}

/// Copies an executable file.
///
/// Another process writes the copy. If this process wrote it, a child of a concurrent test could inherit the
/// open descriptor for a moment, and execve(2) of the copy would fail with `ETXTBSY`.
///
/// # Panics
/// If the file cannot be copied.
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    run_with(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()), "").ok();
}

/// Runs a program to its end with this text on its standard input.
///
/// # Panics
/// If the program cannot be started, or hangs.
#[track_caller]
pub fn run_with(command: &mut Command, input: &str) -> Output {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdin = child.stdin.take();
    let (out, err) = (drain(child.stdout.take()), drain(child.stderr.take()));
    // A program that does not read its input leaves a broken pipe.
    let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
    let status = end_of(&mut child);
    let [out, err] = [out, err].map(|text| text.join().unwrap());
    Output { status, out, err }
}

fn drain(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.unwrap().read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end of a child.
///
/// # Panics
/// If the child does not end within [`PATIENCE`]. It is killed then.
#[track_caller]
pub fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status,
            Ok(None) => {}
            Err(e) => panic!("cannot wait for process {}: {e}", child.id()),
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("process {} hangs", child.id());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a condition holds. `what` names the condition.
///
/// # Panics
/// If the condition does not hold within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "this never happened: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
