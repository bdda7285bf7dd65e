//! Facts about the host and the caller that a plan depends on.

mod mounts;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use cgroup_core::Cgroup;
use nix::errno::Errno;
use ns_core::{Extent, IdMap, Ids, Kind, SubIdRange, SubIds};

pub use self::mounts::HostMount;
use crate::error::Error;
use crate::spec::{IdMaps, MountKind, NamespaceMode, Seccomp, Spec};

/// Facts about the host and the caller that a plan depends on. This is plain data, so a plan can be made
/// for another host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Effective uid of the caller.
    pub uid: u32,
    /// Effective gid of the caller.
    pub gid: u32,
    /// Effective capabilities of the caller: bit n is capability n.
    pub capabilities: u64,
    /// Whether the caller is outside the initial user namespace, so that its capabilities apply
    /// only in its own.
    pub nested: bool,
    /// Ranges of user ids that the caller may map: the caller's lines in `/etc/subuid`.
    pub subuids: Vec<SubIdRange>,
    /// Ranges of group ids that the caller may map: the caller's lines in `/etc/subgid`.
    pub subgids: Vec<SubIdRange>,
    /// Whether newuidmap and newgidmap are installed.
    pub newidmap: bool,
    /// Whether AppArmor is enabled.
    pub apparmor: bool,
    /// Whether SELinux is enabled.
    pub selinux: bool,
    /// Major and minor version of the kernel, for system-call filters and time namespaces.
    pub kernel: (u32, u32),
    /// Mount point of cgroup2, for containers in the caller's cgroup namespace.
    pub cgroup2: Option<PathBuf>,
    /// Mounts of the host, for a root that shows the host's files.
    pub mounts: Vec<HostMount>,
}

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_MKNOD: u64 = 1 << 27;
/// Inode of the initial user namespace (`PROC_USER_INIT_INO` in the kernel).
const INITIAL_USER_NS: u64 = 0xeffffffd;

impl Host {
    /// Reads the facts that a plan for this spec requires.
    /// See [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html) and
    /// [subuid(5)](https://man7.org/linux/man-pages/man5/subuid.5.html).
    ///
    /// # Errors
    /// - `/etc/subuid`, `/etc/subgid` or `/proc/thread-self/mountinfo` cannot be read.
    /// - `EPERM` and `ENOSYS`: a filter of an outer sandbox denies capget(2).
    pub fn detect(spec: &Spec) -> Result<Host, Error> {
        // A caller whose capabilities cannot be read must not count as one without any: a start would then
        // make another container than the one that root wants.
        let capabilities = caps::read(None, caps::CapSet::Effective).map_err(|_| {
            Error::call("setup", "read the capabilities of the caller", "capget", Errno::last_raw())
        })?;
        let capabilities = capabilities.iter().fold(0, |bits, c| bits | 1 << c.index());
        let mut host = Host {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            capabilities,
            nested: Host::is_nested(),
            ..Host::default()
        };
        if matches!(spec.process.seccomp, Seccomp::Profile(_)) || spec.namespaces.is_new(Kind::Time) {
            host.kernel = kernel();
        }
        if spec.process.apparmor_profile.is_some() {
            let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
            host.apparmor = enabled.is_ok_and(|text| text.starts_with(b"Y"));
        }
        if spec.process.selinux_label.is_some() {
            host.selinux = Host::has_selinux();
        }
        if spec.namespaces.cgroup == NamespaceMode::Host && spec.mounts.iter().any(shows_cgroups) {
            host.cgroup2 = Cgroup::top().ok().map(|top| top.path().to_owned());
        }
        let own_user = host.nested || !host.privileged() || spec.namespaces.user != NamespaceMode::Host;
        if spec.hides_sockets() || spec.overlays_host() && own_user {
            const MOUNTS: &str = "/proc/thread-self/mountinfo";
            let text = std::fs::read(MOUNTS).map_err(|e| Error::path("proc", "read", MOUNTS.as_ref(), &e))?;
            host.mounts = HostMount::parse(&text);
        }
        if spec.namespaces.is_new(Kind::User) && spec.id_maps == IdMaps::Auto {
            host.subuids = SubIds::of_caller(Ids::Uid)?;
            host.subgids = SubIds::of_caller(Ids::Gid)?;
        }
        if spec.namespaces.is_new(Kind::User) && !host.privileged() {
            host.newidmap = on_path("newuidmap") && on_path("newgidmap");
        }
        Ok(host)
    }

    /// Returns whether this kernel has SELinux enabled.
    pub fn has_selinux() -> bool {
        let known = std::fs::read_to_string("/proc/filesystems");
        known.is_ok_and(|text| text.lines().any(|line| line.ends_with("\tselinuxfs")))
    }

    /// Returns whether the caller is outside the initial user namespace, for example under rootless
    /// podman. The caller's root is then not the host's root.
    pub fn is_nested() -> bool {
        std::fs::metadata("/proc/self/ns/user").is_ok_and(|ns| ns.ino() != INITIAL_USER_NS)
    }

    /// Returns whether the caller has `CAP_SYS_ADMIN`: it can make namespaces and mounts without a new user
    /// namespace.
    pub fn privileged(&self) -> bool {
        self.capabilities & CAP_SYS_ADMIN != 0
    }

    /// Returns whether the caller can make device nodes.
    pub(crate) fn mknod(&self) -> bool {
        self.capabilities & CAP_MKNOD != 0 && !self.nested
    }

    /// Returns the maps of [`IdMaps::Auto`].
    pub(crate) fn auto_maps(&self) -> (IdMap, IdMap) {
        const COUNT: u32 = 65_536;
        /// The last block of 65,536 ids that systemd reserves for containers (UIDS-GIDS).
        const LAST_BLOCK: u32 = 0x6FFF_0000;
        if self.privileged() && self.uid == 0 && !self.nested {
            let range = |ranges: &[SubIdRange]| {
                let last = SubIdRange { start: LAST_BLOCK, count: COUNT };
                let range = ranges.first().copied().unwrap_or(last);
                IdMap::from(vec![Extent { inside: 0, outside: range.start, count: range.count.min(COUNT) }])
            };
            return (range(&self.subuids), range(&self.subgids));
        }
        if !self.newidmap || self.subuids.is_empty() || self.subgids.is_empty() {
            return (IdMap::single(0, self.uid), IdMap::single(0, self.gid));
        }
        let above = |own: u32, ranges: &[SubIdRange]| {
            let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
            let mut inside = 1u32;
            for range in ranges {
                if let Some(end) = inside.checked_add(range.count) {
                    extents.push(Extent { inside, outside: range.start, count: range.count });
                    inside = end;
                }
            }
            IdMap::from(extents)
        };
        (above(self.uid, &self.subuids), above(self.gid, &self.subgids))
    }
}

fn shows_cgroups(mount: &crate::spec::Mount) -> bool {
    match &mount.kind {
        MountKind::Cgroup => true,
        MountKind::FileSystem { fstype, .. } => fstype == "cgroup2",
        _ => false,
    }
}

fn kernel() -> (u32, u32) {
    let Ok(name) = nix::sys::utsname::uname() else { return (0, 0) };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
