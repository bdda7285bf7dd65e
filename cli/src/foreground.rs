//! Waits for a container in the foreground, and forwards signals and the bytes of its terminal.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ns_core::{Pidfd, proc};
use nspod_sandbox::{Container, EndedBy, ExitStatus, Outcome};

use crate::error::{Error, Result};
use crate::terminal::Relay;

/// Signals that are forwarded to the container.
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCONT,
];

/// Signals that are blocked until they can be forwarded to a container. The library clears the mask
/// in the container.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// Whether the program is in this process group, so that it gets the signals of the terminal too.
    shared: bool,
}

impl Signals {
    pub fn hold() -> Result<Signals> {
        let set = held();
        set.thread_block().map_err(|e| Error::call("signals", "block signals", "sigprocmask", e))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        fd.map(|fd| Signals { fd, shared: false })
            .map_err(|e| Error::call("signals", "block signals", "signalfd", e))
    }

    /// Does not forward signals of the terminal, because the program gets them itself.
    pub fn shared(self) -> Signals {
        Signals { shared: true, ..self }
    }

    /// Unblocks the signals. Discards pending signals, because they were meant for the container.
    pub fn release(self) {
        while let Ok(Some(_)) = self.fd.read_signal() {}
        let _ = held().thread_unblock();
    }
}

fn held() -> SigSet {
    FORWARDED.into_iter().chain([Signal::SIGWINCH]).collect()
}

/// Returns the process that started this program.
pub fn parent() -> Result<Pidfd> {
    let pid = nix::unistd::getppid();
    Pidfd::open(pid.as_raw()).map_err(|e| Error::from(e).hint("it has ended, or is in another pid namespace"))
}

/// Kills the container when this process ends, in a thread.
pub fn die_with(parent: Option<Pidfd>, container: &Container) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    let killer = container.killer()?;
    let thread = std::thread::Builder::new().name("die-with-parent".into()).spawn(move || {
        if parent.poll(None).unwrap_or(true) {
            // The container has ended already, or the watcher of this program kills it later.
            let _ = killer.kill();
        }
    });
    thread.map(drop).map_err(|e| Error::io_call("wait", "watch the process that started nspod", "clone3", &e))
}

/// How the wait for a container at its terminal ended.
#[derive(Debug)]
pub enum Attended {
    /// The first process has ended.
    Ended(Box<Outcome>),
    /// The caller typed the keys that leave the container. This is its terminal.
    Left(File),
}

/// Waits until the container's first process has ended.
pub fn attend(container: &mut Container, signals: &Signals, mut relay: Option<Relay>) -> Result<Outcome> {
    let fatal = wait(container, signals, &mut relay)?;
    ended(container, relay, fatal)
}

/// Waits until the container's first process has ended, or the caller leaves the container.
pub fn attend_or_leave(
    container: &mut Container,
    signals: &Signals,
    mut relay: Option<Relay>,
) -> Result<Attended> {
    let fatal = wait(container, signals, &mut relay)?;
    match relay.take_if(|relay| relay.is_left()).and_then(Relay::leave) {
        Some(master) => Ok(Attended::Left(master)),
        None => Ok(Attended::Ended(Box::new(ended(container, relay, fatal)?))),
    }
}

fn wait(container: &Container, signals: &Signals, relay: &mut Option<Relay>) -> Result<Option<i32>> {
    let kill = || Ok(container.kill()?);
    let enforce = || Ok(container.enforce()?);
    until_end(container.pid(), container.pidfd(), signals, relay, kill, enforce)
}

/// Returns the outcome of a container whose first process has ended.
fn ended(container: &mut Container, relay: Option<Relay>, fatal: Option<i32>) -> Result<Outcome> {
    let mut outcome = container.wait()?;
    if let Some(relay) = relay {
        relay.finish()?;
    }
    if let Some(signal) = fatal {
        outcome.status = ExitStatus::Signaled { signal, core_dumped: false };
        outcome.ended_by = EndedBy::Signal;
    }
    Ok(outcome)
}

/// Forwards signals and bytes until a process has ended, or the caller leaves the container. If the kernel would have
/// dropped a signal, kills the process and returns that signal. Calls `enforce` at the latest after the time that its
/// last call returned.
pub fn until_end(
    pid: i32,
    pidfd: &Pidfd,
    signals: &Signals,
    relay: &mut Option<Relay>,
    kill: impl Fn() -> Result<()>,
    enforce: impl Fn() -> Result<Option<Duration>>,
) -> Result<Option<i32>> {
    // A signal that the kernel would drop for pid 1.
    let mut fatal = None;
    loop {
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        ];
        let mut input = None;
        if let Some((relay, master)) = relay.as_ref().and_then(|relay| Some((relay, relay.master()?))) {
            let mut wanted = PollFlags::POLLIN;
            wanted.set(PollFlags::POLLOUT, relay.wants_to_write());
            fds.push(PollFd::new(master, wanted));
            if relay.wants_input() {
                input = Some(fds.len());
                fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        let patience = enforce()?.map_or(PollTimeout::NONE, |time| {
            PollTimeout::try_from(time.as_millis().max(1)).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::call("wait", "wait for the container", "poll", e)),
        }
        let happened: Vec<PollFlags> =
            fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);
        let readable = |at: usize| {
            happened
                .get(at)
                .is_some_and(|e| e.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR))
        };
        if let Some(relay) = relay.as_mut() {
            if happened.len() > 2 && happened[2].contains(PollFlags::POLLOUT) {
                relay.flush()?;
            }
            if readable(2) {
                relay.output()?;
            }
            if input.is_some_and(readable) {
                relay.input()?;
            }
            if relay.is_left() {
                return Ok(fatal);
            }
        }
        if readable(0) {
            fatal = hand_on(pid, pidfd, signals, relay.as_ref(), &kill)?.or(fatal);
        }
        if readable(1) {
            return Ok(fatal);
        }
    }
}

