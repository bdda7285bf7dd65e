#![doc = include_str!("../README.md")]

mod census;
mod holders;
mod matrix;
pub mod model;
mod record;
mod scan;
#[cfg(test)]
mod tests;

pub use census::Census;
pub use matrix::{Matrix, Row};
pub use model::{Container, Model, Pod};
pub use ns_core::{Error, ErrorKind};
pub use record::{Holder, HostFrom, Namespace, Process, Thread, Unreadable, Zombie};
pub use scan::Options;
