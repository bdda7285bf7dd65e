//! The results of an experiment.

use crate::measure::Samples;
use crate::plot::Plot;

/// The name and the title of an experiment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heading {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
}

/// The target of a row: a ratio of medians, or a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// The value of nspod alone.
    Exactly(f64),
    /// No target.
    None,
}

/// The unit of a row.
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
    /// Name of the experiment, which is also a heading of notes.md.
    pub(crate) row: &'static str,
    pub(crate) what: String,
    pub(crate) against: String,
    pub(crate) unit: Unit,
    /// Minimum and median.
    pub(crate) ours: Option<[f64; 2]>,
    pub(crate) theirs: Option<[f64; 2]>,
    pub(crate) target: Target,
    /// The reason why nothing was measured.
    pub(crate) absent: Option<String>,
}

impl Line {
    /// Returns a row that compares two sides.
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

    /// Returns a row with a value of nspod alone.
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

    /// Returns a row that could not be measured.
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

    /// Returns the ratio of the medians.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(self.ours?[1] / self.theirs?[1])
    }

    /// Returns whether the target is met. `None` if there is no target or nothing was measured.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(self.ratio()? <= most),
            Target::AtLeast(least) => Some(self.ratio()? >= least),
            Target::Exactly(value) => Some(self.ours?[1] == value),
            Target::None => None,
        }
    }
}

/// The results of one experiment.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
    pub(crate) plots: Vec<Plot>,
    /// Results that are not rows of the table: sentences, or another table.
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
