//! Measures a victim alone, beside the hog without a limit, and beside the hog with its limit.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::container::{Container, Detached, Pod, Programs};
use crate::host::{Clock, Machine, Prepared};
use crate::rows::{Kind, Relation, Row};

/// With the limit, the victim keeps at least this part of its progress.
pub const KEPT: f64 = 0.8;
/// Without the limit, the victim has at most this part of its progress left.
pub const HURT: f64 = 0.7;
/// The kinds of namespace that the containers of a pod share by default.
const SHARED: [&str; 3] = ["net", "ipc", "uts"];

/// The state of the hog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// There is no hog.
    Nobody,
    /// The hog has no limit, or the wall is not there.
    Free,
    /// The hog has its limit, or the wall is there.
    Bound,
}

/// The progress of a victim in the runs of a measurement, and what the hog said.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Seen {
    /// The progress in each run.
    pub progress: Vec<f64>,
    /// What the hog had got in the last run.
    pub said: String,
}

impl Seen {
    /// Returns the median progress.
    pub fn median(&self) -> f64 {
        let mut sorted = self.progress.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
}

/// The result of a row for one relation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The name of the row.
    pub row: String,
    /// The name of the relation.
    pub relation: String,
    /// The victim alone.
    pub alone: Seen,
    /// Beside the hog without a limit.
    pub free: Seen,
    /// Beside the hog with its limit.
    pub bound: Seen,
    /// Whether nothing bounds the hog, as the table says.
    pub unbounded: bool,
}

impl Outcome {
    /// Returns the victim's progress beside the hog without a limit, and with it, as parts of its progress alone.
    pub fn ratios(&self) -> (f64, f64) {
        let alone = self.alone.median();
        (self.free.median() / alone, self.bound.median() / alone)
    }

    /// Returns what is not as expected, if something is not.
    pub fn wrong(&self) -> Option<String> {
        let (free, bound) = self.ratios();
        let what = if self.alone.median() == 0.0 {
            "the victim makes no progress alone".to_owned()
        } else if free > HURT {
            format!("the hog without a limit leaves the victim {free:.2}")
        } else if self.unbounded {
            return None;
        } else if bound < KEPT {
            format!("the hog with its limit leaves the victim only {bound:.2}")
        } else {
            return None;
        };
        Some(format!(
            "{}, {}: {what} (alone {:?}; free {:?}, {}; bound {:?}, {})",
            self.row,
            self.relation,
            self.alone.progress,
            self.free.progress,
            self.free.said,
            self.bound.progress,
            self.bound.said
        ))
    }
}

/// Measures a row `runs` times.
///
/// # Errors
/// If a container cannot be started, or the measurement is interrupted.
pub fn measure(programs: &Programs, row: &Row, relation: Relation, runs: u32) -> Result<Outcome> {
    let mut outcome =
        Outcome { row: row.name.to_owned(), relation: relation.name().to_owned(), ..Outcome::default() };
    outcome.unbounded = row.missing.is_some();
    for _ in 0..runs {
        for (beside, seen) in [
            (Beside::Nobody, &mut outcome.alone),
            (Beside::Free, &mut outcome.free),
            (Beside::Bound, &mut outcome.bound),
        ] {
            let (progress, said) = once(programs, row, relation, beside)
                .with_context(|| format!("{}, {}, {beside:?}", row.name, relation.name()))?;
            seen.progress.push(progress);
            seen.said = said;
        }
    }
    Ok(outcome)
}

