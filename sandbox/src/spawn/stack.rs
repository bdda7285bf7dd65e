//! Stacks for the processes of a start, and the clone that uses them.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard};

use nix::unistd::{SysconfVar, sysconf};
use ns_core::{Clone3, CloneFlags, Pidfd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::child::{Note, Run, SecondStack, SharedNote, enter};
use crate::error::Error;
use crate::signals::BlockedSignals;

/// How a new process gets its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The caller's memory. The calling thread is suspended until the process has executed a
    /// program or has ended.
    Shared,
    /// A copy of the caller's memory.
    Copied,
}

/// Two stacks and a note: one stack for the child, one for a process that the child may clone, and
/// a note from the child to its parent.
pub(crate) struct Stack(ManuallyDrop<Mapped>);

/// The memory of a [`Stack`].
struct Mapped {
    stacks: Mapping,
    /// A page that holds a [`SharedNote`]. It stays shared if the other memory is copied.
    note: Mapping,
    layout: Layout,
}

/// Unused stacks, kept for later starts: a new one costs five calls, and a page fault for each
/// page that the child touches.
static FREE: Mutex<Vec<Mapped>> = Mutex::new(Vec::new());
/// Maximum length of [`FREE`].
const KEPT: usize = 16;

fn free() -> MutexGuard<'static, Vec<Mapped>> {
    FREE.lock().unwrap_or_else(|e| e.into_inner())
}

impl Stack {
    /// Returns an unused stack, or maps a new one.
    ///
    /// # Errors
    /// `ENOMEM`: the process has reached its limit on mappings or on address space.
    pub(crate) fn new() -> Result<Stack, Error> {
        let kept = free().pop();
        let mapped = kept
            .map_or_else(Mapped::new, Ok)
            .map_err(|(what, call, errno)| Error::call("process", what, call, errno.raw_os_error()))?;
        let stack = Stack(ManuallyDrop::new(mapped));
        stack.note().clear();
        Ok(stack)
    }

    /// Returns the memory of the child's note.
    pub(super) fn note(&self) -> &SharedNote {
        // SAFETY: the mapping is aligned to a page, is at least a page long, and lives as long as
        // `self`. A SharedNote consists of atomics: any bytes are valid, and both processes may
        // access them at the same time.
        unsafe { self.0.note.start.cast::<SharedNote>().as_ref() }
    }

    /// Returns the child's note.
    pub(super) fn read_note(&self) -> Note {
        self.note().read()
    }

    /// Returns the stack of the process that the child may clone.
    pub(crate) fn second(&self) -> SecondStack {
        let layout = self.0.layout;
        // SAFETY: the range is within the mapping. Only a process that this stack's child clones
        // uses the range: the child itself uses the other half, and a stack has only one child at a
        // time.
        unsafe { SecondStack::new(self.0.stacks.at(layout.guard), layout.usable) }
    }

    /// Starts a process that runs `process` on this stack: clone3(2) with all signals blocked.
    ///
    /// # Errors
    /// Those of [`Clone3::spawn_on_stack`].
    pub(crate) fn start<R: Run>(
        &self,
        clone: Clone3<'_>,
        memory: Memory,
        process: &mut R,
    ) -> Result<(i32, Pidfd), Error> {
        let mut flags = clone.flags | CloneFlags::PIDFD | CloneFlags::CLEAR_SIGHAND;
        flags.set(CloneFlags::VM | CloneFlags::VFORK, memory == Memory::Shared);
        let clone = Clone3 { flags, ..clone };
        let layout = self.0.layout;
        let stack = self.0.stacks.at(layout.one + layout.guard);
        // A handler of this program must not run in the child, which may share its memory.
        let _signals = BlockedSignals::new();
        // SAFETY: the stack is mapped, unused, and outlives the call. `enter::<R>` receives a
        // pointer to an `R`, as it requires. With shared memory this thread is suspended until the
        // child has executed a program or has ended, so only the child accesses `process`. With
        // copied memory the child has its own copy. `Run::run` does not return.
        let spawned = unsafe {
            clone.spawn_on_stack(stack, layout.usable, enter::<R>, ptr::from_mut(process).cast::<c_void>())
        };
        let spawned = spawned.map_err(|e| Error::from(e).at("clone"))?;
        match spawned.pidfd {
            Some(pidfd) => Ok((spawned.pid, pidfd)),
            None => Ok((spawned.pid, Pidfd::open(spawned.pid)?)),
        }
    }
}

impl Drop for Stack {
    /// Keeps the memory for a later start. No child uses it any more: a child with shared memory
    /// has executed a program or has ended before clone3 returned, and a child with copied memory
    /// has its own stack.
    fn drop(&mut self) {
        // SAFETY: the field is not used after this line.
        let mapped = unsafe { ManuallyDrop::take(&mut self.0) };
        let mut free = free();
        if free.len() < KEPT {
            free.push(mapped);
        }
    }
}

