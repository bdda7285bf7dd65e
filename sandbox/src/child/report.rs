//! Messages and notes of a child to its parent.

use ::core::clone::Clone;
use ::core::default::Default;
use ::core::ffi::c_int;
use ::core::fmt::Debug;
use ::core::marker::Copy;
use ::core::sync::atomic::{AtomicU64, Ordering};

use super::sys::{Done, send_descriptor, write};

/// A message of the child to its parent: eight bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Message {
    /// One of the constants of this type.
    pub(crate) tag: u8,
    /// Number of the [`Call`](crate::step::Call) that failed.
    pub(crate) call: u8,
    /// Index of the step.
    pub(crate) step: u16,
    /// An errno, a pid for [`Message::CLONED`], or a descriptor for [`Message::LISTENER`].
    pub(crate) value: i32,
}

impl Message {
    /// A step failed, and the child ends.
    pub(crate) const FAILED: u8 = 1;
    /// A step cloned another process, whose pid is the value. The stage attaches the process's
    /// pidfd, because a pid could be forged.
    pub(crate) const CLONED: u8 = 2;
    /// The child waits for a byte from the parent.
    pub(crate) const WAITING: u8 = 3;
    /// The main side of a terminal is attached.
    pub(crate) const TERMINAL: u8 = 4;
    /// A filter with a listener is loaded. The value is the listener's descriptor in the child.
    pub(crate) const LISTENER: u8 = 5;
    /// The init has started the program, or a held container has only its filter and the exec of
    /// its program left.
    pub(crate) const STARTED: u8 = 6;

    /// Encodes the message for the socket.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let ([s0, s1], [v0, v1, v2, v3]) = (self.step.to_ne_bytes(), self.value.to_ne_bytes());
        [self.tag, self.call, s0, s1, v0, v1, v2, v3]
    }

    /// Decodes a message.
    pub(crate) fn from_bytes([tag, call, s0, s1, v0, v1, v2, v3]: [u8; 8]) -> Message {
        let (step, value) = (u16::from_ne_bytes([s0, s1]), i32::from_ne_bytes([v0, v1, v2, v3]));
        Message { tag, call, step, value }
    }
}

/// Sends a message to the parent.
///
/// The call is write(2), because filters allow it most often. If the parent has closed its end, the
/// call fails: SIGPIPE is blocked.
pub(super) fn send(report: c_int, message: Message) -> Done {
    write(report, &message.to_bytes())
}

/// Sends a message with a descriptor to the parent.
pub(super) fn send_with(report: c_int, message: Message, fd: c_int) -> Done {
    send_descriptor(report, &message.to_bytes(), fd)
}

/// A note of a child or a stage, in memory that the parent reads if no message could be sent. The
/// stage's memory file starts with a note.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Note {
    /// The [`Message`] of the failed step, or zeros.
    pub(crate) failure: [u8; 8],
    /// 1 if only the exec of the program or the stage remains.
    pub(crate) executes: u64,
}

/// A [`Note`] in memory that the child shares with its parent.
#[repr(C)]
pub(crate) struct SharedNote {
    failure: AtomicU64,
    executes: AtomicU64,
}

impl SharedNote {
    /// Records a failure.
    pub(super) fn fail(&self, message: Message) {
        self.failure.store(u64::from_ne_bytes(message.to_bytes()), Ordering::Relaxed);
    }

    /// Records that only the exec of the program or the stage remains.
    pub(super) fn executes(&self) {
        self.executes.store(1, Ordering::Relaxed);
    }

    /// Removes the note of an earlier child.
    pub(crate) fn clear(&self) {
        self.failure.store(0, Ordering::Relaxed);
        self.executes.store(0, Ordering::Relaxed);
    }

    /// Returns the child's note.
    pub(crate) fn read(&self) -> Note {
        Note {
            failure: self.failure.load(Ordering::Relaxed).to_ne_bytes(),
            executes: self.executes.load(Ordering::Relaxed),
        }
    }
}
