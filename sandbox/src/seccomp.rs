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
mod standard;
#[cfg(test)]
mod tests;

use nix::errno::Errno;
use serde::{Deserialize, Deserializer, Serialize};

pub(crate) use self::evaluate::allows;
use crate::Error;

/// A system-call filter, in the form of OCI's `linux.seccomp`.
///
/// ```
/// # use nspod_sandbox::seccomp::Profile;
/// let json = r#"{
///     "defaultAction": "SCMP_ACT_ALLOW",
///     "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30 }]
/// }"#;
/// let profile: Profile = serde_json::from_str(json).unwrap();
/// let program = profile.compile().unwrap();
/// assert!(program.len() < 20);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// What happens to a call that no rule matches.
    pub default_action: Action,
    /// The errno of a default `SCMP_ACT_ERRNO`, or the message of a `SCMP_ACT_TRACE`.
    /// `EPERM` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u16>,
    /// podman's: the same by its name, as `ENOSYS`. It goes before the number
    /// ([`Profile::resolve`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno: Option<String>,
    /// `SCMP_ARCH_*` that the profile is for beside the host's own; those that this host
    /// cannot run are passed over.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Docker's: what goes with each architecture ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<Architecture>,
    /// How the filter is loaded.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// The rules, in order.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Rule>,
}

/// An architecture, and those that its machines can run programs of as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Architecture {
    /// `SCMP_ARCH_*`.
    pub architecture: String,
    /// `SCMP_ARCH_*`.
    #[serde(default, deserialize_with = "nullable")]
    pub sub_architectures: Vec<String>,
}

/// What happens to calls of some names, with some arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The calls' names, as in `/usr/include/asm/unistd.h` without `__NR_`. `name`, with a single
    /// one, is the form of Docker's profiles before 17.05.
    #[serde(alias = "name", deserialize_with = "one_or_more")]
    pub names: Vec<String>,
    /// What happens to them.
    pub action: Action,
    /// The errno of `SCMP_ACT_ERRNO`, or the message of `SCMP_ACT_TRACE`; `EPERM` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u16>,
    /// podman's: the same by its name, as `EINVAL`. It goes before the number
    /// ([`Profile::resolve`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// Only if all of these hold; where one argument is compared more than once, if any of them does.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// Docker's: only if all of these hold ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Conditions::is_empty")]
    pub includes: Conditions,
    /// Docker's: not if any of these holds ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Conditions::is_empty")]
    pub excludes: Conditions,
}

/// A comparison of an argument, all 64 bits of it (the 32 that there are in an ABI of 32 bits).
///
/// Many calls look at the lower half of an argument only: compare those by
/// `SCMP_CMP_MASKED_EQ` with a mask of `0xffffffff`, or the upper half evades the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    /// Which argument, from 0 to 5.
    pub index: u32,
    /// What it is compared with, or the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// With `SCMP_CMP_MASKED_EQ`, what the masked argument is compared with.
    #[serde(default)]
    pub value_two: u64,
    /// How it is compared.
    pub op: Op,
}

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Action {
    /// Makes it.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// Fails it, with the rule's errno.
    #[default]
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Kills the process, as by SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// Kills the thread, as by SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// Sends SIGSYS, which the program can handle.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Makes it, and writes it to the audit log.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// Asks the process's tracer; `ENOSYS` without one.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// Asks a process on the host, which has
    /// [`Container::seccomp_listener`](crate::Container::seccomp_listener).
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Op {
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// `argument & value == value_two & value`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// A flag of seccomp(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Flag {
    /// All threads at once. A container's process has one when the filter is loaded.
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    /// Every action but ALLOW goes to the audit log.
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    /// Leaves the mitigation of speculative store bypass off.
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    /// A call that is being answered is interrupted by fatal signals only. Without
    /// `SCMP_ACT_NOTIFY` it says nothing.
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

/// When a rule of Docker's form is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    /// Capabilities, as `CAP_SYS_ADMIN`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Any of these architectures, as `amd64`, `arm64`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// At least this kernel, as `4.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

impl Conditions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Conditions::default()
    }
}

impl Rule {
    /// Whether any of the comparisons is enough.
    fn alternatives(&self) -> bool {
        let twice = |n: usize| self.args[..n].iter().any(|arg| arg.index == self.args[n].index);
        (1..self.args.len()).any(twice)
    }
}

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

    /// The flags to load the program with, `SECCOMP_FILTER_FLAG_*`: with
    /// `SCMP_ACT_NOTIFY`, seccomp(2) returns a listener.
    pub fn load_flags(&self) -> libc::c_ulong {
        let notifies = self.notifies();
        let listener = if notifies { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        self.flags.iter().fold(listener, |flags, flag| {
            flags
                | match flag {
                    // The kernel takes no listener with it, and there is one thread.
                    Flag::Tsync if notifies => 0,
                    Flag::Tsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                    Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
                    Flag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    Flag::WaitKillableRecv if notifies => WAIT_KILLABLE_RECV,
                    Flag::WaitKillableRecv => 0,
                }
        })
    }

    /// Whether some call is answered by a process on the host.
    pub fn notifies(&self) -> bool {
        self.default_action == Action::Notify || self.syscalls.iter().any(|r| r.action == Action::Notify)
    }

    /// Whether this call may be, depending on its arguments or not.
    pub(crate) fn notifies_of(&self, name: &str) -> bool {
        for rule in self.syscalls.iter().filter(|rule| rule.names.iter().any(|n| n == name)) {
            if rule.action == Action::Notify || rule.args.is_empty() {
                return rule.action == Action::Notify;
            }
        }
        self.default_action == Action::Notify
    }
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since Linux 5.19.
const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

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

/// A list, or its only member.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a list of the names of calls is wanted")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::One(name) => vec![name],
        OneOrMore::More(names) => names,
    })
}

/// Profiles in the wild say `null` for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
