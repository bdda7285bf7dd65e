//! Containers and pods that other invocations created. Each has an entry in a [store] under `/run/nspod` or
//! `$XDG_RUNTIME_DIR/nspod`.
//!
//! A container has no record until its first process runs. An invocation that is killed earlier leaves an
//! entry without a record. The cgroup of such a container is found by its name.

mod base;
mod container;
pub(crate) mod ids;
pub(crate) mod logs;
pub(crate) mod mount_points;
pub(crate) mod pods;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cgroup_core::{Cgroup, delegate};
use ns_core::ProcessId;
use nspod_cli::runtime_dir;
use nspod_sandbox::ErrorKind;
use nspod_sandbox::store::{self, Dir, Trust, is_random_name, random_name};

pub(crate) use container::{Entry, SavedContainer, State};
pub(crate) use nspod_sandbox::store::{Lock, Locked};

use self::base::base;
use crate::error::{Error, Result};
use crate::network;

/// The cgroup that holds the cgroups of all containers and pods.
const BASE: &str = "nspod";

/// Returns the time in seconds since 1970, as records have it.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Returns how many seconds ago something was created.
pub(crate) fn age(created: u64) -> u64 {
    now().saturating_sub(created)
}

/// The containers of one user.
#[derive(Debug)]
pub(crate) struct Store(store::Store<SavedContainer>);

impl Store {
    /// Opens the store. Creates its directory if it is missing.
    pub(crate) fn open() -> Result<Store> {
        Store::at(&base())
    }

    /// Opens the store for a command that only reads, without creating it. Returns `None` if the store does
    /// not exist or cannot be read.
    pub(crate) fn peek() -> Option<Store> {
        let base = base();
        base.join("containers").is_dir().then(|| Store::at(&base).ok())?
    }

    fn at(path: &Path) -> Result<Store> {
        let dir = Dir::private(path, runtime_dir::BY_VARIABLE)?.make_sub("containers")?;
        Ok(Store(store::Store::new(dir, Trust::Store)))
    }

    /// Returns the directory of the store.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Creates a container's entry and locks it.
    pub(crate) fn create(&self, id: &str) -> Result<(Entry, Lock)> {
        let reclaim = |entry: &store::Entry<SavedContainer>, lock: &Lock| match entry.record() {
            None => self.clear(entry, lock).map(|()| true),
            Some(_) => Ok(false),
        };
        match self.0.create(id, reclaim)? {
            Some((entry, lock)) => Ok((Entry::new(entry), lock)),
            None => {
                let problem = format!("there is a container {id} already");
                let error = Error::new(ErrorKind::AlreadyExists, "store", problem).on(id);
                Err(error.hint(format!("choose another --name, or `nspod rm -f {id}`")))
            }
        }
    }

    /// Removes the logs of containers that no longer exist, and returns their directories.
    pub(crate) fn prune_logs(&self) -> Result<Vec<PathBuf>> {
        logs::prune(self.path(), |id, remove| {
            // While this entry exists, no container of this name can be started.
            let Some((entry, lock)) = self.0.create(id, |_, _| Ok::<_, Error>(false))? else { return Ok(()) };
            let removed = remove();
            self.0.remove(&entry, &lock)?;
            removed
        })
    }

    /// Locks a container by its full id, and then reads its record.
    pub(crate) fn lock(&self, id: &str, wait: bool) -> Result<Locked<Entry>> {
        Ok(match self.0.lock(id, wait)? {
            Locked::Ours(entry, lock) => Locked::Ours(Entry::new(entry), lock),
            Locked::Theirs => Locked::Theirs,
            Locked::Gone => Locked::Gone,
        })
    }

    /// Locks a container again that this process had locked; `None` if another invocation has
    /// removed it.
    pub(crate) fn lock_again(&self, entry: &Entry) -> Result<Option<Lock>> {
        Ok(self.0.lock_again(entry.stored())?)
    }

