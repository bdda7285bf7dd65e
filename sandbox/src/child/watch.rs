//! The start of the watcher: a process that this process's parent neither waits for nor gets a signal of.

use ::core::ffi::{c_int, c_uint};
use ::core::option::Option::{self, None, Some};
use ::core::result::Result::Err;

use super::sys::{Done, Fault, Run, SecondStack, clone_child, close_range, dup3, exit, fexecve, setsid};
use crate::step::{CStrings, Call};

/// Data of two processes, which share it with their parent. The first one clones the second one and ends,
/// so that the second one is not a child of this program. The second one becomes the watcher.
pub(crate) struct Watch<'a> {
    /// Pidfd of the process to watch.
    pub(crate) process: c_int,
    /// The table of containers.
    pub(crate) table: c_int,
    /// The embedded init. These three descriptors are above [`Self::ABOVE`].
    pub(crate) image: c_int,
    pub(crate) argv: &'a CStrings,
    pub(crate) envp: &'a CStrings,
    /// The stack of the second process. `None` in the second process.
    pub(crate) stack: Option<SecondStack>,
    /// Pid of the watcher.
    pub(crate) pid: c_int,
    /// The failed call and its errno.
    pub(crate) failed: Option<(Call, c_int)>,
}

impl Watch<'_> {
    /// Least number of a descriptor that the watcher's own do not replace.
    pub(crate) const ABOVE: c_int = 3;
}

impl Run for Watch<'_> {
    fn run(&mut self) -> ! {
        let done = match self.stack.take() {
            Some(stack) => clone_child(stack, self).map(|pid| self.pid = pid),
            None => become_watcher(self),
        };
        if let Err(Fault { call, errno }) = done {
            self.failed = Some((call, errno));
        }
        exit(0)
    }
}

/// Executes the watcher in a session of its own, with no descriptor except its own two.
fn become_watcher(watch: &Watch<'_>) -> Done {
    setsid()?;
    dup3(watch.process, 0)?;
    dup3(watch.table, 1)?;
    let image = watch.image as c_uint;
    // The descriptor of the image is closed on exec.
    close_range(2, image.wrapping_sub(1), 0)?;
    close_range(image.wrapping_add(1), c_uint::MAX, 0)?;
    fexecve(watch.image, watch.argv, watch.envp)
}
