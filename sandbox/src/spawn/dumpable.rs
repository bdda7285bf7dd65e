//! The "dumpable" attribute of this process's memory, which allows core dumps and tracing.

use std::sync::{Mutex, MutexGuard};

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

/// Restores the attribute after starts whose child shares this process's memory.
///
/// If a process changes its ids, the kernel clears the attribute of its memory. With shared memory
/// it would stay cleared for this process. It is restored when the last child has its own memory:
/// earlier, a process of the child's new user could trace the child.
pub(super) struct Dumpable;

struct State {
    /// Number of existing [`Dumpable`]s.
    in_flight: usize,
    /// Whether the attribute was set when the first `Dumpable` was made, and must be restored.
    restore: bool,
}

static STATE: Mutex<State> = Mutex::new(State { in_flight: 0, restore: false });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(|e| e.into_inner())
}

fn is_dumpable() -> bool {
    dumpable_behavior().is_ok_and(|mark| mark == DumpableBehavior::Dumpable)
}

impl Dumpable {
    /// Records the current attribute.
    pub(super) fn keep() -> Self {
        let mut state = state();
        if state.in_flight == 0 {
            state.restore = is_dumpable();
        }
        state.in_flight += 1;
        Dumpable
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut state = state();
        state.in_flight -= 1;
        if state.in_flight == 0 && state.restore && !is_dumpable() {
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        }
    }
}

/// Makes this process undumpable: no core dumps, and no tracing by other processes of its user.
///
/// Use this function instead of `prctl(PR_SET_DUMPABLE, 0)` in a program that starts containers in
/// other threads. While a container starts, the kernel may clear the same attribute, and the
/// library sets it again afterwards. The library cannot distinguish a direct prctl(2) call during
/// that time from the kernel's change, and would undo it. A prctl(2) call before the first start is
/// safe.
///
/// See
/// [PR_SET_DUMPABLE(2const)](https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html).
///
/// # Errors
/// None on Linux.
pub fn make_undumpable() -> std::io::Result<()> {
    let mut state = state();
    state.restore = false;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_the_kernel_clears_is_restored_and_one_that_the_program_clears_is_not() {
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        let (first, second) = (Dumpable::keep(), Dumpable::keep());
        // The kernel does this when a process changes its ids.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).unwrap();
        drop(first);
        assert!(!is_dumpable(), "a start is in flight");
        drop(second);
        assert!(is_dumpable());

        let start = Dumpable::keep();
        make_undumpable().unwrap();
        drop(start);
        assert!(!is_dumpable());
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
    }
}
