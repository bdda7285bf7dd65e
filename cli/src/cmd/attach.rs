//! `nspod attach`: returns to the terminal of a container that the caller left.
//!
//! A program loses its terminal when no process has the master of the terminal any more. When the caller leaves a
//! container, a second nspod, the keeper, therefore gets the master, and a socket in the directory of the container. It
//! reads what the program writes, passes the master to `nspod attach`, and removes the container after its end.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ns_core::{Pidfd, ProcessId};
use nspod_sandbox::store::EXIT;
use nspod_sandbox::{Command, ExitStatus, Stdio, init};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use crate::error::{Error, Result};
use crate::foreground::{Signals, until_end};
use crate::keys::Keys;
use crate::output;
use crate::state::{Entry, Locked, SavedContainer, Store};
use crate::terminal::Relay;

/// Name of the keeper's socket in the directory of the container.
const SOCKET: &str = "terminal";
/// Number of the last bytes that the keeper shows to the next `nspod attach`.
const MISSED: usize = 64 << 10;
/// Time in which a client reads a part of this output.
const PATIENCE: Duration = Duration::from_secs(5);
/// Name of the step in errors.
const STEP: &str = "terminal";

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Keys that leave the container running, or none [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS", value_parser = Keys::parse)]
    detach_keys: Option<Keys>,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    id: String,
}

/// Keep the terminal of a container that was left
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Id of the container
    id: String,
}

fn failed(what: &'static str, call: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |e| Error::io_call(STEP, what, call, &e)
}

pub(crate) fn attach(args: &AttachArgs) -> Result<i32> {
    let store = Store::open()?;
    let entry = store.find(&args.id)?;
    let process = &entry.record()?.container.process;
    let pidfd = process.open()?.ok_or_else(|| has_ended(&entry))?;
    // The keeper removes the container after its end.
    let exit = entry.dir().open(EXIT)?;
    let signals = Signals::hold()?;
    let (keeper, master, missed) = connect(&entry)?;
    let relay = Relay::new(master, true)?.shared();
    let relay = relay.leave_by(args.detach_keys.clone().unwrap_or_default());
    // The container's terminal has converted the line ends already, so print after the caller's terminal is raw.
    output::print(missed)?;
    let mut relay = Some(relay);
    let kill = || store.of_process(process)?.map_or(Ok(()), |entry| store.kill(&entry));
    let fatal = until_end(process.pid, &pidfd, &signals, &mut relay, kill, || Ok(None))?;
    if let Some(relay) = relay.take_if(|relay| relay.is_left()) {
        relay.leave();
        drop(keeper);
        note_left(entry.id());
        return Ok(0);
    }
    relay.map_or(Ok(()), Relay::finish)?;
    let killed = |signal| ExitStatus::Signaled { signal, core_dumped: false }.shell_code();
    match (fatal, exit.as_ref().and_then(init::read_exit)) {
        (Some(signal), _) => Ok(killed(signal)),
        (None, Some(status)) => Ok(status.shell_code()),
        // The init writes the status, unless it is killed.
        (None, None) if entry.record()?.container.spec.has_init() => Ok(killed(nix::libc::SIGKILL)),
        // The keeper records nothing.
        (None, None) => {
            let saved = SavedContainer { runner: None, ..entry.record()?.clone() };
            Err(super::wait::unknown_status(&saved))
        }
    }
}

fn has_ended(entry: &Entry) -> Error {
    Error::state(STEP, entry.id(), format!("the container {} has ended", entry.id()))
}

fn note_left(id: &str) {
    output::note(format_args!("left the container {id}; `nspod attach {id}` returns to it"));
}

/// Leaves a container: passes its terminal to a new keeper, which has the container from then on.
///
/// # Errors
/// There is no keeper, and the caller still has the container.
pub(crate) fn leave(entry: &Entry, master: &File) -> Result<()> {
    let listener = UnixListener::bind(socket(entry)).map_err(failed("make the socket", "bind"))?;
    start_keeper(entry, master, listener).inspect_err(|_| _ = std::fs::remove_file(socket(entry)))?;
    note_left(entry.id());
    Ok(())
}

fn start_keeper(entry: &Entry, master: &File, listener: UnixListener) -> Result<()> {
    let master = master.try_clone().map_err(failed("copy the terminal", "fcntl"))?;
    let mut keeper = Command::bare("/proc/self/exe");
    keeper.args(["keep-terminal", entry.id()]).current_dir("/").kill_on_drop(false);
    keeper.stdin(master).stdout(OwnedFd::from(listener)).stderr(Stdio::Piped);
    // Signals of the caller's terminal do not reach another session.
    keeper.spec_mut().process.new_session = true;
    let mut process = keeper.spawn()?;
    drop(keeper);
    let mut problem = String::new();
    // The keeper closes its standard error when it has the container.
    if let Some(stderr) = &mut process.stderr {
        stderr.read_to_string(&mut problem).map_err(failed("wait for the keeper", "read"))?;
    }
    process.detach();
    if !problem.is_empty() {
        let problem = format!("cannot leave the container {}: {}", entry.id(), problem.trim_end());
        return Err(Error::state(STEP, entry.id(), problem));
    }
    Ok(())
}

/// Returns the path of the keeper's socket. The path of a socket has at most 107 bytes, so it begins with the open
/// directory.
fn socket(entry: &Entry) -> PathBuf {
    format!("/proc/self/fd/{}/{SOCKET}", entry.dir().as_fd().as_raw_fd()).into()
}

