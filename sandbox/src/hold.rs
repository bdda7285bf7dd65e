//! A held container that another program can start. The container waits at a named pipe, so the
//! program that made it may end.
//!
//! Two pipes are in a directory of the caller. The child has both open for reading and writing
//! until it executes its program:
//! - `exec.fifo`: a byte in this pipe starts the container. If no process has the pipe open for
//!   reading, the container has ended.
//! - `exec.report`: failures of the last steps, as a [`Message`] of the child. The end of file
//!   means that the child executed its program.
//!
//! `exec.steps` describes the steps, one line for each, for error messages. `exec.stage` holds the
//! encoded steps. The child has this file mapped and records failures in it, because its filter can
//! reject write(2).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::child::Message;
use crate::error::{Error, ErrorKind};
use crate::hint;
use crate::spawn::{failure, stage};
use crate::step::{Call, Step};

const GO: &str = "exec.fifo";
const REPORT: &str = "exec.report";
const STEPS: &str = "exec.steps";
const STAGE: &str = "exec.stage";

/// The pipes that the child has open.
pub(crate) struct Pipes {
    pub(crate) go: File,
    pub(crate) report: File,
}

impl Pipes {
    pub(crate) fn make(directory: &Path, steps: &[Step]) -> Result<Pipes, Error> {
        let mut words = String::new();
        for step in steps {
            words.push_str(&step.to_string().replace('\n', " "));
            words.push('\n');
        }
        let path = directory.join(STEPS);
        fs::write(&path, words).map_err(|e| failed("write", &path, "write", &e))?;
        Ok(Pipes { go: pipe(&directory.join(GO))?, report: pipe(&directory.join(REPORT))? })
    }
}

/// Writes the encoded steps to a file. [`start_held`] reads the stage's note in this file.
pub(crate) fn stage_file(directory: &Path, blob: &[u8]) -> Result<File, Error> {
    let path = directory.join(STAGE);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let mut file = options.open(&path).map_err(|e| failed("make", &path, "open", &e))?;
    file.write_all(blob).map_err(|e| failed("write", &path, "write", &e))?;
    Ok(file)
}

/// Makes a named pipe, and opens it for reading and writing, so that the open does not block.
fn pipe(path: &Path) -> Result<File, Error> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mkfifo(path, mode).map_err(|e| failed("make the pipe", path, "mkfifo", &e.into()))?;
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|e| failed("open", path, "open", &e))
}

/// Returns whether a container waits for its start in this directory of the host.
/// See [fifo(7)](https://man7.org/linux/man-pages/man7/fifo.7.html).
///
/// # Errors
/// The errno of the failed call.
pub fn is_held(directory: &Path) -> Result<bool, Error> {
    let path = directory.join(GO);
    path.try_exists().map_err(|e| failed("look for", &path, "stat", &e))
}

/// Starts the container that is held in this directory of the host ([`Hold::At`](crate::Hold::At)), and waits
/// until it has executed its program.
/// See [fifo(7)](https://man7.org/linux/man-pages/man7/fifo.7.html).
///
/// # Errors
/// [`ErrorKind::State`]: no container waits there, because it was started or has ended. Otherwise a step
/// failed.
pub fn start_held(directory: &Path) -> Result<(), Error> {
    let state = |what| Error::new(ErrorKind::State, "start", what).on(directory.display().to_string());
    let gone = || state("cannot start a container that has stopped");
    let open = |name: &str, write: bool| {
        let path = directory.join(name);
        let mut options = OpenOptions::new();
        options.read(!write).write(write).custom_flags(libc::O_NONBLOCK);
        options.open(&path).map_err(|e| match e.raw_os_error() {
            Some(libc::ENXIO) => gone(),
            Some(libc::ENOENT) => state("cannot start a container that is not held"),
            _ => failed("open", &path, "open", &e),
        })
    };
    // The report pipe must be open before the container can end, so that the end is seen as an end
    // of file.
    let mut report = open(REPORT, false)?;
    let memory = open(STAGE, false)?;
    let mut go = open(GO, true)?;
    match go.write(&[1]) {
        Ok(_) => {}
        Err(e) if e.kind() == IoKind::BrokenPipe => return Err(gone()),
        Err(e) => return Err(failed("start the container through", &directory.join(GO), "write", &e)),
    }
    let mut message = hear(&mut report)?;
    let told = matches!(message, Some(Message { tag: Message::STARTED, .. }));
    while let Some(Message { tag: Message::STARTED, .. }) = message {
        message = hear(&mut report)?;
    }
    let killed = || {
        let what = "cannot start the container: its first process ended before it executed the program";
        let error = Error::new(ErrorKind::Killed, "start", what).on(directory.display().to_string());
        error.with_hint(Some(
            "it was killed: by another process, or because the memory limit is too low for the start".into(),
        ))
    };
    let note = stage::read_note(&memory)?;
    let failure = match (message, note.failure) {
        (Some(message), _) => Some(reported(directory, message)),
        (None, [0, ..]) => (!told || note.executes != 1).then(killed),
        (None, bytes) => Some(reported(directory, Message::from_bytes(bytes))),
    };
    let path = directory.join(GO);
    let removed = fs::remove_file(&path).map_err(|e| failed("remove", &path, "unlink", &e));
    for name in [REPORT, STEPS, STAGE] {
        // A remaining file is harmless.
        let _ = fs::remove_file(directory.join(name));
    }
    removed?;
    failure.map_or(Ok(()), Err)
}

/// Reads a message of the child. Returns `None` when the child has executed its program.
fn hear(report: &mut File) -> Result<Option<Message>, Error> {
    let mut bytes = [0; size_of::<Message>()];
    loop {
        match report.read(&mut bytes) {
            Ok(n) if n == bytes.len() => return Ok(Some(Message::from_bytes(bytes))),
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == IoKind::Interrupted => {}
            Err(e) if e.kind() == IoKind::WouldBlock => {
                let mut waiting = [PollFd::new(report.as_fd(), PollFlags::POLLIN)];
                match poll(&mut waiting, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        return Err(Error::call(
                            "start",
                            "receive a report of the container",
                            "poll",
                            e as i32,
                        ));
                    }
                }
            }
            Err(e) => return Err(Error::io("start", "receive a report of the container", "read", &e)),
        }
    }
}

fn reported(directory: &Path, message: Message) -> Error {
    let words = fs::read_to_string(directory.join(STEPS)).unwrap_or_default();
    let steps: Vec<&str> = words.lines().collect();
    let at = usize::from(message.step);
    let what = steps.get(at).copied().unwrap_or("perform its last steps");
    let (call, errno) = (Call::from_u8(message.call), message.value);
    if call == Call::Wait4 {
        return failure::hook_failed(what, errno);
    }
    let executes = at + 1 == steps.len();
    let error = Error::call(if executes { "exec" } else { "setup" }, what, call.name(), errno);
    let kind = if executes { failure::exec_kind(errno) } else { error.kind() };
    let hint = match executes {
        // The text of the step contains the program's name only within a sentence.
        true => hint::exec("", None, errno),
        false => hint::hook(call, errno).map(Into::into),
    };
    error.with_kind(kind).with_hint(hint)
}

fn failed(what: &str, path: &Path, call: &'static str, e: &std::io::Error) -> Error {
    Error::io("start", format!("{what} {}", path.display()), call, e).on(path.display().to_string())
}
