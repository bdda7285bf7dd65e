//! The number of sockets of a cgroup and its descendants.
//!
//! A socket that a program denies does not run the programs of its end. The programs of a child run before
//! those of its parent, so a child that counted alone would keep the sockets that the parent denies. So
//! the program of the innermost limited cgroup counts for all limited cgroups above it, and marks the
//! socket for each. Their programs find the mark and count nothing.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::assembler::{Assembler, Condition, Function, Register, Size};
use crate::cgroup::Cgroup;
use crate::sys::bpf::{self, Hook, Map, MapKind, Name};
use Register::{R0, R1, R2, R3, R4, R6};

const CREATION: Hook = Hook { program_type: 9, attach_type: 2 };
const END: Hook = Hook { program_type: 9, attach_type: 34 };
const CREATION_NAME: Name = *b"nspod_sock_new\0\0";
const END_NAME: Name = *b"nspod_sock_end\0\0";

/// Sockets that count for [`Limits::sockets_max`](super::Limits::sockets_max). See
/// [socket(7)](https://man7.org/linux/man-pages/man7/socket.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Sockets {
    /// Number of sockets that are not closed.
    pub alive: u64,
    /// Number of calls of `socket` that failed with `EPERM` because of this cgroup.
    pub denied: u64,
}

/// The maps of a limited cgroup.
#[derive(Debug)]
pub(super) struct Level {
    /// An array with one value: the maximum.
    max: Map,
    /// An array with one value: the sockets alive, and the denied ones.
    used: Map,
    /// The sockets that are counted: 1 for each.
    marks: Map,
}

const MAX: MapKind = array(8, *b"nspod_sock_max\0\0");
const USED: MapKind = array(16, *b"nspod_sock_used\0");
const MARKS: MapKind = MapKind {
    kind: 24, // BPF_MAP_TYPE_SK_STORAGE
    key_size: 4,
    value_size: 4,
    flags: 1, // BPF_F_NO_PREALLOC
    name: *b"nspod_sock_mark\0",
};
/// The key of the only value of an array.
const ONLY: [u8; 4] = [0; 4];
const ALIVE: i16 = 0;
const DENIED: i16 = 8;

const fn array(value_size: u32, name: Name) -> MapKind {
    MapKind { kind: 2, key_size: 4, value_size, flags: 0, name }
}

impl Level {
    fn create() -> nix::Result<Self> {
        let level = Self {
            max: Map::create(MAX, 1)?,
            used: Map::create(USED, 1)?,
            marks: Map::create_of_sockets(MARKS)?,
        };
        level.limit(None)?;
        Ok(level)
    }

    /// Sets the maximum, or removes the limit.
    pub(super) fn limit(&self, max: Option<u64>) -> nix::Result<()> {
        self.max.update(&ONLY, &max.unwrap_or(u64::MAX).to_ne_bytes())
    }

    pub(super) fn used(&self) -> nix::Result<Sockets> {
        let mut bytes = [0; 16];
        self.used.lookup(&ONLY, &mut bytes)?;
        let [alive, denied] = [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i])));
        Ok(Sockets { alive, denied })
    }
}

/// A program for the creation of sockets.
struct Counter {
    fd: OwnedFd,
    id: u32,
    /// The maps of its own cgroup.
    level: Level,
    /// The ids of the marks for which it counts. The first are those of its own cgroup.
    counts_for: Vec<u32>,
}

impl Counter {
    /// Opens a program. Returns `None` if it is not one for the creation of sockets.
    fn open(id: u32) -> nix::Result<Option<Self>> {
        let fd = bpf::program(id)?;
        let (id, name, maps) = bpf::program_info(&fd)?;
        if name != CREATION_NAME {
            return Ok(None);
        }
        let mut first: [Option<Map>; 3] = Default::default();
        let mut counts_for = Vec::new();
        for map_id in maps {
            let (map, name) = Map::open(map_id)?;
            if name == MARKS.name {
                counts_for.push(map_id);
            }
            let kinds = [MAX, USED, MARKS].map(|kind| kind.name);
            if let Some(at) = kinds.iter().position(|kind| *kind == name) {
                first[at].get_or_insert(map);
            }
        }
        let [Some(max), Some(used), Some(marks)] = first else { return Ok(None) };
        Ok(Some(Self { fd, id, level: Level { max, used, marks }, counts_for }))
    }
}

