//! The lints of all crates and tests for aarch64. Nothing is linked except the embedded init, with the linker that
//! rustc contains, so that no C compiler for aarch64 is required.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::guest::repository;
use crate::sh;

pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Returns whether rustc has the standard library for the target, after installing it if it `may`.
pub(crate) fn is_installed(may: bool) -> bool {
    let library = || {
        let mut rustc = Command::new("rustc");
        sh::read(rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(repository()))
            .is_ok_and(|path| Path::new(path.trim()).exists())
    };
    let install =
        || sh::run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(repository()));
    library() || (may && install().is_ok() && library())
}

/// Checks every crate, except the benchmarks, which compile C.
pub(crate) fn lints() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["clippy", "--target", TARGET, "--workspace", "--exclude", "nspod-benches", "--all-targets"])
        .args(["--", "-D", "warnings"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "rust-lld");
    sh::run(cargo.current_dir(repository()))
}
