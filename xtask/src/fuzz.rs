//! Builds each target of fuzz/ and runs it for a few seconds.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::guest::repository;
use crate::sh;

/// For each target.
const SECONDS: u32 = 5;

/// What `cargo fuzz build` sets, without the need to install it: coverage for libFuzzer, and AddressSanitizer.
/// Being set, this also takes the place of the static linking in .cargo/config.toml, which it cannot have.
const RUSTFLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cdebug-assertions \
     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Builds and runs all targets from their seeds. Without a nightly toolchain, adds to `skips`.
pub(crate) fn run(skips: &mut Vec<String>) -> Result<()> {
    let directory = repository().join("fuzz");
    if !nightly().arg("--version").output().is_ok_and(|output| output.status.success()) {
        skips.push(
            "fuzz targets: there is no nightly toolchain; `rustup toolchain install nightly`".to_owned(),
        );
        return Ok(());
    }
    let target_directory = directory.join("target");
    sh::run(
        nightly()
            .args(["build", "--release", "--bins", "--target", "x86_64-unknown-linux-gnu"])
            .env("RUSTFLAGS", RUSTFLAGS)
            .env("CARGO_TARGET_DIR", &target_directory)
            .current_dir(&directory),
    )?;
    let targets = names(&directory.join("fuzz_targets"))?;
    if targets.is_empty() {
        bail!("fuzz/fuzz_targets holds no target");
    }
    let mut failed = Vec::new();
    for target in targets {
        let executable = target_directory.join("x86_64-unknown-linux-gnu/release").join(&target);
        if let Err(error) = fuzz(&directory, &target, &executable) {
            failed.push(format!("{target} ({error:#})"));
        }
    }
    if !failed.is_empty() {
        bail!("these failed, their inputs are in fuzz/artifacts: {}", failed.join(", "));
    }
    Ok(())
}

fn fuzz(directory: &Path, target: &str, executable: &Path) -> Result<()> {
    eprintln!("-- {target}");
    let artifacts = directory.join("artifacts").join(target);
    std::fs::create_dir_all(&artifacts)?;
    // New inputs go to the first folder; the seeds after it are only read.
    let found = tempfile::tempdir()?;
    let seeds = ["corpus", "seeds"].map(|name| directory.join(name).join(target));
    let mut command = Command::new(executable);
    command.arg(found.path()).args(seeds.iter().filter(|path| path.is_dir()));
    command.args([
        format!("-max_total_time={SECONDS}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    sh::run(&mut command)
}

/// The cargo of the nightly toolchain.
fn nightly() -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly");
    command
}

/// The names of the Rust files in a folder, in order.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = directory.read_dir().with_context(|| format!("reading {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
