//! `cargo xtask troubles`: measures what one container does to another, in the guest.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::guest::{self, Stream, repository};
use crate::sh;

/// Measure what one container can do to another, with and without the limit
///
/// Runs a victim alone, beside a hog without a limit, and beside the hog with its limit, for each row of the table, in
/// the guest. Writes TROUBLES.md and TROUBLES.svg, if no row is selected. Lasts more than half an hour.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of measurements of each row
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Measure each row for one relation of the two containers only, which differs from row to row
    #[arg(long)]
    one_relation: bool,
    /// Print the rows
    #[arg(long)]
    list: bool,
    /// Print one line of JSON for each row and relation, and write nothing
    #[arg(long)]
    json: bool,
    /// Install nothing: list the missing packages
    #[arg(long)]
    no_install: bool,
    /// Measure only the rows whose names contain one of these, and write nothing
    filters: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.list {
        guest::is_possible()?;
    }
    let program = build()?;
    // An unknown row is an error before the guest boots.
    let list = Command::new(&program).arg("--list").args(&args.filters).output()?;
    if !list.status.success() {
        bail!("{}", String::from_utf8_lossy(&list.stderr).trim_start_matches("nspod-troubles: ").trim());
    }
    if args.list {
        std::io::stdout().write_all(&list.stdout)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = vec![program.display().to_string(), "--runs".to_owned(), args.runs.to_string()];
    command.extend(args.one_relation.then(|| "--one-relation".to_owned()));
    command.extend(args.filters.iter().cloned());
    let guest = guest::Args { command, no_install: args.no_install, ..guest::Args::default() };
    let mut results = Vec::new();
    let code = guest::run_with(&guest, &[("NSPOD_LANE", "guest")], |stream, bytes| match stream {
        Stream::Out => {
            results.extend_from_slice(bytes);
            if args.json { guest::print(stream, bytes) } else { Ok(()) }
        }
        Stream::Err => guest::print(stream, bytes),
    })?;
    if !args.json && args.filters.is_empty() {
        write(&program, &results)?;
    }
    Ok(ExitCode::from(code))
}

/// Writes the report. If that fails, prints the results, because their measurement lasts long.
fn write(program: &Path, results: &[u8]) -> Result<()> {
    let mut write = Command::new(program);
    let mut child = write.arg("--write").arg(repository()).stdin(Stdio::piped()).spawn()?;
    let given = child.stdin.take().context("no pipe")?.write_all(results);
    if !child.wait()?.success() || given.is_err() {
        guest::print(Stream::Out, results)?;
        bail!(
            "the report was not written; when that is possible, give the results above to {} --write {}",
            program.display(),
            repository().display()
        );
    }
    Ok(())
}

/// Builds the programs, and returns the measuring one.
fn build() -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--bins", "-p", "nspod-cli", "-p", "nspod-troubles"]).current_dir(repository());
    sh::run(&mut build)?;
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this program is in no directory")?.join("nspod-troubles"))
}
