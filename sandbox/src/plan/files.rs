//! What the container sees as its file system: root, mounts, masks; and the names and
//! devices that are set up along with them.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ns_core::Kind;

use super::{Ids, Plan, Tree, c_string};
use crate::error::Error;
use crate::host::Host;
use crate::spec::{Mount, MountKind, Namespace, Root, Terminal, Writes};
use crate::step::{Create, Dest, MountStep, Param, Place, Slot, Step, What};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;

pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let spec = plan.spec.clone();
    let new = |kind| spec.namespaces.is_new(kind);
    if spec.process.new_session || spec.process.terminal.is_some() {
        plan.push(Step::Setsid);
    }
    if let Some(name) = &spec.hostname {
        plan.push(Step::Hostname(c_string("hostname", name)?));
    }
    if let Some(name) = &spec.domainname {
        plan.push(Step::Domainname(c_string("domainname", name)?));
    }
    if spec.loopback && new(Kind::Net) {
        plan.push(Step::Loopback);
    }
    let mut builder = Files {
        // A user namespace of root's maps root to an id that cannot reach what root can.
        parent_opens: ids.foreign && host.privileged(),
        foreign: ids.foreign,
        bind_devices: ids.foreign || !host.mknod(),
        own: |kind| !ids.new || spec.namespaces.is_new(kind),
        host_ipc: spec.namespaces.ipc == Namespace::Host,
        tty_group: ids.tty_group,
        creates: spec.root != Root::Host && spec.root != Root::HostReadOnly,
        writable_for: spec.mounts.iter().map(|m| m.destination.clone()).collect(),
        proc: None,
        sys: None,
        plan,
    };
    if new(Kind::Mnt) {
        builder.plan.push(Step::Propagation(libc::MS_REC | libc::MS_PRIVATE));
        builder.root(&spec.root)?;
        for (index, mount) in spec.mounts.iter().enumerate() {
            builder.mount(&format!("mounts[{index}]"), mount)?;
        }
    }
    builder.sysctls(&spec.sysctls)?;
    for path in &spec.readonly_paths {
        let dest = builder.held("readonly_paths", path)?;
        builder.plan.push(Step::ReadOnly(dest));
    }
    for path in &spec.masked_paths {
        let dest = builder.held("masked_paths", path)?;
        builder.plan.push(Step::Mask(dest));
    }
    let plan = builder.plan;
    if let Some(Terminal { rows, columns }) = spec.process.terminal {
        plan.push(Step::Terminal { rows, columns });
    }
    plan.push_ready()?;
    if new(Kind::Mnt) {
        match spec.root {
            Root::Host => {}
            Root::Dir { readonly, .. } => plan.push(Step::PivotRoot { readonly }),
            _ => plan.push(Step::PivotRoot { readonly: false }),
        }
    }
    Ok(())
}

struct Files<'a, F: Fn(Kind) -> bool> {
    plan: &'a mut Plan,
    parent_opens: bool,
    /// The container has a user namespace that is not the caller's.
    foreign: bool,
    bind_devices: bool,
    /// The container's user namespace owns its namespace of this kind.
    own: F,
    host_ipc: bool,
    tty_group: bool,
    creates: bool,
    writable_for: Vec<PathBuf>,
    /// Where `/proc` and `/sys` of the container are, once they are mounted.
    proc: Option<PathBuf>,
    sys: Option<PathBuf>,
}