impl Cgroup {
    /// Attaches the programs that count sockets, unless they are attached, and returns their maps. The programs
    /// that were attached first stay.
    pub(super) fn count_sockets(&self) -> nix::Result<Level> {
        let new = self.counters()?.is_empty();
        let alone = if new { self.attach_counter()? } else { None };
        let level = match alone {
            Some(level) => level,
            None => self.keep_first_counter()?,
        };
        if new {
            self.link_counters_below()?;
        }
        Ok(level)
    }

    /// Attaches new programs. Returns their maps if they are complete: no other programs are attached to this
    /// cgroup, and none were attached to those above meanwhile.
    fn attach_counter(&self) -> nix::Result<Option<Level>> {
        let own = Level::create()?;
        let end = bpf::load(END, END_NAME, &end(&own))?;
        // A socket that ends before it can be counted is not marked.
        bpf::attach(self.as_fd(), END, &end, None)?;
        let above = self.all_counters()?;
        let counter = load_counter(&own, &above)?;
        bpf::attach(self.as_fd(), CREATION, &counter, None)?;
        let (id, ..) = bpf::program_info(&counter)?;
        let expected = std::iter::once(id).chain(above.iter().map(|counter| counter.id));
        let complete = bpf::effective_ids(self.as_fd(), CREATION)?.into_iter().eq(expected)
            && bpf::attached_ids(self.as_fd(), END)?.len() == 1;
        Ok(complete.then_some(own))
    }

    /// Detaches all programs but those that were attached first: another process may have attached at the same
    /// time, and may have been killed. Returns the maps of the first.
    fn keep_first_counter(&self) -> nix::Result<Level> {
        let mut counters = self.counters()?.into_iter();
        let first = counters.next().ok_or(Errno::EAGAIN)?;
        for other in counters {
            unless_gone(bpf::detach(self.as_fd(), CREATION, &other.fd))?;
        }
        self.detach_other_ends(&first)?;
        self.link_counter()?;
        Ok(first.level)
    }

    /// Detaches the programs for the end of sockets that do not belong to the program for the creation.
    fn detach_other_ends(&self, counter: &Counter) -> nix::Result<()> {
        let open = |id| {
            let fd = bpf::program(id)?;
            let (_, name, maps) = bpf::program_info(&fd)?;
            let belongs = counter.counts_for.first().is_some_and(|marks| maps.contains(marks));
            Ok((name == END_NAME && !belongs).then_some(fd))
        };
        let others = bpf::open_all(|| bpf::attached_ids(self.as_fd(), END), open)?;
        others.iter().try_for_each(|other| unless_gone(bpf::detach(self.as_fd(), END, other)))
    }

    /// Returns the maps of this cgroup, if its sockets are counted.
    pub(super) fn find_sockets(&self) -> nix::Result<Option<Level>> {
        Ok(self.counters()?.into_iter().next().map(|counter| counter.level))
    }

    /// Makes the program of this cgroup count for all limited cgroups above it.
    fn link_counter(&self) -> nix::Result<()> {
        loop {
            let Some(own) = self.counters()?.into_iter().next() else { return Ok(()) };
            let mut above = self.all_counters()?;
            above.retain(|counter| counter.counts_for.first() != own.counts_for.first());
            let firsts = above.iter().filter_map(|counter| counter.counts_for.first());
            if own.counts_for.iter().skip(1).eq(firsts) {
                return Ok(());
            }
            let counter = load_counter(&own.level, &above)?;
            match bpf::attach(self.as_fd(), CREATION, &counter, Some(&own.fd)) {
                // Another process has just replaced it.
                Err(Errno::ENOENT) => {}
                result => return result,
            }
        }
    }

