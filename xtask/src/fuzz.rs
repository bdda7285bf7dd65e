//! `cargo xtask fuzz`: builds each target of fuzz/ and runs it for some time.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

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
    let mut failed = Vec::new();
    for target in targets {
        let executable = target_directory.join("x86_64-unknown-linux-gnu/release").join(&target);
        if let Err(error) = fuzz(&directory, &target, &executable, seconds) {
            failed.push(format!("{target} ({error:#})"));
        }
    }
    if !failed.is_empty() {
        bail!("these failed, their inputs are in fuzz/artifacts: {}", failed.join(", "));
    }
    Ok(())
}

fn fuzz(directory: &Path, target: &str, executable: &Path, seconds: u32) -> Result<()> {
    eprintln!("-- {target}");
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
    sh::run(&mut command)
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
