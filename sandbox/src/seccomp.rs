//! System-call filters: profiles in OCI's format, compiled to a BPF program.
//!
//! A [`Profile`] has the format of OCI's `linux.seccomp`. It can also read the files that Docker
//! and podman accept for `--security-opt seccomp=`. [`Profile::standard`] is the library's own
//! profile; it is nearly the usual default of containers.
//!
//! # How a profile decides
//! - The rules are checked in order. The first rule that names the call and whose argument
//!   comparisons all match decides; if no rule matches, `default_action` does. A rule therefore has
//!   no effect on a call if an earlier rule decides it regardless of arguments. podman's default
//!   profile has such rules.
//! - A profile applies to the machine's own ABI, and to the ABIs of `architectures` that the
//!   machine can run: `SCMP_ARCH_X86` and `SCMP_ARCH_X32` on x86_64, `SCMP_ARCH_ARM` on aarch64.
//!   Each ABI has its own call numbers. In ABIs with 32-bit arguments, 32 bits are compared.
//! - On x86, `socketcall` and `ipc` also make the socket and System V IPC calls. A rule for one of
//!   these calls applies to both ways of making it. The arguments of `socketcall` and `ipc` are in
//!   memory, which a filter cannot read; the strictest action that the rules could choose applies.
//! - If a rule compares one argument more than once, each comparison counts as a separate rule:
//!   libseccomp supports no other form, and runc and crun do the same.
//! - A name that an ABI lacks is ignored for that ABI, as in other runtimes.
//! - If the default is `SCMP_ACT_ERRNO`, calls with a number above the highest that the profile
//!   names fail with `ENOSYS`. These calls are newer than the profile, and programs fall back to
//!   older calls after `ENOSYS` but not after `EPERM`.
//! - A process that makes a call of an ABI that is not listed is killed; x32 calls fail with
//!   `ENOSYS`.
//!
//! Linux 5.11 and later determine, when the filter is loaded, which calls are allowed regardless of
//! arguments, and do not run the filter for them. For other calls the filter is a binary search.
//!
//! Each start compiles its filter: compiling is fast, so no program is cached. For three ABIs
//! podman's default profile took 122 µs and the standard profile 103 µs, while an empty container
//! starts in about 1 ms (`cargo bench -p nspod-benches --bench seccomp`).
//!
//! See [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html) and OCI's [runtime
//! specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp).

pub(crate) mod abi;
mod compile;
mod evaluate;
mod profile;
mod standard;
#[cfg(test)]
mod tests;

pub(crate) use self::evaluate::allows;
pub use self::profile::{Action, Architecture, Arg, Conditions, Flag, Op, Profile, Rule};
use crate::Error;
use crate::arch::abis::{ABIS, DOCKER_ARCH};

