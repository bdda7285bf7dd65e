//! The text of the steps, for the printed plan and for errors.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;

use cgroup_core::CpuList;
use ns_core::Kinds;

use super::{CopyUp, Dest, Lsm, MountStep, Place, RlimitStep, Slot, Step, What};
use crate::spec::Attributes;

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = self.base.path().trim_end_matches('/');
        match self.path.to_bytes() {
            b"." if base.is_empty() => f.write_str("/"),
            b"." => f.write_str(base),
            _ => write!(f, "{base}/{}", self.path.to_string_lossy()),
        }
    }
}

impl Slot {
    pub(super) fn path(self) -> &'static str {
        match self {
            Slot::Root => "/",
            Slot::Proc => "/proc",
            Slot::Sys => "/sys",
            Slot::Dev => "/dev",
            Slot::Pts => "/dev/pts",
            Slot::Mask => "an empty directory",
            Slot::Terminal => "the terminal",
        }
    }
}

impl What {
    fn is_recursive(&self) -> bool {
        matches!(self, What::Bind { recursive: true, .. } | What::Inside { recursive: true, .. })
    }
}

impl fmt::Display for MountStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::New { fstype, params } => {
                write!(f, "mount a new {}", fstype.to_string_lossy())?;
                let shown: Vec<String> = params
                    .iter()
                    .filter(|(key, _)| key.as_bytes() != b"source")
                    .map(|(key, value)| match value {
                        Some(value) => format!("{}={}", key.to_string_lossy(), value.to_string_lossy()),
                        None => key.to_string_lossy().into_owned(),
                    })
                    .collect();
                if !shown.is_empty() {
                    write!(f, " ({})", shown.join(","))?;
                }
            }
            What::Bind { source, recursive, .. } => {
                write!(f, "bind {}", source.to_string_lossy())?;
                if *recursive {
                    f.write_str(" with all mounts below it")?;
                }
            }
            What::Inside { source, recursive } => {
                write!(f, "bind the mount on /{}", source.to_string_lossy())?;
                if *recursive {
                    f.write_str(" with all mounts below it")?;
                }
            }
            What::Long { fstype, options, .. } => {
                write!(f, "mount a new {} ({})", fstype.to_string_lossy(), options.to_string_lossy())?
            }
            What::Here => return f.write_str("keep the root of the mount namespace"),
            What::There => f.write_str("change the mount")?,
        }
        match &self.place {
            Place::NewRoot => f.write_str(" as the new root")?,
            Place::At(path) => write!(f, " as the new root, on {} of the host", path.to_string_lossy())?,
            Place::In(dest) => write!(f, " on {dest}")?,
            Place::Within(slot, name) => {
                write!(f, " on {}/{}", slot.path().trim_end_matches('/'), name.to_string_lossy())?
            }
            Place::Detached => f.write_str(", not attached")?,
        }
        let alone = if self.what.is_recursive() { ", only that mount" } else { "" };
        for (attributes, suffix) in [(&self.recursive, ""), (&self.attributes, alone)] {
            let names = names(attributes);
            if !names.is_empty() {
                write!(f, " ({}{suffix})", names.join(","))?;
            }
        }
        if self.copy_up != CopyUp::No {
            f.write_str(", starting with a copy of the covered directory")?;
        }
        for flags in &self.propagation {
            write!(f, ", {}", propagation(*flags))?;
        }
        Ok(())
    }
}

