//! Helpers that the real-kernel tests share.
//!
//! A test sends orders to processes: the program `probe` of this package reads an order from each line and answers
//! with one line. [`Cell`] is a container that runs this program.

mod cell;
pub mod lane;
mod orders;

pub use cell::{Cell, command, join, pod, probe};
pub use orders::{GONE, Orders, PATIENCE, Reply, await_true};

use std::sync::atomic::{AtomicU32, Ordering};

/// Returns a name that no other running test has.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{what}-{}-{count}", std::process::id())
}
