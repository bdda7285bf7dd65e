//! Measures a victim alone, beside the hog without a limit, and beside the hog with its limit.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::container::{Container, Detached, Pod, Programs};
use crate::host::{Clock, Machine, Prepared};
use crate::rows::{Kind, Relation, Row, Setup};

/// With the limit, the victim keeps at least this part of its progress.
pub const KEPT: f64 = 0.8;
/// Without the limit, the victim has at most this part of its progress left.
pub const HURT: f64 = 0.7;
/// The kinds of namespace that the containers of a pod share by default.
const SHARED: [&str; 3] = ["net", "ipc", "uts"];

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

/// A row with one of its relations.
pub type Case = (&'static Row, Relation);

/// Measures each case `runs` times. The quiet rows are measured at the same time, one on each processor, after the
/// others. `each` gets the results as they come.
pub fn measure_all(
    programs: &Programs,
    cases: &[Case],
    runs: u32,
    each: impl Fn(Case, Result<Outcome>) + Sync,
) {
    let measured = |case: Case| each(case, measure(programs, case, runs));
    let (quiet, alone): (Vec<Case>, Vec<Case>) = cases.iter().partition(|(row, _)| row.quiet);
    alone.into_iter().for_each(measured);
    // Two relations of one row would disturb each other.
    let rows = Mutex::new(quiet.chunk_by(|one, other| one.0.name == other.0.name));
    let next = || rows.lock().unwrap_or_else(PoisonError::into_inner).next();
    let processors = thread::available_parallelism().map_or(1, |count| count.get());
    thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                while let Some(row) = next() {
                    row.iter().copied().for_each(measured);
                }
            });
        }
    });
}

/// Measures a case `runs` times.
fn measure(programs: &Programs, (row, relation): Case, runs: u32) -> Result<Outcome> {
    let mut outcome =
        Outcome { row: row.name.to_owned(), relation: relation.name().to_owned(), ..Outcome::default() };
    outcome.unbounded = row.missing.is_some();
    for is_bound in [false, true] {
        let step = || format!("{}, {}, bound: {is_bound}", row.name, relation.name());
        let start = || Stage::new(programs, row, relation, is_bound).with_context(step);
        let mut stage = None;
        if !is_bound {
            let mut alone = start()?;
            for _ in 0..runs {
                outcome.alone.progress.push(alone.progress().with_context(step)?);
            }
            stage = Some(alone);
        }
        for _ in 0..runs {
            stage = stage.and_then(Stage::if_reusable);
            let ready = match &mut stage {
                Some(used) => used,
                none => none.insert(start()?),
            };
            let seen = if is_bound { &mut outcome.bound } else { &mut outcome.free };
            let (progress, said) = ready.beside_hog().with_context(step)?;
            seen.progress.push(progress);
            seen.said = said;
        }
    }
    Ok(outcome)
}

/// A victim with the surroundings of one state of the hog. The fields are dropped in this order.
struct Stage<'a> {
    hog: Option<Container<'a>>,
    victim: Container<'a>,
    _machine: Machine,
    victims_pod: Option<Pod<'a>>,
    hogs_pod: Option<Pod<'a>>,
    _clock: Clock,
    prepared: Prepared,
    disk: String,
    programs: &'a Programs,
    row: &'a Row,
    relation: Relation,
    is_bound: bool,
}

