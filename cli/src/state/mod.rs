//! What must be known from one invocation to the next: a directory for each container and
//! pod, under `/run/nspod` or `$XDG_RUNTIME_DIR/nspod`.
//!
//! A container's directory is made before the container and is locked until its record is
//! in place, so a crash leaves at worst an unlocked directory without a record, whose
//! cgroup is found by its name.

pub(crate) mod pods;
mod record;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup_core::{Cgroup, delegate};
use nix::unistd::geteuid;

pub(crate) use nspod_cli::dir::{Dir, Lock};
pub(crate) use nspod_cli::process::Process;
pub(crate) use record::{EXIT, Entry, LOG, RECORD, Record, State};

use crate::error::{Error, Result};

/// The cgroup that holds those of all containers and pods.
const BASE: &str = "nspod";

/// How long the end of a killed process may take.
pub(crate) const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// All containers of one user.
#[derive(Debug)]
pub(crate) struct Store {
    containers: Dir,
}

impl Store {
    pub(crate) fn open() -> Result<Store> {
        Store::at(&base())
    }

    /// The same for who only looks: nothing is made, and what may not be read is not there.
    pub(crate) fn peek() -> Option<Store> {
        let base = base();
        base.join("containers").is_dir().then(|| Store::at(&base).ok())?
    }

    fn at(path: &Path) -> Result<Store> {
        Ok(Store { containers: Dir::own(path)?.make_sub("containers")? })
    }

    /// Takes a name, which nobody else can take then, and holds the lock.
    pub(crate) fn create(&self, id: &str) -> Result<(Entry, Lock)> {
        loop {
            if let Some((dir, lock)) = self.containers.claim(id)? {
                return Ok((Entry { id: id.into(), dir, record: None }, lock));
            }
            match self.lock(id, false)? {
                Locked::Ours(entry, lock) if entry.record.is_none() => self.remove(&entry, &lock)?,
                Locked::Gone => {}
                Locked::Ours(..) | Locked::Theirs => {
                    return Err(Error::new(format!("there is a container {id} already"))
                        .hint(format!("choose another --name, or `nspod rm -f {id}`")));
                }
            }
        }
    }

    /// Locks a container by its whole id, and reads what is written down of it then.
    pub(crate) fn lock(&self, id: &str, wait: bool) -> Result<Locked> {
        let Some(dir) = self.containers.sub(id)? else { return Ok(Locked::Gone) };
        let Some(lock) = dir.lock(wait)? else { return Ok(Locked::Theirs) };
        match dir.is_at(&self.containers, id)? {
            true => Ok(Locked::Ours(Entry::load(id.into(), dir)?, lock)),
            false => Ok(Locked::Gone),
        }
    }

    /// All containers, the oldest first.
    pub(crate) fn all(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for id in self.containers.names()? {
            if let Some(dir) = self.containers.sub(&id)? {
                match Entry::load(id, dir) {
                    Ok(entry) => all.push(entry),
                    Err(e) => crate::output::note(e),
                }
            }
        }
        all.sort_by_key(|entry| entry.record.as_ref().map_or(u64::MAX, |r| r.created));
        Ok(all)
    }

    /// The container of this name or id, or of the only id that starts so.
    pub(crate) fn find(&self, text: &str) -> Result<Entry> {
        let id = crate::value::name(text)?;
        if let Some(dir) = self.containers.sub(&id)? {
            return Entry::load(id, dir);
        }
        let names = self.containers.names()?;
        let mut found = names.into_iter().filter(|name| is_id(name) && name.starts_with(&id));
        match (found.next(), found.next()) {
            (Some(name), None) => match self.containers.sub(&name)? {
                Some(dir) => Entry::load(name, dir),
                None => Err(none(text)),
            },
            (Some(_), Some(_)) => {
                Err(Error::new(format!("several containers have ids that start with {id}")))
            }
            (None, _) => Err(none(text)),
        }
    }

    /// Removes what has ended, with what is left of it; the lock says who removes.
    pub(crate) fn remove(&self, entry: &Entry, lock: &Lock) -> Result<()> {
        if !entry.dir.is_at(&self.containers, &entry.id)? {
            // Another invocation was first, and the name may be another container's by now.
            return Ok(());
        }
        match &entry.record {
            Some(record) => record.cgroup.as_deref().map_or(Ok(()), remove_cgroup)?,
            None => orphan_cgroups(&entry.id)?.iter().try_for_each(|path| remove_cgroup(path))?,
        }
        self.forget(entry, lock)
    }

    /// The same for one whose cgroup has been removed already.
    pub(crate) fn forget(&self, entry: &Entry, _lock: &Lock) -> Result<()> {
        match entry.dir.is_at(&self.containers, &entry.id)? {
            true => entry.dir.remove_from(&self.containers, &entry.id, &[RECORD]),
            false => Ok(()),
        }
    }

