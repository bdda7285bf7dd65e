//! Measures the rows of the table of troubles on this machine, and prints one line of JSON for each row and relation.
//! `cargo xtask troubles` runs it in the guest.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use clap::Parser;
use nspod_troubles::container::Programs;
use nspod_troubles::host;
use nspod_troubles::measure::{Outcome, measure};
use nspod_troubles::report;
use nspod_troubles::rows::ROWS;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Measure what one container does to another, with and without the limit
#[derive(Parser)]
struct Args {
    /// Number of measurements of each row
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Measure each row for one relation only, which differs from row to row
    #[arg(long)]
    one_relation: bool,
    /// Measure nothing: read the results from standard input, and write TROUBLES.md and its chart to this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Print the rows
    #[arg(long)]
    list: bool,
    /// Measure only the rows whose names contain one of these
    filters: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(directory) = &args.write {
        let lines = std::io::read_to_string(std::io::stdin())?;
        let outcomes = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Outcome>, _>>()?;
        report::write(directory, &outcomes)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.list {
        ROWS.iter().for_each(|row| println!("{:17} {:45} {}", row.name, row.flag, row.about));
        return Ok(ExitCode::SUCCESS);
    }
    let programs = Programs::find()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, programs.interrupted.clone())?;
    }
    let mut code = ExitCode::SUCCESS;
    let wanted = |name: &str| {
        args.filters.is_empty() || args.filters.iter().any(|filter| name.contains(filter.as_str()))
    };
    for (index, row) in ROWS.iter().enumerate().filter(|(_, row)| wanted(row.name)) {
        if let Some(reason) = host::why_not(row) {
            eprintln!("{}: not on this host: {reason}", row.name);
            continue;
        }
        let one = [row.relations[index % row.relations.len()]];
        for relation in if args.one_relation { &one } else { row.relations } {
            let start = std::time::Instant::now();
            match measure(&programs, row, *relation, args.runs) {
                Ok(outcome) => {
                    let (free, bound) = outcome.ratios();
                    let seconds = start.elapsed().as_secs_f64();
                    let (free_said, said) = (&outcome.free.said, &outcome.bound.said);
                    eprintln!(
                        "{:17} {:14} {free:5.2} {bound:5.2}  {seconds:4.1} s  {free_said} | {said}",
                        row.name,
                        relation.name()
                    );
                    println!("{}", serde_json::to_string(&outcome)?);
                    if let Some(wrong) = outcome.wrong() {
                        eprintln!("  not as expected: {wrong}");
                        code = ExitCode::FAILURE;
                    }
                }
                Err(error) if programs.interrupted.load(Ordering::Relaxed) => {
                    return Err(error).context("everything was removed");
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    Ok(code)
}
