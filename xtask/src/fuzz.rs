//! `cargo xtask fuzz`: builds each target of fuzz/ and runs it for some time.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::guest::repository;
use crate::sh;

/// Run each fuzz target for some time
///
/// Inputs that fail are kept in fuzz/artifacts. Requires a nightly toolchain.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// The flags of `cargo fuzz build`, so that cargo-fuzz need not be installed: coverage for libFuzzer, and
/// AddressSanitizer. They replace the flags in .cargo/config.toml, because AddressSanitizer does not work with
/// static linking.
const RUSTFLAGS: &str = "--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cdebug-assertions \
     -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    run_all(args.seconds).map(|()| ExitCode::SUCCESS)
}

/// Returns whether cargo has a nightly toolchain, which the targets require.
pub(crate) fn has_nightly() -> bool {
    nightly().arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Builds all targets and runs each from its seeds.
pub(crate) fn run_all(seconds: u32) -> Result<()> {
    let directory = repository().join("fuzz");
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
        bail!("fuzz/fuzz_targets contains no target");
    }
    run_each(&directory, &targets, &target_directory.join("x86_64-unknown-linux-gnu/release"), seconds)
}

/// Runs each target, one on each processor.
fn run_each(directory: &Path, targets: &[String], executables: &Path, seconds: u32) -> Result<()> {
    // libFuzzer has one thread, so each processor runs a target.
    let left = Mutex::new(targets.iter());
    let failed = Mutex::new(Vec::new());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run_next = || {
        while let Some(target) = next() {
            if let Err(error) = fuzz(directory, target, &executables.join(target), seconds) {
                let failure = format!("{target} ({error:#})");
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(run_next);
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("these failed, their inputs are in fuzz/artifacts: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs a target, and then prints its output, so that those of several targets are not mixed.
fn fuzz(directory: &Path, target: &str, executable: &Path, seconds: u32) -> Result<()> {
    let artifacts = directory.join("artifacts").join(target);
    std::fs::create_dir_all(&artifacts)?;
    // New inputs go to the first folder; the seeds after it are only read.
    let found = tempfile::tempdir()?;
    let seeds = ["corpus", "seeds"].map(|name| directory.join(name).join(target));
    let mut command = Command::new(executable);
    command.arg(found.path()).args(seeds.iter().filter(|path| path.is_dir()));
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-artifact_prefix={}/", artifacts.display()),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    let output =
        command.output().with_context(|| format!("`{}` could not be started", sh::line(&command)))?;
    eprintln!("-- {target}\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
    ensure!(output.status.success(), "`{}` failed: {}", sh::line(&command), output.status);
    Ok(())
}

/// Returns the cargo of the nightly toolchain.
fn nightly() -> Command {
    let mut command = Command::new("cargo");
    command.arg("+nightly");
    command
}

/// Returns the names of the Rust files in a directory, in order.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_runs_once_and_those_that_fail_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let targets: Vec<String> = (0..5).map(|number| format!("target{number}")).collect();
        for (target, code) in targets.iter().zip([0, 1, 0, 77, 0]) {
            let path = directory.path().join(target);
            std::fs::write(&path, format!("#!/bin/sh\necho >>$0.ran\nexit {code}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).unwrap();
        }
        let error = run_each(directory.path(), &targets, directory.path(), 1).unwrap_err().to_string();
        let is_named = |target: &String| error.contains(&format!("{target} ("));
        assert_eq!(
            targets.iter().map(is_named).collect::<Vec<_>>(),
            [false, true, false, true, false],
            "{error}"
        );
        for target in &targets {
            assert_eq!(std::fs::read(directory.path().join(format!("{target}.ran"))).unwrap(), b"\n");
        }
    }
}
