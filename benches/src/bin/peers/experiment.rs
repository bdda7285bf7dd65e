//! The experiments, and running them one after the other.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::options::Options;
use crate::report::{Heading, Line, Report, Target};
use crate::stage::Stage;
use crate::{growth, inside, many, page, whole};

/// A measurement that can be run alone.
pub(crate) struct Experiment {
    pub(crate) heading: Heading,
    run: fn(&Stage) -> Result<Report>,
}

macro_rules! experiments {
    ($($name:literal, $title:literal, $run:path;)*) => {
        /// All experiments, in the order of the table.
        pub(crate) const ALL: &[Experiment] =
            &[$(Experiment { heading: Heading { name: $name, title: $title }, run: $run }),*];
    };
}

experiments! {
    "container", "a full container by the library, beside the same system calls by hand", inside::container;
    "five", "one process in five new namespaces, beside raw clone3", inside::five;
    "pool", "a full container with a pool", inside::pool;
    "plain", "one process without isolation, beside std", inside::plain;
    "seccomp", "the default seccomp profile, second start", inside::seccomp;
    "run", "nspod run beside bwrap", whole::run;
    "unshare", "nspod run with the five kinds, beside unshare", whole::unshare;
    "oci-run", "nspod-oci run beside crun, runc and youki", whole::oci_run;
    "oci-life", "create, start, delete", whole::oci_life;
    "exec", "a further process in a running container", whole::exec;
    "memory", "peak resident memory of a runtime", whole::memory;
    "helpers", "additional processes of a detached container", whole::helpers;
    "pids-max", "a container limited to one process", whole::pids_max;
    "syscalls", "system calls for a container", whole::syscalls;
    "parent-size", "starts from a parent with much memory", growth::parent_size;
    "alive", "starts beside many containers", growth::alive;
    "threads", "starts from a parent with many threads", growth::threads;
    "kinds", "starts with more and more kinds of namespaces", growth::kinds;
    "mounts", "starts with more and more mounts", growth::mounts;
    "throughput", "containers a second with all processors busy", many::throughput;
    "delete", "a thousand containers deleted at once", many::delete;
    "census", "the census of ten thousand processes", many::census;
}

/// Runs the chosen experiments, prints their results, and writes the page if all experiments were chosen.
pub(crate) fn run_all(files: &Path, options: &Options) -> Result<ExitCode> {
    if let Some(unknown) =
        options.only.iter().find(|name| ALL.iter().all(|e| e.heading.name != name.as_str()))
    {
        bail!("{unknown:?} is not the name of a row; --list prints the names");
    }
    let began = Instant::now();
    let stage = Stage::new(files, options)?;
    let mut found = Vec::new();
    let mut failed = false;
    for experiment in ALL {
        let Heading { name, title } = experiment.heading;
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let start = Instant::now();
        println!("{title} ({name})");
        let mut report = (experiment.run)(&stage).unwrap_or_else(|error| {
            failed = true;
            let line = Line::absent(title, "", Target::None, format!("failed: {error:#}"));
            Report::default().line(line)
        });
        report.lines.iter_mut().for_each(|line| line.row = name);
        for line in &report.lines {
            println!("  {}", page::plain(line));
        }
        for text in &report.text {
            println!("{}", page::indented(text));
        }
        println!("  {} rounds, {:.1} s\n", report.rounds, start.elapsed().as_secs_f64());
        found.push((experiment.heading, report));
    }
    println!("{:.0} s in total", began.elapsed().as_secs_f64());
    if options.only.is_empty() {
        page::write(&stage, options, &found)?;
    }
    let lines = found.iter().flat_map(|(_, report)| &report.lines);
    let (mut met, mut missed) = (0, 0);
    lines.filter_map(Line::met).for_each(|ok| if ok { met += 1 } else { missed += 1 });
    println!("{met} targets met, {missed} missed");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