    /// Returns all containers, the oldest first.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for entry in self.0.entries()? {
            match entry {
                Ok(entry) => all.push(Entry::new(entry)),
                Err(e) => crate::output::note(e),
            }
        }
        all.sort_by_key(|entry| entry.saved().map_or(u64::MAX, |saved| saved.created));
        Ok(all)
    }

    /// Returns the container with this name or id. A prefix of an id is accepted if it is unique.
    pub(crate) fn find(&self, text: &str) -> Result<Entry> {
        self.get(text)?.ok_or_else(|| missing(text))
    }

    /// Returns the container with this name or id as [`find`](Self::find), or `None` if it does not exist.
    pub(crate) fn get(&self, text: &str) -> Result<Option<Entry>> {
        let id = valid_name(text)?;
        if let Some(entry) = self.0.find(&id)? {
            return Ok(Some(Entry::new(entry)));
        }
        let names = self.0.names()?;
        let mut found = names.iter().filter(|name| is_random_name(name) && name.starts_with(&id));
        match (found.next(), found.next()) {
            (Some(name), None) => Ok(self.0.find(name)?.map(Entry::new)),
            (Some(_), Some(_)) => {
                let problem = format!("several containers have ids that start with {id}");
                Err(Error::new(ErrorKind::InvalidInput, "store", problem).on(text))
            }
            (None, _) => Ok(None),
        }
    }

    /// Returns the names of all containers, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        Ok(self.0.names()?)
    }

    /// Gives a container another name. Its cgroup keeps the old one, because the kernel does not rename cgroups.
    pub(crate) fn rename(&self, old: &str, new: &str) -> Result<()> {
        let found = self.find(old)?;
        let refused = |problem: String| Error::state("rename", found.id(), problem);
        let Locked::Ours(entry, lock) = self.lock(found.id(), true)? else {
            return Err(refused(format!("the container {} has just been removed", found.id())));
        };
        let saved = entry.record()?;
        if saved.owned()? && !saved.kept {
            let problem = format!(
                "the container {} cannot be renamed: a `nspod run` waits for it, and removes it by its name",
                entry.id()
            );
            let hint = match saved.container.spec.process.terminal {
                Some(_) => "if it was started with -it, leave it with ctrl-p ctrl-q first",
                None => "a container that was started with -d can be renamed",
            };
            return Err(refused(problem).hint(hint));
        }
        if saved.container.spec.limits_directories() {
            let problem = format!(
                "the container {} cannot be renamed: the quotas of its directories have its name",
                entry.id()
            );
            return Err(refused(problem).hint("remove it and start it again with --name"));
        }
        network::check_rename(entry.dir().path())?;
        let Some(renamed) = self.0.rename(entry.stored(), &lock, new)? else {
            let problem = format!("there is a container {new} already");
            let error = Error::new(ErrorKind::AlreadyExists, "store", problem).on(new);
            return Err(error.hint(format!("choose another name, or `nspod rm -f {new}`")));
        };
        let renamed = Entry::new(renamed);
        renamed.write(&SavedContainer { id: new.into(), ..saved.clone() })?;
        network::renamed(entry.dir().path(), renamed.dir().path())?;
        logs::rename(renamed.dir(), new)?;
        if let Some(pod) = saved.pod.as_deref().filter(|_| matches!(renamed.lives(), Ok(true))) {
            self.update_names(pod, Some(new));
        }
        Ok(())
    }

    /// Returns the container with this first process.
    pub(crate) fn of_process(&self, process: &ProcessId) -> Result<Option<Entry>> {
        let is_it = |entry: &Entry| entry.saved().is_some_and(|saved| saved.container.process == *process);
        Ok(self.all()?.into_iter().find(is_it))
    }

    /// Returns whether a container that was renamed still has the cgroup with this name.
    pub(crate) fn is_in_use(&self, cgroup: &str) -> Result<bool> {
        let has = |path: &PathBuf| path.file_name().is_some_and(|name| name == cgroup);
        Ok(self.all()?.iter().any(|entry| entry.id() != cgroup && entry.own_cgroup().is_some_and(has)))
    }

    /// Returns the cgroups that the remains of a killed start of this name can have.
    fn orphans(&self, id: &str) -> Result<Vec<PathBuf>> {
        let mut orphans = orphan_cgroups(id)?;
        if orphans.iter().any(|path| path.exists()) {
            // A container that was renamed can have a cgroup of this name.
            let all = self.all()?;
            orphans.retain(|path| all.iter().all(|entry| entry.own_cgroup() != Some(path)));
        }
        Ok(orphans)
    }

    /// Removes a container that has ended, with its cgroup. The caller must hold the lock.
    pub(crate) fn remove(&self, entry: &Entry, lock: &Lock) -> Result<()> {
        self.clear(entry.stored(), lock)
    }

    fn clear(&self, entry: &store::Entry<SavedContainer>, lock: &Lock) -> Result<()> {
        match entry.record() {
            Some(saved) => saved.container.cgroup.as_deref().map_or(Ok(()), remove_cgroup)?,
            None => self.orphans(entry.name())?.iter().try_for_each(|path| remove_cgroup(path))?,
        }
        if entry.record().is_none_or(|saved| saved.network) {
            network::disconnect(entry.dir().path())?;
        }
        if entry.record().is_none_or(|saved| saved.mount_points) {
            mount_points::remove(entry.dir())?;
        }
        let limits = |saved: &SavedContainer| saved.container.spec.limits_directories();
        if entry.record().is_none_or(limits) {
            nspod_sandbox::release_quotas(entry.dir().path())?;
        }
        logs::remove(entry.dir())?;
        self.0.remove(entry, lock)?;
        if let Some(pod) = entry.record().and_then(|saved| saved.pod.as_deref()) {
            self.update_names(pod, None);
        }
        Ok(())
    }

    /// Removes a container after its cgroup and its log have been removed. The caller must hold the lock.
    pub(crate) fn forget(&self, entry: &Entry, lock: &Lock) -> Result<()> {
        Ok(self.0.remove(entry.stored(), lock)?)
    }

    /// Kills the processes of a container, waits until the first one has ended, and saves the exit status.
    pub(crate) fn kill(&self, entry: &Entry) -> Result<()> {
        let process = |entry: &Entry| entry.saved().map(|saved| saved.container.process.clone());
        match self.lock(entry.id(), true)? {
            // Another container may have this name now.
            Locked::Ours(now, _lock) if process(&now) == process(entry) => {
                if now.end()? {
                    let killed = nspod_sandbox::ExitStatus::Signaled {
                        signal: nix::libc::SIGKILL,
                        core_dumped: false,
                    };
                    // The container has ended even if its exit status cannot be saved.
                    now.note(killed).unwrap_or_else(crate::output::note);
                }
                self.remove_name(&now)
            }
            // It was removed, or has another name now.
            _ => match process(entry).map(|process| process.open()).transpose()?.flatten() {
                Some(process) => Ok(process.send_signal(nix::libc::SIGKILL)?),
                None => Ok(()),
            },
        }
    }

    /// Updates the names of the containers in `/etc/hosts` of a pod. Those that have ended are removed. `starting` is
    /// a container that is about to start in the pod. An error is only printed: a container of the pod can cause it by
    /// a lease on the file.
    pub(crate) fn update_names(&self, pod: &str, starting: Option<&str>) {
        let dir = self.path().with_file_name("pods").join(pod);
        // The name of a container whose state is unknown stays.
        let stays = |name: &str| self.runs_in(name, pod).unwrap_or(true);
        network::update_names(&dir, starting, stays).unwrap_or_else(crate::output::note);
    }

    /// Returns whether a container of this name runs in the pod, or is being made.
    fn runs_in(&self, name: &str, pod: &str) -> Result<bool> {
        let Some(entry) = self.0.find(name)?.map(Entry::new) else { return Ok(false) };
        match entry.saved() {
            Some(saved) if !saved.starting => Ok(saved.pod.as_deref() == Some(pod) && entry.lives()?),
            _ => Ok(entry.state()? == State::Creating),
        }
    }

    /// Removes the name of a container that has ended from `/etc/hosts` of its pod.
    fn remove_name(&self, entry: &Entry) -> Result<()> {
        if let Some(pod) = pod_of_ended(entry)? {
            self.update_names(pod, None);
        }
        Ok(())
    }

    /// Disconnects a container that has ended from its network, so that its ports, addresses and name are free.
    /// Another command may have done that, or may be removing the container.
    pub(crate) fn disconnect(&self, entry: &Entry) -> Result<()> {
        self.disconnect_network(entry)?;
        self.remove_name(entry)
    }

    fn disconnect_network(&self, entry: &Entry) -> Result<()> {
        let due = |entry: &Entry| -> Result<bool> {
            Ok(entry.saved().is_some_and(|saved| saved.network) && !entry.lives()?)
        };
        if due(entry)?
            && let Locked::Ours(entry, _lock) = self.lock(entry.id(), false)?
            && due(&entry)?
        {
            network::disconnect(entry.dir().path())?;
        }
        Ok(())
    }

    /// Disconnects those of the containers that have ended. An error is only printed: it is of another container.
    pub(crate) fn disconnect_ended(&self, entries: &[Entry]) {
        let mut pods = BTreeSet::new();
        for entry in entries {
            match self.disconnect_network(entry).and_then(|()| pod_of_ended(entry)) {
                Ok(pod) => pods.extend(pod),
                Err(e) => crate::output::note(e),
            }
        }
        pods.into_iter().for_each(|pod| self.update_names(pod, None));
    }

    /// Removes containers that are marked for removal and have ended, unless a `nspod run` will remove them.
    /// Also removes the remains of starts that were killed.
    pub(crate) fn sweep(&self) -> Result<()> {
        let due = |entry: &Entry| -> Result<bool> {
            Ok(match entry.saved() {
                Some(saved) => {
                    (saved.remove || saved.starting)
                        && !saved.owned()?
                        && !saved.container.process.is_alive()?
                }
                None => true,
            })
        };
        let entries = self.all()?;
        self.disconnect_ended(&entries);
        for entry in entries {
            if due(&entry)?
                && let Locked::Ours(entry, lock) = self.lock(entry.id(), false)?
                && due(&entry)?
            {
                self.remove(&entry, &lock)?;
            }
        }
        Ok(())
    }
}

