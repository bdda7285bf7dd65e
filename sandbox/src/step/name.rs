//! The name and the object of each step, for machine-readable errors.

use std::ffi::CStr;

use super::{Lsm, Place, PlannedStep, Step, What};

impl PlannedStep<'_> {
    /// Returns the stable name of the step, such as `mount`, `sysctl` or `exec`: the `step` of an
    /// error. The text of [`Display`](std::fmt::Display) is for people and can change.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Returns the object of the step: a path in the container, the source on the host for a bind
    /// mount, a program, or a name. Returns `None` if the step changes the process itself.
    pub fn object(&self) -> Option<String> {
        self.0.object()
    }
}

impl Step {
    /// See [`PlannedStep::name`].
    pub fn name(&self) -> &'static str {
        match self {
            Step::JoinFd { .. } | Step::JoinPidfd { .. } => "join-namespace",
            Step::Owner(_) => "owner",
            Step::Unshare(_) => "unshare",
            Step::MapSelf { .. } | Step::AwaitMaps => "id-maps",
            Step::AwaitLimits => "limits",
            Step::Become { .. } => "become-root",
            Step::TimeOffsets(_) => "time-offsets",
            Step::Undumpable => "undumpable",
            Step::Clone(_) => "clone",
            Step::Setsid => "session",
            Step::Propagation(_) | Step::Private(_) => "propagation",
            Step::Mount(_) => "mount",
            Step::Node { .. } => "node",
            Step::File { .. } => "file",
            Step::Symlink { .. } => "symlink",
            Step::Mkdir { .. } | Step::Directory(_) => "directory",
            Step::Mask(_) => "mask",
            Step::ReadOnly(_) => "read-only",
            Step::Sysctl { .. } => "sysctl",
            Step::PivotRoot { .. } | Step::ChangeRoot { .. } | Step::EnterRoot(_) => "root",
            Step::Terminal { .. } | Step::ControllingTerminal | Step::Console(_) => "terminal",
            Step::Hostname(_) => "hostname",
            Step::Domainname(_) => "domainname",
            Step::Loopback => "loopback",
            Step::Rlimit(_) => "rlimit",
            Step::OomScoreAdj(_) => "oom-score-adj",
            Step::Descriptors | Step::GiveStreams { .. } => "descriptors",
            Step::Keyring(_) => "keyring",
            Step::Scheduler(_) => "scheduler",
            Step::IoPriority { .. } => "io-priority",
            Step::Affinity { .. } => "affinity",
            Step::Personality(_) => "personality",
            Step::MemoryPolicy { .. } => "memory-policy",
            Step::Label { lsm: Lsm::AppArmor, .. } => "apparmor",
            Step::Label { lsm: Lsm::Selinux, .. } => "selinux",
            Step::Proc { .. } => "proc",
            Step::Umask(_) => "umask",
            Step::DropBounding(_) | Step::KeepCapabilities | Step::Capabilities { .. } | Step::Ambient(_) => {
                "capabilities"
            }
            Step::Credentials { .. } => "credentials",
            Step::Chdir { .. } | Step::ChdirAsUser(_) => "cwd",
            Step::NoNewPrivs => "no-new-privs",
            Step::Seccomp { .. } => "seccomp",
            Step::Ready | Step::Started | Step::Hold => "report",
            Step::Hook(_) => "hook",
            Step::Stage(_) => "stage",
            Step::Signals => "signals",
            Step::Exec(_) => "exec",
        }
    }

    /// See [`PlannedStep::object`].
    pub fn object(&self) -> Option<String> {
        let text = |text: &CStr| Some(text.to_string_lossy().into_owned());
        match self {
            Step::JoinFd { from, .. } => Some(from.clone()),
            Step::JoinPidfd { pid, .. } => Some(format!("process {pid}")),
            Step::Private(path) | Step::Chdir { path, .. } | Step::ChdirAsUser(path) => text(path),
            Step::Mount(mount) => match (&mount.what, &mount.place) {
                (What::Bind { source, .. }, _) => text(source),
                (_, Place::In(dest)) => Some(dest.to_string()),
                (_, Place::Within(slot, name)) => {
                    Some(format!("{}/{}", slot.path().trim_end_matches('/'), name.to_string_lossy()))
                }
                _ => Some("/".into()),
            },
            Step::Node { dest, .. }
            | Step::Symlink { dest, .. }
            | Step::Directory(dest)
            | Step::Mask(dest)
            | Step::ReadOnly(dest)
            | Step::Console(dest) => Some(dest.to_string()),
            Step::File { slot, name } | Step::Mkdir { slot, name, .. } => {
                Some(format!("{}/{}", slot.path().trim_end_matches('/'), name.to_string_lossy()))
            }
            Step::Sysctl { path, .. } => {
                text(path).map(|path| path.trim_start_matches("sys/").replace('/', "."))
            }
            Step::Hostname(name) | Step::Domainname(name) | Step::Keyring(name) => text(name),
            Step::Rlimit(limit) => Some(crate::spec::rlimit_name(limit.resource).to_string()),
            Step::Label { text: label, .. } => text(label),
            Step::Hook(hook) => text(&hook.path),
            Step::Exec(exec) => Some(exec.name.clone()),
            _ => None,
        }
    }
}
