//! A process of the population of the model test. It connects to a socket, which identifies it by its pid, and
//! executes orders. Its children do the same.
#![allow(unsafe_code)]

use std::io::{Error, IoSliceMut, Read, Result, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use ns_core::{Clone3, Cloned, Kinds, Namespace, Pidfd};

/// Joins the population.
pub(crate) fn run(socket: &str) {
    // Nothing waits for children here, and the first process of the population inherits orphans.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    while let Some(()) = live(socket) {}
}

/// Executes orders. Returns `Some` if this process has become a child, which must connect again.
fn live(socket: &str) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    loop {
        let (line, fds) = receive(&stream).ok()?;
        let answer = match obey(&line, fds) {
            Ok(true) => return Some(()),
            Ok(false) => "ok \n".to_owned(),
            Err(error) => format!("err {}\n", error.raw_os_error().unwrap_or(-1)),
        };
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

/// Returns whether this process is the child.
fn obey(line: &str, mut fds: Vec<OwnedFd>) -> Result<bool> {
    let (order, kinds) = line.split_once(' ').unwrap_or((line, ""));
    let kinds: Kinds = kinds.parse().map_err(|_| Error::from_raw_os_error(libc::EBADMSG))?;
    let mut fd = || fds.pop().ok_or(Error::from_raw_os_error(libc::EBADMSG));
    match order {
        // SAFETY: this process has one thread, so the child may do what this one may.
        "spawn" => match unsafe { Clone3 { kinds, ..Clone3::default() }.spawn() }.map_err(errno)? {
            Cloned::Child => {
                // An answer would go through the connection of the parent.
                if map(kinds).is_err() {
                    std::process::exit(1);
                }
                return Ok(true);
            }
            Cloned::Parent { .. } => {}
        },
        "unshare" => {
            ns_core::unshare(kinds).map_err(errno)?;
            map(kinds)?;
        }
        "join" => {
            let process = Pidfd::from_owned_fd(fd()?).map_err(errno)?;
            ns_core::setns_pidfd(&process, kinds).map_err(errno)?;
        }
        "enter" => ns_core::setns(&Namespace::from_owned_fd(fd()?).map_err(errno)?).map_err(errno)?,
        _ => return Err(Error::from_raw_os_error(libc::EBADMSG)),
    }
    Ok(false)
}

/// Maps root to root in a new user namespace, so that it can make more namespaces.
fn map(kinds: Kinds) -> Result<()> {
    if kinds.contains(Kinds::USER) {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", "0 0 1")?;
        std::fs::write("/proc/self/gid_map", "0 0 1")?;
    }
    Ok(())
}

fn errno(error: ns_core::Error) -> Error {
    Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EBADMSG))
}

/// Receives a line and the descriptor that was sent with it.
fn receive(mut stream: &UnixStream) -> Result<(String, Vec<OwnedFd>)> {
    let (mut line, mut fds) = (Vec::new(), Vec::new());
    let mut piece = [0; 256];
    let mut space = cmsg_space!([i32; 1]);
    let mut iov = [IoSliceMut::new(&mut piece)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made them for this process.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let len = message.bytes;
    line.extend(&piece[..len]);
    while line.last().is_some_and(|byte| *byte != b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.extend(byte);
    }
    match String::from_utf8_lossy(&line).trim_end() {
        "" => Err(Error::from_raw_os_error(libc::EPIPE)),
        line => Ok((line.to_owned(), fds)),
    }
}