fn hand_on(
    pid: i32,
    pidfd: &Pidfd,
    signals: &Signals,
    relay: Option<&Relay>,
    kill: impl Fn() -> Result<()>,
) -> Result<Option<i32>> {
    let mut fatal = None;
    while let Ok(Some(info)) = signals.fd.read_signal() {
        let signal = info.ssi_signo as i32;
        // The terminal sends its keys' signals to the program too, but a hangup only to the leader of the session.
        if signals.shared && info.ssi_code == nix::libc::SI_KERNEL && signal != Signal::SIGHUP as i32 {
            continue;
        }
        if signal == Signal::SIGWINCH as i32 {
            if let Some(relay) = relay {
                relay.resize();
            }
            continue;
        }
        if would_be_lost(pid, signal) {
            fatal = Some(signal);
            kill()?;
        } else {
            // The process may have ended already.
            let _ = pidfd.send_signal(signal);
        }
    }
    Ok(fatal)
}

/// Returns whether the kernel would drop a signal that ends other processes. It drops a signal for a pid 1
/// without a handler (`sig_ignored` in kernel/signal.c).
pub fn would_be_lost(pid: i32, signal: i32) -> bool {
    let ends = ends_by_default(signal);
    let at = |file| format!("/proc/{pid}/{file}");
    for _ in 0..10 {
        match (std::fs::read(at("status")), std::fs::read_to_string(at("syscall"))) {
            (Ok(status), Ok(syscall)) => return ends && is_lost(&status, &syscall, signal),
            // During execve(2) the file cannot be read.
            (Ok(_), Err(_)) if ends => std::thread::sleep(Duration::from_millis(2)),
            _ => return false,
        }
    }
    // The caller cannot read the file. Send the signal.
    false
}

/// Returns whether a signal ends a process without a handler, but is dropped for a pid 1. SIGKILL and SIGSTOP
/// always arrive. The other signals listed here are ignored by default, or stop or continue a process.
fn ends_by_default(signal: i32) -> bool {
    use Signal::*;
    let others = [SIGCHLD, SIGCONT, SIGKILL, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH];
    signal != 0 && others.iter().all(|other| *other as i32 != signal)
}

/// Evaluates the contents of `/proc/PID/status` and `/proc/PID/syscall`.
fn is_lost(status: &[u8], syscall: &str, signal: i32) -> bool {
    let pids = proc::nspid(status).unwrap_or_default();
    let cared_for = ["SigCgt", "SigIgn", "SigBlk"]
        .iter()
        .any(|name| proc::hex(status, name).unwrap_or(0) & 1 << (signal - 1) != 0);
    // sigwait(3) blocks its signals during the wait, and SigBlk does not show them.
    let call = syscall.split_ascii_whitespace().next().and_then(|n| n.parse().ok());
    let waits_for_it = call == Some(nix::libc::SYS_rt_sigtimedwait);
    pids.len() > 1 && pids.last() == Some(&1) && !cared_for && !waits_for_it
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(nspid: &str, caught: u64, ignored: u64, blocked: u64) -> Vec<u8> {
        format!(
            "Name:\tx\nNSpid:\t{nspid}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
        .into_bytes()
    }

    #[test]
    fn a_pid_1_without_a_handler_loses_signals() {
        let term = 1 << 14;
        assert!(is_lost(&status("4711\t1", 0, 0, 0), "running\n", 15));
        assert!(is_lost(&status("4711\t1", 1 << 1, 0, 0), "0 0x0\n", 15));
        for cared_for in [(term, 0, 0), (0, term, 0), (0, 0, term)] {
            assert!(!is_lost(&status("4711\t1", cared_for.0, cared_for.1, cared_for.2), "running\n", 15));
        }
        let sigwait = format!("{} 0x0 0x0\n", nix::libc::SYS_rt_sigtimedwait);
        assert!(!is_lost(&status("4711\t1", 0, 0, 0), &sigwait, 15));
    }

    #[test]
    fn any_other_process_does_not() {
        for nspid in ["4711", "4711\t2", "1"] {
            assert!(!is_lost(&status(nspid, 0, 0, 0), "running\n", 15), "{nspid}");
        }
        assert!(!is_lost(b"", "", 15));
    }
}