/// Returns the names of mount attributes, as in mount(8).
fn names(attributes: &Attributes) -> Vec<&'static str> {
    let Attributes { set, clear } = *attributes;
    let flags = [
        (libc::MOUNT_ATTR_RDONLY, "ro", "rw"),
        (libc::MOUNT_ATTR_NOSUID, "nosuid", "suid"),
        (libc::MOUNT_ATTR_NODEV, "nodev", "dev"),
        (libc::MOUNT_ATTR_NOEXEC, "noexec", "exec"),
        (libc::MOUNT_ATTR_NODIRATIME, "nodiratime", "diratime"),
        (libc::MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow", "symfollow"),
    ];
    let mut names = Vec::new();
    for (bit, on, off) in flags {
        if set & bit != 0 {
            names.push(on);
        } else if clear & bit != 0 {
            names.push(off);
        }
    }
    names.extend(match set & libc::MOUNT_ATTR__ATIME {
        libc::MOUNT_ATTR_NOATIME => Some("noatime"),
        libc::MOUNT_ATTR_STRICTATIME => Some("strictatime"),
        _ if clear & libc::MOUNT_ATTR__ATIME != 0 => Some("relatime"),
        _ => None,
    });
    names
}

fn propagation(flags: u64) -> String {
    let kinds = [
        (libc::MS_SHARED, "shared"),
        (libc::MS_SLAVE, "slave"),
        (libc::MS_PRIVATE, "private"),
        (libc::MS_UNBINDABLE, "unbindable"),
    ];
    let kind = kinds.into_iter().find(|(flag, _)| flags & flag != 0).map_or("?", |(_, name)| name);
    format!("{}{kind}", if flags & libc::MS_REC != 0 { "all " } else { "" })
}

