//! The data that the parent prepares for the child.

use ::core::ffi::c_int;
use ::core::ops::Range;
use ::core::option::Option::{self, None, Some};

use super::report::SharedNote;
use super::sys::{CloneMemory, SecondStack, umask};
use crate::step::{SLOTS, Slot, Step};

/// Data that the parent prepares for the child. It lives until the child has executed the program
/// or has ended. Absent descriptors are -1.
pub(crate) struct ChildContext<'a> {
    /// Steps to perform.
    pub(crate) steps: &'a [Step],
    /// The child's end of the socket to the parent.
    pub(crate) report: c_int,
    /// The child's copy of the parent's end of that socket.
    pub(crate) peer: c_int,
    /// Descriptors to place, each with its current and its new number. The child changes the first.
    pub(crate) fds: &'a mut [(c_int, c_int)],
    /// Ranges of the caller's descriptors that no step needs. They are closed before a process of the
    /// container can see this one.
    pub(crate) foreign_fds: &'a [(u32, u32)],
    /// Ranges of descriptors to close after the others have been placed.
    pub(crate) close: &'a [(u32, u32)],
    /// A number above all placed descriptors.
    pub(crate) above: c_int,
    /// Mount trees that the parent has opened.
    pub(crate) trees: &'a [c_int],
    /// Stack for the process of [`Step::Clone`].
    pub(crate) stack: Option<SecondStack>,
    /// Cgroup for the process of [`Step::Clone`].
    pub(crate) cgroup: c_int,
    /// The socket of [`Step::AwaitLimits`].
    pub(crate) limits: c_int,
    /// Whether the child shares the parent's memory.
    pub(crate) shared: bool,
    /// Memory in which the child leaves a note for the parent. A filter cannot prevent that.
    pub(crate) note: Option<&'a SharedNote>,
    /// The file to execute instead of the plan's.
    pub(crate) image: c_int,
    /// Standard input of hooks.
    pub(crate) state: c_int,
    /// Index of the next step.
    pub(crate) next: usize,
    /// The caller's umask while another one is set, or -1.
    pub(crate) umask: c_int,
    /// Whether the process has entered the program's working directory.
    pub(crate) entered: bool,
    /// Descriptors that steps have opened.
    pub(crate) slots: [c_int; SLOTS],
    /// Namespaces and mounts from a pool.
    pub(crate) premade: PremadeParts<'a>,
}

/// Namespaces and mounts that a pool has made in advance.
pub(crate) struct PremadeParts<'a> {
    /// Namespaces to enter, with the kind (`CLONE_NEW*`) of each. In the net namespace `lo` is up.
    pub(crate) enter: &'a [(c_int, u64)],
    /// Indices of the steps that the pool has performed, except that it has not attached the
    /// mounts.
    pub(crate) steps: Range<usize>,
    /// The mounts of these steps, in order.
    pub(crate) dev: &'a [c_int],
}

impl PremadeParts<'_> {
    /// Index of the step in a message about these namespaces. No plan has that many steps.
    pub(crate) const STEP: u16 = u16::MAX;
}

impl<'a> ChildContext<'a> {
    /// Returns a context for steps that need no data of the parent.
    pub(super) fn of_steps(steps: &'a [Step]) -> Self {
        ChildContext {
            steps,
            report: -1,
            peer: -1,
            fds: &mut [],
            foreign_fds: &[],
            close: &[],
            above: 0,
            trees: &[],
            stack: None,
            cgroup: -1,
            limits: -1,
            shared: false,
            note: None,
            image: -1,
            state: -1,
            next: 0,
            umask: -1,
            entered: false,
            slots: [-1; SLOTS],
            premade: PremadeParts { enter: &[], steps: 0..0, dev: &[] },
        }
    }

    /// Returns the descriptor in a slot, or -1.
    pub(super) fn slot(&self, slot: Slot) -> c_int {
        match self.slots.get(slot as usize) {
            Some(fd) => *fd,
            None => -1,
        }
    }

    /// Puts a descriptor into a slot.
    pub(super) fn set_slot(&mut self, slot: Slot, fd: c_int) {
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = fd;
        }
    }

    /// Returns the index of the step that is being performed.
    pub(super) fn step(&self) -> u16 {
        self.next.wrapping_sub(1) as u16
    }

    /// Returns how the process of [`Step::Clone`] gets its memory.
    pub(super) fn clone_memory(&self) -> CloneMemory {
        if self.shared { CloneMemory::Shared } else { CloneMemory::Copied }
    }

    /// Clears the umask, so that files get the modes of the spec.
    pub(super) fn clear_umask(&mut self) {
        if self.umask < 0 {
            self.umask = umask(0);
        }
    }

    /// Restores the caller's umask, for files that hooks and the program make.
    pub(super) fn restore_umask(&mut self) {
        if self.umask >= 0 {
            umask(self.umask);
            self.umask = -1;
        }
    }
}
