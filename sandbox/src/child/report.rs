//! What a child tells its parent.

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
    /// A step cloned another process, whose pid is the value. The stage sends the process's pidfd
    /// along, because a pid could be forged.
    pub(crate) const CLONED: u8 = 2;
    /// The child waits for the parent's word.
    pub(crate) const WAITING: u8 = 3;
    /// The main side of a terminal comes with this message.
    pub(crate) const TERMINAL: u8 = 4;
    /// A filter with a listener is loaded. The value is the listener's descriptor in the child.
    pub(crate) const LISTENER: u8 = 5;
    /// The init has started the program, or a held container has only its filter and its program
    /// left to do.
    pub(crate) const STARTED: u8 = 6;

    /// Encodes the message as it is sent.
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
/// By write(2), which filters permit most often. If the parent has closed its end, the call fails:
/// SIGPIPE is blocked.
pub(super) fn send(report: c_int, message: Message) -> Done {
    write(report, &message.to_bytes())
}

/// Sends a message with a descriptor to the parent.
pub(super) fn send_with(report: c_int, message: Message, fd: c_int) -> Done {
    send_descriptor(report, &message.to_bytes(), fd)
}

/// What a child or a stage leaves in memory for its parent, which reads it when no message could
/// be sent. The stage's memory file begins with one.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Note {
    /// The [`Message`] of the step that failed, or zeros.
    pub(crate) failure: [u8; 8],
    /// 1 once the only step left is to execute the program or the stage.
    pub(crate) executes: u64,
}

/// A [`Note`] in memory that the child and its parent share.
#[repr(C)]
pub(crate) struct SharedNote {
    failure: AtomicU64,
    executes: AtomicU64,
}

impl SharedNote {
    /// Notes a failure.
    pub(super) fn fail(&self, message: Message) {
        self.failure.store(u64::from_ne_bytes(message.to_bytes()), Ordering::Relaxed);
    }

    /// Notes that the only step left is to execute the program or the stage.
    pub(super) fn executes(&self) {
        self.executes.store(1, Ordering::Relaxed);
    }

    /// Removes what an earlier child noted.
    pub(crate) fn clear(&self) {
        self.failure.store(0, Ordering::Relaxed);
        self.executes.store(0, Ordering::Relaxed);
    }

    /// Returns what the child noted.
    pub(crate) fn read(&self) -> Note {
        Note {
            failure: self.failure.load(Ordering::Relaxed).to_ne_bytes(),
            executes: self.executes.load(Ordering::Relaxed),
        }
    }
}