impl<F: Fn(Kind) -> bool> Files<'_, F> {
    fn root(&mut self, root: &Root) -> Result<(), Error> {
        let step = match root {
            Root::Host => MountStep { keep: Some(Slot::Root), ..step(What::Here, Place::Detached) },
            Root::HostReadOnly => MountStep {
                set: RDONLY | NODEV,
                recursive: true,
                keep: Some(Slot::Root),
                ..step(self.bind("root", Path::new("/"), true, None)?, Place::NewRoot)
            },
            Root::Dir { path, .. } => {
                let path = absolute("root.path", path)?;
                MountStep {
                    set: NODEV,
                    recursive: true,
                    keep: Some(Slot::Root),
                    ..step(self.bind("root.path", path, true, None)?, Place::NewRoot)
                }
            }
            Root::Empty => MountStep {
                set: RDONLY | NODEV | NOSUID | NOEXEC,
                keep: Some(Slot::Root),
                ..step(new("tmpfs", tmpfs_params(None, Some(0o755))?), Place::NewRoot)
            },
            Root::Overlay { lower, writes } => return self.overlay(lower, writes),
        };
        self.plan.push(Step::Mount(step));
        Ok(())
    }

    fn overlay(&mut self, lower: &[PathBuf], writes: &Writes) -> Result<(), Error> {
        if lower.is_empty() {
            return Err(Error::invalid("root.lower", "an overlay takes at least one layer"));
        }
        let mut options = b"lowerdir=".to_vec();
        for (index, layer) in lower.iter().enumerate() {
            if index > 0 {
                options.push(b':');
            }
            escape(&mut options, absolute("root.lower", layer)?, b":\\,");
        }
        match writes {
            Writes::Tmpfs { size } => {
                // A tmpfs over `/`, which `/..` leads to; the overlay goes on top of it.
                let params = tmpfs_params(*size, Some(0o755))?;
                let tmpfs =
                    MountStep { keep: Some(Slot::Root), ..step(new("tmpfs", params), Place::NewRoot) };
                self.plan.push(Step::Mount(tmpfs));
                for name in [c"upper", c"work"] {
                    self.plan.push(Step::Mkdir { slot: Slot::Root, name: name.into(), mode: 0o755 });
                }
                options.extend(b",upperdir=/../upper,workdir=/../work");
            }
            Writes::Dir { upper, work } => {
                options.extend(b",upperdir=");
                escape(&mut options, absolute("root.writes.upper", upper)?, b"\\,");
                options.extend(b",workdir=");
                escape(&mut options, absolute("root.writes.work", work)?, b"\\,");
            }
        }
        if self.foreign {
            // Without privileges overlayfs keeps its marks in user.* attributes.
            options.extend(b",userxattr");
        }
        if options.len() > 4000 {
            return Err(Error::invalid(
                "root.lower",
                "the layers' paths are longer than a page holds: use shorter ones",
            ));
        }
        let options = CString::new(options).map_err(|_| Error::invalid("root", "a path holds a NUL byte"))?;
        let overlay = MountStep { set: NODEV, ..step(What::Overlay { options }, Place::NewRoot) };
        self.plan.push(Step::Mount(overlay));
        Ok(())
    }

    fn bind(
        &mut self,
        field: &str,
        source: &Path,
        recursive: bool,
        device: Option<u64>,
    ) -> Result<What, Error> {
        let source = c_string(field, source)?;
        let tree = self.parent_opens.then(|| {
            self.plan.trees.push(Tree { source: source.clone(), recursive });
            self.plan.trees.len() - 1
        });
        Ok(What::Bind { source, recursive, tree, device })
    }

    fn mount(&mut self, field: &str, mount: &Mount) -> Result<(), Error> {
        let mut create = match self.creates || self.within_writable(&mount.destination) {
            true => Create::Dir,
            false => Create::No,
        };
        let mut set = 0;
        for (wanted, bit) in
            [(mount.readonly, RDONLY), (mount.nosuid, NOSUID), (mount.nodev, NODEV), (mount.noexec, NOEXEC)]
        {
            if wanted {
                set |= bit;
            }
        }
        let (mut recursive, mut keep) = (false, None);
        let destination_field = format!("{field}.destination");
        let what = match &mount.kind {
            MountKind::Bind { source, recursive: all } => {
                let source = absolute(&format!("{field}.kind.source"), source)?;
                recursive = *all;
                if create == Create::Dir && source.metadata().is_ok_and(|m| !m.is_dir()) {
                    create = Create::File;
                }
                self.bind(field, source, *all, None)?
            }
            MountKind::Tmpfs { size, mode } => new("tmpfs", tmpfs_params(*size, *mode)?),
            MountKind::Proc if (self.own)(Kind::Pid) => new("proc", Vec::new()),
            MountKind::Sysfs if (self.own)(Kind::Net) => new("sysfs", Vec::new()),
            MountKind::Cgroup if (self.own)(Kind::Cgroup) => new("cgroup2", Vec::new()),
            MountKind::Mqueue if (self.own)(Kind::Ipc) => new("mqueue", Vec::new()),
            // Not the container's own: what the caller sees is all that may be shown.
            MountKind::Proc => self.bind_own(field, &mut recursive, Kind::Pid, "/proc")?,
            MountKind::Sysfs => self.bind_own(field, &mut recursive, Kind::Net, "/sys")?,
            MountKind::Cgroup => self.bind_own(field, &mut recursive, Kind::Cgroup, "/sys/fs/cgroup")?,
            MountKind::Mqueue => self.bind_own(field, &mut recursive, Kind::Ipc, "/dev/mqueue")?,
            MountKind::Devpts => new("devpts", self.devpts_params()?),
            MountKind::Dev => return self.dev(&destination_field, mount, create),
            MountKind::FileSystem { .. } | MountKind::Remount => {
                return Err(Error::invalid(field, "this kind of mount is not made yet"));
            }
        };
        match mount.kind {
            MountKind::Proc => {
                keep = Some(Slot::Proc);
                self.proc = Some(mount.destination.clone());
            }
            MountKind::Sysfs => {
                keep = Some(Slot::Sys);
                self.sys = Some(mount.destination.clone());
            }
            MountKind::Devpts => keep = Some(Slot::Pts),
            _ => {}
        }
        let mut dest = dest(&destination_field, &mount.destination, create)?;
        // What the kernel's file systems show must not be led astray by an image's links.
        dest.no_links = !matches!(mount.kind, MountKind::Bind { .. } | MountKind::Tmpfs { .. });
        let place = Place::In(dest);
        self.plan.push(Step::Mount(MountStep { set, recursive, keep, ..step(what, place) }));
        Ok(())
    }

    fn bind_own(&mut self, field: &str, recursive: &mut bool, kind: Kind, path: &str) -> Result<What, Error> {
        // What the caller sees is another's than the container would share: the host's processes
        // and message queues, where those of a pod were asked for. (A sysfs or cgroup2 that is
        // read-only tells less, and nothing else is to be had.)
        let joined = matches!(self.plan.spec.namespaces.get(kind), Namespace::Join(_));
        if joined && matches!(kind, Kind::Pid | Kind::Ipc) {
            let problem = format!(
                "a new user namespace cannot mount {path} of a {kind} namespace that it joins: join its \
                 user namespace too, or have a new {kind} namespace"
            );
            return Err(Error::invalid(field, problem));
        }
        *recursive = true;
        self.bind("mounts", Path::new(path), true, None)
    }

    /// An earlier mount of this plan holds the destination, so it can be made there.
    fn within_writable(&self, destination: &Path) -> bool {
        self.writable_for
            .iter()
            .any(|other| other != destination && destination.starts_with(other) && other != Path::new("/"))
    }

    fn devpts_params(&self) -> Result<Vec<Param>, Error> {
        let mut params: Vec<Param> = vec![
            (c"newinstance".into(), None),
            (c"ptmxmode".into(), Some(c"0666".into())),
            (c"mode".into(), Some(c"0620".into())),
        ];
        if self.tty_group {
            params.push((c"gid".into(), Some(c"5".into())));
        }
        Ok(params)
    }

    fn dev(&mut self, field: &str, mount: &Mount, create: Create) -> Result<(), Error> {
        let params = tmpfs_params(Some(64 << 10), Some(0o755))?;
        let mut dest = dest(field, &mount.destination, create)?;
        dest.no_links = true;
        let place = Place::In(dest);
        let set = NOSUID | NOEXEC;
        let dev = MountStep { set, keep: Some(Slot::Dev), ..step(new("tmpfs", params), place) };
        self.plan.push(Step::Mount(dev));
        let devices = [
            (c"null", 1, 3),
            (c"zero", 1, 5),
            (c"full", 1, 7),
            (c"random", 1, 8),
            (c"urandom", 1, 9),
            (c"tty", 5, 0),
        ];
        for (name, major, minor) in devices {
            let (slot, name, device) = (Slot::Dev, CString::from(name), libc::makedev(major, minor));
            if !self.bind_devices {
                self.plan.push(Step::Node { slot, name, mode: libc::S_IFCHR | 0o666, device });
                continue;
            }
            self.plan.push(Step::File { slot, name: name.clone() });
            let source = Path::new("/dev").join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            let what = self.bind(field, &source, false, Some(device))?;
            self.plan.push(Step::Mount(step(what, Place::Within(slot, name))));
        }
        for (name, target) in [
            (c"fd", c"/proc/self/fd"),
            (c"stdin", c"/proc/self/fd/0"),
            (c"stdout", c"/proc/self/fd/1"),
            (c"stderr", c"/proc/self/fd/2"),
            (c"ptmx", c"pts/ptmx"),
        ] {
            self.plan.push(Step::Symlink { slot: Slot::Dev, name: name.into(), target: target.into() });
        }
        let pts = new("devpts", self.devpts_params()?);
        self.within_dev(c"pts", 0o755, pts, NOSUID | NOEXEC, Some(Slot::Pts));
        if self.plan.spec.process.terminal.is_some() {
            self.plan.push(Step::File { slot: Slot::Dev, name: c"console".into() });
        }
        let strict = NOSUID | NODEV | NOEXEC;
        if !self.host_ipc {
            let shm = new("tmpfs", tmpfs_params(Some(64 << 20), Some(0o1777))?);
            self.within_dev(c"shm", 0o1777, shm, strict, None);
            if (self.own)(Kind::Ipc) {
                self.within_dev(c"mqueue", 0o755, new("mqueue", Vec::new()), strict, None);
            }
        } else {
            // Whoever shares the host's ipc namespace shares its named memory.
            self.plan.push(Step::Mkdir { slot: Slot::Dev, name: c"mqueue".into(), mode: 0o755 });
            let shm = self.bind(field, Path::new("/dev/shm"), true, None)?;
            self.within_dev(c"shm", 0o1777, shm, 0, None);
        }
        Ok(())
    }

    fn within_dev(&mut self, name: &std::ffi::CStr, mode: u32, what: What, set: u64, keep: Option<Slot>) {
        self.plan.push(Step::Mkdir { slot: Slot::Dev, name: name.into(), mode });
        let place = Place::Within(Slot::Dev, name.into());
        self.plan.push(Step::Mount(MountStep { set, keep, ..step(what, place) }));
    }

    /// A path to mask or protect, counted from `/proc` or `/sys` where they are held.
    fn held(&self, field: &str, path: &Path) -> Result<Dest, Error> {
        for (mounted, base) in [(&self.proc, Slot::Proc), (&self.sys, Slot::Sys)] {
            if let Some(rest) = mounted.as_ref().and_then(|mounted| path.strip_prefix(mounted).ok()) {
                let dest = dest(field, &Path::new("/").join(rest), Create::No)?;
                return Ok(Dest { base, ..dest });
            }
        }
        dest(field, path, Create::No)
    }

    fn sysctls(&mut self, sysctls: &std::collections::BTreeMap<String, String>) -> Result<(), Error> {
        if sysctls.is_empty() {
            return Ok(());
        }
        if self.proc.is_none() {
            let keep = Some(Slot::Proc);
            let proc = MountStep { keep, ..step(new("proc", Vec::new()), Place::Detached) };
            self.plan.push(Step::Mount(proc));
        }
        for (name, value) in sysctls {
            let field = format!("sysctls.{name}");
            let path = c_string(&field, format!("sys/{}", name.replace('.', "/")))?;
            self.plan.push(Step::Sysctl { path, value: c_string(&field, value)? });
        }
        Ok(())
    }
}

