//! Loaded programs that this process attaches to several cgroups. To load them costs more than the rest
//! of a start.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::maps::Maps;
use super::program::{Features, Program};
use crate::sys::bpf;

/// Maps and the programs that use them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) maps: Maps,
    loaded: Mutex<HashMap<(bpf::Hook, u8), Arc<Loaded>>>,
}

/// A loaded program and its id.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
}

/// The programs of the process, and the number of entries for which their table has room.
static SHARED: Mutex<Option<(Arc<Shared>, usize)>> = Mutex::new(None);

/// The number of entries after which the process loads new programs: the entries of a removed cgroup stay
/// in the table as long as the programs.
const ROOM: usize = 1 << 14;
/// The cost of a cgroup beside its entries.
const EACH: usize = 16;

impl Shared {
    /// Returns programs for a cgroup with so many entries.
    pub(super) fn with_room(entries: usize) -> nix::Result<Arc<Self>> {
        let cost = entries + EACH;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((programs, room)) = &mut *shared
            && *room >= cost
        {
            *room -= cost;
            return Ok(programs.clone());
        }
        let new = Arc::new(Self { maps: Maps::create()?, loaded: Mutex::default() });
        if let Some(room) = ROOM.checked_sub(cost) {
            *shared = Some((new.clone(), room));
        }
        Ok(new)
    }

    /// Returns the program with these features, and loads it if it is the first.
    pub(super) fn program(&self, program: &Program, features: Features) -> nix::Result<Arc<Loaded>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (program.loaded_for(features), features.bits());
        if let Some(program) = loaded.get(&key) {
            return Ok(program.clone());
        }
        let new = Arc::new(Loaded::load(program, features, &self.maps)?);
        loaded.insert(key, new.clone());
        Ok(new)
    }
}

impl Loaded {
    pub(super) fn load(program: &Program, features: Features, maps: &Maps) -> nix::Result<Self> {
        let fd = bpf::load(
            program.loaded_for(features),
            program.name(features),
            &program.assemble(maps, features),
        )?;
        let (id, ..) = bpf::program_info(&fd)?;
        Ok(Self { fd, id })
    }
}
