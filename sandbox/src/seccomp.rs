//! System-call filters: profiles in OCI's form, compiled to one BPF program.
//!
//! A [`Profile`] is what OCI's `linux.seccomp` is, and the files that Docker and podman
//! take as `--security-opt seccomp=` parse as well. [`Profile::standard`] is the library's
//! own, in effect the default that containers commonly get.
//!
//! # How a profile decides
//! - The rules are read in order, and the first that names the call and whose arguments
//!   all match decides; without one, `default_action` does. So a rule has no effect on a call
//!   that one before it decides whatever the arguments. podman's default profile has such rules.
//! - It is for the machine's own ABI, and for those of `architectures` that this machine can
//!   run programs of: on x86_64 `SCMP_ARCH_X86` and `SCMP_ARCH_X32`, on aarch64
//!   `SCMP_ARCH_ARM`. Each has its own numbers; where arguments have 32 bits, 32 are compared.
//! - `socketcall` and `ipc` of x86 make the calls of sockets and of System V's IPC as well, so
//!   what is said of one of these goes for both ways to it. Their arguments are in memory, where
//!   no filter sees them: of what the rules may come to, the strictest does.
//! - A rule that compares one argument more than once is as many rules, with a comparison each:
//!   libseccomp takes no other, and so have runc and crun.
//! - A name that an ABI does not have is passed over there, as other runtimes do.
//! - Under a default of `SCMP_ACT_ERRNO`, calls with a number above every one that the
//!   profile names give `ENOSYS`: they are newer than the profile, and programs fall back
//!   from `ENOSYS` to older calls, but not from `EPERM`.
//! - A process that makes calls of an ABI that is not listed is killed; x32 calls give
//!   `ENOSYS`.
//!
//! The kernel (5.11 and later) works out once, when the filter is loaded, which calls are
//! allowed whatever their arguments, and does not run the filter for these at all; for the
//! others it is a binary search.
//!
//! Compiling is cheap enough to be done at each start, and no program is kept for a second
//! one: for three ABIs podman's default profile took 122 µs and the standard one 103 µs, where
//! an empty container starts in about 1 ms (`cargo bench -p nspod-benches --bench seccomp`).
//!
//! See [seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html) and OCI's
//! [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp).

mod abi;
mod compile;
mod evaluate;
mod profile;
mod standard;
#[cfg(test)]
mod tests;

use nix::errno::Errno;

pub(crate) use self::evaluate::allows;
pub use self::profile::{Action, Architecture, Arg, Conditions, Flag, Op, Profile, Rule};
use crate::Error;