/// The cause of a failed mapping: step, call and errno.
type Fault = (&'static str, &'static str, Errno);

impl Mapped {
    fn new() -> Result<Mapped, Fault> {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(DEFAULT_PAGE);
        let layout = Layout::of(page as usize);
        let what = "map a stack for the child";
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        let stacks = Mapping::new(2 * layout.one, flags).map_err(|errno| (what, "mmap", errno))?;
        for guard in [0, layout.one] {
            stacks.forbid(guard, layout.guard).map_err(|errno| (what, "mprotect", errno))?;
        }
        let what = "map a page for the child's note";
        let note = Mapping::new(layout.guard, MapFlags::SHARED).map_err(|errno| (what, "mmap", errno))?;
        Ok(Mapped { stacks, note, layout })
    }
}

/// Page size if sysconf(3) cannot return it: the largest page size of Linux.
const DEFAULT_PAGE: i64 = 64 << 10;

/// Sizes of a stack's parts in bytes. Each stack is a guard page with the usable part above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Size of the inaccessible part: one page.
    guard: usize,
    /// Size of the part that the process uses.
    usable: usize,
    /// Size of both parts.
    one: usize,
}

impl Layout {
    /// Minimum size of the usable part.
    const USABLE: usize = 60 << 10;

    /// Returns the layout for a page size.
    fn of(page: usize) -> Layout {
        let usable = Layout::USABLE.next_multiple_of(page);
        Layout { guard: page, usable, one: page + usable }
    }
}

/// Anonymous memory, unmapped on drop.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: only this value accesses the memory, and a value can be in any thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(length: usize, flags: MapFlags) -> Result<Mapping, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: maps new memory, at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags)? };
        NonNull::new(start.cast()).map(|start| Mapping { start, length }).ok_or(Errno::NOMEM)
    }

    /// Returns the address at this offset.
    fn at(&self, offset: usize) -> *mut u8 {
        self.start.as_ptr().wrapping_add(offset)
    }

    /// Makes a range of whole pages inaccessible.
    fn forbid(&self, offset: usize, length: usize) -> Result<(), Errno> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            return Err(Errno::INVAL);
        }
        // SAFETY: the range is within this mapping, and no reference to the mapping exists yet.
        unsafe { mprotect(self.at(offset).cast(), length, MprotectFlags::empty()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: only this value uses the mapping, and the value is not used after this line.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Layout, Mapped, Mapping};
    use rustix::mm::MapFlags;

    #[test]
    fn each_stack_has_a_whole_page_below_it_with_every_page_size() {
        for page in [4 << 10, 16 << 10, 64 << 10] {
            let Layout { guard, usable, one } = Layout::of(page);
            assert_eq!((guard, one), (page, guard + usable), "{page}");
            assert!(usable >= Layout::USABLE, "{page}: {usable}");
            assert_eq!([guard, usable, one].map(|size| size % page), [0; 3], "{page}");
        }
        assert_eq!(Layout::of(4 << 10).one, 64 << 10);
    }

    #[test]
    fn the_guards_of_a_stack_are_inaccessible_and_nothing_else_is() {
        let mapped = Mapped::new().unwrap_or_else(|(what, call, errno)| panic!("{what}: {call}: {errno}"));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let access = |offset: usize| {
            let at = mapped.stacks.at(offset).addr();
            let mut lines = maps.lines().map(|line| line.split(['-', ' ']).collect::<Vec<_>>());
            let number = |text: &str| usize::from_str_radix(text, 16).unwrap();
            let line = lines.find(|line| number(line[0]) <= at && at < number(line[1])).unwrap();
            line[2].to_owned() + line.get(3).filter(|text| text.len() == 2).unwrap_or(&"")
        };
        let Layout { guard, one, .. } = mapped.layout;
        for stack in [0, one] {
            assert!(access(stack).starts_with("---") || access(stack).is_empty(), "{}", access(stack));
            assert!(access(stack + guard).starts_with("rw"), "{}", access(stack + guard));
            assert!(access(stack + one - 1).starts_with("rw"));
        }
    }

    #[test]
    fn a_range_outside_a_mapping_cannot_be_made_inaccessible() {
        let mapping = Mapping::new(4096, MapFlags::PRIVATE).unwrap();
        assert_eq!(mapping.forbid(0, 8192), Err(rustix::io::Errno::INVAL));
        assert_eq!(mapping.forbid(usize::MAX, 2), Err(rustix::io::Errno::INVAL));
    }
}
