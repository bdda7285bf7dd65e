//! The maps of the programs, and the exchange of the limits in them. The maps can serve several cgroups.

use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::state::State;
use super::table::{Key, Number, Table};
use crate::sys::bpf::{Map, MapKind, Name};

/// The maps of programs.
#[derive(Debug)]
pub(super) struct Maps {
    /// The entries of the limits of each cgroup, with the [`Number`] of these limits.
    pub(super) table: Map,
    /// An array with one value: the count of numbers that were given out.
    pub(super) count: Map,
    /// For each cgroup to which programs are attached: eight bytes with the word of the number of its
    /// limits, or 0 if nothing is limited; and [`State`].
    pub(super) state: Map,
}

const TABLE: MapKind = MapKind {
    kind: 11, // BPF_MAP_TYPE_LPM_TRIE
    key_size: Key::SIZE as u32,
    value_size: 4,
    flags: 1, // BPF_F_NO_PREALLOC
    name: *b"nspod_net_table\0",
};
/// The greatest number of entries: several times that of the largest limits.
const ENTRIES: u32 = 1 << 20;
const COUNT: MapKind = MapKind {
    kind: 2, // BPF_MAP_TYPE_ARRAY
    key_size: 4,
    value_size: 4,
    flags: 1 << 10, // BPF_F_MMAPABLE
    name: *b"nspod_net_count\0",
};
/// The kernel creates and removes a value with the first and last program of a cgroup. With a key of
/// eight bytes (since Linux 5.9), the programs of all hooks have the same value.
const STATE: MapKind = MapKind {
    kind: 19, // BPF_MAP_TYPE_CGROUP_STORAGE
    key_size: 8,
    value_size: STATE_SIZE as u32,
    flags: 0,
    name: *b"nspod_net_state\0",
};
const STATE_SIZE: usize = 8 + State::SIZE;

impl Maps {
    pub(super) fn create() -> nix::Result<Self> {
        Ok(Self {
            table: Map::create(TABLE, ENTRIES)?,
            count: Map::create(COUNT, 1)?,
            state: Map::create(STATE, 0)?,
        })
    }

    /// Returns the maps with these ids. Returns `None` if one is missing.
    pub(super) fn open(ids: Vec<u32>) -> nix::Result<Option<Self>> {
        let mut maps = ids.into_iter().map(Map::open).collect::<nix::Result<Vec<(Map, Name)>>>()?;
        let mut take = |kind: MapKind| {
            let at = maps.iter().position(|(_, name)| *name == kind.name)?;
            Some(maps.swap_remove(at).0)
        };
        let all = take(TABLE).zip(take(COUNT)).zip(take(STATE));
        Ok(all.map(|((table, count), state)| Self { table, count, state }))
    }

    /// Returns the state of the cgroup with this id.
    pub(super) fn state(&self, cgroup: u64) -> nix::Result<State> {
        let (_, state) = self.stored(cgroup)?;
        Ok(State::from_bytes(state))
    }

    /// Replaces the limits of a cgroup at once. Between the preparation of the new limits and this
    /// exchange, `prepare` runs. If it fails, the limits before stay.
    pub(super) fn replace(
        &self,
        cgroup: u64,
        limits: &Table,
        prepare: impl FnOnce() -> nix::Result<()>,
    ) -> nix::Result<()> {
        let number = self.next_number()?;
        if let Err(errno) = self.insert(number, limits).and_then(|()| prepare()) {
            limits.keys().try_for_each(|key| self.remove(&key.to_bytes(number)))?;
            return Err(errno);
        }
        let word = if limits.is_empty() { 0 } else { number.word() };
        let before = self.exchange(cgroup, word)?;
        if before != 0 {
            // A program that loaded the number before looks up its entries until it ends.
            self.table.wait_for_programs()?;
            let before = Number::from_word(before);
            let old = self.table.keys()?.into_iter().filter(|key| Key::number(key) == before);
            old.into_iter().try_for_each(|key| self.remove(&key))?;
        }
        Ok(())
    }

    /// Returns the maximum of the sockets of a cgroup, and the word of the number of its limits.
    pub(super) fn sockets_max(&self, cgroup: u64) -> nix::Result<(Option<u32>, u32)> {
        let (word, _) = self.stored(cgroup)?;
        let mut max = [0; 4];
        match self.table.lookup(&Key::sockets().to_bytes(Number::from_word(word)), &mut max) {
            Ok(()) => Ok((Some(u32::from_ne_bytes(max)), word)),
            Err(Errno::ENOENT) => Ok((None, word)),
            Err(errno) => Err(errno),
        }
    }

    /// Returns a number that no other limits in these maps have.
    fn next_number(&self) -> nix::Result<Number> {
        let count = self.count.word()?;
        loop {
            let number = Number::of(count.get().fetch_add(1, Ordering::Relaxed).wrapping_add(1));
            if number.word() != 0 {
                return Ok(number);
            }
        }
    }

    fn insert(&self, number: Number, limits: &Table) -> nix::Result<()> {
        limits
            .iter()
            .try_for_each(|(key, value)| self.table.update(&key.to_bytes(number), &value.to_ne_bytes()))
    }

    fn remove(&self, key: &[u8; Key::SIZE]) -> nix::Result<()> {
        match self.table.delete(key) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Stores the word of a number for a cgroup, and returns the one before. What the programs count
    /// between the two calls is lost. If another process does the same, the last word stays, and
    /// the entries of the other remain in the table until the programs end.
    fn exchange(&self, cgroup: u64, word: u32) -> nix::Result<u32> {
        let (before, state) = self.stored(cgroup)?;
        let mut bytes = [0; STATE_SIZE];
        bytes[..4].copy_from_slice(&word.to_ne_bytes());
        bytes[8..].copy_from_slice(&state);
        self.state.update(&cgroup.to_ne_bytes(), &bytes)?;
        Ok(before)
    }

    fn stored(&self, cgroup: u64) -> nix::Result<(u32, [u8; State::SIZE])> {
        let mut bytes = [0; STATE_SIZE];
        self.state.lookup(&cgroup.to_ne_bytes(), &mut bytes)?;
        let [a, b, c, d, _, _, _, _, state @ ..] = bytes;
        Ok((u32::from_ne_bytes([a, b, c, d]), state))
    }
}
