//! The table of containers, in memory that the watcher shares.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::sys::memfd::{MFdFlags, memfd_create};
use ns_core::ProcessId;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Resource, getrlimit};

use super::layout::{FREE, PROCESS, Slot};
use crate::ended::has_ended;
use crate::error::{Error, ErrorKind};

/// Maximum number of slots. Only those that were used take memory.
const SLOTS: usize = 16 << 10;
/// Minimum number of slots.
const LEAST: usize = 4;

/// The table. It stays mapped while a container is in it.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    start: NonNull<Slot>,
    slots: usize,
    free: Mutex<Free>,
}

/// The free slots: those that were given back, and those from `next` on.
#[derive(Debug)]
struct Free {
    returned: Vec<usize>,
    next: usize,
    /// Slots of containers that have no handle. They are free when the container is gone.
    kept: Vec<usize>,
}

// SAFETY: the memory consists of atomics, which any thread may access.
unsafe impl Send for Table {}
// SAFETY: the same.
unsafe impl Sync for Table {}

impl Table {
    /// Makes the table. Its file is no larger than this program may make files: beyond that limit
    /// ftruncate(2) sends SIGXFSZ.
    pub(super) fn new() -> Result<Table, Error> {
        let limit = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        let slots = SLOTS.min(usize::try_from(limit).unwrap_or(SLOTS) / size_of::<Slot>());
        if slots < LEAST {
            let least = LEAST * size_of::<Slot>();
            let what = format!(
                "cannot make the table of containers: it requires a file of {least} bytes, and this process may \
                 make files of {limit} bytes (RLIMIT_FSIZE): raise it"
            );
            return Err(Error::new(ErrorKind::LimitReached, "watch", what));
        }
        let length = slots * size_of::<Slot>();
        let failed =
            |call| move |e: std::io::Error| Error::io("watch", "make the table of containers", call, &e);
        let file = memfd_create(c"nspod-watch", MFdFlags::MFD_CLOEXEC);
        let file = File::from(file.map_err(|e| failed("memfd_create")(e.into()))?);
        file.set_len(length as u64).map_err(failed("ftruncate"))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: maps new memory, at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), length, access, MapFlags::SHARED, &file, 0) };
        let start = start.map_err(|e| failed("mmap")(e.into()))?;
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(failed("mmap")(std::io::ErrorKind::OutOfMemory.into()));
        };
        let free = Free { returned: Vec::new(), next: 1, kept: Vec::new() };
        Ok(Table { file, start, slots, free: Mutex::new(free) })
    }

    /// Returns the number of slots.
    pub(super) fn len(&self) -> usize {
        self.slots
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn slots(&self) -> &[Slot] {
        // SAFETY: the mapping is aligned to a page, has this length, and lives as long as `self`. A slot
        // consists of atomics: any bytes are valid, and both processes may access them at the same time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.slots) }
    }

    /// Fills a free slot, and sets its state last.
    pub(super) fn add(self: &Arc<Table>, state: u32, fill: impl FnOnce(&Slot)) -> Result<Watched, Error> {
        let mut free = self.lock();
        if free.returned.is_empty() && free.next == self.slots {
            self.free_kept(&mut free);
        }
        let at = match free.returned.pop() {
            Some(at) => at,
            None if free.next < self.slots => {
                free.next += 1;
                free.next - 1
            }
            None => {
                let what = format!("cannot watch more than {} containers of one process", self.slots - 1);
                return Err(Error::new(ErrorKind::LimitReached, "watch", what));
            }
        };
        let used = (free.next - 1) as u32;
        drop(free);
        let [header, ..] = self.slots() else { unreachable!("the table is not empty") };
        header.number.fetch_max(used, Ordering::Release);
        fill(&self.slots()[at]);
        self.slots()[at].state.store(state, Ordering::Release);
        Ok(Watched { table: self.clone(), at, kept: false })
    }

    /// Frees the slots of kept containers that are gone.
    fn free_kept(&self, free: &mut Free) {
        let (gone, kept) = free.kept.iter().partition(|at| is_gone(&self.slots()[**at]));
        free.kept = kept;
        free.returned = gone;
        for at in &free.returned {
            self.slots()[*at].state.store(FREE, Ordering::Release);
        }
    }

    fn remove(&self, at: usize) {
        self.slots()[at].state.store(FREE, Ordering::Release);
        self.lock().returned.push(at);
    }
}

impl AsFd for Table {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: only this value uses the mapping, and the value is not used after this line.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.slots * size_of::<Slot>()) };
    }
}

/// Returns whether the container in a slot has surely ended.
fn is_gone(slot: &Slot) -> bool {
    let (number, id) = (slot.number.load(Ordering::Relaxed), slot.id.load(Ordering::Relaxed));
    if slot.state.load(Ordering::Relaxed) == PROCESS {
        return has_ended(&ProcessId { pid: number as i32, start: id, boot: String::new() });
    }
    let bytes = slot.path.iter().map(|byte| byte.load(Ordering::Relaxed));
    let path: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    match std::fs::symlink_metadata(OsStr::from_bytes(&path)) {
        Ok(found) => found.ino() != id,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

/// A container in the table. Dropping removes it from the table.
#[derive(Debug)]
pub(crate) struct Watched {
    table: Arc<Table>,
    at: usize,
    kept: bool,
}

impl Watched {
    /// Keeps the container in the table until it or this program ends.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        match self.kept {
            true => self.table.lock().kept.push(self.at),
            false => self.table.remove(self.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::CGROUP;
    use super::*;

    #[test]
    fn a_slot_is_used_again_and_a_full_table_refuses() {
        let table = Arc::new(Table::new().unwrap());
        let first = table.add(CGROUP, |_| ()).unwrap();
        let at = first.at;
        drop(first);
        assert_eq!(table.slots()[at].state.load(Ordering::Relaxed), FREE);
        let mut all: Vec<_> = (1..SLOTS).map(|_| table.add(CGROUP, |_| ()).unwrap()).collect();
        assert_eq!(table.slots()[0].number.load(Ordering::Relaxed) as usize, SLOTS - 1);
        let error = table.add(CGROUP, |_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        all.pop();
        let one = table.add(CGROUP, |_| ()).unwrap();
        // A kept slot is free when its container is gone.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id() as i32).unwrap();
        drop(one);
        let process = table.add(PROCESS, |slot| {
            slot.number.store(id.pid as u32, Ordering::Relaxed);
            slot.id.store(id.start, Ordering::Relaxed);
        });
        process.unwrap().keep();
        let directory = tempfile::tempdir().unwrap();
        let fill = |slot: &Slot| {
            slot.id.store(directory.path().metadata().unwrap().ino(), Ordering::Relaxed);
            let bytes = directory.path().as_os_str().as_bytes().iter().chain([&0]);
            slot.path.iter().zip(bytes).for_each(|(place, byte)| place.store(*byte, Ordering::Relaxed));
        };
        all.pop();
        table.add(CGROUP, fill).unwrap().keep();
        assert!(table.add(CGROUP, |_| ()).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        all.push(table.add(CGROUP, |_| ()).unwrap());
        assert!(table.add(CGROUP, |_| ()).is_err());
        drop(directory);
        all.push(table.add(CGROUP, |_| ()).unwrap());
        assert!(table.add(CGROUP, |_| ()).is_err());
    }
}
