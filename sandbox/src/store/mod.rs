//! Persistent state of containers and pods: a directory with an entry for each.
//!
//! An entry is a directory with the name of the container or pod. Its record, `state.json`,
//! contains the data that the program stores. An entry is being made, complete, or broken
//! ([`EntryState`]):
//!
//! 1. [`Store::create`] makes the directory and locks it.
//! 2. The program writes a record of the objects that it is about to make, makes them, and writes
//!    the record again. If the program is killed, the lock is released and the record names the
//!    objects that remain.
//! 3. The program releases the lock.
//!
//! A process that changes or removes an entry holds its lock. The state directory and the entries
//! have mode 700, links are not followed, and a record is replaced atomically.
//!
//! ```
//! use nspod_sandbox::store::{EntryState, Record, Store};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Job { command: String }
//! impl Record for Job {}
//!
//! # let temp = tempfile::tempdir().unwrap();
//! # let path = temp.path().join("jobs");
//! let store = Store::<Job>::open(&path)?;
//! let made = store.create("web", |_, _| Ok::<_, nspod_sandbox::Error>(false))?;
//! let (entry, lock) = made.expect("the name is free");
//! assert_eq!(store.find("web")?.expect("an entry").state()?, EntryState::BeingMade);
//! entry.write(&Job { command: "sleep 60".into() })?;
//! drop(lock);
//! let found = store.find("web")?.expect("an entry");
//! assert_eq!((found.state()?, &*found.record().expect("a record").command), (EntryState::There, "sleep 60"));
//! # Ok::<(), nspod_sandbox::Error>(())
//! ```

mod dir;
mod entry;
mod hint;
mod lock;
mod name;

use std::marker::PhantomData;
use std::path::Path;

pub use dir::{Dir, read_bounded, read_small};
pub use entry::{EXIT, Entry, EntryState, RECORD, Record, Trust, Writer};
pub use hint::Alternative;
pub use lock::Lock;
pub use name::{is_random_name, random_name};

use crate::error::{Error, ErrorKind};

/// A directory with an entry for each container or pod of one program and user. `R` is the record
/// of an entry.
#[derive(Debug)]
pub struct Store<R> {
    dir: Dir,
    trust: Trust,
    record: PhantomData<fn() -> R>,
}

/// The result of an attempt to lock an entry.
#[derive(Debug)]
pub enum Locked<E> {
    /// The caller holds the lock.
    Ours(E, Lock),
    /// Another process holds the lock.
    Theirs,
    /// No entry has the name, or its holder has just removed it.
    Gone,
}

impl<R: Record> Store<R> {
    /// Opens the store in a directory that only the caller can enter. Creates the directory if it
    /// is missing.
    /// See [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    ///
    /// # Errors
    /// The same as [`Dir::private`].
    pub fn open(path: &Path) -> Result<Store<R>, Error> {
        Ok(Store::new(Dir::private(path, || None)?, Trust::Store))
    }

    /// Opens the store in an open directory.
    pub fn new(dir: Dir, trust: Trust) -> Store<R> {
        Store { dir, trust, record: PhantomData }
    }

    /// Returns the path under which the directory was opened.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Creates an entry and locks it. Returns `None` if the name exists.
    ///
    /// Calls `reclaim` for an entry with that name that no process has locked. `reclaim` can
    /// [`remove`](Self::remove) the remains of a killed creation, and returns `true` if it did.
    ///
    /// # Errors
    /// The errno of mkdirat(2), openat(2) or flock(2); the error of `reclaim`. No entry is left
    /// behind.
    pub fn create<E: From<Error>>(
        &self,
        name: &str,
        mut reclaim: impl FnMut(&Entry<R>, &Lock) -> Result<bool, E>,
    ) -> Result<Option<(Entry<R>, Lock)>, E> {
        loop {
            if let Some((dir, lock)) = self.dir.claim(name)? {
                return Ok(Some((Entry::new(name, dir), lock)));
            }
            match self.lock(name, false)? {
                Locked::Ours(entry, lock) if reclaim(&entry, &lock)? => {}
                Locked::Gone => {}
                Locked::Ours(..) | Locked::Theirs => return Ok(None),
            }
        }
    }

