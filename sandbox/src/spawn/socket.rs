//! The socket between a child and its parent.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketFlags,
    SocketType, recvmsg, send, socketpair,
};

use crate::child::Message;
use crate::error::{Error, ErrorKind};
use crate::fd::duplicate_above;

/// Returns a pair of sockets that preserve message boundaries: the parent's and the child's. The
/// child's descriptor is at least `above`: no descriptor of the program has such a number.
///
/// # Errors
/// `EMFILE`, `ENFILE`: the process or the system has reached its limit on descriptors.
pub(super) fn socket_pair(above: RawFd) -> Result<(OwnedFd, OwnedFd), Error> {
    let (parent, child) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("make a socket to the child", "socketpair", errno))?;
    if child.as_raw_fd() >= above {
        return Ok((parent, child));
    }
    Ok((parent, duplicate_above(&child, above)?))
}

/// Lets a waiting child continue. If the child has ended, the end of file on the socket tells.
pub(super) fn send_word(socket: &OwnedFd) -> Result<(), Error> {
    match send(socket, &[1], SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::PIPE) => Ok(()),
        Err(errno) => Err(failed("let the child continue", "send", errno)),
    }
}

/// Receives the child's next message, with the descriptor that is attached to it. Returns `None`
/// when every copy of the child's socket is closed.
///
/// # Errors
/// The message does not have the length of a [`Message`], or it has more than one descriptor or other
/// control data. All of its descriptors are then closed.
pub(super) fn receive(socket: &OwnedFd) -> Result<Option<(Message, Option<OwnedFd>)>, Error> {
    let mut bytes = [0; size_of::<Message>()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            // The child ended before it read a byte from the parent.
            Err(Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(failed("receive a message of the child", "recvmsg", errno)),
            Ok(received) if received.bytes == 0 => return Ok(None),
            Ok(received) => break received,
        }
    };
    // The iterator checks cmsg_level and cmsg_type. It owns the descriptors that it has not
    // returned.
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<OwnedFd>>(),
        _ => Vec::new(),
    });
    let (fd, second) = (fds.next(), fds.next());
    if second.is_some() || received.flags.contains(ReturnFlags::CTRUNC) {
        let what = "a message of the child has more than one descriptor";
        return Err(Error::new(ErrorKind::Protocol, "process", what));
    }
    if received.bytes != bytes.len() || received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "process",
            "a message of the child has an unknown length",
        ));
    }
    Ok(Some((Message::from_bytes(bytes), fd)))
}

fn failed(what: &str, call: &'static str, errno: Errno) -> Error {
    Error::call("process", what, call, errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

    use super::{receive, socket_pair};

    #[test]
    fn a_message_brings_at_most_one_descriptor() {
        let (ours, theirs) = socket_pair(0).unwrap();
        let file = tempfile::tempfile().unwrap();
        let inode = file.metadata().unwrap().ino();
        let open = || {
            let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            fds.filter(|fd| std::fs::metadata(fd.path()).is_ok_and(|file| file.ino() == inode)).count()
        };
        let fds = [file.as_raw_fd(); 4];
        for count in 0..=fds.len() {
            let control: &[ControlMessage<'_>] = match count {
                0 => &[],
                _ => &[ControlMessage::ScmRights(&fds[..count])],
            };
            let bytes = [IoSlice::new(&[0; 8])];
            sendmsg::<()>(theirs.as_raw_fd(), &bytes, control, MsgFlags::empty(), None).unwrap();
            match receive(&ours) {
                Ok(message) => {
                    assert!(count < 2, "{count}");
                    let (_, fd) = message.unwrap();
                    assert_eq!(fd.is_some(), count == 1);
                    assert_eq!(open(), 1 + count);
                }
                Err(error) => {
                    assert!(count > 1, "{count}: {error}");
                    assert!(error.to_string().contains("more than one descriptor"), "{error}");
                }
            }
            assert_eq!(open(), 1, "{count}");
        }
    }

    #[test]
    fn a_control_message_of_another_type_is_not_taken_for_a_descriptor() {
        let (ours, theirs) = socket_pair(0).unwrap();
        // The kernel then adds the sender's ids, which need more space than a descriptor.
        setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(&[0; 8])], &[], MsgFlags::empty(), None).unwrap();
        // They fit into the buffer if its alignment leaves enough space.
        match receive(&ours) {
            Ok(message) => assert!(matches!(message, Some((_, None)))),
            Err(error) => assert!(error.to_string().contains("more than one descriptor"), "{error}"),
        }
    }

    #[test]
    fn a_message_of_another_length_is_rejected() {
        let (ours, theirs) = socket_pair(0).unwrap();
        for length in [1, 7, 9, 64] {
            rustix::net::send(&theirs, &[0; 64][..length], rustix::net::SendFlags::empty()).unwrap();
            let error = receive(&ours).unwrap_err();
            assert!(error.to_string().contains("unknown length"), "{length}: {error}");
        }
        drop(theirs);
        assert!(receive(&ours).unwrap().is_none());
    }
}