    fn link_counters_below(&self) -> nix::Result<()> {
        let errno = |error: crate::Error| error.errno().unwrap_or(Errno::EIO);
        for child in self.each_child().map_err(errno)? {
            let child = child.map_err(errno)?;
            unless_gone(child.link_counter())?;
            unless_gone(child.link_counters_below())?;
        }
        Ok(())
    }

    /// Returns the programs that are attached to this cgroup itself, the oldest first.
    fn counters(&self) -> nix::Result<Vec<Counter>> {
        bpf::open_all(|| bpf::attached_ids(self.as_fd(), CREATION), Counter::open)
    }

    /// Returns the programs that run for this cgroup: its own, and then those of each cgroup above.
    fn all_counters(&self) -> nix::Result<Vec<Counter>> {
        bpf::open_all(|| bpf::effective_ids(self.as_fd(), CREATION), Counter::open)
    }
}

fn unless_gone(result: nix::Result<()>) -> nix::Result<()> {
    if matches!(result, Err(Errno::ENOENT | Errno::ENODEV)) { Ok(()) } else { result }
}

fn load_counter(own: &Level, above: &[Counter]) -> nix::Result<OwnedFd> {
    let levels: Vec<&Level> =
        std::iter::once(own).chain(above.iter().map(|counter| &counter.level)).collect();
    bpf::load(CREATION, CREATION_NAME, &creation(&levels))
}

/// Assembles the program for a new socket. The levels are the cgroup and those above it. R6: context.
fn creation(levels: &[&Level]) -> Vec<u64> {
    let mut a = Assembler::default();
    let [allowed, denied] = [a.label(), a.label()];
    a.set(R6, R1);
    for (index, level) in levels.iter().enumerate() {
        a.map(R1, &level.marks);
        a.set(R2, R6);
        a.set(R3, 0);
        a.set(R4, 1); // BPF_SK_STORAGE_GET_F_CREATE
        a.call(Function::SkStorageGet);
        a.jump_if(Condition::Equal, R0, 0, denied);
        if index == 0 {
            // The program of a cgroup below has counted the socket or denied it.
            a.load(Size::Word, R1, R0, 0);
            a.jump_if(Condition::NotEqual, R1, 0, allowed);
        }
        a.store(Size::Word, R0, 0, 1);
    }
    for (index, level) in levels.iter().enumerate() {
        let next = a.label();
        a.map_value(R1, &level.used);
        a.set(R2, 1);
        a.fetch_add(R1, ALIVE, R2);
        a.map_value(R3, &level.max);
        a.load(Size::Double, R3, R3, 0);
        a.jump_if(Condition::Greater, R3, R2, next);
        a.set(R2, 1);
        a.atomic_add(R1, DENIED, R2);
        for counted in &levels[..=index] {
            remove_one(&mut a, counted);
        }
        a.jump(denied);
        a.place(next);
    }
    a.place(allowed);
    a.set(R0, 1);
    a.exit();
    a.place(denied);
    a.set(R0, 0);
    a.exit();
    a.finish()
}

/// Assembles the program for a socket that ends.
fn end(level: &Level) -> Vec<u64> {
    let mut a = Assembler::default();
    let done = a.label();
    a.set(R2, R1);
    a.map(R1, &level.marks);
    a.set(R3, 0);
    a.set(R4, 0);
    a.call(Function::SkStorageGet);
    a.jump_if(Condition::Equal, R0, 0, done);
    a.load(Size::Word, R1, R0, 0);
    a.jump_if(Condition::Equal, R1, 0, done);
    a.store(Size::Word, R0, 0, 0);
    remove_one(&mut a, level);
    a.place(done);
    a.set(R0, 1);
    a.exit();
    a.finish()
}

fn remove_one(a: &mut Assembler, level: &Level) {
    a.map_value(R1, &level.used);
    a.set(R2, -1);
    a.atomic_add(R1, ALIVE, R2);
}