    /// Returns the entry with a name, or `None` if it does not exist.
    ///
    /// # Errors
    /// The errno of openat(2) or read(2). The record is not valid. With [`Trust::Entry`]: another
    /// user owns the entry or can enter it.
    pub fn find(&self, name: &str) -> Result<Option<Entry<R>>, Error> {
        self.dir.sub(name)?.map(|dir| Entry::load(name, dir, self.trust)).transpose()
    }

    /// Locks an entry and then reads its record. If another process holds the lock, the call waits,
    /// or returns [`Locked::Theirs`] if `wait` is false.
    ///
    /// # Errors
    /// The errors of [`find`](Self::find), and the errno of flock(2).
    pub fn lock(&self, name: &str, wait: bool) -> Result<Locked<Entry<R>>, Error> {
        let Some(dir) = self.dir.sub(name)? else { return Ok(Locked::Gone) };
        let Some(lock) = dir.lock(wait)? else { return Ok(Locked::Theirs) };
        if !dir.is_at(&self.dir, name)? {
            return Ok(Locked::Gone);
        }
        Ok(Locked::Ours(Entry::load(name, dir, self.trust)?.locked(), lock))
    }

    /// Waits for the lock of an entry that this process had locked before, and locks it again.
    /// Returns `None` if another process has removed the entry.
    ///
    /// # Errors
    /// The errno of flock(2) or fstat(2).
    pub fn lock_again(&self, entry: &Entry<R>) -> Result<Option<Lock>, Error> {
        let lock = entry.dir().lock(true)?;
        Ok(if entry.dir().is_at(&self.dir, entry.name())? { lock } else { None })
    }

    /// Reads the record of an entry again. The caller holds the lock.
    /// See [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    ///
    /// # Errors
    /// The same as [`find`](Self::find).
    pub fn reload(&self, entry: &Entry<R>) -> Result<Entry<R>, Error> {
        Ok(Entry::load(entry.name(), entry.dir().clone(), self.trust)?.locked())
    }

    /// Removes an entry whose lock the caller holds. The entry and the lock must come from the same
    /// call, or the lock from [`lock_again`](Self::lock_again).
    ///
    /// # Errors
    /// The errno of unlinkat(2). [`ErrorKind::InvalidInput`]: the lock is not the entry's.
    ///
    /// [`ErrorKind::InvalidInput`]: crate::ErrorKind::InvalidInput
    pub fn remove(&self, entry: &Entry<R>, lock: &Lock) -> Result<(), Error> {
        check(entry, lock, "remove")?;
        entry.dir().remove_from(&self.dir, entry.name(), R::FILES)
    }

    /// Gives another name to an entry whose lock the caller holds, see [`remove`](Self::remove). The lock is then
    /// that of the returned entry. Returns `None` if the new name exists. Since Linux 3.15; see
    /// [renameat2(2)](https://man7.org/linux/man-pages/man2/rename.2.html).
    ///
    /// # Errors
    /// The errno of renameat2(2). [`ErrorKind::InvalidInput`]: the lock is not the entry's.
    pub fn rename(&self, entry: &Entry<R>, lock: &Lock, name: &str) -> Result<Option<Entry<R>>, Error> {
        check(entry, lock, "rename")?;
        let Some(dir) = self.dir.rename(entry.dir(), entry.name(), name)? else { return Ok(None) };
        Ok(Some(Entry::load(name, dir, self.trust)?.locked()))
    }

    /// Returns the names of the entries, sorted.
    ///
    /// # Errors
    /// The errno of getdents64(2).
    pub fn names(&self) -> Result<Vec<String>, Error> {
        self.dir.names()
    }