/// Returns the victim's progress, and what the hog said.
fn once(programs: &Programs, row: &Row, relation: Relation, beside: Beside) -> Result<(f64, String)> {
    let prepared = Prepared::new(row.setup)?;
    let disk = prepared.disk()?;
    let _clock = Clock::now()?;
    let logs = prepared.logs();
    let flags = Flags { row, relation, beside, disk: &disk, logs: &logs };
    let create = |flags: Vec<String>| Pod::create(programs, &flags);
    let (victims_pod, hogs_pod) = match relation {
        Relation::Containers => (None, None),
        Relation::OnePod => (Some(create(flags.pod(&[]))?), None),
        Relation::Pods if beside == Beside::Bound => {
            (Some(create(flags.pod(row.guard))?), Some(create(flags.pod(row.bound))?))
        }
        Relation::Pods => (Some(create(flags.pod(&[]))?), Some(create(flags.pod(&[]))?)),
    };
    let in_pod =
        |pod: Option<&Pod<'_>>| pod.map_or(Vec::new(), |pod| vec!["--pod".to_owned(), pod.name.clone()]);
    let both = flags.both();
    let option = if beside == Beside::Bound { row.data_bound } else { "" };

    let of_victim =
        [prepared.flags("victim", ""), both.clone(), in_pod(victims_pod.as_ref()), flags.victim()].concat();
    let seconds = row.seconds.to_string();
    let (mut victim, _) = Container::start(programs, &of_victim, &["victim", row.name, &seconds])?;
    let _machine = Machine::of(row, &disk)?;
    // Each lives until the victim has been measured.
    let (_hog, _log, said) = if beside == Beside::Nobody {
        (None, None, String::new())
    } else {
        let pod = hogs_pod.as_ref().or(victims_pod.as_ref());
        let of_hog = [prepared.flags("hog", option), both, in_pod(pod), flags.hog(&victim.name)].concat();
        let command = ["hog", row.name];
        match row.detached {
            true => {
                (None, Some(Detached::run(programs, &of_hog, &logs, &command)?), "it has ended".to_owned())
            }
            false => {
                let (hog, said) = Container::start(programs, &of_hog, &command)?;
                (Some(hog), None, said)
            }
        }
    };
    let progress = victim.progress(Duration::from_secs_f64(row.seconds * 5.0 + 5.0))?;
    Ok((progress, said))
}

/// The flags of one measurement.
struct Flags<'a> {
    row: &'a Row,
    relation: Relation,
    beside: Beside,
    disk: &'a str,
    logs: &'a str,
}

impl Flags<'_> {
    fn words(&self, flags: &[&str]) -> Vec<String> {
        flags.iter().map(|flag| flag.replace("{disk}", self.disk).replace("{logs}", self.logs)).collect()
    }

    /// Returns limits of a cgroup. Between two pods the pods have them, and the containers do not.
    fn unless_pods<'a>(&self, limits: &'a [&'static str]) -> &'a [&'static str] {
        if self.relation == Relation::Pods { &[] } else { limits }
    }

    /// Returns the flags of a pod with these limits.
    fn pod(&self, limits: &[&str]) -> Vec<String> {
        let mut kinds = SHARED.to_vec();
        if self.row.network && self.relation == Relation::Pods {
            kinds.retain(|kind| *kind != "net");
        }
        if let Kind::Wall(wall) = self.row.kind {
            let is_shared = match self.relation {
                Relation::OnePod => self.beside == Beside::Free,
                // In the control, the hog joins the victim's namespace.
                _ => self.beside != Beside::Free && SHARED.contains(&wall),
            };
            kinds.retain(|kind| *kind != wall);
            if is_shared {
                kinds.push(wall);
            }
        }
        [vec!["--share".to_owned(), kinds.join(",")], self.words(limits)].concat()
    }

    fn both(&self) -> Vec<String> {
        let mut flags = self.words(self.row.both);
        if self.row.network && self.relation != Relation::OnePod {
            flags.extend(["--net".to_owned(), "host".to_owned()]);
        }
        flags
    }

    fn victim(&self) -> Vec<String> {
        let row = self.row;
        match self.beside {
            Beside::Nobody | Beside::Free => self.words(row.victim),
            Beside::Bound => self.words(&[row.victim, self.unless_pods(row.guard), row.guard_run].concat()),
        }
    }

    fn hog(&self, victim: &str) -> Vec<String> {
        let row = self.row;
        match self.beside {
            Beside::Nobody => Vec::new(),
            Beside::Free => {
                let mut flags = self.words(&[row.hog, row.free].concat());
                if let Kind::Wall(wall) = row.kind
                    && self.relation != Relation::OnePod
                {
                    flags.extend(["--ns".to_owned(), format!("{wall}=join:container:{victim}")]);
                }
                flags
            }
            Beside::Bound => self.words(&[row.hog, self.unless_pods(row.bound), row.bound_run].concat()),
        }
    }
}