/// Formats a step as the words that follow "cannot" in an error: the action and its object, for
/// example `join the net namespace of process 42`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::JoinFd { kind, from, .. } => write!(f, "join the {} namespace of {from}", kind.name()),
            Step::JoinPidfd { kinds, pid, .. } => {
                write!(f, "join the {} namespaces of process {pid}", list(*kinds))
            }
            Step::Owner(uid) => write!(f, "become user {uid} as the owner of the next user namespace"),
            Step::Unshare(kinds) => write!(f, "make new {} namespaces", list(*kinds)),
            Step::MapSelf { uid_map, gid_map } => map_self(f, uid_map, gid_map),
            Step::AwaitMaps => f.write_str("wait for the parent to write the id maps"),
            Step::AwaitLimits => f.write_str("wait for the parent to set the network limits"),
            Step::Become { uid, gid, .. } => r#become(f, *uid, *gid),
            Step::TimeOffsets(text) => {
                write!(f, "set the clock offsets {}", s(text).trim().replace('\n', ", "))
            }
            Step::Undumpable => f.write_str("protect the caller's memory from the container's processes"),
            Step::Clone(kinds) if kinds.is_empty() => f.write_str("continue in a sibling process"),
            Step::Clone(kinds) => {
                write!(f, "continue in a sibling process with new {} namespaces", list(*kinds))
            }
            Step::Setsid => f.write_str("start a session"),
            Step::Propagation(flags) => propagation_of_all(f, *flags),
            Step::Private(path) => write!(f, "make the mount that contains {} private", s(path)),
            Step::Mount(mount) => mount.fmt(f),
            Step::Node { dest, mode, device, .. } => node(f, dest, *mode, *device),
            Step::File { slot, name } => write!(f, "make the file {}/{}", slot.path(), s(name)),
            Step::Symlink { dest, target } => write!(f, "link {dest} to {}", s(target)),
            Step::Mkdir { slot, name, .. } => write!(f, "make the directory {}/{}", slot.path(), s(name)),
            Step::Directory(dest) => write!(f, "make the directory {dest} if it is missing"),
            Step::Mask(dest) => write!(f, "mask {dest}"),
            Step::ReadOnly(dest) => write!(f, "make {dest} read-only"),
            Step::Sysctl { path, value } => sysctl(f, path, value),
            Step::EnterRoot(_) => f.write_str("change to the root of the container"),
            Step::ChangeRoot { readonly: false, .. } => f.write_str("change to the new root"),
            Step::ChangeRoot { readonly: true, .. } => {
                f.write_str("change to the new root and make it read-only")
            }
            Step::PivotRoot { readonly: false, .. } => f.write_str("make the new root /"),
            Step::PivotRoot { readonly: true, .. } => f.write_str("make the new root / and read-only"),
            Step::Terminal { .. } => f.write_str("open a terminal"),
            Step::Console(dest) => write!(f, "mount the terminal on {dest}"),
            Step::Hostname(name) => write!(f, "set the host name {}", s(name)),
            Step::Domainname(name) => write!(f, "set the domain name {}", s(name)),
            Step::Loopback => f.write_str("bring up the loopback interface"),
            Step::Rlimit(limit) => rlimit(f, *limit),
            Step::OomScoreAdj(value) => write!(f, "set oom_score_adj to {}", s(value)),
            Step::Descriptors => f.write_str("place the file descriptors and close all others"),
            Step::Keyring(name) => write!(f, "join the session keyring {}", s(name)),
            Step::Scheduler(attributes) => scheduler(f, attributes),
            Step::IoPriority { class, level } => {
                write!(f, "set the I/O priority to {}, level {level}", io_class(*class))
            }
            Step::Affinity { cpus, .. } => write!(f, "run on the processors {cpus}"),
            Step::Personality(domain) => write!(f, "set the personality {domain:#x}"),
            Step::MemoryPolicy { mode, nodes, .. } => memory_policy(f, *mode, nodes),
            Step::Label { lsm, text } => label(f, *lsm, text),
            Step::Umask(mask) => write!(f, "set the umask {mask:04o}"),
            Step::DropBounding(mask) => {
                write!(f, "drop {} capabilities from the bounding set", mask.count_ones())
            }
            Step::KeepCapabilities => f.write_str("keep capabilities across the change of user"),
            Step::Credentials { uid, gid, groups } => credentials(f, *uid, *gid, groups.as_deref()),
            Step::Chdir { path, .. } => write!(f, "enter the directory {}", s(path)),
            Step::ChdirAsUser(path) => write!(f, "enter the directory {} as the user", s(path)),
            Step::GiveStreams { uid, .. } => write!(f, "make uid {uid} the owner of the standard streams"),
            Step::Capabilities { effective, permitted, inheritable } => {
                capabilities(f, [*effective, *permitted, *inheritable])
            }
            Step::Ambient(mask) => write!(f, "set {} ambient capabilities", mask.count_ones()),
            Step::NoNewPrivs => f.write_str("prevent programs from gaining privileges"),
            Step::Seccomp { filter, flags } => seccomp(f, filter.len(), *flags),
            Step::Proc { .. } => f.write_str("open the root of a procfs"),
            Step::ControllingTerminal => f.write_str("make the terminal the controlling terminal"),
            Step::Stage(_) => f.write_str("execute the stage, which does not share the caller's memory"),
            Step::Signals => f.write_str("unblock all signals"),
            Step::Started => f.write_str("report that only the filter and the program are left"),
            Step::Ready => f.write_str("report that namespaces and mounts are made"),
            Step::Hook(hook) => write!(f, "run the {} hook {}", hook.when, s(&hook.path)),
            Step::Hold => f.write_str("wait to be started"),
            Step::Exec(exec) => write!(f, "execute {}", exec.name),
        }
    }
}

fn s(text: &CStr) -> Cow<'_, str> {
    text.to_string_lossy()
}

/// Returns the names of the kinds.
fn list(kinds: Kinds) -> String {
    kinds.kinds().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

fn map_self(f: &mut fmt::Formatter<'_>, uid_map: &CStr, gid_map: &CStr) -> fmt::Result {
    write!(f, "map uid {} and gid {}, setgroups denied", s(uid_map).trim(), s(gid_map).trim())
}

fn propagation_of_all(f: &mut fmt::Formatter<'_>, flags: u64) -> fmt::Result {
    let what = if flags & libc::MS_REC != 0 { "every mount" } else { "the root mount" };
    write!(f, "make {what} {}", propagation(flags & !libc::MS_REC))
}

fn node(f: &mut fmt::Formatter<'_>, dest: &Dest, mode: u32, device: u64) -> fmt::Result {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFBLK => 'b',
        libc::S_IFCHR => 'c',
        _ => return write!(f, "make the pipe {dest}"),
    };
    write!(f, "make the device {dest} ({kind} {}:{})", libc::major(device), libc::minor(device))
}