    /// Kills what runs of it, waits for its end, and notes that.
    pub(crate) fn kill(&self, entry: &Entry) -> Result<()> {
        let same = |now: &Entry| {
            now.record.as_ref().map(|r| &r.process) == entry.record.as_ref().map(|r| &r.process)
        };
        match self.lock(&entry.id, true)? {
            Locked::Ours(now, _lock) if same(&now) => {
                if now.end()? {
                    let killed = nspod_sandbox::ExitStatus::Signaled {
                        signal: nix::libc::SIGKILL,
                        core_dumped: false,
                    };
                    // It is dead, whether that can be noted or not.
                    now.note(killed).unwrap_or_else(crate::output::note);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Removes the containers that were to be removed when they have ended and whose
    /// runner cannot do so, and the rest of starts that were killed.
    pub(crate) fn sweep(&self) -> Result<()> {
        let due = |entry: &Entry| -> Result<bool> {
            Ok(match &entry.record {
                Some(record) => record.remove && !record.owned()? && !record.process.lives()?,
                None => true,
            })
        };
        for entry in self.all()? {
            if due(&entry)?
                && let Locked::Ours(entry, lock) = self.lock(&entry.id, false)?
                && due(&entry)?
            {
                self.remove(&entry, &lock)?;
            }
        }
        Ok(())
    }
}

/// What comes of an attempt to lock a container or pod.
#[derive(Debug)]
pub(crate) enum Locked<E = Entry> {
    /// Nobody else changes it meanwhile.
    Ours(E, Lock),
    /// Another invocation holds the lock.
    Theirs,
    /// There is none of that id, or it was just removed.
    Gone,
}

fn none(text: &str) -> Error {
    Error::new(format!("there is no container {text}")).hint("`nspod ps -a` lists all")
}

/// `/run/nspod` for root, else a directory of the user's own.
fn base() -> PathBuf {
    let uid = geteuid();
    match nspod_cli::dir::of_user() {
        Some(dir) => dir.join("nspod"),
        None if uid.is_root() => "/run/nspod".into(),
        None => format!("/tmp/nspod-{uid}").into(),
    }
}

/// Twelve hexadecimal digits, which are to differ and no secret: what hash maps are seeded with.
pub(crate) fn random_id() -> String {
    format!("{:012x}", RandomState::new().hash_one(std::process::id()) >> 16)
}

fn is_id(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Where the cgroup of a container may be whose invocation died too early to write it down: beside
/// the others, or in that of a pod.
fn orphan_cgroups(id: &str) -> Result<Vec<PathBuf>> {
    use cgroup_core::ErrorKind::{NoHierarchy, NotDelegated, PermissionDenied};
    let base = match delegate::find(BASE, delegate::Move::Nothing) {
        Ok(found) => found.base.path().to_owned(),
        // It had none either.
        Err(e) if matches!(e.kind(), NoHierarchy | NotDelegated | PermissionDenied) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let mut all = vec![base.join(id)];
    // The holder of a pod's namespaces has the cgroup `init` there.
    if id != "init" {
        let failed = |e| Error::io("list", &base, &e);
        for entry in std::fs::read_dir(&base).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.as_encoded_bytes().starts_with(b"pod:") {
                all.push(base.join(name).join(id));
            }
        }
    }
    Ok(all)
}

/// Removes a container's cgroup with all in it, and the one that held it if that is empty.
fn remove_cgroup(path: &Path) -> Result<()> {
    match Cgroup::open(path).and_then(|cgroup| cgroup.destroy()) {
        Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound => {}
        other => other?,
    }
    if let Some(parent) = path.parent().filter(|p| p.file_name().is_some_and(|name| name == BASE)) {
        // Busy as long as another container lives in it.
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
        assert_eq!(store.find("0123").unwrap().id, "0123456789ab");
        assert_eq!(store.find("web").unwrap().id, "web");
        assert_eq!(
            store.find("we").unwrap_err().to_string(),
            "there is no container we; `nspod ps -a` lists all"
        );
        assert!(store.find("012").unwrap_err().to_string().starts_with("several containers"));
        assert!(store.find("../x").is_err());
    }

    #[test]
    fn what_a_crash_leaves_is_told_from_what_is_being_made() {
        let (_temp, store) = store();
        let (entry, lock) = store.create("web").unwrap();
        assert_eq!(store.find("web").unwrap().state().unwrap(), State::Creating);
        drop((entry, lock));
        let left = store.find("web").unwrap();
        assert_eq!(left.state().unwrap(), State::Dead);
        let lock = left.lock(false).unwrap().unwrap();
        store.remove(&left, &lock).unwrap();
        assert!(store.all().unwrap().is_empty());
    }

    #[test]
    fn an_id_is_random_and_valid() {
        let (one, two) = (random_id(), random_id());
        assert!(is_id(&one) && is_id(&two) && one != two);
        assert!(!is_id("web") && !is_id("0123456789AB"));
    }
}