/// Returns the error for a container that does not exist.
pub(crate) fn missing(text: &str) -> Error {
    let problem = format!("there is no container {text}");
    Error::new(ErrorKind::NotFound, "store", problem).on(text).hint("`nspod ps -a` lists all")
}

/// Returns the pod of a container that has ended; `None` if it runs or is in no pod.
fn pod_of_ended(entry: &Entry) -> Result<Option<&str>> {
    match entry.saved().and_then(|saved| saved.pod.as_deref()) {
        Some(pod) if !entry.lives()? => Ok(Some(pod)),
        _ => Ok(None),
    }
}

/// Returns the text if it is valid as the name of a container or pod.
fn valid_name(text: &str) -> Result<String> {
    crate::value::name(text).map_err(|e| Error::new(ErrorKind::InvalidInput, "store", e).on(text))
}

/// Returns the possible cgroups of a container without a record: one below the base, and one below each pod.
fn orphan_cgroups(id: &str) -> Result<Vec<PathBuf>> {
    use cgroup_core::ErrorKind::{NoHierarchy, NotDelegated, NotFound, PermissionDenied};
    let base = match delegate::find(BASE, delegate::Move::Nothing) {
        Ok(found) => found.base.path().to_owned(),
        // Without a base, the container cannot have a cgroup.
        Err(e) if matches!(e.kind(), NoHierarchy | NotDelegated | NotFound | PermissionDenied) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.into()),
    };
    cgroups_below(&base, id)
}

