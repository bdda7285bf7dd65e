//! The table of containers that this library shares with the watcher (`init/watch.rs`), which includes
//! this file too.
//!
//! The table is an array of slots in a memory file. Slot 0 is the header: its `number` is the number of
//! slots that were ever used. All fields are atomic, because both processes access them.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Maximum length of a path, with the NUL at its end.
pub(crate) const PATH: usize = 1008;

/// State of a slot that has no container.
pub(crate) const FREE: u32 = 0;
/// State of a slot with a cgroup: `path` is its directory, and `id` is the inode of this directory,
/// which the kernel does not use again.
pub(crate) const CGROUP: u32 = 1;
/// State of a slot with process 1 of a pid namespace: `number` is its pid, and `id` its start time in
/// clock ticks after boot.
pub(crate) const PROCESS: u32 = 2;

/// A container. The state is written last.
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) state: AtomicU32,
    pub(crate) number: AtomicU32,
    pub(crate) id: AtomicU64,
    pub(crate) path: [AtomicU8; PATH],
}
