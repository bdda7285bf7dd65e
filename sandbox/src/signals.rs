//! The signal mask of the calling thread during a start.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks all signals of the calling thread until this value is dropped.
pub(crate) struct BlockedSignals(Option<SigSet>);

impl BlockedSignals {
    /// Blocks all signals.
    pub(crate) fn new() -> Self {
        BlockedSignals(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok())
    }
}

impl Drop for BlockedSignals {
    /// Restores the thread's previous mask.
    fn drop(&mut self) {
        if let Some(previous) = self.0 {
            let _ = previous.thread_set_mask();
        }
    }
}