/// Separates the name of a container from a random word, in the name of a cgroup whose usual name is in use.
const SEPARATOR: &str = "~";

/// Returns a name for the cgroup of a container, if a container that was renamed has the usual one.
pub(crate) fn other_cgroup(id: &str) -> String {
    format!("{id}{SEPARATOR}{}", random_name())
}

/// Returns the possible cgroups of a container in this base, which another process can remove meanwhile.
fn cgroups_below(base: &Path, id: &str) -> Result<Vec<PathBuf>> {
    let mut all = vec![base.join(id)];
    let other = format!("{id}{SEPARATOR}");
    for name in names_in(base)? {
        let path = base.join(&name);
        if name.starts_with(&other) {
            all.push(path);
        } else if name.starts_with("pod:") && id != "init" {
            // In a pod, the cgroup `init` contains the process that holds the namespaces.
            all.push(path.join(id));
            all.extend(
                names_in(&path)?.iter().filter(|name| name.starts_with(&other)).map(|name| path.join(name)),
            );
        }
    }
    Ok(all)
}

/// Returns the names in a directory of cgroups; none if it does not exist.
fn names_in(dir: &Path) -> Result<Vec<String>> {
    let gone = |e: &std::io::Error| {
        e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ENODEV)
    };
    match std::fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Err(e) if gone(&e) => Ok(Vec::new()),
        Err(e) => Err(Error::io("list", "list", dir, &e)),
        Ok(entries) => Ok(entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
    }
}

