//! Sends descriptors over unix sockets: the terminal, a pidfd, and the listener of a seccomp filter.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nspod_sandbox::spec::{Process, Seccomp};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::config::{SeccompListener, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::record::{OciRecord, Status};

/// Connects to the console socket.
pub(crate) fn connect_console(path: &Path) -> Result<UnixStream> {
    connect("connect to the console socket", path)
}

/// Connects to the pidfd socket, if there is one.
pub(crate) fn connect_pidfd(path: Option<&Path>) -> Result<Option<UnixStream>> {
    path.map(|path| connect("connect to the pidfd socket", path)).transpose()
}

fn connect(what: &str, path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).map_err(|e| Error::io("socket", what, path, &e))
}

/// Sends a pidfd, with the word that runc sends: `standard` for the first process of a container,
/// `setns` for a further one.
pub(crate) fn send_pidfd(socket: Option<UnixStream>, word: &str, pidfd: BorrowedFd<'_>) -> Result<()> {
    socket.map_or(Ok(()), |socket| send(&socket, word.as_bytes(), pidfd))
}

/// Sends the master end of the terminal, with the terminal's name, as runc does.
pub(crate) fn send_terminal(socket: &UnixStream, master: &File) -> Result<()> {
    let name = rustix::pty::ptsname(master, Vec::new()).unwrap_or_default();
    send(socket, name.as_bytes(), master.as_fd())
}

/// Sends the terminal to the console socket; returns it if there is no socket.
pub(crate) fn hand_over(terminal: Option<File>, socket: Option<UnixStream>) -> Result<Option<File>> {
    match (terminal, socket) {
        (Some(master), Some(socket)) => send_terminal(&socket, &master).map(|()| None),
        (master, _) => Ok(master),
    }
}

fn send(socket: &UnixStream, message: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    match sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL) {
        Ok(n) if n == message.len() => Ok(()),
        Ok(_) => {
            let problem = "cannot send a descriptor: sendmsg: the message was cut short";
            Err(Error::new(ErrorKind::Os, "socket", problem))
        }
        Err(e) => Err(Error::call("socket", "send a descriptor", "sendmsg", e.raw_os_error())),
    }
}

/// Checks that a filter with SCMP_ACT_NOTIFY has a socket for its listener.
pub(crate) fn check_listener(process: &Process, listener: Option<&SeccompListener>) -> Result<()> {
    match &process.seccomp {
        Seccomp::Profile(profile) if profile.notifies() && listener.is_none() => {
            let problem = "SCMP_ACT_NOTIFY requires a socket for the listener of the filter";
            Err(Error::invalid("linux.seccomp.listenerPath", problem))
        }
        _ => Ok(()),
    }
}

/// Sends the listener of a filter to `linux.seccomp.listenerPath`, with the
/// [container process state](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#containerprocessstate).
pub(crate) fn send_listener(
    listener: &SeccompListener,
    fd: OwnedFd,
    pid: i32,
    record: &OciRecord,
    status: Status,
) -> Result<()> {
    let message = serde_json::json!({
        "ociVersion": VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": record.state(status),
    });
    let socket = connect("connect to linux.seccomp.listenerPath", &listener.path)?;
    send(&socket, message.to_string().as_bytes(), fd.as_fd())
}
