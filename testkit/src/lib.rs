//! Helpers that the tests of all crates share. This crate depends on no other crate of the workspace, so that
//! each of them can use it in its tests.

#![forbid(unsafe_code)]

mod program;
mod skip;

pub use program::{Output, PATIENCE, end_of, eventually, run_with};
pub use skip::{is_slow, programs, root, rounds, skip, skip_test};