/// Returns the connection to the keeper, the terminal, and what the program wrote meanwhile. The keeper does not read
/// from the terminal as long as the connection is open.
fn connect(entry: &Entry) -> Result<(UnixStream, File, Vec<u8>)> {
    let mut keeper = match UnixStream::connect(socket(entry)) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(not_left(entry)?);
        }
        connected => connected.map_err(failed("connect to the keeper", "connect"))?,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&keeper, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|e| failed("receive the terminal", "recvmsg")(e.into()))?;
    let master = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let Some(master) = master else {
        if !entry.lives()? {
            return Err(has_ended(entry));
        }
        let problem = format!("another `nspod attach` uses the terminal of the container {}", entry.id());
        return Err(Error::state(STEP, entry.id(), problem));
    };
    let mut missed = Vec::new();
    keeper.read_to_end(&mut missed).map_err(failed("receive the output", "read"))?;
    Ok((keeper, master.into(), missed))
}

/// Returns why a container has no keeper.
fn not_left(entry: &Entry) -> Result<Error> {
    let (id, saved) = (entry.id(), entry.record()?);
    Ok(match saved.container.spec.process.terminal {
        None => Error::state(STEP, id, format!("the container {id} has no terminal")).hint(format_args!(
            "`nspod logs -f {id}` shows the output of a detached container, and `nspod exec -it {id} sh` starts a \
             shell in it"
        )),
        Some(_) if !entry.lives()? => has_ended(entry),
        Some(_) if !saved.owned()? => {
            let problem = "the process of nspod that kept the terminal of the container";
            Error::state(STEP, id, format!("{problem} {id} was killed"))
                .hint(format_args!("`nspod exec -it {id} sh` starts a shell in it"))
        }
        Some(_) => Error::state(STEP, id, format!("an `nspod run` uses the terminal of the container {id}"))
            .hint("if it was started with -it, type ctrl-p ctrl-q there to leave the container"),
    })
}

/// Keeps the terminal of a container: standard input is its master, and standard output the socket.
pub(crate) fn keep(args: &KeepArgs) -> Result<i32> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed("copy a descriptor", "fcntl"));
    let master = copy(io::stdin().as_fd())?.into();
    let listener = copy(io::stdout().as_fd())?.into();
    let store = Store::open()?;
    let Locked::Ours(entry, lock) = store.lock(&args.id, true)? else { return Ok(0) };
    let saved = entry.record()?.clone();
    let process = saved.container.process.clone();
    let null = File::open("/dev/null").map_err(failed("open /dev/null", "open"))?;
    entry.write(&SavedContainer { runner: Some(ProcessId::current()?), kept: true, ..saved })?;
    drop(lock);
    rustix::stdio::dup2_stderr(&null).map_err(|e| failed("close standard error", "dup2")(e.into()))?;
    if let Some(pidfd) = process.open()? {
        Keeper { master, open: true, listener, client: None, missed: Vec::new() }.run(&pidfd)?;
    }
    // The container can have another name now.
    let Some(now) = store.of_process(&process)? else { return Ok(0) };
    match store.lock(now.id(), true)? {
        Locked::Ours(now, lock) if now.saved().is_some_and(|now| now.container.process == process) => {
            match now.saved().is_some_and(|now| now.remove) {
                true => store.remove(&now, &lock)?,
                false => {
                    drop(lock);
                    store.disconnect(&now)?;
                }
            }
        }
        // Another command has removed it.
        _ => {}
    }
    Ok(0)
}

struct Keeper {
    master: File,
    /// Whether a process in the container has the terminal open.
    open: bool,
    listener: UnixListener,
    client: Option<UnixStream>,
    /// The last output that no client has shown.
    missed: Vec<u8>,
}

impl Keeper {
    /// Keeps the terminal until the process has ended.
    fn run(&mut self, process: &Pidfd) -> Result<()> {
        loop {
            let mut fds = vec![
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            ];
            match &self.client {
                Some(client) => fds.push(PollFd::new(client.as_fd(), PollFlags::POLLIN)),
                None if self.open => fds.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN)),
                None => {}
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(Error::call(STEP, "wait for the container", "poll", e)),
            }
            let happened: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            drop(fds);
            if happened[0] {
                return Ok(());
            }
            if happened.get(2) == Some(&true) {
                self.read();
            }
            if happened[1] {
                self.accept();
            }
        }
    }

    /// Reads from the client, or from the terminal if there is none.
    fn read(&mut self) {
        let mut buffer = [0; 16384];
        if let Some(client) = &mut self.client {
            // A client sends nothing.
            if matches!(client.read(&mut buffer), Ok(0) | Err(_)) {
                self.client = None;
            }
            return;
        }
        match self.master.read(&mut buffer) {
            Ok(n @ 1..) => {
                self.missed.extend_from_slice(&buffer[..n]);
                let old = self.missed.len().saturating_sub(MISSED);
                self.missed.drain(..old);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // EIO: no process has the terminal open.
            Ok(_) | Err(_) => self.open = false,
        }
    }

    /// Passes the terminal to a client, unless another one has it.
    fn accept(&mut self) {
        let Ok((client, _)) = self.listener.accept() else { return };
        if self.client.is_none() && self.pass(&client).is_ok() {
            self.missed.clear();
            self.client = Some(client);
        }
    }

    fn pass(&self, mut client: &UnixStream) -> io::Result<()> {
        // The buffer of a socket can be smaller than the output (net.core.wmem_default). A client that does not read must
        // not stop the program for long.
        client.set_write_timeout(Some(PATIENCE))?;
        let fds = [self.master.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(client, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        client.write_all(&self.missed)?;
        client.shutdown(Shutdown::Write)
    }
}
