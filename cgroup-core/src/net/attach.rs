//! Attaching the programs to a cgroup, and finding the maps of those that are attached.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::limits::Limits;
use super::program::{Maps, PROGRAMS, Program, Side, State};
use super::table::{Key, compile};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys::bpf::{self, Map, MapKind, Name};

/// Traffic of the sockets of a cgroup and its descendants since network limits were first set. See
/// [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Usage {
    /// Traffic that left the cgroup.
    pub egress: Traffic,
    /// Traffic that arrived.
    pub ingress: Traffic,
}

/// Counters of a direction. See [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Traffic {
    /// Bytes of the packets that passed, with their IP headers.
    pub bytes: u64,
    /// Number of packets that passed. The kernel joins TCP segments, so a packet can be longer than
    /// the interface's MTU.
    pub packets: u64,
    /// Number of packets that were dropped.
    pub dropped: u64,
    /// Number of calls that failed with `EPERM`: `connect` and `sendmsg` for the egress, `bind` for
    /// the ingress.
    pub denied: u64,
}

const TABLE: MapKind = MapKind {
    kind: 11, // BPF_MAP_TYPE_LPM_TRIE
    key_size: 24,
    value_size: 4,
    flags: 1, // BPF_F_NO_PREALLOC
    name: *b"nspod_net_table\0",
};
const RULES: MapKind = MapKind {
    kind: 12, // BPF_MAP_TYPE_ARRAY_OF_MAPS
    key_size: 4,
    value_size: 4,
    flags: 0,
    name: *b"nspod_net_rules\0",
};
const STATE: MapKind = MapKind {
    kind: 2, // BPF_MAP_TYPE_ARRAY
    key_size: 4,
    value_size: State::SIZE as u32,
    flags: 0,
    name: *b"nspod_net_state\0",
};
/// The key of the only value of an array.
const ONLY: [u8; 4] = [0; 4];

impl Cgroup {
    /// Replaces the network limits of this cgroup. The limits of its ancestors stay in force.
    ///
    /// The first call with a limit attaches the programs. Later calls, also by other processes, replace
    /// their table. Attached programs stay and count packets even if nothing is limited.
    ///
    /// Since Linux 5.14. [`net`](crate::net) describes the effect;
    /// [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html) the system call.
    ///
    /// # Errors
    /// - `InvalidLimit`: see [`Limits::validate`].
    /// - `PermissionDenied` (`EPERM`): the caller lacks CAP_SYS_ADMIN, CAP_BPF or CAP_NET_ADMIN in the
    ///   initial user namespace, or an ancestor has a program that was attached without
    ///   `BPF_F_ALLOW_MULTI`.
    /// - `Unsupported` (`ENOSYS`) or `Os` (`EINVAL`): the kernel lacks CONFIG_CGROUP_BPF.
    /// - `Os` (`E2BIG`): the cgroup has 64 programs of a kind already.
    /// - `NotFound` (`ENOENT`): the cgroup was removed.
    pub fn limit_net(&self, limits: &Limits) -> Result<()> {
        limits.validate()?;
        let fail = |errno| self.net_refused("set the network limits of", errno);
        let [anchor, others @ ..] = &PROGRAMS;
        let attached = self.find_net(anchor).map_err(fail)?;
        if attached.is_none() && limits.is_empty() {
            return Ok(());
        }
        let table = new_table(compile(limits)?).map_err(fail)?;
        let maps = match attached {
            Some(maps) => {
                maps.rules.update(&ONLY, &fd_bytes(&table)).map_err(fail)?;
                maps
            }
            None => self.attach_first(anchor, &table).map_err(fail)?,
        };
        for program in others {
            self.attach_once(program, &maps).map_err(fail)?;
        }
        Ok(())
    }

    /// Returns the traffic of the sockets of this cgroup and its descendants. Returns `None` if no
    /// network limits were set in this cgroup.
    ///
    /// Since Linux 5.14. [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html).
    ///
    /// # Errors
    /// - `PermissionDenied` (`EPERM`): the caller lacks CAP_SYS_ADMIN or CAP_NET_ADMIN in the initial
    ///   user namespace.
    /// - `NotFound` (`ENOENT`): the cgroup was removed.
    pub fn net_usage(&self) -> Result<Option<Usage>> {
        let fail = |errno| self.net_refused("read the network counters of", errno);
        let Some(maps) = self.find_net(&PROGRAMS[0]).map_err(fail)? else { return Ok(None) };
        let mut bytes = [0; State::SIZE];
        maps.state.lookup(&ONLY, &mut bytes).map_err(fail)?;
        let state = State::from_bytes(bytes);
        let traffic = |side| {
            let [bytes, packets, dropped, denied] = state.counters(side);
            Traffic { bytes, packets, dropped, denied }
        };
        Ok(Some(Usage { egress: traffic(Side::Egress), ingress: traffic(Side::Ingress) }))
    }

