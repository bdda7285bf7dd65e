//! The socket to the child: messages from it, and a byte that lets it continue.

#![allow(unsafe_code)]

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, send, socketpair,
};

use crate::child::Message;
use crate::error::{Error, ErrorKind};
use crate::fd::duplicate_above;

/// Makes a pair of sockets that preserve message boundaries. The second, the child's, has a number of
/// at least `above`, so that no descriptor of the program is placed on it.
pub(super) fn socket_pair(above: RawFd) -> Result<(OwnedFd, OwnedFd), Error> {
    let (family, kind, flags) = (AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let pair = socketpair(family, kind, None, flags);
    let (parent, child) = pair.map_err(|e| failed("make a socket to the child", "socketpair", e))?;
    if child.as_raw_fd() >= above {
        return Ok((parent, child));
    }
    Ok((parent, duplicate_above(&child, above)?))
}

/// Lets a child that waits continue.
pub(super) fn send_word(socket: &OwnedFd) -> Result<(), Error> {
    let sent = send(socket.as_raw_fd(), &[1], MsgFlags::MSG_NOSIGNAL);
    sent.map(drop).map_err(|e| failed("let the child continue", "send", e))
}

/// Receives a message, with the descriptor that comes with it. Returns `None` at the end of file.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
    let what = "receive a message of the child";
    let mut bytes = [0; size_of::<Message>()];
    // Room for as many descriptors as a message can have (SCM_MAX_FD). If there were too many for the
    // buffer, nothing could close those that the kernel has made.
    let mut control = cmsg_space!([RawFd; 253]);
    let mut fd = None;
    let length = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(Errno::EINTR) => continue,
            // The child ended before it had read all that was sent to it.
            Err(Errno::ECONNRESET) => return Ok(None),
            received => received.map_err(|e| failed(what, "recvmsg", e))?,
        };
        for message in received.cmsgs().into_iter().flatten() {
            let ControlMessageOwned::ScmRights(fds) = message else { continue };
            // SAFETY: the kernel made these descriptors for this message, and nothing else owns them.
            // Those after the first are closed.
            fds.into_iter().for_each(|new| fd = fd.take().or(Some(unsafe { OwnedFd::from_raw_fd(new) })));
        }
        if received.flags.contains(MsgFlags::MSG_CTRUNC) {
            let hint = "a descriptor that came with it was lost: this process may have too many open";
            return Err(Error::new(ErrorKind::Process, format!("cannot {what}: {hint}")));
        }
        break received.bytes;
    };
    match length {
        0 => Ok(None),
        _ => Ok(Some((Message::from_bytes(bytes), fd))),
    }
}

fn failed(what: &str, call: &'static str, errno: Errno) -> Error {
    Error::call(ErrorKind::Process, what, call, errno as i32)
}

#[cfg(test)]
mod tests {
    use super::{receive, socket_pair};

    #[test]
    fn a_message_brings_one_descriptor_and_no_more() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        use std::os::fd::AsRawFd;
        let (ours, theirs) = socket_pair(0).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            fds.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| path == file.path())).count()
        };
        let fds = [file.as_raw_fd(); 253];
        for count in [1, 2, 253] {
            let control = ControlMessage::ScmRights(&fds[..count]);
            let bytes = [std::io::IoSlice::new(&[0; 8])];
            sendmsg::<()>(theirs.as_raw_fd(), &bytes, &[control], MsgFlags::empty(), None).unwrap();
            let (_, fd) = receive(&ours).unwrap().unwrap();
            assert!(fd.is_some());
            assert_eq!(open(), 2, "{count}");
        }
    }
}
