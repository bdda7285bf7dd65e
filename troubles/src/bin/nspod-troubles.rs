//! Measures the rows of the table of troubles on this machine, and prints one line of JSON for each row and relation.
//! `cargo xtask troubles` runs it in the guest.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;
use nspod_troubles::container::Programs;
use nspod_troubles::host;
use nspod_troubles::measure::{Case, Outcome, measure_all};
use nspod_troubles::report;
use nspod_troubles::rows::select;
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

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        eprintln!("nspod-troubles: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(directory) = &args.write {
        let lines = std::io::read_to_string(std::io::stdin())?;
        let outcomes = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Outcome>, _>>()?;
        report::write(directory, &outcomes)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = match select(&args.filters) {
        Ok(rows) => rows,
        Err(unknown) => bail!("no row has a name with {}: see --list for the names", unknown.join(" or ")),
    };
    if args.list {
        rows.iter().for_each(|row| println!("{:17} {:45} {}", row.name, row.flag, row.about));
        return Ok(ExitCode::SUCCESS);
    }
    let programs = Programs::find()?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, programs.interrupted.clone())?;
    }
    let mut cases = Vec::new();
    for row in rows {
        match host::why_not(row) {
            Some(reason) => eprintln!("{}: not on this host: {reason}", row.name),
            None if args.one_relation => cases.push((row, row.one_relation())),
            None => cases.extend(row.relations.iter().map(|relation| (row, *relation))),
        }
    }
    let progress = Mutex::new(Progress { start: Instant::now(), done: 0, of: cases.len(), wrong: 0 });
    measure_all(&programs, &cases, args.runs, |case, result| {
        // A panic of another thread ends the measurement anyway.
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !programs.interrupted.load(Ordering::Relaxed) {
            progress.report(case, result);
        }
    });
    if programs.interrupted.load(Ordering::Relaxed) {
        bail!("interrupted; the containers and pods were removed");
    }
    let wrong = progress.lock().unwrap_or_else(PoisonError::into_inner).wrong;
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The progress of all measurements.
struct Progress {
    start: Instant,
    done: usize,
    of: usize,
    wrong: usize,
}

impl Progress {
    /// Prints the result for people on standard error, and for programs on standard output.
    fn report(&mut self, (row, relation): Case, result: Result<Outcome>) {
        self.done += 1;
        let so_far = self.start.elapsed().as_secs_f64();
        let left = so_far / self.done as f64 * (self.of - self.done) as f64;
        let place = format!("{}/{} {}, {}", self.done, self.of, row.name, relation.name());
        let wrong = match result {
            Ok(outcome) => {
                let (free, bound) = outcome.ratios();
                eprintln!("{place}: {free:.2} → {bound:.2}; about {:.0} min left", (left / 60.0).ceil());
                println!("{}", serde_json::json!(outcome));
                outcome.wrong().map(|wrong| format!("not as expected: {wrong}"))
            }
            Err(error) => Some(format!("{place}: {error:#}")),
        };
        if let Some(wrong) = wrong {
            eprintln!("{wrong}");
            self.wrong += 1;
        }
    }
}
