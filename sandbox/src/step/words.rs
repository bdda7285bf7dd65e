//! The steps in words: for plans that print themselves, and before errors.

use std::ffi::CString;
use std::fmt;

use ns_core::Kinds;

use super::{Dest, MountStep, Place, Slot, Step, What};

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
    fn path(self) -> &'static str {
        match self {
            Slot::Root => "/",
            Slot::Proc => "/proc",
            Slot::Sys => "/sys",
            Slot::Dev => "/dev",
            Slot::Pts => "/dev/pts",
            Slot::Mask => "an empty directory",
        }
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
                    f.write_str(" with all below it")?;
                }
            }
            What::Overlay { options } => write!(f, "mount an overlay ({})", options.to_string_lossy())?,
            What::Here => return f.write_str("keep the root of the mount namespace"),
        }
        match &self.place {
            Place::NewRoot => f.write_str(" as the new root")?,
            Place::In(dest) => write!(f, " on {dest}")?,
            Place::Within(slot, name) => {
                write!(f, " on {}/{}", slot.path().trim_end_matches('/'), name.to_string_lossy())?
            }
            Place::Detached => f.write_str(", attached nowhere")?,
        }
        let flags = [
            (libc::MOUNT_ATTR_RDONLY, "ro"),
            (libc::MOUNT_ATTR_NOSUID, "nosuid"),
            (libc::MOUNT_ATTR_NODEV, "nodev"),
            (libc::MOUNT_ATTR_NOEXEC, "noexec"),
        ];
        let set: Vec<&str> =
            flags.into_iter().filter(|(bit, _)| self.set & bit != 0).map(|(_, name)| name).collect();
        if !set.is_empty() {
            write!(f, " ({})", set.join(","))?;
        }
        Ok(())
    }
}

/// A sentence fragment that names the action and its object: `join the net namespace of
/// process 42`. The words before an error.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |c: &CString| c.to_string_lossy().into_owned();
        let list = |kinds: Kinds| kinds.kinds().map(|k| k.name()).collect::<Vec<_>>().join(", ");
        match self {
            Step::JoinFd { kind, from, .. } => write!(f, "join the {} namespace of {from}", kind.name()),
            Step::JoinPidfd { kinds, pid, .. } => {
                write!(f, "join the {} namespaces of process {pid}", list(*kinds))
            }
            Step::Unshare(kinds) => write!(f, "make new {} namespaces", list(*kinds)),
            Step::MapSelf { uid_map, gid_map } => {
                write!(f, "map uid {} and gid {}, setgroups denied", s(uid_map).trim(), s(gid_map).trim())
            }
            Step::AwaitMaps => f.write_str("wait for the parent to write the id maps"),
            Step::Become { uid, gid, .. } => {
                write!(f, "become uid {uid} and gid {gid} of the user namespace")
            }
            Step::TimeOffsets(text) => {
                write!(f, "set the clock offsets {}", s(text).trim().replace('\n', ", "))
            }
            Step::Undumpable => f.write_str("keep the caller's memory from the container's processes"),
            Step::Clone(kinds) if kinds.is_empty() => f.write_str("go on in a sibling process"),
            Step::Clone(kinds) => {
                write!(f, "go on in a sibling process with new {} namespaces", list(*kinds))
            }
            Step::Setsid => f.write_str("start a session"),
            Step::Propagation(flags) => {
                let how = if flags & libc::MS_SLAVE != 0 { "slave" } else { "private" };
                write!(f, "make every mount {how}")
            }
            Step::Mount(mount) => mount.fmt(f),
            Step::Node { slot, name, mode, device } => write!(
                f,
                "make the device {}/{} ({} {}:{})",
                slot.path(),
                s(name),
                if mode & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' },
                libc::major(*device),
                libc::minor(*device)
            ),
            Step::File { slot, name } => write!(f, "make the file {}/{}", slot.path(), s(name)),
            Step::Symlink { slot, name, target } => {
                write!(f, "link {}/{} to {}", slot.path(), s(name), s(target))
            }
            Step::Mkdir { slot, name, .. } => write!(f, "make the directory {}/{}", slot.path(), s(name)),
            Step::Mask(dest) => write!(f, "mask {dest}"),
            Step::ReadOnly(dest) => write!(f, "make {dest} read-only"),
            Step::Sysctl { path, value } => {
                write!(
                    f,
                    "set the kernel parameter {} to {}",
                    s(path).trim_start_matches("sys/").replace('/', "."),
                    s(value)
                )
            }
            Step::PivotRoot { readonly: false } => f.write_str("make the new root /"),
            Step::PivotRoot { readonly: true } => f.write_str("make the new root / and read-only"),
            Step::Terminal { .. } => f.write_str("open a terminal"),
            Step::Hostname(name) => write!(f, "set the host name {}", s(name)),
            Step::Domainname(name) => write!(f, "set the domain name {}", s(name)),
            Step::Loopback => f.write_str("bring up the loopback interface"),
            Step::Rlimit(r) => {
                write!(f, "set the limit {} to {}:{}", crate::spec::rlimit_name(r.resource), r.soft, r.hard)
            }
            Step::OomScoreAdj(value) => write!(f, "set oom_score_adj to {}", s(value)),
            Step::Descriptors => f.write_str("place the file descriptors and close all others"),
            Step::Umask(mask) => write!(f, "set the umask {mask:04o}"),
            Step::DropBounding(mask) => {
                write!(f, "drop {} capabilities from the bounding set", mask.count_ones())
            }
            Step::KeepCapabilities => f.write_str("keep capabilities across the change of user"),
            Step::Credentials { uid, gid, groups } => {
                write!(f, "become uid {uid}, gid {gid}")?;
                match groups {
                    Some(groups) if !groups.is_empty() => write!(f, ", groups {groups:?}"),
                    Some(_) => f.write_str(", no other groups"),
                    None => Ok(()),
                }
            }
            Step::Chdir(path) => write!(f, "enter the directory {}", s(path)),
            Step::Capabilities { effective, permitted, inheritable } => write!(
                f,
                "set {} effective, {} permitted, {} inheritable capabilities",
                effective.count_ones(),
                permitted.count_ones(),
                inheritable.count_ones()
            ),
            Step::Ambient(mask) => write!(f, "set {} ambient capabilities", mask.count_ones()),
            Step::NoNewPrivs => f.write_str("let no program gain privileges"),
            Step::Seccomp { filter, .. } => {
                write!(f, "load the seccomp filter ({} instructions)", filter.len())
            }
            Step::Ready => f.write_str("say that namespaces and mounts are made"),
            Step::Hook(hook) => write!(f, "run the {} hook {}", hook.when, hook.path.to_string_lossy()),
            Step::Hold => f.write_str("wait for the word to go on"),
            Step::Exec(exec) => write!(f, "execute {}", exec.name),
        }
    }
}