impl Profile {
    /// The library's own profile, for a process whose bounding set is `capabilities`
    /// (bit *n* stands for capability *n*).
    ///
    /// It allows what ordinary programs need, of 64 bits and of 32, and fails the rest with
    /// `EPERM`: calls and sockets that the namespaces do not contain (keyrings, `userfaultfd`,
    /// `io_uring_*`, `AF_ALG`, `AF_VSOCK`), and those that a capability guards without that
    /// capability (`bpf`, the mount family, `unshare` and `setns`, clocks, modules, reboot …).
    /// `clone3`, whose flags a filter cannot see, gives `ENOSYS` without `CAP_SYS_ADMIN`, so that
    /// programs fall back to `clone`, from which the namespace flags are barred.
    ///
    /// # Beside the defaults of Docker and podman
    /// It follows Docker's (`default.json` of moby), and differs from it in this:
    /// - x32 gives `ENOSYS`. No distribution ships programs of that ABI, and most kernels refuse it.
    /// - `socket` by way of `socketcall` of i386 fails, since its arguments are in memory and could
    ///   ask for `AF_ALG`. Programs that call `socket` itself, which i386 has since Linux 4.3, work.
    /// - The family of a socket, the flags of `clone` and the domain of `personality` are compared
    ///   in the 32 bits that the kernel looks at. A comparison of 64 bits would be evaded by a
    ///   filled upper half.
    /// - `ptrace`, `process_vm_readv` and `process_vm_writev` ask for no version of the kernel:
    ///   from 4.8 on, and so on each that this library runs on, ptrace cannot evade a filter.
    /// - `kexec_load` and `kexec_file_load` go with `CAP_SYS_BOOT`, `swapon` and `swapoff` with
    ///   `CAP_SYS_ADMIN`, and `migrate_pages` and `move_pages` with `CAP_SYS_NICE`: a container
    ///   that was given the capability by name gets what it stands for.
    /// - `file_getattr`, `file_setattr`, `open_tree_attr`, `statmount`, `listmount` and the
    ///   `lsm_*` calls are decided as the older calls for the same purpose are.
    /// - Calls of i386 that neither glibc nor musl makes (`uselib`, `vm86`, `nice`, `oldstat` …)
    ///   and those that were never implemented are left out.
    ///
    /// podman's (`seccomp.json` of containers-common) allows more, and leaves the decision to
    /// capabilities:
    /// - `clone3`, `unshare`, `setns`, `mount`, `umount2`, `pivot_root`, `fsopen` and their kin
    ///   without `CAP_SYS_ADMIN`, so that containers can be nested in user namespaces. Here they
    ///   need the capability, as with Docker: many exploits of the kernel by an ordinary user begin
    ///   with a user namespace of their own.
    /// - `keyctl`: the keys of the user belong to no namespace, and a session keyring of the
    ///   container's own, which podman relies on, is not made by each caller of this library.
    /// - `reboot`, `get_mempolicy`, `mbind`, `set_mempolicy` and `pidfd_getfd` without a capability. Here
    ///   they need the one that the kernel asks for, or that Docker does.
    /// - `query_module`, which no kernel since 2.6 has, is left out here.
    ///
    /// podman denies some that are allowed here and by Docker: `vmsplice`, `io_pgetevents`, and
    /// (with `EINVAL`, without `CAP_AUDIT_WRITE`) sockets of `NETLINK_AUDIT`. The first two serve
    /// ordinary programs. The kernel itself refuses the audit messages of a process without the
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

    /// Decides the conditions of Docker's rules (`includes`, `excludes`), for a bounding
    /// set and a kernel's major and minor version, takes this machine's architectures
    /// from its `archMap`, and the numbers of podman's `errno` names. What is left has none of
    /// these, but for names that no errno has.
    pub fn resolve(&self, capabilities: u64, kernel: (u32, u32)) -> Profile {
        let cap = |name: &String| standard::capability(name).is_some_and(|n| capabilities >> n & 1 == 1);
        let arch = |name: &String| name == abi::DOCKER_ARCH;
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
            let (errno, errno_ret) = numbered(rule.errno.as_deref(), rule.errno_ret);
            Rule { includes, excludes, errno, errno_ret, ..rule.clone() }
        };
        let syscalls = self.syscalls.iter().filter(|r| in_force(r)).map(unconditional).collect();
        let mut architectures = self.architectures.clone();
        if let Some(map) = self.arch_map.iter().find(|map| map.architecture == abi::ABIS[0].name) {
            architectures.push(map.architecture.clone());
            architectures.extend(map.sub_architectures.iter().cloned());
        }
        let (default_errno, default_errno_ret) =
            numbered(self.default_errno.as_deref(), self.default_errno_ret);
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

    /// The BPF program for seccomp(2), for the machine that this was built for.
    ///
    /// # Errors
    /// A sentence that names the rule, for: an argument's index above 5, an errno above 4095 or of
    /// no known name, conditions that [`Profile::resolve`] has not decided, a profile for other
    /// architectures only, and one whose program exceeds the kernel's 4096 instructions.
    pub fn compile(&self) -> Result<Vec<libc::sock_filter>, Error> {
        compile::compile(self)
    }
}

/// Major and minor of `4.8` or `6.1.0-13-amd64`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// An errno by its name, where it has one, and by its number. A name is left if no errno has it.
fn numbered(name: Option<&str>, number: Option<u16>) -> (Option<String>, Option<u16>) {
    const LAST: u16 = 133;
    let Some(name) = name.filter(|name| !name.is_empty()) else { return (None, number) };
    match (1..=LAST).find(|errno| format!("{:?}", Errno::from_raw((*errno).into())) == name) {
        Some(errno) => (None, Some(errno)),
        None => (Some(name.to_owned()), number),
    }
}