/// Kills the processes in a cgroup and removes it, and its parent if that is an empty base.
fn remove_cgroup(path: &Path) -> Result<()> {
    match Cgroup::open(path).and_then(|cgroup| cgroup.destroy()) {
        Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound => {}
        other => other?,
    }
    if let Some(parent) = path.parent().filter(|p| p.file_name().is_some_and(|name| name == BASE)) {
        // This fails as long as another container has a cgroup in it.
        let _ = std::fs::remove_dir(parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::at(&temp.path().join("nspod")).unwrap();
        (temp, store)
    }

    #[test]
    fn a_base_that_another_process_removes_has_no_pods() {
        let gone = tempfile::tempdir().unwrap().path().join("nspod");
        assert_eq!(cgroups_below(&gone, "web").unwrap(), [gone.join("web")]);
    }

    #[test]
    fn a_name_is_taken_once() {
        let (_temp, store) = store();
        let (_entry, _lock) = store.create("web").unwrap();
        let error = store.create("web").unwrap_err().to_string();
        assert_eq!(error, "there is a container web already; choose another --name, or `nspod rm -f web`");
    }

    #[test]
    fn an_id_is_found_by_its_start_and_a_name_is_not() {
        let (_temp, store) = store();
        for id in ["0123456789ab", "012fffffffff", "web"] {
            store.create(id).unwrap();
        }
        assert_eq!(store.find("0123").unwrap().id(), "0123456789ab");
        assert_eq!(store.find("web").unwrap().id(), "web");
        assert_eq!(
            store.find("we").unwrap_err().to_string(),
            "there is no container we; `nspod ps -a` lists all"
        );
        assert!(store.find("012").unwrap_err().to_string().starts_with("several containers"));
        assert!(store.find("../x").unwrap_err().to_string().contains("is not a valid name"));
    }

    #[test]
    fn an_entry_left_by_a_crash_is_dead_and_an_incomplete_one_is_not() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("web").unwrap();
        assert_eq!(store.find("web").unwrap().state().unwrap(), State::Creating);
        drop((entry, lock));
        assert_eq!(store.find("web").unwrap().state().unwrap(), State::Dead);
        let Locked::Ours(left, lock) = store.lock("web", false).unwrap() else { panic!("not locked") };
        store.remove(&left, &lock).unwrap();
        assert!(store.all().unwrap().is_empty());
    }
}