impl Profile {
    /// Returns the library's own profile, for a process with the bounding set `capabilities` (bit
    /// *n* is capability *n*).
    ///
    /// The profile allows the calls that ordinary 64-bit and 32-bit programs need. Other calls fail
    /// with `EPERM`: calls and sockets that namespaces do not isolate (keyrings, `userfaultfd`,
    /// `io_uring_*`, `AF_ALG`, `AF_VSOCK`), and calls that require a missing capability (`bpf`, the
    /// mount family, `unshare` and `setns`, clocks, modules, reboot …). Without `CAP_SYS_ADMIN`,
    /// `clone3` fails with `ENOSYS`, because a filter cannot read its flags. Programs then fall
    /// back to `clone`, for which the filter rejects the namespace flags.
    ///
    /// # Differences from the defaults of Docker and podman
    /// The profile follows Docker's (`default.json` of moby), with these differences:
    /// - x32 calls fail with `ENOSYS`. No distribution ships programs of this ABI, and most kernels
    ///   do not support it.
    /// - On i386, `socket` through `socketcall` fails: its arguments are in memory and could select
    ///   `AF_ALG`. Programs that call `socket` directly, which i386 supports since Linux 4.3, work.
    /// - The family of a socket, the flags of `clone` and the domain of `personality` are compared
    ///   in the 32 bits that the kernel reads. A program could evade a 64-bit comparison with a
    ///   nonzero upper half.
    /// - `ptrace`, `process_vm_readv` and `process_vm_writev` have no condition on the kernel
    ///   version: since Linux 4.8, which is older than this library's minimum, ptrace cannot evade
    ///   a filter.
    /// - `kexec_load` and `kexec_file_load` require `CAP_SYS_BOOT`, `swapon` and `swapoff` require
    ///   `CAP_SYS_ADMIN`, and `migrate_pages` and `move_pages` require `CAP_SYS_NICE`. A container
    ///   with the capability can make the calls that the capability permits.
    /// - `file_getattr`, `file_setattr`, `open_tree_attr`, `statmount`, `listmount` and the `lsm_*`
    ///   calls are treated like the older calls for the same purpose.
    /// - Calls of i386 that neither glibc nor musl makes (`uselib`, `vm86`, `nice`, `oldstat` …)
    ///   and calls that were never implemented are omitted.
    ///
    /// podman's profile (`seccomp.json` of containers-common) allows more calls, and leaves the
    /// decision to the kernel's capability checks:
    /// - podman allows `clone3`, `unshare`, `setns`, `mount`, `umount2`, `pivot_root`, `fsopen` and
    ///   related calls without `CAP_SYS_ADMIN`, so that containers can be nested in user
    ///   namespaces. This profile requires the capability, as Docker's does: many kernel exploits
    ///   by ordinary users start with a new user namespace.
    /// - podman allows `keyctl`. The user's keys belong to no namespace. podman relies on a session
    ///   keyring for each container, which not every caller of this library makes.
    /// - podman allows `reboot`, `get_mempolicy`, `mbind`, `set_mempolicy` and `pidfd_getfd`
    ///   without a capability. This profile requires the capability that the kernel or Docker
    ///   requires.
    /// - podman allows `query_module`, which the kernel removed in Linux 2.6. This profile omits
    ///   it.
    ///
    /// podman denies some calls that this profile and Docker's allow: `vmsplice`, `io_pgetevents`,
    /// and (with `EINVAL`, without `CAP_AUDIT_WRITE`) `NETLINK_AUDIT` sockets. Ordinary programs
    /// use the first two. The kernel itself rejects audit messages of a process without the
    /// capability.
    ///
    /// ```
    /// # use nspod_sandbox::seccomp::Profile;
    /// let program = Profile::standard(0).compile().unwrap();
    /// assert!(program.len() < 1000);
    /// ```
    pub fn standard(capabilities: u64) -> Profile {
        standard::profile(capabilities)
    }

    /// Resolves the parts of Docker's and podman's profiles that OCI does not define: the
    /// conditions of rules (`includes`, `excludes`), for a bounding set and a kernel's major and
    /// minor version; the `archMap` entry of this machine; and the numbers of `errno` names. The
    /// result contains none of these, except `errno` names that do not exist.
    pub fn resolve(&self, capabilities: u64, kernel: (u32, u32)) -> Profile {
        let cap = |name: &String| standard::capability(name).is_some_and(|n| capabilities >> n & 1 == 1);
        let arch = |name: &String| name == DOCKER_ARCH;
        let new_enough = |v: &String| parse_version(v).is_some_and(|least| kernel >= least);
        let in_force = |rule: &Rule| {
            let (with, without) = (&rule.includes, &rule.excludes);
            with.caps.iter().all(cap)
                && (with.arches.is_empty() || with.arches.iter().any(arch))
                && with.min_kernel.as_ref().is_none_or(new_enough)
                && !without.caps.iter().any(cap)
                && !without.arches.iter().any(arch)
                && !without.min_kernel.as_ref().is_some_and(new_enough)
        };
        let unconditional = |rule: &Rule| {
            let (includes, excludes) = Default::default();
            let (errno, errno_ret) = profile::numbered(rule.errno.as_deref(), rule.errno_ret);
            Rule { includes, excludes, errno, errno_ret, ..rule.clone() }
        };
        let syscalls = self.syscalls.iter().filter(|r| in_force(r)).map(unconditional).collect();
        let mut architectures = self.architectures.clone();
        if let Some(map) = self.arch_map.iter().find(|map| map.architecture == ABIS[0].name) {
            architectures.push(map.architecture.clone());
            architectures.extend(map.sub_architectures.iter().cloned());
        }
        let (default_errno, default_errno_ret) =
            profile::numbered(self.default_errno.as_deref(), self.default_errno_ret);
        Profile {
            default_action: self.default_action,
            default_errno_ret,
            default_errno,
            architectures,
            arch_map: Vec::new(),
            flags: self.flags.clone(),
            syscalls,
        }
    }

    /// Returns the BPF program for seccomp(2), for the architecture of this build.
    ///
    /// # Errors
    /// The message names the rule. Errors are an argument index above 5, an errno above 4095 or
    /// with an unknown name, conditions that [`Profile::resolve`] has not resolved, a profile for
    /// other architectures only, and a program that exceeds the kernel's limit of 4096
    /// instructions.
    pub fn compile(&self) -> Result<Vec<libc::sock_filter>, Error> {
        compile::compile(self)
    }
}

/// Returns the major and minor version of a text such as `4.8` or `6.1.0-13-amd64`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
