//! What is written down of a container.

use std::path::PathBuf;

use cgroup_core::Cgroup;
use nspod_sandbox::init;
use nspod_sandbox::spec::Spec;
use nspod_sandbox::{ExitStatus, Outcome};
use serde::{Deserialize, Serialize};

use super::{Dir, KILLED_WITHIN, Lock, Process};
use crate::error::{Error, Result};

pub(crate) const RECORD: &str = "state.json";
pub(crate) const EXIT: &str = "exit";
pub(crate) const LOG: &str = "log";
const OUTCOME: &str = "outcome.json";

/// A container, as it is written down once it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Its first process.
    pub(crate) process: Process,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) pod: Option<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The `nspod run` that waits for it in the foreground.
    pub(crate) runner: Option<Process>,
    /// Removed when it has ended.
    pub(crate) remove: bool,
    pub(crate) log: Option<PathBuf>,
    pub(crate) stop_signal: i32,
    pub(crate) spec: Spec,
}

impl Record {
    /// Whether a `nspod run` in the foreground waits for it.
    pub(crate) fn owned(&self) -> Result<bool> {
        self.runner.as_ref().map_or(Ok(false), Process::lives)
    }
}

/// What a container is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// An invocation is at work on it.
    Creating,
    Running,
    Paused,
    Exited,
    /// The invocation that was to start it died.
    Dead,
}

/// A container's directory, and what is in it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) dir: Dir,
    pub(crate) record: Option<Record>,
}

impl Entry {
    pub(crate) fn load(id: String, dir: Dir) -> Result<Entry> {
        let record = match dir.read(RECORD)? {
            Some(text) => Some(serde_json::from_str(&text).map_err(|e| {
                Error::new(format!(
                    "{} is not a record of this nspod's ({e}): remove {} after ending what it describes",
                    dir.at(RECORD).display(),
                    dir.path().display()
                ))
            })?),
            None => None,
        };
        Ok(Entry { id, dir, record })
    }

    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        let text = serde_json::to_vec(&record)
            .map_err(|e| Error::new(format!("cannot write the container down: {e}")))?;
        self.dir.replace(RECORD, &text)?;
        self.record = Some(record);
        Ok(())
    }

    pub(crate) fn record(&self) -> Result<&Record> {
        self.record.as_ref().ok_or_else(|| {
            Error::new(format!("the container {} has not been started", self.id))
                .hint(format!("`nspod rm -f {}` removes what is left of it", self.id))
        })
    }

    pub(crate) fn lock(&self, wait: bool) -> Result<Option<Lock>> {
        self.dir.lock(wait)
    }

    /// What it is at.
    pub(crate) fn state(&self) -> Result<State> {
        let Some(record) = &self.record else {
            return Ok(if self.lock(false)?.is_some() { State::Dead } else { State::Creating });
        };
        if !record.process.lives()? {
            return Ok(State::Exited);
        }
        let frozen = self.cgroup().and_then(|c| c.events().ok()).is_some_and(|e| e.frozen);
        Ok(if frozen { State::Paused } else { State::Running })
    }

    /// Whether its first process has not ended.
    pub(crate) fn lives(&self) -> Result<bool> {
        self.record.as_ref().map_or(Ok(false), |record| record.process.lives())
    }

    /// Its first process, if it runs.
    pub(crate) fn running(&self) -> Result<(&Record, ns_core::Pidfd)> {
        let record = self.record()?;
        let pidfd = record.process.open()?;
        Ok((record, pidfd.ok_or_else(|| Error::new(format!("the container {} is not running", self.id)))?))
    }

    /// Whether processes are left of one whose first process has ended, as may be where its pid
    /// namespace is not its own.
    pub(crate) fn is_outlived(&self) -> Result<bool> {
        let populated = |cgroup: Cgroup| cgroup.events().is_ok_and(|events| events.populated);
        Ok(self.record.is_some() && !self.lives()? && self.cgroup().is_some_and(populated))
    }

    /// Kills what runs of it, and waits for the end of its first process; false if that has ended
    /// before. The caller has the lock, or the cgroup could be the next container's of that name by
    /// then.
    pub(crate) fn end(&self) -> Result<bool> {
        let process = self.record.as_ref().map(|r| r.process.open()).transpose()?.flatten();
        match (self.cgroup(), &process) {
            (Some(cgroup), _) => match cgroup.kill() {
                // The runner has just removed it.
                Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound => {}
                killed => killed?,
            },
            (None, Some(process)) => process.send_signal(nix::libc::SIGKILL)?,
            (None, None) => {}
        }
        let Some(process) = process else { return Ok(false) };
        match process.poll(Some(KILLED_WITHIN))? {
            true => Ok(true),
            false => {
                Err(Error::new(format!("the container {} does not end although it was killed", self.id))
                    .hint("a process of it is stuck in the kernel"))
            }
        }
    }

    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(self.record.as_ref()?.cgroup.as_ref()?).ok()
    }

    /// Its cgroup, for what cannot be done without.
    pub(crate) fn need_cgroup(&self) -> Result<Cgroup> {
        match &self.record()?.cgroup {
            Some(path) => Ok(Cgroup::open(path)?),
            None => Err(Error::new(format!(
                "the container {} has no cgroup of its own, which this takes: run as root, or have a cgroup delegated",
                self.id
            ))),
        }
    }

    /// How it ended, as far as anybody has noted it.
    pub(crate) fn status(&self) -> Result<Option<ExitStatus>> {
        let noted = self.dir.read(EXIT)?.as_deref().and_then(init::parse_exit);
        if noted.is_some() {
            return Ok(noted);
        }
        // The OOM killer may have taken the init with the program.
        let oom = self.cgroup().and_then(|c| c.memory_events().ok()).and_then(|e| e.oom_kill);
        let killed = ExitStatus::Signaled { signal: nix::libc::SIGKILL, core_dumped: false };
        Ok((oom.unwrap_or(0) > 0).then_some(killed))
    }

    /// Notes how it ended, unless that is noted already.
    pub(crate) fn note(&self, status: ExitStatus) -> Result<()> {
        if self.dir.read(EXIT)?.as_deref().and_then(init::parse_exit).is_some() {
            return Ok(());
        }
        let text = match status {
            ExitStatus::Exited(code) => format!("exited {code}\n"),
            ExitStatus::Signaled { signal, core_dumped: true } => format!("signaled {signal} core\n"),
            ExitStatus::Signaled { signal, core_dumped: false } => format!("signaled {signal}\n"),
        };
        self.dir.replace(EXIT, text.as_bytes())
    }

    pub(crate) fn note_outcome(&self, outcome: &Outcome) -> Result<()> {
        self.note(outcome.status)?;
        self.dir.replace(OUTCOME, &serde_json::to_vec(outcome).unwrap_or_default())
    }

    pub(crate) fn outcome(&self) -> Result<Option<Outcome>> {
        Ok(self.dir.read(OUTCOME)?.and_then(|text| serde_json::from_str(&text).ok()))
    }
}