    /// Returns the entries, sorted by name. An entry that cannot be read is an error in the list.
    /// See [readdir(3)](https://man7.org/linux/man-pages/man3/readdir.3.html).
    ///
    /// # Errors
    /// The same as [`names`](Self::names).
    pub fn entries(&self) -> Result<Vec<Result<Entry<R>, Error>>, Error> {
        Ok(self.names()?.iter().filter_map(|name| self.find(name).transpose()).collect())
    }
}

/// Checks that a lock is that of an entry.
fn check<R: Record>(entry: &Entry<R>, lock: &Lock, what: &str) -> Result<(), Error> {
    if entry.dir().is_locked_by(lock) {
        return Ok(());
    }
    let path = entry.dir().path().display().to_string();
    let problem = format!("cannot {what} {path}: the lock is not this entry's");
    Err(Error::new(ErrorKind::InvalidInput, "store", problem).on(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Thing {
        value: u32,
        complete: bool,
    }

    impl Record for Thing {
        fn is_complete(&self) -> bool {
            self.complete
        }
    }

    const HALF: Thing = Thing { value: 1, complete: false };
    const WHOLE: Thing = Thing { value: 2, complete: true };

    fn store(trust: Trust) -> (tempfile::TempDir, Store<Thing>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::private(&temp.path().join("store"), || None).unwrap();
        (temp, Store::new(dir, trust))
    }

    fn create(store: &Store<Thing>, name: &str) -> Option<(Entry<Thing>, Lock)> {
        store.create(name, |_, _| Ok::<_, Error>(false)).unwrap()
    }

    #[test]
    fn a_name_is_taken_once() {
        let (_temp, store) = store(Trust::Store);
        let held = create(&store, "web").unwrap();
        let never = |_: &Entry<Thing>, _: &Lock| -> Result<bool, Error> { panic!("the entry is locked") };
        assert!(store.create("web", never).unwrap().is_none());
        drop(held);
        assert!(create(&store, "web").is_none());
    }

    #[test]
    fn an_abandoned_entry_is_reclaimed() {
        let (_temp, store) = store(Trust::Store);
        let (entry, lock) = create(&store, "web").unwrap();
        entry.write(&HALF).unwrap();
        drop(lock);
        let made = store.create("web", |entry, lock| {
            assert_eq!(entry.record(), Some(&HALF));
            store.remove(entry, lock).map(|()| true)
        });
        let (entry, _lock) = made.unwrap().unwrap();
        assert_eq!(store.find("web").unwrap().unwrap().record(), None);
        assert_eq!(entry.name(), "web");
    }

    #[test]
    fn an_entry_is_incomplete_broken_or_complete() {
        let (_temp, store) = store(Trust::Store);
        let state = || store.find("web").unwrap().unwrap().state().unwrap();
        let (entry, lock) = create(&store, "web").unwrap();
        assert_eq!(state(), EntryState::BeingMade);
        entry.write(&HALF).unwrap();
        assert_eq!(state(), EntryState::BeingMade);
        entry.write(&WHOLE).unwrap();
        assert_eq!(state(), EntryState::There);
        drop(lock);
        assert_eq!(state(), EntryState::There);
        entry.write(&HALF).unwrap();
        assert_eq!(state(), EntryState::Broken);
        let Locked::Ours(locked, _lock) = store.lock("web", false).unwrap() else { panic!("not locked") };
        // The caller itself holds the lock.
        assert_eq!(locked.state().unwrap(), EntryState::Broken);
    }

    #[test]
    fn an_entry_that_is_completed_after_it_was_opened_is_not_broken() {
        let (_temp, store) = store(Trust::Store);
        let (entry, lock) = create(&store, "web").unwrap();
        entry.write(&HALF).unwrap();
        let found = store.find("web").unwrap().unwrap();
        entry.write(&WHOLE).unwrap();
        drop(lock);
        assert_eq!(found.state().unwrap(), EntryState::BeingMade);
    }

    #[test]
    fn a_lock_that_was_released_is_not_taken_again_on_another_entry() {
        let (_temp, store) = store(Trust::Store);
        let (entry, lock) = create(&store, "web").unwrap();
        drop(lock);
        let lock = store.lock_again(&entry).unwrap().unwrap();
        store.remove(&entry, &lock).unwrap();
        drop(lock);
        let _other = create(&store, "web").unwrap();
        assert!(store.lock_again(&entry).unwrap().is_none());
    }

    #[test]
    fn an_entry_that_is_removed_while_it_is_read_is_not_broken() {
        let (_temp, store) = store(Trust::Store);
        let (entry, lock) = create(&store, "web").unwrap();
        let found = store.find("web").unwrap().unwrap();
        store.remove(&entry, &lock).unwrap();
        drop(lock);
        assert_eq!(found.state().unwrap(), EntryState::BeingMade);
    }

    #[test]
    fn an_entry_is_removed_only_with_its_own_lock() {
        let (_temp, store) = store(Trust::Store);
        let (web, lock) = create(&store, "web").unwrap();
        let (_db, other) = create(&store, "db").unwrap();
        assert_eq!(store.remove(&web, &other).unwrap_err().kind(), ErrorKind::InvalidInput);
        // Without a lock of its own, an entry that was only found cannot be removed.
        let found = store.find("web").unwrap().unwrap();
        assert_eq!(store.remove(&found, &lock).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(store.names().unwrap(), ["db", "web"]);
        let web = store.reload(&web).unwrap();
        store.remove(&web, &lock).unwrap();
        assert_eq!(store.names().unwrap(), ["db"]);
    }

    #[test]
    fn an_entry_is_renamed_only_to_a_free_name_and_keeps_its_lock() {
        let (_temp, store) = store(Trust::Store);
        let (web, lock) = create(&store, "web").unwrap();
        web.write(&WHOLE).unwrap();
        let (_db, _other) = create(&store, "db").unwrap();
        assert!(store.rename(&web, &lock, "db").unwrap().is_none());
        let old = store.rename(&web, &lock, "old").unwrap().unwrap();
        assert_eq!(
            (old.name(), old.record(), store.names().unwrap()),
            ("old", Some(&WHOLE), vec!["db".into(), "old".into()])
        );
        assert!(matches!(store.lock("old", false).unwrap(), Locked::Theirs));
        assert!(matches!(store.lock("web", false).unwrap(), Locked::Gone));
        store.remove(&old, &lock).unwrap();
        assert_eq!(store.names().unwrap(), ["db"]);
    }

    #[test]
    fn a_record_that_another_user_can_have_written_is_not_trusted() {
        for (trust, believed) in [(Trust::Store, true), (Trust::Entry, false)] {
            let (temp, store) = store(trust);
            let (entry, _lock) = create(&store, "web").unwrap();
            entry.write(&WHOLE).unwrap();
            assert_eq!(store.find("web").unwrap().unwrap().record(), Some(&WHOLE));
            let path = temp.path().join("store/web");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
            match store.find("web") {
                Ok(found) => assert!(believed && found.is_some()),
                Err(e) => assert!(!believed && e.to_string().contains("mode 777 instead of"), "{e}"),
            }
            assert_eq!(
                store.entries().unwrap().iter().filter(|entry| entry.is_ok()).count(),
                usize::from(believed)
            );
        }
    }

    #[test]
    fn a_text_that_is_not_a_record_is_an_error_of_that_entry_alone() {
        let (_temp, store) = store(Trust::Store);
        for (name, text) in [("bad", "{"), ("good", r#"{"value":2,"complete":true}"#)] {
            let (entry, _lock) = create(&store, name).unwrap();
            entry.dir().replace(RECORD, text.as_bytes()).unwrap();
        }
        let entries = store.entries().unwrap();
        let error = entries[0].as_ref().unwrap_err().to_string();
        assert!(error.contains("bad/state.json is not a valid record"), "{error}");
        assert_eq!(entries[1].as_ref().unwrap().record(), Some(&WHOLE));
        assert_eq!(store.names().unwrap(), ["bad", "good"]);
    }
}
