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
pub use model::{ContainerInfo, Model, PodInfo};
pub use ns_core::{Error, ErrorKind};
pub use record::{Holder, HostFrom, NamespaceInfo, ProcessInfo, Thread, Unreadable, Zombie};
pub use scan::Options;
