//! The rows, and running them one after the other.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::measure::Samples;
use crate::plot::Plot;
use crate::stage::Stage;
use crate::{Options, growth, inside, many, page, whole};

/// What a row is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// The value itself, with nobody to compare with.
    Exactly(f64),
    /// Shown for its own sake.
    None,
}

/// In what a row is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    Micros,
    Kib,
    PerSecond,
    Count,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The name of its experiment, under which notes.md has what there is to say.
    pub(crate) row: &'static str,
    pub(crate) what: String,
    pub(crate) against: String,
    pub(crate) unit: Unit,
    /// Least and median.
    pub(crate) ours: Option<[f64; 2]>,
    pub(crate) theirs: Option<[f64; 2]>,
    pub(crate) target: Target,
    /// Why there is no figure.
    pub(crate) absent: Option<String>,
}

impl Line {
    /// Two sides of which both were measured.
    pub(crate) fn compare(what: &str, ours: &Samples, theirs: &Samples, target: Target) -> Line {
        let pair = |samples: &Samples| Some([samples.min(), samples.median()]);
        Line {
            row: "",
            what: what.to_owned(),
            against: theirs.name.clone(),
            unit: Unit::Micros,
            ours: pair(ours),
            theirs: pair(theirs),
            target,
            absent: None,
        }
    }

    /// A value of ours alone.
    pub(crate) fn value(what: &str, value: f64, target: Target) -> Line {
        Line {
            row: "",
            what: what.to_owned(),
            against: String::new(),
            unit: Unit::Count,
            ours: Some([value; 2]),
            theirs: None,
            target,
            absent: None,
        }
    }

    /// A row that could not be measured.
    pub(crate) fn absent(what: &str, against: &str, target: Target, why: impl Into<String>) -> Line {
        Line {
            row: "",
            what: what.to_owned(),
            against: against.to_owned(),
            unit: Unit::Micros,
            ours: None,
            theirs: None,
            target,
            absent: Some(why.into()),
        }
    }

    pub(crate) fn unit(mut self, unit: Unit) -> Line {
        self.unit = unit;
        self
    }

    /// The ratio of the medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.ours?[1] / self.theirs?[1])
    }

    /// Whether the target is met; `None` where there is none or nothing was measured.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(self.ratio()? <= most),
            Target::AtLeast(least) => Some(self.ratio()? >= least),
            Target::Exactly(value) => Some(self.ours?[1] == value),
            Target::None => None,
        }
    }
}

/// What an experiment found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
    pub(crate) plots: Vec<Plot>,
    /// What the table has no place for, in sentences or as a table of its own.
    pub(crate) text: Vec<String>,
    /// Rounds of each side.
    pub(crate) rounds: usize,
}

impl Report {
    pub(crate) fn of(samples: &[Samples]) -> Report {
        Report { rounds: samples.iter().map(Samples::count).min().unwrap_or(0), ..Report::default() }
    }

    pub(crate) fn line(mut self, line: Line) -> Report {
        self.lines.push(line);
        self
    }
}

/// Something that is measured for itself.
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(&Stage) -> Result<Report>,
}

macro_rules! experiments {
    ($($name:literal, $title:literal, $run:path;)*) => {
        /// All of them, in the order of the table.
        pub(crate) const ALL: &[Experiment] = &[$(Experiment { name: $name, title: $title, run: $run }),*];
    };
}

experiments! {
    "container", "a full container by the library, beside the same by hand", inside::container;
    "five", "one process in five new namespaces, beside raw clone3", inside::five;
    "pool", "a full container with what a pool has ready", inside::pool;
    "plain", "one process with nothing isolated, beside std", inside::plain;
    "seccomp", "the default seccomp profile, second start", inside::seccomp;
    "run", "nspod run beside bwrap", whole::run;
    "unshare", "nspod run with the five kinds, beside unshare", whole::unshare;
    "oci-run", "nspod-oci run beside crun, runc and youki", whole::oci_run;
    "oci-life", "create, start, delete", whole::oci_life;
    "exec", "a further process in a running container", whole::exec;
    "memory", "peak resident memory of a runtime", whole::memory;
    "helpers", "processes beside those of a detached container", whole::helpers;
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

/// Runs those that are asked for, prints them, and writes the page if all were.
pub(crate) fn run_all(files: &Path, options: &Options) -> Result<ExitCode> {
    if let Some(unknown) = options.only.iter().find(|name| ALL.iter().all(|e| e.name != name.as_str())) {
        bail!("{unknown:?} is no row; --list prints them");
    }
    let began = Instant::now();
    let stage = Stage::new(files, options)?;
    let mut found = Vec::new();
    let mut failed = false;
    for experiment in ALL {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == experiment.name) {
            continue;
        }
        let start = Instant::now();
        println!("{} ({})", experiment.title, experiment.name);
        let mut report = (experiment.run)(&stage).unwrap_or_else(|error| {
            failed = true;
            let line = Line::absent(experiment.title, "", Target::None, format!("failed: {error:#}"));
            Report::default().line(line)
        });
        report.lines.iter_mut().for_each(|line| line.row = experiment.name);
        for line in &report.lines {
            println!("  {}", page::plain(line));
        }
        for text in &report.text {
            println!("{}", page::indented(text));
        }
        println!("  {} rounds, {:.1} s\n", report.rounds, start.elapsed().as_secs_f64());
        found.push((experiment.name, report));
    }
    println!("{:.0} s in all", began.elapsed().as_secs_f64());
    if options.only.is_empty() {
        page::write(&stage, options, &found)?;
    }
    let lines = found.iter().flat_map(|(_, report)| &report.lines);
    let (mut met, mut missed) = (0, 0);
    lines.filter_map(Line::met).for_each(|ok| if ok { met += 1 } else { missed += 1 });
    println!("{met} targets met, {missed} missed");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
