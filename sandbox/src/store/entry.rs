//! An entry of a store and its record.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::dir::Dir;
use crate::error::{Error, ErrorKind};

/// Why an entry's record can be trusted. A record can name programs to run and cgroups to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Only the caller can enter the store's directory.
    Store,
    /// Each entry is checked: it belongs to the caller and no other user can enter it.
    Entry,
}

/// File name of an entry's record.
pub const RECORD: &str = "state.json";

/// File name of an entry's exit file. Pass the file to [`Command::exit_file`], so that
/// [`Container::open`] finds the exit status of a container that has an init.
///
/// [`Command::exit_file`]: crate::Command::exit_file
/// [`Container::open`]: crate::Container::open
pub const EXIT: &str = "exit";

/// The data that a program stores for each entry. It is written as JSON.
pub trait Record: Serialize + DeserializeOwned {
    /// Files that an entry usually contains. They are removed without listing the entry.
    const FILES: &'static [&'static str] = &[RECORD];

    /// Returns whether everything that the record describes exists.
    fn is_complete(&self) -> bool {
        true
    }
}

/// Progress of the creation of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryState {
    /// A process has locked the entry and has not completed it, or has just removed it.
    BeingMade,
    /// The record is complete.
    There,
    /// The process that made the entry has ended without completing it.
    Broken,
}

/// An entry of a store, with the record that was read when it was opened.
#[derive(Debug)]
pub struct Entry<R> {
    name: String,
    dir: Dir,
    record: Option<R>,
    /// Whether this process held the lock when it opened the entry.
    locked: bool,
}

impl<R: Record> Entry<R> {
    /// Returns a new entry that the caller has locked.
    pub(super) fn new(name: &str, dir: Dir) -> Entry<R> {
        Entry { name: name.into(), dir, record: None, locked: true }
    }

    pub(super) fn load(name: &str, dir: Dir, trust: Trust) -> Result<Entry<R>, Error> {
        if trust == Trust::Entry {
            dir.check_private()?;
        }
        let parse = |text: String| {
            serde_json::from_str(&text).map_err(|e| {
                let file = dir.at(RECORD).display().to_string();
                let what = format!("{file} is not a valid record: {e}");
                Error::new(ErrorKind::InvalidInput, "store", what).on(file).with_source(e)
            })
        };
        let record = dir.read(RECORD).and_then(|text| text.map(parse).transpose());
        let record = record.map_err(|e| match e.kind() {
            ErrorKind::InvalidInput => e.and_hint(format_args!(
                "stop the container or pod that it describes, then remove {}",
                dir.path().display()
            )),
            _ => e,
        })?;
        Ok(Entry { name: name.into(), dir, record, locked: false })
    }

    pub(super) fn locked(self) -> Entry<R> {
        Entry { locked: true, ..self }
    }

    /// Returns the name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the directory of the entry, for additional files.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Returns the record that was read when the entry was opened, or `None` if it had none.
    pub fn record(&self) -> Option<&R> {
        self.record.as_ref()
    }

    /// Writes the record. [`record`](Self::record) still returns the old one.
    /// See [rename(2)](https://man7.org/linux/man-pages/man2/rename.2.html).
    ///
    /// # Errors
    /// The same as [`Dir::replace`].
    pub fn write(&self, record: &R) -> Result<(), Error> {
        write(&self.dir, record)
    }

    /// Returns a handle that writes the record, for a closure that outlives the entry.
    pub fn writer(&self) -> Writer<R> {
        Writer { dir: self.dir.clone(), record: PhantomData }
    }

    /// Returns the progress of the entry's creation at the time when the entry was opened.
    ///
    /// # Errors
    /// The errno of flock(2), fstat(2), openat(2) or read(2).
    pub fn state(&self) -> Result<EntryState, Error> {
        if self.record.as_ref().is_some_and(R::is_complete) {
            return Ok(EntryState::There);
        }
        // While this process has the lock, no other one removes or completes the entry.
        let lock = if self.locked { None } else { self.dir.lock(false)? };
        let abandoned =
            self.locked || lock.is_some() && !self.dir.is_removed()? && !self.is_complete_now()?;
        Ok(if abandoned { EntryState::Broken } else { EntryState::BeingMade })
    }

    /// Returns whether the entry has been completed since it was opened.
    fn is_complete_now(&self) -> Result<bool, Error> {
        let text = self.dir.read(RECORD)?.unwrap_or_default();
        Ok(serde_json::from_str(&text).is_ok_and(|record: R| record.is_complete()))
    }
}

/// Writes the record of an entry.
#[derive(Debug)]
pub struct Writer<R> {
    dir: Dir,
    record: PhantomData<fn(R)>,
}

impl<R: Record> Writer<R> {
    /// Writes the record.
    /// See [rename(2)](https://man7.org/linux/man-pages/man2/rename.2.html).
    ///
    /// # Errors
    /// The same as [`Dir::replace`].
    pub fn write(&self, record: &R) -> Result<(), Error> {
        write(&self.dir, record)
    }
}

fn write<R: Record>(dir: &Dir, record: &R) -> Result<(), Error> {
    let text = serde_json::to_vec(record).map_err(|e| {
        let path = dir.at(RECORD).display().to_string();
        let what = format!("cannot write {path} as JSON: {e}");
        Error::new(ErrorKind::InvalidInput, "store", what).on(path).with_source(e)
    })?;
    dir.replace(RECORD, &text)
}
