//! The table of containers, in memory that the watcher shares.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{FREE, Slot};
use crate::error::{Error, ErrorKind};

/// Number of slots. Only those that were used take memory.
pub(super) const SLOTS: usize = 16 << 10;
const LENGTH: usize = SLOTS * size_of::<Slot>();

/// The table. It stays mapped while a container is in it.
#[derive(Debug)]
pub(super) struct Table {
    file: File,
    start: NonNull<Slot>,
    free: Mutex<Free>,
}

/// The free slots: those that were given back, and those from `next` on.
#[derive(Debug)]
struct Free {
    returned: Vec<usize>,
    next: usize,
}

// SAFETY: the memory consists of atomics, which any thread may access.
unsafe impl Send for Table {}
// SAFETY: the same.
unsafe impl Sync for Table {}

impl Table {
    pub(super) fn new() -> Result<Table, Error> {
        let failed =
            |call| move |e: std::io::Error| Error::io("watch", "make the table of containers", call, &e);
        let file = memfd_create(c"nspod-watch", MFdFlags::MFD_CLOEXEC);
        let file = File::from(file.map_err(|e| failed("memfd_create")(e.into()))?);
        file.set_len(LENGTH as u64).map_err(failed("ftruncate"))?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: maps new memory, at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), LENGTH, access, MapFlags::SHARED, &file, 0) };
        let start = start.map_err(|e| failed("mmap")(e.into()))?;
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(failed("mmap")(std::io::ErrorKind::OutOfMemory.into()));
        };
        Ok(Table { file, start, free: Mutex::new(Free { returned: Vec::new(), next: 1 }) })
    }

    fn slots(&self) -> &[Slot] {
        // SAFETY: the mapping is aligned to a page, has this length, and lives as long as `self`. A slot
        // consists of atomics: any bytes are valid, and both processes may access them at the same time.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), SLOTS) }
    }

    /// Fills a free slot, and sets its state last.
    pub(super) fn add(self: &Arc<Table>, state: u32, fill: impl FnOnce(&Slot)) -> Result<Watched, Error> {
        let mut free = self.free.lock().unwrap_or_else(|e| e.into_inner());
        let at = match free.returned.pop() {
            Some(at) => at,
            None if free.next < SLOTS => {
                free.next += 1;
                free.next - 1
            }
            None => {
                let what = format!("cannot watch more than {} containers of one process", SLOTS - 1);
                return Err(Error::new(ErrorKind::LimitReached, "watch", what));
            }
        };
        let used = (free.next - 1) as u32;
        drop(free);
        let [header, ..] = self.slots() else { unreachable!("the table is not empty") };
        header.number.fetch_max(used, Ordering::Release);
        fill(&self.slots()[at]);
        self.slots()[at].state.store(state, Ordering::Release);
        Ok(Watched { table: self.clone(), at })
    }

    fn remove(&self, at: usize) {
        self.slots()[at].state.store(FREE, Ordering::Release);
        self.free.lock().unwrap_or_else(|e| e.into_inner()).returned.push(at);
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
        let _ = unsafe { munmap(self.start.as_ptr().cast(), LENGTH) };
    }
}

/// A container in the table. Dropping removes it from the table.
#[derive(Debug)]
pub(crate) struct Watched {
    table: Arc<Table>,
    at: usize,
}

impl Watched {
    /// Keeps the container in the table until this program ends.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.table.remove(self.at);
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
        table.add(CGROUP, |_| ()).unwrap();
    }
}