    /// Returns the counters like [`net_usage`](Self::net_usage), and `None` if the caller may not read
    /// them or the kernel has no such programs.
    pub(crate) fn net_usage_if_allowed(&self) -> Result<Option<Usage>> {
        match self.net_usage() {
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EINVAL | Errno::ENOSYS)) => {
                Ok(None)
            }
            result => result,
        }
    }

    /// Attaches the program that leads to the maps. If another process has attached one first, uses the
    /// maps of that one.
    fn attach_first(&self, anchor: &Program, table: &Map) -> nix::Result<Maps> {
        let rules = Map::create(RULES, 1, Some(table))?;
        rules.update(&ONLY, &fd_bytes(table))?;
        let maps = Maps { rules, state: Map::create(STATE, 1, None)? };
        if self.attach_once(anchor, &maps)? {
            return Ok(maps);
        }
        let first = self.find_net(anchor)?.ok_or(Errno::EAGAIN)?;
        first.rules.update(&ONLY, &fd_bytes(table))?;
        Ok(first)
    }

    /// Attaches the program unless one of its name is attached. If two processes attach it, the one
    /// that was first stays. Returns whether this one stays.
    fn attach_once(&self, program: &Program, maps: &Maps) -> nix::Result<bool> {
        if self.net_programs(program)?.next().is_some() {
            return Ok(false);
        }
        let own = bpf::load(program.hook, program.name, &program.assemble(maps))?;
        bpf::attach(self.as_fd(), program.hook, &own, None)?;
        let (own_id, ..) = bpf::program_info(&own)?;
        let first = self.net_programs(program)?.next();
        match first {
            Some((id, _)) if id != own_id => {
                bpf::detach(self.as_fd(), program.hook, &own)?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Returns the maps of the program if it is attached.
    fn find_net(&self, program: &Program) -> nix::Result<Option<Maps>> {
        let Some((_, ids)) = self.net_programs(program)?.next() else { return Ok(None) };
        let mut maps = ids.into_iter().map(Map::open).collect::<nix::Result<Vec<(Map, Name)>>>()?;
        let mut take = |kind: MapKind| {
            let at = maps.iter().position(|(_, name)| *name == kind.name)?;
            Some(maps.swap_remove(at).0)
        };
        Ok(take(RULES).zip(take(STATE)).map(|(rules, state)| Maps { rules, state }))
    }

    /// Returns the attached programs with the name of this one, the oldest first: the id of each, and
    /// the ids of its maps.
    fn net_programs(&self, program: &Program) -> nix::Result<impl Iterator<Item = (u32, Vec<u32>)>> {
        let name = program.name;
        let mut all = Vec::new();
        for id in bpf::attached_ids(self.as_fd(), program.hook)? {
            match bpf::program(id) {
                // Another process has just detached its own: see `attach_once`.
                Err(Errno::ENOENT) => {}
                program => all.push(bpf::program_info(&program?)?),
            }
        }
        Ok(all.into_iter().filter(move |(_, own, _)| *own == name).map(|(id, _, maps)| (id, maps)))
    }

    fn net_refused(&self, step: &str, errno: Errno) -> Error {
        let cause = match errno {
            Errno::EPERM => Some(
                "it requires CAP_SYS_ADMIN, CAP_BPF and CAP_NET_ADMIN in the initial user namespace, and no ancestor may have an exclusive program",
            ),
            Errno::EINVAL | Errno::ENOSYS => {
                Some("the kernel requires CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL")
            }
            Errno::E2BIG => Some("the cgroup has 64 programs of one kind"),
            Errno::ENOENT => Some("the cgroup was removed"),
            _ => None,
        };
        Error::os(format!("{step} cgroup {}", self.path().display()), "bpf", errno, cause).on(self.path())
    }
}

fn new_table(entries: impl IntoIterator<Item = (Key, u32), IntoIter: ExactSizeIterator>) -> nix::Result<Map> {
    let entries = entries.into_iter();
    let map = Map::create(TABLE, entries.len().max(1) as u32, None)?;
    for (key, value) in entries {
        map.update(&key.to_bytes(), &value.to_ne_bytes())?;
    }
    Ok(map)
}

fn fd_bytes(map: &Map) -> [u8; 4] {
    std::os::fd::AsRawFd::as_raw_fd(map).to_ne_bytes()
}
