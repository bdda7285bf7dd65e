//! A container in the store.

use std::path::PathBuf;
use std::time::Duration;

use cgroup_core::Cgroup;
use ns_core::ProcessId;
use nspod_sandbox::init;
use nspod_sandbox::store::{self, Dir, EXIT, EntryState, RECORD};
use nspod_sandbox::{Container, ContainerRecord, ErrorKind, ExitStatus, Outcome, StorageUsage};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Time limit for the end of a killed process.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
const OUTCOME: &str = "outcome.json";

/// Saved state of a container whose first process has run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedContainer {
    pub(crate) id: String,
    pub(crate) container: ContainerRecord,
    pub(crate) pod: Option<String>,
    /// Creation time in seconds since 1970.
    pub(crate) created: u64,
    /// Process of the `nspod run` that waits for the container in the foreground.
    pub(crate) runner: Option<ProcessId>,
    /// Whether this process only keeps the terminal of the container, which the caller has left.
    #[serde(default)]
    pub(crate) kept: bool,
    /// Whether the container is removed after it has ended.
    pub(crate) remove: bool,
    /// The file of the user to which the output is appended.
    pub(crate) log: Option<PathBuf>,
    pub(crate) stop_signal: i32,
    /// Whether the directory of the container has the state of a network.
    #[serde(default)]
    pub(crate) network: bool,
    /// Whether the directory of the container lists mount points.
    #[serde(default)]
    pub(crate) mount_points: bool,
    /// Whether `/` of the first process can still be the caller's, because `nspod run` has not started its program.
    #[serde(default)]
    pub(crate) starting: bool,
}

impl store::Record for SavedContainer {
    const FILES: &'static [&'static str] = &[RECORD];

    fn is_complete(&self) -> bool {
        !self.starting
    }
}

impl AsRef<ContainerRecord> for SavedContainer {
    fn as_ref(&self) -> &ContainerRecord {
        &self.container
    }
}

impl SavedContainer {
    /// Returns whether a `nspod run` in the foreground waits for the container.
    pub(crate) fn owned(&self) -> Result<bool> {
        Ok(self.runner.as_ref().map(ProcessId::is_alive).transpose()?.unwrap_or(false))
    }
}

/// Lifecycle state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Another invocation is starting or removing the container.
    Creating,
    Running,
    Paused,
    Exited,
    /// The invocation that started the container died before the first process ran.
    Dead,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Creating => "creating",
            State::Running => "running",
            State::Paused => "paused",
            State::Exited => "exited",
            State::Dead => "dead",
        }
    }
}

/// A container's entry in the store.
#[derive(Debug)]
pub(crate) struct Entry(store::Entry<SavedContainer>);

impl Entry {
    pub(super) fn new(entry: store::Entry<SavedContainer>) -> Entry {
        Entry(entry)
    }

    pub(super) fn stored(&self) -> &store::Entry<SavedContainer> {
        &self.0
    }