fn r#become(f: &mut fmt::Formatter<'_>, uid: u32, gid: u32) -> fmt::Result {
    write!(f, "become uid {uid} and gid {gid} of the user namespace")
}

fn sysctl(f: &mut fmt::Formatter<'_>, path: &CStr, value: &CStr) -> fmt::Result {
    let name = s(path).trim_start_matches("sys/").replace('/', ".");
    write!(f, "set the kernel parameter {name} to {}", s(value))
}

fn rlimit(f: &mut fmt::Formatter<'_>, limit: RlimitStep) -> fmt::Result {
    let RlimitStep { resource, soft, hard } = limit;
    write!(f, "set the limit {} to {soft}:{hard}", crate::spec::rlimit_name(resource))
}

fn scheduler(f: &mut fmt::Formatter<'_>, attributes: &libc::sched_attr) -> fmt::Result {
    write!(f, "schedule by {}", policy_name(attributes.sched_policy))?;
    match attributes.sched_policy as i32 {
        libc::SCHED_FIFO | libc::SCHED_RR => write!(f, ", priority {}", attributes.sched_priority),
        libc::SCHED_DEADLINE => {
            let libc::sched_attr { sched_runtime, sched_deadline, sched_period, .. } = attributes;
            write!(f, ", {sched_runtime} ns within {sched_deadline} ns, every {sched_period} ns")
        }
        _ => write!(f, ", nice {}", attributes.sched_nice),
    }
}

fn memory_policy(f: &mut fmt::Formatter<'_>, mode: u32, nodes: &CpuList) -> fmt::Result {
    write!(f, "set the memory policy {mode:#x}")?;
    if nodes.is_empty() { Ok(()) } else { write!(f, " for the nodes {nodes}") }
}

fn label(f: &mut fmt::Formatter<'_>, lsm: Lsm, text: &CStr) -> fmt::Result {
    match lsm {
        Lsm::AppArmor => write!(f, "set the AppArmor profile {}", s(text).trim_start_matches("exec ")),
        Lsm::Selinux => write!(f, "set the SELinux label {}", s(text)),
    }
}

fn credentials(f: &mut fmt::Formatter<'_>, uid: u32, gid: u32, groups: Option<&[u32]>) -> fmt::Result {
    write!(f, "become uid {uid}, gid {gid}")?;
    match groups {
        Some([]) => f.write_str(", no other groups"),
        Some(groups) => write!(f, ", groups {groups:?}"),
        None => Ok(()),
    }
}

fn capabilities(f: &mut fmt::Formatter<'_>, sets: [u64; 3]) -> fmt::Result {
    let [effective, permitted, inheritable] = sets.map(u64::count_ones);
    write!(f, "set {effective} effective, {permitted} permitted, {inheritable} inheritable capabilities")
}

fn seccomp(f: &mut fmt::Formatter<'_>, length: usize, flags: libc::c_ulong) -> fmt::Result {
    write!(f, "load the seccomp filter ({length} instructions)")?;
    match flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER {
        0 => Ok(()),
        _ => f.write_str(" and send its listener"),
    }
}

/// Returns the name of a scheduling policy.
fn policy_name(policy: u32) -> &'static str {
    match policy as i32 {
        libc::SCHED_OTHER => "SCHED_OTHER",
        libc::SCHED_FIFO => "SCHED_FIFO",
        libc::SCHED_RR => "SCHED_RR",
        libc::SCHED_BATCH => "SCHED_BATCH",
        libc::SCHED_IDLE => "SCHED_IDLE",
        libc::SCHED_DEADLINE => "SCHED_DEADLINE",
        _ => "?",
    }
}

fn io_class(class: u8) -> &'static str {
    ["none", "real time", "best effort", "idle"].get(usize::from(class)).copied().unwrap_or("?")
}
