//! Attaching the programs to a cgroup, and finding the maps of those that are attached.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::limits::Limits;
use super::maps::Maps;
use super::program::{COUNTING, Features, PROGRAMS, Program};
use super::shared::{Loaded, Shared};
use super::sockets::{Level, Sockets};
use super::state::Side;
use super::table::{Table, compile};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys::bpf;

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
    /// Sockets, since their number was first limited.
    pub sockets: Sockets,
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
    /// Number of calls that failed with `EPERM`: `connect` for the egress, `bind` for the
    /// ingress.
    pub denied: u64,
    /// Number of packets that passed with a mark of congestion (`CE` of RFC 3168), which tells a sender
    /// that uses ECN to slow down before a packet is dropped.
    pub marked: u64,
}

impl Cgroup {
    /// Replaces the network limits of this cgroup. The limits of its ancestors stay in force.
    ///
    /// The first call with a limit attaches the programs that the limits require. Later calls, also by
    /// other processes, replace the limits that they enforce, and attach further programs if necessary.
    /// Attached programs stay and count packets even if nothing is limited.
    ///
    /// The process keeps the loaded programs and their maps, about ten descriptors, for the next cgroup.
    /// After hundreds of cgroups it loads new ones, because the maps keep the limits of removed cgroups.
    ///
    /// Since Linux 5.14. [`net`](crate::net) describes the effect;
    /// [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html) the system call.
    ///
    /// # Errors
    /// - `InvalidLimit`: see [`Limits::validate`]; or the rules require more than 131072 entries in the
    ///   kernel, because many networks have many port ranges.
    /// - `PermissionDenied` (`EPERM`): the caller lacks CAP_SYS_ADMIN, CAP_BPF or CAP_NET_ADMIN in the
    ///   initial user namespace, or an ancestor has a program that was attached without
    ///   `BPF_F_ALLOW_MULTI`.
    /// - `Unsupported` (`ENOSYS`) or `Os` (`EINVAL`): the kernel lacks CONFIG_CGROUP_BPF.
    /// - `Os` (`E2BIG`): the cgroup has 64 programs of a kind already.
    /// - `NotFound` (`ENOENT`): the cgroup was removed.
    pub fn limit_net(&self, limits: &Limits) -> Result<()> {
        limits.validate()?;
        let fail = |errno| self.net_refused("set the network limits of", errno);
        let attached = self.find_net().map_err(fail)?;
        if attached.is_none() && limits.is_empty() {
            return Ok(());
        }
        self.replace_net(attached, limits, &compile(limits)?).map_err(fail)
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
        let Some(maps) = self.find_net().map_err(fail)? else { return Ok(None) };
        let state = self.id().and_then(|id| maps.state(id)).map_err(fail)?;
        let traffic = |side| {
            let [bytes, packets, dropped, denied, marked] = state.counters(side);
            Traffic { bytes, packets, dropped, denied, marked }
        };
        let sockets = match self.find_sockets().map_err(fail)? {
            Some(level) => level.used().map_err(fail)?,
            None => Sockets::default(),
        };
        Ok(Some(Usage { egress: traffic(Side::Egress), ingress: traffic(Side::Ingress), sockets }))
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

    fn replace_net(&self, attached: Option<Maps>, limits: &Limits, rules: &Table) -> nix::Result<()> {
        let features = Features::of(limits);
        let cgroup = self.id()?;
        let [anchor, others @ ..] = &PROGRAMS;
        let attach_others = |maps: &Maps, shared: Option<&Shared>| {
            for (index, program) in others.iter().enumerate() {
                let needed = program.needed(features);
                if index + 1 < COUNTING || !needed.is_empty() {
                    self.attach_net(program, needed, maps, shared)?;
                }
            }
            features.contains(Features::SOCKETS).then(|| self.count_sockets()).transpose()
        };
        let mut level = None;
        if attached.is_none() {
            let shared = Shared::with_room(rules.len())?;
            if self.attach_net(anchor, anchor.needed(features), &shared.maps, Some(&shared))? {
                shared.maps.replace(cgroup, limits, rules, || {
                    level = attach_others(&shared.maps, Some(&shared))?;
                    Ok(())
                })?;
                return level.map_or(Ok(()), |level| self.limit_sockets(&level, &shared.maps));
            }
        }
        // If nothing was attached, another process was first.
        let maps = attached.map_or_else(|| self.find_net()?.ok_or(Errno::EAGAIN), Ok)?;
        maps.replace(cgroup, limits, rules, || {
            self.attach_net(anchor, anchor.needed(features), &maps, None)?;
            level = attach_others(&maps, None)?;
            Ok(())
        })?;
        // Without a maximum the programs may still be attached.
        let level = level.map_or_else(|| self.find_sockets(), |level| Ok(Some(level)))?;
        level.map_or(Ok(()), |level| self.limit_sockets(&level, &maps))
    }

    /// Copies the maximum of the sockets from the current limits to the map of its programs. If another
    /// process replaces the limits meanwhile, either process copies those that are current at the end.
    fn limit_sockets(&self, level: &Level, maps: &Maps) -> nix::Result<()> {
        let cgroup = self.id()?;
        loop {
            let max = maps.state(cgroup)?.sockets_max();
            level.limit(max)?;
            if maps.state(cgroup)?.sockets_max() == max {
                return Ok(());
            }
        }
    }

    /// Attaches the program with the features, unless it is attached. The program that was attached
    /// first stays, and is replaced if it lacks a feature. Others of its name, of a process that attached
    /// at the same time or was killed, are detached. Returns whether the new program is the first.
    fn attach_net(
        &self,
        program: &Program,
        needed: Features,
        maps: &Maps,
        shared: Option<&Shared>,
    ) -> nix::Result<bool> {
        let mut own = None;
        loop {
            let mut attached = self.net_programs(program)?.into_iter();
            let Some(first) = attached.next() else {
                let new = match shared {
                    Some(shared) => shared.program(program, needed)?,
                    None => Arc::new(Loaded::load(program, needed, maps)?),
                };
                match bpf::attach(self.as_fd(), program.hook, &new.fd, None) {
                    // Another thread has just attached the same program.
                    Err(Errno::EINVAL) if !self.net_programs(program)?.is_empty() => continue,
                    result => result?,
                }
                if bpf::attached_ids(self.as_fd(), program.hook)? == [new.id] {
                    return Ok(true);
                }
                own = Some(new.id);
                continue;
            };
            for other in attached {
                match bpf::detach(self.as_fd(), program.hook, &other.fd) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if first.features.contains(needed) {
                return Ok(Some(first.id) == own);
            }
            let all = first.features | needed;
            // The first program may be that of another process with maps of its own.
            let of_first = Maps::open(first.maps)?;
            let new = Loaded::load(program, all, of_first.as_ref().unwrap_or(maps))?;
            match bpf::attach(self.as_fd(), program.hook, &new.fd, Some(&first.fd)) {
                // Another process has just replaced it.
                Err(Errno::ENOENT) => {}
                result => return result.map(|()| false),
            }
        }
    }

    /// Returns the id of the cgroup: the number of its inode.
    fn id(&self) -> nix::Result<u64> {
        Ok(nix::sys::stat::fstat(self.as_fd())?.st_ino)
    }

    /// Returns the maps of the programs, if some are attached.
    fn find_net(&self) -> nix::Result<Option<Maps>> {
        match self.net_programs(&PROGRAMS[0])?.into_iter().next() {
            Some(first) => Maps::open(first.maps),
            None => Ok(None),
        }
    }

    /// Returns the attached programs of this kind, the oldest first.
    fn net_programs(&self, program: &Program) -> nix::Result<Vec<Attached>> {
        let ids = || bpf::attached_ids(self.as_fd(), program.hook);
        bpf::open_all(ids, |id| Attached::open(program, id))
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
        Error::os(format!("{step} cgroup {}", self.path().display()), "bpf", errno, cause)
            .on(self.path())
            .with_field("net")
    }
}

/// An attached program: its id, its features, and the ids of its maps.
struct Attached {
    fd: OwnedFd,
    id: u32,
    features: Features,
    maps: Vec<u32>,
}

impl Attached {
    /// Opens an attached program. Returns `None` if it is not of this kind.
    fn open(program: &Program, id: u32) -> nix::Result<Option<Self>> {
        let fd = bpf::program(id)?;
        let (id, name, maps) = bpf::program_info(&fd)?;
        Ok(program.features_in(&name).map(|features| Self { fd, id, features, maps }))
    }
}