    pub(crate) fn id(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn dir(&self) -> &Dir {
        self.0.dir()
    }

    /// Returns the saved state of the container; `None` if its first process has not run.
    pub(crate) fn saved(&self) -> Option<&SavedContainer> {
        self.0.record()
    }

    /// Returns the saved state of the container.
    pub(crate) fn record(&self) -> Result<&SavedContainer> {
        self.saved().filter(|saved| !saved.starting).ok_or_else(|| match self.0.state() {
            Ok(EntryState::BeingMade) => {
                let problem = format!("another command is starting or removing the container {}", self.id());
                Error::state("store", self.id(), problem)
            }
            _ => {
                Error::state("store", self.id(), format!("the container {} has not been started", self.id()))
                    .hint(format!("`nspod rm -f {}` removes the rest of it", self.id()))
            }
        })
    }

    pub(crate) fn writer(&self) -> store::Writer<SavedContainer> {
        self.0.writer()
    }

    pub(crate) fn write(&self, saved: &SavedContainer) -> Result<()> {
        Ok(self.0.write(saved)?)
    }

    /// Returns the lifecycle state.
    pub(crate) fn state(&self) -> Result<State> {
        match self.0.state()? {
            EntryState::BeingMade => return Ok(State::Creating),
            EntryState::Broken => return Ok(State::Dead),
            EntryState::There => {}
        }
        if !self.lives()? {
            return Ok(State::Exited);
        }
        let frozen = self.cgroup().and_then(|c| c.events().ok()).is_some_and(|e| e.frozen);
        Ok(if frozen { State::Paused } else { State::Running })
    }

    /// Returns whether the first process has been started and has not ended.
    pub(crate) fn lives(&self) -> Result<bool> {
        Ok(self.saved().map(|saved| saved.container.process.is_alive()).transpose()?.unwrap_or(false))
    }

    /// Opens the container.
    ///
    /// # Errors
    /// The container has not been started, or its first process has ended.
    pub(crate) fn open(&self) -> Result<Container> {
        self.record()?;
        Ok(Container::of_entry(&self.0)?)
    }

    /// Returns whether other processes have outlived the first one. This is possible if the container shares
    /// its pid namespace.
    pub(crate) fn is_outlived(&self) -> Result<bool> {
        let populated = |cgroup: Cgroup| cgroup.events().is_ok_and(|events| events.populated);
        Ok(self.saved().is_some() && !self.lives()? && self.cgroup().is_some_and(populated))
    }

    /// Kills the processes of the container and waits until the first one has ended. Returns false if the
    /// first one had ended before. The caller must hold the lock: otherwise the cgroup can belong to the next
    /// container of that name.
    pub(crate) fn end(&self) -> Result<bool> {
        let process = self.saved().map(|saved| saved.container.process.open()).transpose()?.flatten();
        match (self.cgroup(), &process) {
            (Some(cgroup), _) => match cgroup.kill() {
                // The `nspod run` of the container has just removed the cgroup.
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
                let problem = format!("the container {} was killed and has not ended", self.id());
                let error = Error::new(ErrorKind::TimedOut, "kill", problem).on(self.id());
                Err(error.hint("one of its processes is blocked in the kernel"))
            }
        }
    }

    /// Returns the path of the cgroup, if the container has its own.
    pub(crate) fn own_cgroup(&self) -> Option<&PathBuf> {
        self.saved()?.container.cgroup.as_ref()
    }

    /// Returns the cgroup; `None` if the container is without a cgroup or the cgroup cannot be opened.
    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        Cgroup::open(self.saved()?.container.cgroup.as_ref()?).ok()
    }

    /// Returns the cgroup.
    ///
    /// # Errors
    /// The container is without a cgroup, or the cgroup cannot be opened.
    pub(crate) fn need_cgroup(&self) -> Result<Cgroup> {
        match &self.record()?.container.cgroup {
            Some(path) => Ok(Cgroup::open(path)?),
            None => Err(Error::state(
                "cgroup",
                self.id(),
                format!("the container {} does not have its own cgroup", self.id()),
            )
            .hint(nspod_errno::how_to_get_a_cgroup())),
        }
    }

    /// Returns the usage of the limited places of the container.
    pub(crate) fn storage(&self) -> Vec<StorageUsage> {
        if !self.saved().is_some_and(|saved| saved.container.spec.limits_storage()) {
            return Vec::new();
        }
        match self.open() {
            Ok(container) => container.storage(),
            Err(_) => nspod_sandbox::storage_of_ended(self.dir().path()),
        }
    }

    /// Returns the exit status of the container; `None` if it is unknown.
    pub(crate) fn status(&self) -> Result<Option<ExitStatus>> {
        let noted = self.dir().read(EXIT)?.as_deref().and_then(init::parse_exit);
        if noted.is_some() {
            return Ok(noted);
        }
        // The OOM killer can have killed the init together with the program.
        let oom = self.cgroup().and_then(|c| c.memory_events().ok()).and_then(|e| e.oom_kill);
        let killed = ExitStatus::Signaled { signal: nix::libc::SIGKILL, core_dumped: false };
        Ok((oom.unwrap_or(0) > 0).then_some(killed))
    }

    /// Saves the exit status of the container, unless the init has saved it.
    pub(crate) fn note(&self, status: ExitStatus) -> Result<()> {
        if self.dir().read(EXIT)?.as_deref().and_then(init::parse_exit).is_some() {
            return Ok(());
        }
        let text = match status {
            ExitStatus::Exited(code) => format!("exited {code}\n"),
            ExitStatus::Signaled { signal, core_dumped: true } => format!("signaled {signal} core\n"),
            ExitStatus::Signaled { signal, core_dumped: false } => format!("signaled {signal}\n"),
        };
        Ok(self.dir().replace(EXIT, text.as_bytes())?)
    }

    /// Saves the outcome of the container: its exit status and the reason.
    pub(crate) fn note_outcome(&self, outcome: &Outcome) -> Result<()> {
        self.note(outcome.status)?;
        Ok(self.dir().replace(OUTCOME, &serde_json::to_vec(outcome).unwrap_or_default())?)
    }

    /// Returns the outcome of the container, if `nspod run --keep` has saved it.
    pub(crate) fn outcome(&self) -> Result<Option<Outcome>> {
        Ok(self.dir().read(OUTCOME)?.and_then(|text| serde_json::from_str(&text).ok()))
    }
}
