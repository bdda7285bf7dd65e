//! The caller's terminal: raw while a container uses it, and restored afterwards.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nspod_sandbox::spec::Terminal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::error::{Error, Result};
use crate::keys::{Keys, Watch};

/// The character that the line discipline interprets as the end of file (`VEOF`, Ctrl-D).
const END: u8 = 4;

/// Returns the size of the caller's terminal, for a new terminal.
pub fn size() -> Terminal {
    let size = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()));
    size.map(|s| Terminal { rows: s.ws_row, columns: s.ws_col }).unwrap_or_default()
}

/// The terminal's previous settings. Dropping restores them.
#[derive(Debug)]
struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw. Returns `None` if standard input is not a terminal.
    fn enter() -> Result<Option<Raw>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let failed = |call| {
            move |e: rustix::io::Errno| {
                Error::call("terminal", "set up the terminal", call, Errno::from_raw(e.raw_os_error()))
            }
        };
        let before = tcgetattr(io::stdin()).map_err(failed("tcgetattr"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw).map_err(failed("tcsetattr"))?;
        Ok(Some(Raw(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Copies bytes between the caller's terminal and the container's.
#[derive(Debug)]
pub struct Relay {
    /// `None` after a hangup.
    master: Option<File>,
    raw: Option<Raw>,
    /// Bytes that the container's terminal has not accepted yet.
    pending: Vec<u8>,
    reads_input: bool,
    open: bool,
    /// The keys that leave the container.
    watch: Option<Watch>,
    left: bool,
    /// Whether another process has the container's terminal too.
    shared: bool,
}

impl Relay {
    /// Returns a relay to the container's terminal. It forwards input only if `interactive`.
    pub fn new(master: File, interactive: bool) -> Result<Relay> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK;
        fcntl(&master, FcntlArg::F_SETFL(flags))
            .map_err(|e| Error::call("terminal", "set up the container's terminal", "fcntl", e))?;
        let raw = if interactive { Raw::enter()? } else { None };
        let (pending, reads_input) = (Vec::new(), interactive);
        let (watch, left, shared) = (None, false, false);
        let relay =
            Relay { master: Some(master), raw, pending, reads_input, open: true, watch, left, shared };
        relay.resize();
        Ok(relay)
    }

    /// Lets the caller leave the container by typing these keys at a terminal.
    pub fn leave_by(mut self, keys: Keys) -> Relay {
        self.watch = self.raw.is_some().then(|| Watch::new(keys));
        self
    }

    /// Tells that another process has the container's terminal too, so that it stays open without this relay.
    pub fn shared(mut self) -> Relay {
        self.shared = true;
        self
    }

    /// Returns whether the caller typed the keys, or does not read the output of a terminal that stays open.
    pub fn is_left(&self) -> bool {
        self.left
    }

    /// Restores the caller's terminal, and returns the container's.
    pub fn leave(self) -> Option<File> {
        drop(self.raw);
        let _ = io::stdout().write_all(b"\r\n");
        self.master
    }

    /// Sets the size of the container's terminal to that of the caller's.
    pub fn resize(&self) {
        if let Some(master) = &self.master
            && let Ok(size) = tcgetwinsize(io::stdin()).or_else(|_| tcgetwinsize(io::stdout()))
        {
            let _ = tcsetwinsize(master, size);
        }
    }

    pub fn wants_input(&self) -> bool {
        self.reads_input && self.open && self.pending.is_empty()
    }

    pub fn wants_to_write(&self) -> bool {
        self.open && !self.pending.is_empty()
    }

    /// Returns the container's terminal while it is open.
    pub fn master(&self) -> Option<BorrowedFd<'_>> {
        self.master.as_ref().filter(|_| self.open).map(AsFd::as_fd)
    }

    /// Reads input from the caller's terminal and forwards it.
    pub fn input(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        // std's buffer would hide bytes from poll(2).
        match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(0) => {
                self.reads_input = false;
                self.watch.iter_mut().for_each(|watch| watch.end(&mut self.pending));
                self.pending.push(END);
            }
            Ok(n) => match &mut self.watch {
                Some(watch) => self.left = watch.pass(&buffer[..n], &mut self.pending),
                None => self.pending.extend_from_slice(&buffer[..n]),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.reads_input = false,
        }
        self.flush()
    }

    /// Writes as many pending bytes as the container's terminal accepts.
    pub fn flush(&mut self) -> Result<()> {
        let Some(master) = &mut self.master else { return Ok(()) };
        match master.write(&self.pending) {
            Ok(n) => _ = self.pending.drain(..n),
            Err(e) if interrupted(&e) => {}
            Err(_) => self.open = false,
        }
        Ok(())
    }

    /// Prints output of the container. Returns `false` if there was none.
    pub fn output(&mut self) -> Result<bool> {
        let mut buffer = [0; 16384];
        let Some(master) = &mut self.master else { return Ok(false) };
        match master.read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(n) => {
                let mut out = io::stdout().lock();
                match out.write_all(&buffer[..n]).and_then(|()| out.flush()) {
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe && self.shared => self.left = true,
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.hang_up(),
                    // The disk can be full. Keep reading, so that the container is not blocked.
                    _ => {}
                }
                return Ok(true);
            }
            Err(e) if interrupted(&e) => return Ok(false),
            // EIO: no process has the terminal open.
            Err(_) => self.open = false,
        }
        Ok(false)
    }

    /// Closes the container's terminal, because nothing reads the output any more. The kernel sends SIGHUP to
    /// the processes in the foreground, as when the window of a terminal is closed.
    fn hang_up(&mut self) {
        self.open = false;
        self.master = None;
    }

    /// Prints the remaining output of a container that has ended, and restores the terminal.
    pub fn finish(mut self) -> Result<()> {
        while self.output()? {}
        drop(self.raw.take());
        Ok(())
    }
}

fn interrupted(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
