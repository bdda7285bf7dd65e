//! Profiles as plain data, in the format of OCI's `linux.seccomp`.

use nix::errno::Errno;
use serde::{Deserialize, Deserializer, Serialize};

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
    /// Action for a call that no rule matches.
    pub default_action: Action,
    /// Errno of a default `SCMP_ACT_ERRNO`, or message of a default `SCMP_ACT_TRACE`. Default:
    /// `EPERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u16>,
    /// Name of the errno, for example `ENOSYS`, in podman's profiles. It takes precedence over the
    /// number ([`Profile::resolve`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno: Option<String>,
    /// Architectures of the profile (`SCMP_ARCH_*`), in addition to the host's own. Architectures
    /// that the host cannot run are ignored.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Additional architectures for each architecture, in Docker's profiles ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<Architecture>,
    /// Flags with which the filter is loaded.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// Rules, in order.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Rule>,
}

/// An architecture, and the other architectures whose programs its machines can run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Architecture {
    /// `SCMP_ARCH_*`.
    pub architecture: String,
    /// `SCMP_ARCH_*`.
    #[serde(default, deserialize_with = "nullable")]
    pub sub_architectures: Vec<String>,
}

/// The action for calls with some names and arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names of the calls, as in `/usr/include/asm/unistd.h` without `__NR_`. Docker's profiles
    /// before 17.05 have a single `name` instead.
    #[serde(alias = "name", deserialize_with = "one_or_more")]
    pub names: Vec<String>,
    /// Action for the calls.
    pub action: Action,
    /// Errno of `SCMP_ACT_ERRNO`, or message of `SCMP_ACT_TRACE`. Default: `EPERM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u16>,
    /// Name of the errno, for example `EINVAL`, in podman's profiles. It takes precedence over the
    /// number ([`Profile::resolve`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// Comparisons that must all hold. If one argument is compared more than once, one comparison
    /// must hold.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// Docker's conditions that must all hold ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Conditions::is_empty")]
    pub includes: Conditions,
    /// Docker's conditions that exclude the rule if any of them holds ([`Profile::resolve`]).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Conditions::is_empty")]
    pub excludes: Conditions,
}

/// A comparison of all bits of an argument: 64 bits, or 32 in a 32-bit ABI.
///
/// Many calls use only the lower half of an argument. Compare those with `SCMP_CMP_MASKED_EQ` and
/// the mask `0xffffffff`: a nonzero upper half would evade another comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    /// Index of the argument, from 0 to 5.
    pub index: u32,
    /// Value to compare with, or the mask for `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// Value to compare the masked argument with (`SCMP_CMP_MASKED_EQ`).
    #[serde(default)]
    pub value_two: u64,
    /// Comparison operator.
    pub op: Op,
}

/// The action of the kernel for a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Action {
    /// Performs the call.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// Fails the call with the errno of the rule.
    #[default]
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Kills the process with SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// Kills the thread with SIGSYS.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// Sends SIGSYS, which the program can handle.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Performs the call, and writes it to the audit log.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// Asks the tracer of the process. Without a tracer, the call fails with `ENOSYS`.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// Asks a process on the host that holds
    /// [`Container::seccomp_listener`](crate::Container::seccomp_listener).
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// A comparison operator.
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
    /// Applies the filter to all threads. A container's process has one thread when the filter is
    /// loaded.
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    /// Writes every action except ALLOW to the audit log.
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    /// Does not enable the mitigation for speculative store bypass.
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    /// Lets only fatal signals interrupt a call that waits for an answer. Has no effect without
    /// `SCMP_ACT_NOTIFY`.
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

/// Conditions of a rule in Docker's profiles.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    /// Capabilities, for example `CAP_SYS_ADMIN`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Architectures, for example `amd64` or `arm64`. One of them must be the host's.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// Minimum kernel version, for example `4.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

impl Conditions {
    /// Returns whether there are no conditions.
    pub fn is_empty(&self) -> bool {
        *self == Conditions::default()
    }
}

impl Rule {
    /// Returns whether one matching comparison is enough.
    pub(super) fn alternatives(&self) -> bool {
        let twice = |n: usize| self.args[..n].iter().any(|arg| arg.index == self.args[n].index);
        (1..self.args.len()).any(twice)
    }
}

impl Profile {
    /// Returns the flags for loading the program (`SECCOMP_FILTER_FLAG_*`). With `SCMP_ACT_NOTIFY`,
    /// seccomp(2) returns a listener.
    pub fn load_flags(&self) -> libc::c_ulong {
        let notifies = self.notifies();
        let listener = if notifies { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
        self.flags.iter().fold(listener, |flags, flag| {
            flags
                | match flag {
                    // The kernel rejects this flag together with a listener, and the process has
                    // one thread.
                    Flag::Tsync if notifies => 0,
                    Flag::Tsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
                    Flag::Log => libc::SECCOMP_FILTER_FLAG_LOG,
                    Flag::SpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                    Flag::WaitKillableRecv if notifies => WAIT_KILLABLE_RECV,
                    Flag::WaitKillableRecv => 0,
                }
        })
    }

    /// Returns whether a process on the host answers some calls.
    pub fn notifies(&self) -> bool {
        self.default_action == Action::Notify || self.syscalls.iter().any(|r| r.action == Action::Notify)
    }

    /// Returns whether a process on the host may answer this call, for some of its arguments.
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

/// Reads a list, or a single string as a list.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a list of call names")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::One(name) => vec![name],
        OneOrMore::More(names) => names,
    })
}

/// Some published profiles have `null` for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Resolves an errno name to its number, or keeps the number if there is no name. An unknown name
/// is kept.
pub(super) fn numbered(name: Option<&str>, number: Option<u16>) -> (Option<String>, Option<u16>) {
    const LAST: u16 = 133;
    let Some(name) = name.filter(|name| !name.is_empty()) else { return (None, number) };
    match (1..=LAST).find(|errno| format!("{:?}", Errno::from_raw((*errno).into())) == name) {
        Some(errno) => (None, Some(errno)),
        None => (Some(name.to_owned()), number),
    }
}
