//! The maps of the programs, and the exchange of the limits in them. The maps can serve several cgroups.

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::limits::Limits;
use super::state::{SECOND, State};
use super::table::{Key, Number, Table};
use crate::sys::bpf::{Map, MapKind, Name};

/// Returns the time of the clock that the programs read (`bpf_ktime_get_ns`).
fn now() -> nix::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * SECOND + now.tv_nsec() as u64)
}

/// The maps of programs.
#[derive(Debug)]
pub(super) struct Maps {
    /// The entries of the rules of each cgroup, with the [`Number`] of these rules.
    pub(super) table: Map,
    /// The [`State`] of each cgroup to which programs are attached.
    pub(super) state: Map,
}

const TABLE: MapKind = MapKind {
    kind: 11, // BPF_MAP_TYPE_LPM_TRIE
    key_size: Key::SIZE as u32,
    value_size: 4,
    flags: 1, // BPF_F_NO_PREALLOC
    name: *b"nspod_net_rules\0",
};
/// The greatest number of entries: several times that of the largest limits.
const ENTRIES: u32 = 1 << 20;
/// The kernel creates and removes a value with the first and last program of a cgroup. With a key of
/// eight bytes (since Linux 5.9), the programs of all hooks have the same value.
const STATE: MapKind = MapKind {
    kind: 19, // BPF_MAP_TYPE_CGROUP_STORAGE
    key_size: 8,
    value_size: State::SIZE as u32,
    flags: 0,
    name: *b"nspod_net_state\0",
};

impl Maps {
    pub(super) fn create() -> nix::Result<Self> {
        Ok(Self { table: Map::create(TABLE, ENTRIES)?, state: Map::create(STATE, 0)? })
    }

    /// Returns the maps with these ids. Returns `None` if one is missing.
    pub(super) fn open(ids: Vec<u32>) -> nix::Result<Option<Self>> {
        let mut maps = ids.into_iter().map(Map::open).collect::<nix::Result<Vec<(Map, Name)>>>()?;
        let mut take = |kind: MapKind| {
            let at = maps.iter().position(|(_, name)| *name == kind.name)?;
            Some(maps.swap_remove(at).0)
        };
        Ok(take(TABLE).zip(take(STATE)).map(|(table, state)| Self { table, state }))
    }

    /// Returns the state of the cgroup with this id.
    pub(super) fn state(&self, cgroup: u64) -> nix::Result<State> {
        let mut bytes = [0; State::SIZE];
        self.state.lookup(&cgroup.to_ne_bytes(), &mut bytes)?;
        Ok(State::from_bytes(&bytes))
    }

    /// Replaces the limits of a cgroup at once. Between the preparation of the new limits and this
    /// exchange, `prepare` runs. If it fails, the limits before stay.
    pub(super) fn replace(
        &self,
        cgroup: u64,
        limits: &Limits,
        rules: &Table,
        prepare: impl FnOnce() -> nix::Result<()>,
    ) -> nix::Result<()> {
        let number = (!rules.is_empty()).then(Number::random);
        let inserted = number.map_or(Ok(()), |number| self.insert(number, rules));
        if let Err(errno) = inserted.and_then(|()| prepare()) {
            if let Some(number) = number {
                rules.keys().try_for_each(|key| self.remove(&key.to_bytes(number)))?;
            }
            return Err(errno);
        }
        if let Some(before) = self.exchange(cgroup, limits, number)? {
            // A program that loaded the number before looks up its entries until it ends.
            self.table.wait_for_programs()?;
            let old = self.table.keys()?.into_iter().filter(|key| Key::number(key) == before);
            old.into_iter().try_for_each(|key| self.remove(&key))?;
        }
        Ok(())
    }

    fn insert(&self, number: Number, rules: &Table) -> nix::Result<()> {
        rules
            .iter()
            .try_for_each(|(key, value)| self.table.update(&key.to_bytes(number), &value.to_ne_bytes()))
    }

    fn remove(&self, key: &[u8; Key::SIZE]) -> nix::Result<()> {
        match self.table.delete(key) {
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    /// Stores the limits of a cgroup, and returns the number of the rules before. What the programs count
    /// between the two calls is lost. If another process does the same, the last limits stay, and
    /// the entries of the other remain in the table until the programs end.
    fn exchange(&self, cgroup: u64, limits: &Limits, rules: Option<Number>) -> nix::Result<Option<Number>> {
        let before = self.state(cgroup)?;
        self.state.update(&cgroup.to_ne_bytes(), &before.with_limits(limits, rules, now()?).to_bytes())?;
        Ok(before.number())
    }
}
