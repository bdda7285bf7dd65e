//! Sending descriptors over a unix socket: the terminal's other end, a process's pidfd, and the
//! listener of a system-call filter.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use clap::Args;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nspod_cli::error::{Error, Result};
use nspod_oci_runtime::config::{self, SeccompListener};
use nspod_sandbox::spec::{Process, Seccomp};

use crate::args::MaybePath;
use crate::state::{Record, Status};

/// Connects to the socket of `--console-socket`.
pub(crate) fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).map_err(|e| Error::io("connect to the console socket", path, &e))
}

// The option --pidfd-socket.
#[derive(Debug, Args)]
pub(crate) struct PidfdSocket {
    /// Send a pidfd of the process to this socket
    #[arg(long = "pidfd-socket", value_name = "SOCKET", default_value = "", hide_default_value = true)]
    path: MaybePath,
}

impl PidfdSocket {
    /// Connects to it, if it is given.
    pub(crate) fn connect(&self) -> Result<Option<UnixStream>> {
        let socket = |path: &Path| {
            UnixStream::connect(path).map_err(|e| Error::io("connect to the pidfd socket", path, &e))
        };
        self.path.get().map(socket).transpose()
    }
}

/// Sends a process's pidfd, with the word that runc sends: `standard` for a container's first
/// process, `setns` for a further one.
pub(crate) fn send_pidfd(socket: Option<UnixStream>, word: &str, pidfd: BorrowedFd<'_>) -> Result<()> {
    socket.map_or(Ok(()), |socket| send(&socket, word.as_bytes(), pidfd))
}

/// Sends the terminal's other end, with its name as runc does.
pub(crate) fn send_terminal(socket: &UnixStream, master: &File) -> Result<()> {
    let name = rustix::pty::ptsname(master, Vec::new()).unwrap_or_default();
    send(socket, name.as_bytes(), master.as_fd())
}

/// Sends a message with a descriptor.
pub(crate) fn send(socket: &UnixStream, message: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(message)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None);
    match sent {
        Ok(n) if n == message.len() => Ok(()),
        Ok(_) => Err(Error::new("cannot send a descriptor: sendmsg: the message was cut short")),
        Err(e) => Err(Error::call("send a descriptor", "sendmsg", e)),
    }
}

/// Checks that a process whose filter asks has a socket to send the filter's listener to.
pub(crate) fn check_listener(process: &Process, listener: Option<&SeccompListener>) -> Result<()> {
    match &process.seccomp {
        Seccomp::Profile(profile) if profile.notifies() && listener.is_none() => {
            Err(Error::new("linux.seccomp.listenerPath: SCMP_ACT_NOTIFY takes one, where somebody answers"))
        }
        _ => Ok(()),
    }
}

/// Sends the listener of a process's filter to the socket of the configuration, with the state
/// message of the specification: the process, and the container with its status.
pub(crate) fn send_listener(
    listener: &SeccompListener,
    fd: OwnedFd,
    pid: i32,
    record: &Record,
    status: Status,
) -> Result<()> {
    let message = serde_json::json!({
        "ociVersion": config::VERSION,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": listener.metadata,
        "state": record.state(status),
    });
    let path = &listener.path;
    let socket = UnixStream::connect(path)
        .map_err(|e| Error::io("connect to linux.seccomp.listenerPath", path, &e))?;
    send(&socket, message.to_string().as_bytes(), fd.as_fd())
}
