//! Helpers that the real-kernel tests share.
//!
//! A test sends orders to processes: the program `probe` of this package reads an order from each line and answers
//! with one line. [`Cell`] is a container that runs this program.

mod cell;
pub mod lane;
mod orders;

pub use cell::{Cell, command, join, pod, probe};
pub use nspod_testkit::{eventually, unique};
pub use orders::{GONE, Orders, PATIENCE, Reply};
