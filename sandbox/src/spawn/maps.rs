//! The id maps of a child that shares this process's memory. The thread that clones is suspended until
//! the child has executed a program, so another thread writes the maps.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use crate::child::Message;
use crate::error::Error;
use crate::fd::duplicate;
use crate::plan::{Maps, Plan};
use crate::spawn::helper::Helper;
use crate::spawn::protocol::write_maps;
use crate::spawn::socket::{receive, send_word};
use crate::step::Step;

/// A thread that answers [`Step::AwaitMaps`].
pub(super) struct MapWriter {
    /// The child's pid. The kernel stores it before the child runs.
    pid: Arc<AtomicI32>,
    thread: Helper,
}

impl MapWriter {
    const STACK: usize = 128 << 10;

    /// Starts the thread, if the plan needs it.
    ///
    /// # Errors
    /// - `EAGAIN`: the user or a cgroup has reached its limit on processes.
    /// - `EMFILE`, `ENFILE`: no descriptor is free.
    pub(super) fn start(plan: &Plan, socket: &OwnedFd) -> Result<Option<MapWriter>, Error> {
        let at = plan.steps.iter().position(|step| matches!(step, Step::AwaitMaps));
        let (Some(at), Some(maps), true) = (at, plan.maps.clone(), plan.shared_memory) else {
            return Ok(None);
        };
        let (socket, pid) = (duplicate(socket)?, Arc::new(AtomicI32::new(0)));
        let of_child = pid.clone();
        let work = move || answer(at, &maps, &of_child, &socket);
        let thread = Helper::start("nspod-maps", MapWriter::STACK, ("id-maps", "write the id maps"), work)?;
        Ok(Some(MapWriter { pid, thread }))
    }

    /// Returns where clone3(2) stores the child's pid.
    pub(super) fn pid(&self) -> &AtomicI32 {
        &self.pid
    }

    /// Waits for the end of the thread. The child's end of the socket must be closed in this process:
    /// if the child has ended without asking for maps, the thread waits for that.
    ///
    /// # Errors
    /// The maps cannot be written. The child has ended, or is about to end.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.thread.join()
    }
}

/// Writes the maps if the child's first message asks for them at step `at`. Leaves any other message to the
/// thread that clones.
fn answer(at: usize, maps: &Maps, pid: &AtomicI32, socket: &OwnedFd) -> Result<(), Error> {
    let mut bytes = [0; size_of::<Message>()];
    let asks = loop {
        match recv(socket, &mut bytes[..], RecvFlags::PEEK) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((length, _)) if length == bytes.len() => {
                let message = Message::from_bytes(bytes);
                break message.tag == Message::WAITING && usize::from(message.step) == at;
            }
            _ => break false,
        }
    };
    if !asks {
        return Ok(());
    }
    receive(socket)?;
    let written = write_maps(maps, pid.load(Ordering::Acquire));
    match written {
        Ok(()) => send_word(socket),
        Err(e) => {
            // The child ends when it finds the end of the file.
            let _ = shutdown(socket, Shutdown::Write);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use ns_core::IdMap;

    use super::*;
    use crate::spawn::socket::socket_pair;

    const AT: usize = 3;

    /// Answers a child that sends a message with this tag, or none. Returns the result, whether the message
    /// is still there, and the child's end of the socket.
    fn answered(tag: Option<u8>) -> (Result<(), Error>, bool, OwnedFd) {
        let (ours, theirs) = socket_pair(0).unwrap();
        let message = Message { tag: tag.unwrap_or(0), call: 0, step: AT as u16, value: 0 };
        match tag {
            Some(_) => _ = nix::unistd::write(&theirs, &message.to_bytes()).unwrap(),
            None => shutdown(&theirs, Shutdown::Write).unwrap(),
        }
        let map = IdMap::single(0, 0);
        let maps = Maps { uid: map.clone(), gid: map, helpers: false };
        // The maps of this process exist, so that the kernel rejects others.
        let pid = AtomicI32::new(std::process::id() as i32);
        let answer = answer(AT, &maps, &pid, &ours);
        let left = recv(&ours, &mut [0; 8][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        (answer, left.is_ok_and(|(length, _)| length == 8), theirs)
    }

    #[test]
    fn a_child_whose_maps_are_rejected_finds_the_end_of_the_file() {
        let (answer, left, child) = answered(Some(Message::WAITING));
        assert_eq!(answer.unwrap_err().step(), "id-maps");
        assert!(!left);
        assert_eq!(nix::unistd::read(&child, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn other_messages_are_left_to_the_thread_that_clones() {
        let (answer, left, _) = answered(Some(Message::FAILED));
        assert!(answer.is_ok() && left);
        let (answer, left, _) = answered(None);
        assert!(answer.is_ok() && !left);
    }
}