impl<'a> Stage<'a> {
    fn new(programs: &'a Programs, row: &'a Row, relation: Relation, is_bound: bool) -> Result<Stage<'a>> {
        let prepared = Prepared::new(row.setup)?;
        let (disk, logs) = (prepared.disk()?, prepared.logs());
        let clock = Clock::now()?;
        let flags = Flags { row, relation, is_bound, disk: &disk, logs: &logs };
        let create = |flags: Vec<String>| Pod::create(programs, &flags).map(Some);
        let (victims_pod, hogs_pod) = match relation {
            Relation::Containers => (None, None),
            Relation::OnePod => (create(flags.pod(&[]))?, None),
            Relation::Pods if is_bound => (create(flags.pod(row.guard))?, create(flags.pod(row.bound))?),
            Relation::Pods => (create(flags.pod(&[]))?, create(flags.pod(&[]))?),
        };
        let words =
            [prepared.flags("victim", ""), flags.both(), in_pod(victims_pod.as_ref()), flags.victim()];
        let seconds = row.seconds.to_string();
        let victim = Container::start(programs, &words.concat(), &["victim", row.name, &seconds])?;
        let _machine = Machine::of(row, &disk)?;
        Ok(Stage {
            hog: None,
            victim,
            _machine,
            victims_pod,
            hogs_pod,
            _clock: clock,
            prepared,
            disk,
            programs,
            row,
            relation,
            is_bound,
        })
    }

    /// Returns the stage, if the next hog finds the victim and the disk as the first one did.
    fn if_reusable(mut self) -> Option<Self> {
        let is_whole = self.is_bound || self.row.kind == Kind::Amount;
        let is_clean = !matches!(self.row.setup, Setup::SmallDisk | Setup::Swap(_));
        (is_whole && is_clean && self.victim.is_running()).then_some(self)
    }

    fn progress(&mut self) -> Result<f64> {
        self.victim.progress(Duration::from_secs_f64(self.row.seconds * 5.0 + 5.0))
    }

    /// Returns the victim's progress beside a hog, and what the hog said.
    fn beside_hog(&mut self) -> Result<(f64, String)> {
        let logs = self.prepared.logs();
        let (row, relation, is_bound) = (self.row, self.relation, self.is_bound);
        let flags = Flags { row, relation, is_bound, disk: &self.disk, logs: &logs };
        let option = if is_bound { row.data_bound } else { "" };
        let pod = self.hogs_pod.as_ref().or(self.victims_pod.as_ref());
        let own =
            [self.prepared.flags("hog", option), flags.both(), in_pod(pod), flags.hog(&self.victim.name)];
        if row.detached {
            // The log exists until the victim has been measured.
            let _log = Detached::run(self.programs, &own.concat(), &logs, &["hog", row.name])?;
            return Ok((self.progress()?, "it has ended".to_owned()));
        }
        let hog = match self.hog.take() {
            Some(hog) => hog,
            None => Container::start(self.programs, &own.concat(), &["hogs", row.name])?,
        };
        let said = self.hog.insert(hog).start_hog()?;
        let progress = self.progress()?;
        self.hog.as_mut().map_or(Ok(()), Container::end_hog)?;
        Ok((progress, said))
    }
}

/// Returns the flags of a container in this pod.
fn in_pod(pod: Option<&Pod<'_>>) -> Vec<String> {
    pod.map_or(Vec::new(), |pod| vec!["--pod".to_owned(), pod.name.clone()])
}

/// The flags of one measurement.
struct Flags<'a> {
    row: &'a Row,
    relation: Relation,
    is_bound: bool,
    disk: &'a str,
    logs: &'a str,
}

impl Flags<'_> {
    fn words(&self, flags: &[&str]) -> Vec<String> {
        let user = self.row.user().to_string();
        let replaced = |flag: &&str| {
            flag.replace("{disk}", self.disk).replace("{logs}", self.logs).replace("{user}", &user)
        };
        flags.iter().map(replaced).collect()
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
                Relation::OnePod => !self.is_bound,
                // In the control, the hog joins the victim's namespace.
                _ => self.is_bound && SHARED.contains(&wall),
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
        if self.is_bound {
            return self.words(&[row.victim, self.unless_pods(row.guard)].concat());
        }
        self.words(row.victim)
    }

    fn hog(&self, victim: &str) -> Vec<String> {
        let row = self.row;
        if self.is_bound {
            return self.words(&[row.hog, self.unless_pods(row.bound), row.bound_run].concat());
        }
        let mut flags = self.words(&[row.hog, row.free].concat());
        if let Kind::Wall(wall) = row.kind
            && self.relation != Relation::OnePod
        {
            flags.extend(["--ns".to_owned(), format!("{wall}=join:container:{victim}")]);
        }
        flags
    }
}
