//! The maps of the programs of a cgroup, and the exchange of the limits in them.

use std::sync::atomic::Ordering;

use super::program::State;
use super::table::{Key, Number};
use crate::sys::bpf::{Map, MapKind, Name};

/// The maps of the programs of a cgroup.
#[derive(Debug)]
pub(super) struct Maps {
    /// The limits: entries of the current [`Number`], and during an update those of another.
    pub(super) table: Map,
    /// An array with one value of two words: the word of the current number, or 0 if nothing is limited;
    /// and the count of the updates.
    pub(super) current: Map,
    /// An array with one value: [`State`].
    pub(super) state: Map,
}

/// The entries of limits. Without entries nothing is limited.
pub(super) type Table = std::collections::BTreeMap<Key, u32>;

const TABLE: MapKind = MapKind {
    kind: 11, // BPF_MAP_TYPE_LPM_TRIE
    key_size: Key::SIZE as u32,
    value_size: 4,
    flags: 1, // BPF_F_NO_PREALLOC
    name: *b"nspod_net_table\0",
};
/// The greatest number of entries: of the current limits, and of several updates.
const ENTRIES: u32 = 1 << 20;
const CURRENT: MapKind = MapKind {
    kind: 2, // BPF_MAP_TYPE_ARRAY
    key_size: 4,
    value_size: 8,
    flags: 1 << 10, // BPF_F_MMAPABLE
    name: *b"nspod_net_now\0\0\0",
};
const STATE: MapKind =
    MapKind { kind: 2, key_size: 4, value_size: State::SIZE as u32, flags: 0, name: *b"nspod_net_state\0" };
/// The key of the only value of an array.
const ONLY: [u8; 4] = [0; 4];

impl Maps {
    /// Creates the maps with limits.
    pub(super) fn create(limits: &Table) -> nix::Result<Self> {
        let maps = Self {
            table: Map::create(TABLE, ENTRIES, None)?,
            current: Map::create(CURRENT, 1, None)?,
            state: Map::create(STATE, 1, None)?,
        };
        let number = Number::of(FIRST);
        maps.insert(number, limits)?;
        let mut words = [0; 8];
        words[..4].copy_from_slice(&number.word().to_ne_bytes());
        words[4..].copy_from_slice(&FIRST.to_ne_bytes());
        maps.current.update(&ONLY, &words)?;
        Ok(maps)
    }

    /// Returns the maps with these ids. Returns `None` if one is missing.
    pub(super) fn open(ids: Vec<u32>) -> nix::Result<Option<Self>> {
        let mut maps = ids.into_iter().map(Map::open).collect::<nix::Result<Vec<(Map, Name)>>>()?;
        let mut take = |kind: MapKind| {
            let at = maps.iter().position(|(_, name)| *name == kind.name)?;
            Some(maps.swap_remove(at).0)
        };
        let all = take(TABLE).zip(take(CURRENT)).zip(take(STATE));
        Ok(all.map(|((table, current), state)| Self { table, current, state }))
    }

    /// Returns the id of the map with the state, which identifies the maps.
    pub(super) fn id(&self) -> nix::Result<u32> {
        self.state.id()
    }

    pub(super) fn state(&self) -> nix::Result<State> {
        let mut bytes = [0; State::SIZE];
        self.state.lookup(&ONLY, &mut bytes)?;
        Ok(State::from_bytes(bytes))
    }

    /// Replaces the limits at once. Between the preparation of the new limits and this exchange,
    /// `prepare` runs. If it fails, the limits before stay.
    pub(super) fn replace(
        &self,
        limits: &Table,
        prepare: impl FnOnce() -> nix::Result<()>,
    ) -> nix::Result<()> {
        let words = self.current.words()?;
        let [current, count] = words.get();
        let number = loop {
            let next = Number::of(count.fetch_add(1, Ordering::Relaxed).wrapping_add(1));
            if next.word() != 0 {
                break next;
            }
        };
        if let Err(errno) = self.insert(number, limits).and_then(|()| prepare()) {
            self.remove(number)?;
            return Err(errno);
        }
        let new = if limits.is_empty() { 0 } else { number.word() };
        // The entries are in the table before their number is current.
        let before = current.swap(new, Ordering::AcqRel);
        if before != 0 {
            // A program that loaded the number before looks up its entries until it ends.
            self.table.wait_for_programs()?;
            self.remove(Number::from_word(before))?;
        }
        Ok(())
    }

    fn insert(&self, number: Number, limits: &Table) -> nix::Result<()> {
        limits
            .iter()
            .try_for_each(|(key, value)| self.table.update(&key.to_bytes(number), &value.to_ne_bytes()))
    }

    fn remove(&self, number: Number) -> nix::Result<()> {
        for key in self.table.keys()? {
            if Key::number(&key) == number {
                match self.table.delete(&key) {
                    Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }
}

const FIRST: u32 = 1;
