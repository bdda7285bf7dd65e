//! Checks that programs without a runtime build no asynchronous crate.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::guest::repository;
use crate::sh;

/// Crates that only the feature `tokio` of nspod-sandbox needs.
const ASYNCHRONOUS: [&str; 3] = ["tokio", "mio", "futures"];

/// Fails if a published package needs an asynchronous crate by default.
pub(crate) fn check() -> Result<()> {
    for package in ["nspod-sandbox", "nspod-cli"] {
        let found = asynchronous(&["--package", package])?;
        ensure!(found.is_empty(), "{package} needs {found:?}");
    }
    let with = asynchronous(&["--package", "nspod-sandbox", "--features", "tokio"])?;
    ensure!(!with.is_empty(), "the feature tokio of nspod-sandbox needs no asynchronous crate");
    Ok(())
}

/// Returns the asynchronous crates in the output of `cargo tree`.
fn asynchronous(arguments: &[&str]) -> Result<Vec<String>> {
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--edges", "normal", "--prefix", "none"]).args(arguments).current_dir(repository());
    let tree = sh::read(&mut tree)?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let is_asynchronous = |name: &&str| ASYNCHRONOUS.iter().any(|start| name.starts_with(start));
    Ok(names.filter(is_asynchronous).map(str::to_owned).collect())
}