fn step(what: What, place: Place) -> MountStep {
    MountStep { what, place, set: 0, recursive: false, keep: None }
}

/// A new file system; `source` is only what mount(8) shows of it.
fn new(fstype: &str, mut params: Vec<Param>) -> What {
    let fstype = CString::new(fstype).unwrap_or_default();
    params.insert(0, (c"source".into(), Some(fstype.clone())));
    What::New { fstype, params }
}

fn tmpfs_params(size: Option<u64>, mode: Option<u32>) -> Result<Vec<Param>, Error> {
    let mut params = Vec::new();
    if let Some(mode) = mode {
        params.push((c"mode".into(), Some(c_string("mode", format!("{mode:o}"))?)));
    }
    if let Some(size) = size {
        params.push((c"size".into(), Some(c_string("size", size.to_string())?)));
    }
    Ok(params)
}

fn absolute<'a>(field: &str, path: &'a Path) -> Result<&'a Path, Error> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::invalid(field, format!("{} is not an absolute path", path.display()))),
    }
}

fn escape(options: &mut Vec<u8>, path: &Path, special: &[u8]) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// A path within the root: absolute, and without a step back.
fn dest(field: &str, path: &Path, create: Create) -> Result<Dest, Error> {
    absolute(field, path)?;
    let mut relative = PathBuf::new();
    let mut parents = Vec::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                relative.push(name);
                parents.push((c_string(field, &relative)?, c_string(field, name)?));
            }
            _ => return Err(Error::invalid(field, format!("{} goes back with ..", path.display()))),
        }
    }
    let path = match parents.is_empty() {
        true => c".".into(),
        false => c_string(field, relative)?,
    };
    Ok(Dest { base: Slot::Root, no_links: false, path, parents, create })
}
