//! Attaching the device filter to a cgroup.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::program::{Instruction, compile};
use super::rule::Rule;
use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sys::bpf::{self, DEVICE};

impl Cgroup {
    /// Attaches a device filter with these rules. An access must be allowed by all filters of this
    /// cgroup and of its ancestors, so another filter can only deny more. The filter lasts as long
    /// as the cgroup. Descriptors that are open stay usable.
    ///
    /// Since Linux 4.15. Section "Device controller";
    /// [bpf(2)](https://man7.org/linux/man-pages/man2/bpf.2.html).
    ///
    /// # Errors
    /// - `PermissionDenied` (`EPERM`): the caller lacks CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN)
    ///   in the initial user namespace, or an ancestor has a program that was attached without
    ///   `BPF_F_ALLOW_MULTI`.
    /// - `Unsupported` (`ENOSYS`) or `Os` (`EINVAL`): the kernel lacks CONFIG_CGROUP_BPF.
    /// - `Os` (`E2BIG`): the cgroup has 64 filters already.
    /// - `NotFound` (`ENOENT`): the cgroup was removed, or another process replaced its filters at the
    ///   same time.
    pub fn attach_devices(&self, rules: &[Rule]) -> Result<()> {
        let program = self.load(&compile(rules))?;
        self.attach_program(&program, None)
    }

    /// Replaces the device filters of this cgroup itself with one that has these rules. If the
    /// cgroup had a filter, a filter is in force at every moment. Those of ancestors stay in force.
    ///
    /// Since Linux 5.6 (`BPF_F_REPLACE`). Section "Device controller".
    ///
    /// # Errors
    /// As [`attach_devices`](Self::attach_devices).
    pub fn replace_devices(&self, rules: &[Rule]) -> Result<()> {
        let program = self.load(&compile(rules))?;
        let old = self.attached()?;
        self.attach_program(&program, old.first())?;
        old.iter().skip(1).try_for_each(|old| self.detach(old))
    }

    /// Detaches all device filters from this cgroup itself.
    ///
    /// Since Linux 4.15. Section "Device controller".
    ///
    /// # Errors
    /// As [`attach_devices`](Self::attach_devices).
    pub fn detach_devices(&self) -> Result<()> {
        self.attached()?.iter().try_for_each(|program| self.detach(program))
    }

    fn load(&self, program: &[Instruction]) -> Result<OwnedFd> {
        let instructions: Vec<u64> = program.iter().map(|instruction| instruction.to_bits()).collect();
        bpf::load(DEVICE, *b"nspod_devices\0\0\0", &instructions)
            .map_err(|errno| self.refused("load the device filter of", errno))
    }

    fn attach_program(&self, program: &OwnedFd, replaced: Option<&OwnedFd>) -> Result<()> {
        bpf::attach(self.as_fd(), DEVICE, program, replaced)
            .map_err(|errno| self.refused("attach the device filter to", errno))
    }

    fn detach(&self, program: &OwnedFd) -> Result<()> {
        bpf::detach(self.as_fd(), DEVICE, program)
            .map_err(|errno| self.refused("detach the device filter from", errno))
    }

    fn attached(&self) -> Result<Vec<OwnedFd>> {
        bpf::attached(self.as_fd(), DEVICE).map_err(|errno| self.refused("list the device filters of", errno))
    }

    fn refused(&self, step: &str, errno: Errno) -> Error {
        let cause = match errno {
            Errno::EPERM => Some(
                "it requires CAP_BPF and CAP_NET_ADMIN in the initial user namespace, and no ancestor may have an exclusive filter",
            ),
            Errno::EINVAL | Errno::ENOSYS => {
                Some("the kernel requires CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL")
            }
            Errno::E2BIG => Some("the cgroup has 64 filters, or there are too many rules"),
            Errno::ENOENT => {
                Some("the cgroup was removed, or another process replaced its filters at the same time")
            }
            _ => None,
        };
        Error::os(format!("{step} cgroup {}", self.path().display()), "bpf", errno, cause).on(self.path())
    }
}
