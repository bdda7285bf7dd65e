//! Helpers that the real-kernel tests share.
//!
//! A test talks to processes that take orders: the program `probe` of this package, one
//! line in, one line out. [`Cell`] is a container that runs it; a test is then a dialogue.

mod cell;
pub mod lane;
mod orders;

pub use cell::{Cell, command, join, pod, probe};
pub use orders::{GONE, Orders, PATIENCE, Reply, await_true};

use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other test of any process has at this time.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{what}-{}-{count}", std::process::id())
}
