//! What the container sees as its file system: root, mounts, masks; and the names and
//! devices that are set up along with them.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ns_core::Kind;

use super::{Ids, MapsOf, Plan, ProcfsOf, Tree, TreeDevice, TreeMaps, c_string, joined};
use crate::error::Error;
use crate::host::Host;
use crate::spec::{
    Attributes, Link, Mount, MountIdMaps, MountKind, Namespace, Node, NodeKind, Propagation, PropagationKind,
    Root, Spec, Terminal, Writes,
};
use crate::step::{CopyUp, Create, Dest, Last, MountStep, OverProc, Param, Place, Slot, Step, What};

const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
pub(super) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
/// What mount_setattr(2) takes, but for id maps.
const ALL_ATTRIBUTES: u64 =
    RDONLY | NOSUID | NODEV | NOEXEC | ATIME | libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
const PRIVATE: u64 = libc::MS_REC | libc::MS_PRIVATE;
/// `fsconfig` takes no longer words.
pub(super) const FSCONFIG_MAX: usize = 255;
/// mount(2) takes a page of options, with the byte that ends it.
const OPTIONS_MAX: usize = 4095;

pub(super) fn add(plan: &mut Plan, host: &Host, ids: &Ids) -> Result<(), Error> {
    let spec = plan.spec.clone();
    let new = |kind| spec.namespaces.is_new(kind);
    // A process that the stage makes has its session from there.
    if (spec.process.new_session || spec.process.terminal.is_some()) && !plan.enters() {
        plan.push(Step::Setsid);
    }
    not_the_callers(plan, &spec)?;
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
        privileged: host.privileged(),
        foreign: ids.foreign,
        bind_devices: ids.foreign || !host.mknod(),
        own: |kind| !ids.new || spec.namespaces.is_new(kind),
        host_ipc: spec.namespaces.ipc == Namespace::Host,
        cgroup2: host.cgroup2.as_deref(),
        tty_group: ids.tty_group,
        creates: spec.root != Root::Host && spec.root != Root::HostReadOnly,
        writable_for: spec.mounts.iter().map(|m| m.destination.clone()).collect(),
        propagation: propagation(&spec),
        root: match &spec.root {
            Root::Dir { path, .. } if path != Path::new("/") => Some(path),
            _ => None,
        },
        mounted: Vec::new(),
        read_only_last: Vec::new(),
        proc: None,
        sys: None,
        dev: None,
        plan,
    };
    let mounts = new(Kind::Mnt) || spec.mounts_stay;
    if new(Kind::Mnt) {
        builder.plan.push(Step::Propagation(builder.propagation));
    }
    if mounts {
        builder.root(&spec, host)?;
        for (index, mount) in spec.mounts.iter().enumerate() {
            builder.mount(&format!("mounts[{index}]"), mount)?;
        }
        for (index, node) in spec.nodes.iter().enumerate() {
            builder.node(&format!("nodes[{index}]"), node)?;
        }
        for (index, link) in spec.links.iter().enumerate() {
            builder.link(&format!("links[{index}]"), link)?;
        }
        // A working directory that goes back with `..` is there or not when it is entered.
        if spec.process.create_cwd
            && let Some(cwd) = &spec.process.cwd
            && let Ok(dest) = builder.held("process.cwd", cwd, Create::Dir)
        {
            builder.plan.push(Step::Directory(dest));
        }
    }
    builder.sysctls(&spec.sysctls)?;
    for dest in builder.each_once("readonly_paths", &spec.readonly_paths)? {
        builder.plan.push(Step::ReadOnly(dest));
    }
    for dest in builder.each_once("masked_paths", &spec.masked_paths)? {
        builder.plan.push(Step::Mask(dest));
    }
    if let Some(Terminal { rows, columns }) = spec.process.terminal {
        // Its own user can open it again by its name, as after a login.
        let owner = spec.process.user.as_ref().map_or(u32::MAX, |user| user.uid);
        builder.plan.push(Step::Terminal { rows, columns, owner });
        if mounts && (builder.creates || builder.dev.is_some()) {
            let console = builder.held("process.terminal", Path::new("/dev/console"), Create::File)?;
            builder.plan.push(Step::Console(Dest { no_links: true, ..console }));
        }
    }
    let (setup, read_only, plan) = (builder.propagation, builder.read_only_last, builder.plan);
    plan.push_ready()?;
    for (_, dest) in read_only {
        let attributes = to_set(RDONLY);
        let over_proc = OverProc::Yes;
        plan.push(Step::Mount(MountStep { attributes, over_proc, ..step(What::There, Place::In(dest)) }));
    }
    if mounts && spec.root != Root::Host {
        let readonly = match spec.root {
            Root::Dir { readonly, .. } => readonly,
            Root::Empty => true,
            _ => spec.hides_sockets() && super::host_root::is_in_parts(host, ids.foreign),
        };
        let apart = setup & libc::MS_REC != 0 && setup & libc::MS_SHARED == 0;
        plan.push(match spec.no_pivot || spec.mounts_stay {
            // The others in the namespace keep their root, and their kernel file systems.
            true if spec.mounts_stay => Step::ChangeRoot { over: false, readonly, hide: Vec::new() },
            true if !apart => {
                let problem = "without pivot_root(2) the root is private or a slave, with all below it";
                return Err(Error::invalid("propagation", problem));
            }
            true => {
                let over = matches!(spec.root, Root::Dir { .. }) && !spec.hooks.is_empty();
                Step::ChangeRoot { over, readonly, hide: kernel_file_systems()? }
            }
            false => Step::PivotRoot { readonly, shared: !apart },
        });
        if let Some(propagation) = spec.propagation {
            plan.push(Step::Propagation(propagation.flags()));
        }
    }
    Ok(())
}

/// Where the caller's mount namespace has procfs and sysfs.
fn kernel_file_systems() -> Result<Vec<CString>, Error> {
    let file = "/proc/self/mountinfo";
    let text = std::fs::read(file);
    let text =
        text.map_err(|e| Error::io(crate::error::ErrorKind::Process, format!("read {file}"), "read", &e))?;
    let mut points = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(point) = fields.nth(4) else { continue };
        let fstype = fields.skip_while(|field| *field != b"-").nth(1).unwrap_or_default();
        if matches!(fstype, b"proc" | b"sysfs") {
            points.push(c_string("mountinfo", std::ffi::OsStr::from_bytes(&unescaped(point)))?);
        }
    }
    Ok(points)
}

/// proc_pid_mountinfo(5) writes some bytes as octal numbers: `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..3).filter(|_| *first == b'\\');
        let number = number.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(number.unwrap_or(*first));
        rest = if number.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// Names and parameters are set in namespaces that are made or joined, and one that is joined
/// could be the caller's own.
fn not_the_callers(plan: &Plan, spec: &Spec) -> Result<(), Error> {
    let names = [("hostname", &spec.hostname), ("domainname", &spec.domainname)];
    let names = names.into_iter().filter(|(_, name)| name.is_some());
    let mut set: Vec<_> = names.map(|(field, _)| (field.to_owned(), Kind::Uts)).collect();
    for name in spec.sysctls.keys() {
        let field = format!("sysctls.{name}");
        let kind = super::check_sysctl("sysctls", name, &spec.namespaces)?;
        set.push((field, kind));
    }
    for (field, kind) in set {
        let Some(namespace) = joined(plan, kind)? else { continue };
        let own = ns_core::Namespace::current(kind)?.id();
        if ns_core::Namespace::from_owned_fd(namespace)?.id() == own {
            let problem =
                format!("the {kind} namespace that is joined is the caller's own: the host would be changed");
            return Err(Error::invalid(&field, problem));
        }
    }
    Ok(())
}

/// How mount events pass while the container is set up, as mount(2) takes it.
fn propagation(spec: &Spec) -> u64 {
    match spec.propagation {
        // That of the namespace is left as it is, so each mount is kept apart by itself.
        _ if spec.mounts_stay => 0,
        // What is unbindable could not be bound either: that comes at the end.
        Some(Propagation { kind: PropagationKind::Unbindable, recursive }) => {
            Propagation { kind: PropagationKind::Private, recursive }.flags()
        }
        Some(propagation) => propagation.flags(),
        None if spec.mounts.iter().any(receives) => libc::MS_REC | libc::MS_SLAVE,
        None => PRIVATE,
    }
}

/// Whether what happens on the host shall be seen on the mount.
fn receives(mount: &Mount) -> bool {
    mount.propagation.iter().any(|p| matches!(p.kind, PropagationKind::Shared | PropagationKind::Slave))
}

pub(super) struct Files<'a, F: Fn(Kind) -> bool> {
    pub(super) plan: &'a mut Plan,
    pub(super) parent_opens: bool,
    /// The caller has CAP_SYS_ADMIN.
    privileged: bool,
    /// The container has a user namespace that is not the caller's.
    pub(super) foreign: bool,
    bind_devices: bool,
    /// The container's user namespace owns its namespace of this kind.
    own: F,
    host_ipc: bool,
    /// Where the caller's cgroup hierarchy is, if the container stays in its cgroup namespace.
    cgroup2: Option<&'a Path>,
    tty_group: bool,
    creates: bool,
    writable_for: Vec<PathBuf>,
    /// How mount events pass while the container is set up.
    propagation: u64,
    /// The directory of the host's that is the new root.
    root: Option<&'a Path>,
    /// Where the list has mounted something so far.
    mounted: Vec<PathBuf>,
    /// Mounts that are to be read-only when all that lies in them is made.
    read_only_last: Vec<(PathBuf, Dest)>,
    /// Where `/proc`, `/sys` and `/dev` of the container are, once they are mounted.
    proc: Option<PathBuf>,
    sys: Option<PathBuf>,
    dev: Option<PathBuf>,
}

impl<F: Fn(Kind) -> bool> Files<'_, F> {
    fn root(&mut self, spec: &Spec, host: &Host) -> Result<(), Error> {
        let nodev = if spec.root_nodev { NODEV } else { 0 };
        let place = match &spec.root {
            // Hooks look for the root there, and for their own files at `/`.
            Root::Dir { path, .. } if !spec.hooks.is_empty() || spec.mounts_stay => {
                Place::At(c_string("root.path", path)?)
            }
            _ => Place::NewRoot,
        };
        // Neither the root nor what is mounted in it may appear on the host.
        let apart = self.propagation == PRIVATE || spec.root == Root::Host;
        // From a slave nothing passes either, and what happens on the host is still seen.
        let slave = spec.propagation.is_some_and(|p| p.kind == PropagationKind::Slave);
        match &place {
            _ if spec.mounts_stay => {}
            Place::At(path) if !apart => self.plan.push(Step::Private(path.clone())),
            _ if !apart && !slave => self.plan.push(Step::Private(c"/".into())),
            _ => {}
        }
        if spec.hides_sockets() {
            return self.host_root(host, spec, nodev);
        }
        let mut step = match &spec.root {
            Root::Host => step(What::Here, Place::Detached),
            Root::HostReadOnly => MountStep {
                recursive: to_set(RDONLY | nodev),
                ..step(self.bind("root", Path::new("/"), true, None)?, place)
            },
            Root::Dir { path, .. } => {
                let path = absolute("root.path", path)?;
                MountStep {
                    recursive: to_set(nodev),
                    ..step(self.bind("root.path", path, true, None)?, place)
                }
            }
            // Read-only it is when everything has its place.
            Root::Empty => MountStep {
                attributes: to_set(NODEV | NOSUID | NOEXEC),
                ..step(new("tmpfs", tmpfs_params(None, Some(0o755))?), place)
            },
            Root::Overlay { lower, writes } => {
                MountStep { attributes: to_set(nodev), ..step(self.overlay(lower, writes)?, place) }
            }
        };
        if !apart {
            // What is mounted below it on the host stays what it was asked to be.
            let below = if spec.propagation.is_some_and(|p| p.recursive) { 0 } else { libc::MS_REC };
            step.propagation.push(if slave { libc::MS_SLAVE } else { libc::MS_PRIVATE } | below);
        }
        step.keep = Some(Slot::Root);
        self.plan.push(Step::Mount(step));
        Ok(())
    }

    fn overlay(&mut self, lower: &[PathBuf], writes: &Writes) -> Result<What, Error> {
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
        if options.len() > OPTIONS_MAX {
            return Err(Error::invalid(
                "root.lower",
                "the layers' paths are longer than a page holds: use shorter ones",
            ));
        }
        let options = CString::new(options).map_err(|_| Error::invalid("root", "a path holds a NUL byte"))?;
        Ok(What::Long { fstype: c"overlay".into(), source: c"overlay".into(), options, flags: 0 })
    }

    pub(super) fn bind(
        &mut self,
        field: &str,
        source: &Path,
        recursive: bool,
        device: Option<(u32, u64)>,
    ) -> Result<What, Error> {
        let source = c_string(field, source)?;
        let tree = self.parent_opens.then(|| {
            let propagation = libc::MS_PRIVATE;
            self.plan.trees.push(Tree {
                source: source.clone(),
                recursive,
                propagation,
                id_maps: None,
                device: None,
                procfs: None,
            });
            self.plan.trees.len() - 1
        });
        Ok(What::Bind { source, recursive, tree, device })
    }

    /// The procfs of the pid namespace that is joined, which the parent makes.
    fn procfs(&mut self, field: &str, kind: &MountKind) -> Result<What, Error> {
        let params = match kind {
            MountKind::FileSystem { fstype, source, options } => {
                match file_system(&format!("{field}.kind"), fstype, source, options)? {
                    What::New { params, .. } => params,
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let Some(namespace) = joined(self.plan, Kind::Pid)? else {
            return Err(Error::invalid(field, "the pid namespace that is joined is not known"));
        };
        let user = if self.privileged { None } else { joined(self.plan, Kind::User)? };
        let source = c"the procfs of the pid namespace that is joined".to_owned();
        self.plan.trees.push(Tree {
            source: source.clone(),
            recursive: false,
            propagation: libc::MS_PRIVATE,
            id_maps: None,
            device: None,
            procfs: Some(ProcfsOf { namespace, user, params }),
        });
        Ok(What::Bind { source, recursive: false, tree: Some(self.plan.trees.len() - 1), device: None })
    }

    /// A bind as the spec asks for it. One whose ids are mapped is the parent's to open.
    fn bind_mount(
        &mut self,
        field: &str,
        source: &Path,
        recursive: bool,
        mount: &Mount,
    ) -> Result<What, Error> {
        if let Some(inner) = self.provided(source) {
            if mount.id_maps.is_some() {
                let problem = "the ids of what an earlier mount provides cannot be mapped";
                return Err(Error::invalid(&format!("{field}.id_maps"), problem));
            }
            let source = dest(&format!("{field}.kind.source"), &inner, Create::No)?.path;
            return Ok(What::Inside { source, recursive });
        }
        let id_maps = match &mount.id_maps {
            Some(maps) => Some(self.id_maps(&format!("{field}.id_maps"), maps)?),
            None => None,
        };
        let parent_opens = self.parent_opens;
        self.parent_opens |= id_maps.is_some();
        let what = self.bind(field, source, recursive, None);
        if let (true, Some(tree)) = (self.parent_opens, self.plan.trees.last_mut()) {
            tree.id_maps = id_maps;
            if receives(mount) {
                // Never to the host: the container could have made its users its own.
                tree.propagation = libc::MS_SLAVE;
            }
        }
        self.parent_opens = parent_opens;
        what
    }

    fn id_maps(&self, field: &str, maps: &MountIdMaps) -> Result<TreeMaps, Error> {
        if !self.privileged {
            let problem =
                "mapping the ids of a mount takes CAP_SYS_ADMIN on the host: leave it out, or be root";
            return Err(Error::invalid(field, problem));
        }
        let of = match (&maps.uid, &maps.gid) {
            (Some(uid), Some(gid)) => {
                for (field, map) in [(format!("{field}.uid"), uid), (format!("{field}.gid"), gid)] {
                    map.validate().map_err(|e| Error::invalid(&field, e))?;
                    if map.is_empty() {
                        return Err(Error::invalid(&field, "map at least one id"));
                    }
                }
                MapsOf::Given { uid: uid.clone(), gid: gid.clone() }
            }
            (None, None) => match joined(self.plan, Kind::User)? {
                Some(namespace) => MapsOf::Namespace(namespace),
                None => match super::namespaces::new_maps(self.plan) {
                    Some((uid, gid)) => MapsOf::Given { uid, gid },
                    None => {
                        let problem = "the container's user namespace is the caller's, which maps no ids: give the maps";
                        return Err(Error::invalid(field, problem));
                    }
                },
            },
            _ => return Err(Error::invalid(field, "give the maps of both users and groups, or neither")),
        };
        Ok(TreeMaps { of, recursive: maps.recursive })
    }

    fn mount(&mut self, field: &str, mount: &Mount) -> Result<(), Error> {
        let create = match self.creates || self.within_writable(&mount.destination) {
            true => Create::Dir,
            false => Create::No,
        };
        let mut recursive = false;
        let destination_field = format!("{field}.destination");
        let what = match &mount.kind {
            MountKind::Bind { source, recursive: all } => {
                let source = absolute(&format!("{field}.kind.source"), source)?;
                recursive = *all;
                self.bind_mount(field, source, *all, mount)?
            }
            _ if mount.id_maps.is_some() => {
                return Err(Error::invalid(
                    &format!("{field}.id_maps"),
                    "only the ids of a bind can be mapped",
                ));
            }
            MountKind::Tmpfs { size, mode } => new("tmpfs", tmpfs_params(*size, *mode)?),
            MountKind::Devpts => new("devpts", self.devpts_params()?),
            MountKind::Dev => {
                over_proc(&destination_field, mount)?;
                return self.dev(&destination_field, mount, create);
            }
            MountKind::Remount => What::There,
            MountKind::FileSystem { .. }
            | MountKind::Proc
            | MountKind::Sysfs
            | MountKind::Cgroup
            | MountKind::Mqueue => match (shown(&mount.kind), &mount.kind, self.cgroup2) {
                // A new one would show the processes of the caller's pid namespace.
                (Some((Kind::Pid, ..)), kind, _) if self.plan.enters() => self.procfs(field, kind)?,
                // Not the container's own: what the caller sees is all that may be shown.
                (Some((kind, path, _)), ..) if !(self.own)(kind) => {
                    self.bind_own(field, &mut recursive, kind, path)?
                }
                // A new mount of it waits for all CPUs, and what options it lacks the host loses,
                // where it is made in the host's cgroup namespace. It shows the same as theirs.
                (Some((Kind::Cgroup, ..)), kind, Some(point)) => {
                    if let MountKind::FileSystem { options, .. } = kind
                        && !options.is_empty()
                    {
                        let problem = "these would be changed for the whole host: leave them out, or \
                                       have a cgroup namespace of the container's own";
                        return Err(Error::invalid(&format!("{field}.kind.options"), problem));
                    }
                    self.bind(field, point, false, None)?
                }
                (_, MountKind::FileSystem { fstype, source, options }, _) => {
                    file_system(&format!("{field}.kind"), fstype, source, options)?
                }
                (Some((_, _, fstype)), ..) => new(fstype, Vec::new()),
                (None, ..) => return Ok(()),
            },
        };
        let fstype = match &what {
            What::New { fstype, .. } | What::Long { fstype, .. } => Some(fstype.as_c_str()),
            _ => None,
        };
        let tmpfs = fstype == Some(c"tmpfs");
        let has = |key: &CStr| match &what {
            What::New { params, .. } => params.iter().any(|(has, _)| has.as_c_str() == key),
            What::Long { options, .. } => {
                let option = |option: &[u8]| option.split(|b| *b == b'=').next() == Some(key.to_bytes());
                options.to_bytes().split(|b| *b == b',').any(option)
            }
            _ => false,
        };
        let mode_of_covered = tmpfs && !has(c"mode");
        let copy_up = match &what {
            _ if !mount.copy_up => CopyUp::No,
            What::New { .. } if tmpfs => match [c"mode", c"uid", c"gid"].into_iter().any(has) {
                true => CopyUp::Contents,
                false => CopyUp::All,
            },
            _ => return Err(Error::invalid(&format!("{field}.copy_up"), "only a tmpfs begins with a copy")),
        };
        let mut dest = dest(&destination_field, &mount.destination, create)?;
        let keep = if mount.kind == MountKind::Remount { None } else { self.keep(mount, tmpfs) };
        let over_proc = over_proc(&destination_field, mount)?;
        // What the kernel's file systems show must not be led astray by an image's links.
        dest.no_links = keep.is_some() || shown(&mount.kind).is_some() || over_proc == OverProc::Root;
        let new = matches!(what, What::New { .. } | What::Long { .. });
        let last = new && (tmpfs || mount.destination == Path::new("/dev"));
        let flags =
            [(mount.readonly, RDONLY), (mount.nosuid, NOSUID), (mount.nodev, NODEV), (mount.noexec, NOEXEC)];
        let flags = flags.into_iter().filter(|(wanted, _)| *wanted).fold(0, |set, (_, bit)| set | bit);
        let mut step = MountStep {
            attributes: attributes(&format!("{field}.attributes"), mount.attributes)?,
            recursive: attributes(&format!("{field}.recursive_attributes"), mount.recursive_attributes)?,
            copy_up,
            mode_of_covered,
            over_proc,
            propagation: mount.propagation.iter().map(|p| p.flags()).collect(),
            keep,
            ..step(what, Place::In(dest))
        };
        let all = if recursive { &mut step.recursive } else { &mut step.attributes };
        all.set |= flags & !all.clear;
        self.covers(mount, step.attributes.clear & RDONLY != 0);
        if last && (step.attributes.set | step.recursive.set) & RDONLY != 0 {
            step.attributes.set &= !RDONLY;
            step.recursive.set &= !RDONLY;
            self.read_only_at_last(&destination_field, mount)?;
        }
        self.push_mount(step);
        Ok(())
    }

    /// Takes note of what the mount covers: what lies there is no longer reached.
    fn covers(&mut self, mount: &Mount, writable: bool) {
        let there = mount.kind == MountKind::Remount;
        self.read_only_last.retain(|(path, _)| match there {
            true => !(writable && *path == mount.destination),
            false => !path.starts_with(&mount.destination),
        });
        self.mounted.push(mount.destination.clone());
    }

    /// Makes the mount read-only after the last of what is made in it: mount points, devices, links.
    fn read_only_at_last(&mut self, field: &str, mount: &Mount) -> Result<(), Error> {
        let dest = self.held(field, &mount.destination, Create::No)?;
        self.read_only_last.push((mount.destination.clone(), dest));
        Ok(())
    }

    /// Paths of a list, of which one that is there twice counts once.
    fn each_once(&self, field: &str, paths: &[PathBuf]) -> Result<Vec<Dest>, Error> {
        let mut all: Vec<Dest> = Vec::new();
        for path in paths {
            let dest = self.held(field, path, Create::No)?;
            if !all.iter().any(|other| other.base == dest.base && other.path == dest.path) {
                all.push(dest);
            }
        }
        Ok(all)
    }

    /// The path within the new root of a source that an earlier mount of the list provides. On the
    /// host there is nothing at that path, or something else.
    fn provided(&self, source: &Path) -> Option<PathBuf> {
        let root = self.root?;
        let inner = source.strip_prefix(root).ok().map(Path::to_owned);
        let inner =
            inner.or_else(|| Some(source.strip_prefix(root.canonicalize().ok()?).ok()?.to_owned()))?;
        let inner = Path::new("/").join(inner);
        let provides = |mounted: &PathBuf| mounted != Path::new("/") && inner.starts_with(mounted);
        self.mounted.iter().any(provides).then_some(inner)
    }

    /// Which slot the mount is kept in; whatever it covers is no longer where it was.
    fn keep(&mut self, mount: &Mount, tmpfs: bool) -> Option<Slot> {
        for held in [&mut self.proc, &mut self.sys, &mut self.dev] {
            held.take_if(|held| held.starts_with(&mount.destination));
        }
        let destination = Some(mount.destination.clone());
        match (&mount.kind, shown(&mount.kind)) {
            (_, Some((Kind::Pid, ..))) => {
                self.proc = destination;
                Some(Slot::Proc)
            }
            (_, Some((Kind::Net, ..))) => {
                self.sys = destination;
                Some(Slot::Sys)
            }
            (MountKind::Devpts, _) => Some(Slot::Pts),
            (MountKind::FileSystem { fstype, .. }, _) if fstype == "devpts" => Some(Slot::Pts),
            _ if tmpfs && mount.destination == Path::new("/dev") => {
                self.dev = destination;
                Some(Slot::Dev)
            }
            _ => None,
        }
    }

    /// A mount, apart from the host's where others of this plan are not.
    fn push_mount(&mut self, mut step: MountStep) {
        let silent = step.propagation.is_empty() && self.plan.spec.propagation.is_none();
        let bind = matches!(step.what, What::Bind { .. } | What::Inside { .. });
        if silent && self.propagation != PRIVATE && bind {
            step.propagation.push(PRIVATE);
        }
        self.plan.push(Step::Mount(step));
    }

    fn node(&mut self, field: &str, node: &Node) -> Result<(), Error> {
        let path_field = format!("{field}.path");
        let (kind, (major, minor)) = match node.kind {
            NodeKind::Char(major, minor) => (libc::S_IFCHR, (major, minor)),
            NodeKind::Block(major, minor) => (libc::S_IFBLK, (major, minor)),
            NodeKind::Fifo => (libc::S_IFIFO, (0, 0)),
        };
        if major >= 1 << 12 || minor >= 1 << 20 {
            let problem = format!("{major}:{minor} is not the number of a device: Linux has 12 and 20 bits");
            return Err(Error::invalid(&format!("{field}.kind"), problem));
        }
        let device = libc::makedev(major, minor);
        let dest = self.entry(&path_field, &node.path)?;
        if self.bind_devices && kind != libc::S_IFIFO {
            in_proc(&path_field, &node.path)?;
            let dest = Dest { no_links: true, create: Create::File, ..dest };
            let what = self.bind(&path_field, &node.path, false, Some((kind, device)))?;
            let maps = super::namespaces::new_maps(self.plan);
            if let (What::Bind { tree: Some(_), .. }, Some(tree)) = (&what, self.plan.trees.last_mut()) {
                let owner =
                    maps.and_then(|(uid, gid)| Some((uid.to_outside(node.uid)?, gid.to_outside(node.gid)?)));
                let mode = kind | (node.mode & 0o7777);
                tree.device = Some(TreeDevice { mode, number: device, owner: owner.unwrap_or((0, 0)) });
            }
            self.push_mount(step(what, Place::In(dest)));
            return Ok(());
        }
        let owner = ((node.uid, node.gid) != (0, 0)).then_some((node.uid, node.gid));
        self.plan.push(Step::Node { dest, mode: kind | (node.mode & 0o7777), device, owner });
        Ok(())
    }

    fn link(&mut self, field: &str, link: &Link) -> Result<(), Error> {
        let dest = self.entry(&format!("{field}.path"), &link.path)?;
        let target = c_string(&format!("{field}.target"), &link.target)?;
        self.plan.push(Step::Symlink { dest, target });
        Ok(())
    }

    /// Where something is made that is no mount.
    fn entry(&self, field: &str, path: &Path) -> Result<Dest, Error> {
        let dest = self.held(field, path, Create::No)?;
        match dest.last {
            None => Err(Error::invalid(field, format!("nothing can be made at {}", path.display()))),
            Some(_) => Ok(dest),
        }
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
        let place = Place::In(Dest { no_links: true, ..dest(field, &mount.destination, create)? });
        let attributes = to_set(NOSUID | NOEXEC);
        let dev = MountStep { attributes, keep: Some(Slot::Dev), ..step(new("tmpfs", params), place) };
        let first = self.plan.steps.len();
        self.plan.push(Step::Mount(dev));
        self.keep(mount, false);
        self.covers(mount, false);
        self.dev = Some(mount.destination.clone());
        if mount.readonly {
            self.read_only_at_last(field, mount)?;
        }
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
                let (dest, mode) = (below(slot, &name), libc::S_IFCHR | 0o666);
                self.plan.push(Step::Node { dest, mode, device, owner: None });
                continue;
            }
            self.plan.push(Step::File { slot, name: name.clone() });
            let source = Path::new("/dev").join(std::ffi::OsStr::from_bytes(name.as_bytes()));
            let what = self.bind(field, &source, false, Some((libc::S_IFCHR, device)))?;
            self.push_mount(step(what, Place::Within(slot, name)));
        }
        for (name, target) in [
            (c"fd", c"/proc/self/fd"),
            (c"stdin", c"/proc/self/fd/0"),
            (c"stdout", c"/proc/self/fd/1"),
            (c"stderr", c"/proc/self/fd/2"),
            (c"ptmx", c"pts/ptmx"),
        ] {
            self.plan.push(Step::Symlink { dest: below(Slot::Dev, name), target: target.into() });
        }
        let pts = new("devpts", self.devpts_params()?);
        self.within_dev(c"pts", 0o755, pts, NOSUID | NOEXEC, Some(Slot::Pts));
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
        let ordinary = !self.bind_devices && !self.foreign && self.plan.spec.namespaces.is_new(Kind::Ipc);
        if ordinary && self.plan.dev.is_none() {
            self.plan.dev = Some(first..self.plan.steps.len());
        }
        Ok(())
    }

    fn within_dev(&mut self, name: &std::ffi::CStr, mode: u32, what: What, set: u64, keep: Option<Slot>) {
        self.plan.push(Step::Mkdir { slot: Slot::Dev, name: name.into(), mode });
        let place = Place::Within(Slot::Dev, name.into());
        self.push_mount(MountStep { attributes: to_set(set), keep, ..step(what, place) });
    }

    /// A path counted from `/proc`, `/sys` or `/dev` where they are held.
    fn held(&self, field: &str, path: &Path, create: Create) -> Result<Dest, Error> {
        for (mounted, base) in [(&self.proc, Slot::Proc), (&self.sys, Slot::Sys), (&self.dev, Slot::Dev)] {
            if let Some(rest) = mounted.as_ref().and_then(|mounted| path.strip_prefix(mounted).ok()) {
                let dest = dest(field, &Path::new("/").join(rest), create)?;
                return Ok(Dest { base, ..dest });
            }
        }
        dest(field, path, create)
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

pub(super) fn step(what: What, place: Place) -> MountStep {
    MountStep {
        what,
        place,
        attributes: Attributes::default(),
        recursive: Attributes::default(),
        copy_up: CopyUp::No,
        mode_of_covered: false,
        over_proc: OverProc::No,
        propagation: Vec::new(),
        keep: None,
    }
}

pub(super) fn to_set(set: u64) -> Attributes {
    Attributes { set, clear: 0 }
}

/// As mount_setattr(2) takes them: of the access time settings one is set, and all are cleared.
fn attributes(field: &str, attributes: Attributes) -> Result<Attributes, Error> {
    let Attributes { set, mut clear } = attributes;
    if (set | clear) & !ALL_ATTRIBUTES != 0 {
        let unknown = (set | clear) & !ALL_ATTRIBUTES;
        return Err(Error::invalid(field, format!("{unknown:#x} is no attribute of a mount")));
    }
    if set & ATIME != 0 {
        clear |= ATIME;
    }
    Ok(Attributes { set, clear })
}

/// A name in a slot's directory.
fn below(base: Slot, name: &CStr) -> Dest {
    let last = Some(Last { within: None, name: name.into() });
    Dest { base, no_links: true, path: name.into(), last, create: Create::No }
}

/// Of a file system that shows a namespace: its kind, where the caller's own is, and its name.
fn shown(kind: &MountKind) -> Option<(Kind, &'static str, &'static str)> {
    let fstype = match kind {
        MountKind::Proc => "proc",
        MountKind::Sysfs => "sysfs",
        MountKind::Cgroup => "cgroup2",
        MountKind::Mqueue => "mqueue",
        MountKind::FileSystem { fstype, .. } => fstype,
        _ => return None,
    };
    let all = [
        (Kind::Pid, "/proc", "proc"),
        (Kind::Net, "/sys", "sysfs"),
        (Kind::Cgroup, "/sys/fs/cgroup", "cgroup2"),
        (Kind::Ipc, "/dev/mqueue", "mqueue"),
    ];
    all.into_iter().find(|(_, _, name)| *name == fstype)
}

/// Files of a procfs that may be mounted over, as runc has them: what they tell is of the whole
/// host, and is often replaced by what holds for the container.
const IN_PROC: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Whether the mount may lie over a procfs.
fn over_proc(field: &str, mount: &Mount) -> Result<OverProc, Error> {
    let procfs = match &mount.kind {
        MountKind::Remount => return Ok(OverProc::Yes),
        MountKind::Proc | MountKind::Bind { .. } => true,
        MountKind::FileSystem { fstype, .. } => fstype == "proc",
        _ => false,
    };
    match in_proc(field, &mount.destination)? {
        OverProc::Root if !procfs => {
            let problem = "/proc cannot be mounted because it is not of type proc: mount a procfs there";
            Err(Error::invalid(field, problem))
        }
        over => Ok(over),
    }
}

/// The same, of a path alone.
fn in_proc(field: &str, path: &Path) -> Result<OverProc, Error> {
    let parts: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let Ok(rest) = parts.strip_prefix("proc") else { return Ok(OverProc::No) };
    match rest.to_str() {
        Some("") => Ok(OverProc::Root),
        Some(file) if IN_PROC.contains(&file) => Ok(OverProc::Yes),
        _ => {
            let problem = format!(
                "{} cannot be mounted because it is inside /proc: only {} may be mounted over there",
                path.display(),
                IN_PROC.join(", ")
            );
            Err(Error::invalid(field, problem))
        }
    }
}

/// A file system of any name, with options as its driver takes them.
fn file_system(
    field: &str,
    fstype: &str,
    source: &Path,
    options: &[(String, Option<String>)],
) -> Result<What, Error> {
    if fstype.is_empty() {
        return Err(Error::invalid(&format!("{field}.fstype"), "name a file system"));
    }
    let fstype = c_string(&format!("{field}.fstype"), fstype)?;
    let options_field = format!("{field}.options");
    let source = c_string(&format!("{field}.source"), source)?;
    let long = |text: &str| text.len() > FSCONFIG_MAX;
    // Only mount(2) takes it, as a flag.
    let versions = |option: &&(String, Option<String>)| option.0 == "iversion" && option.1.is_none();
    let flags = if options.iter().any(|option| versions(&option)) { libc::MS_I_VERSION } else { 0 };
    let options: Vec<_> = options.iter().filter(|option| !versions(option)).collect();
    let long = flags != 0
        || source.as_bytes().len() > FSCONFIG_MAX
        || options.iter().any(|(key, value)| long(key) || value.as_deref().is_some_and(long));
    if long {
        let words = options.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        });
        let options = words.collect::<Vec<_>>().join(",");
        if options.len() > OPTIONS_MAX {
            let problem = "the options are longer than the kernel takes, a page: use shorter paths";
            return Err(Error::invalid(&options_field, problem));
        }
        return Ok(What::Long { fstype, source, options: c_string(&options_field, options)?, flags });
    }
    let mut params = Vec::with_capacity(options.len() + 1);
    if !source.is_empty() {
        params.push((c"source".into(), Some(source)));
    }
    for (key, value) in options {
        let value = value.as_ref().map(|value| c_string(&options_field, value)).transpose()?;
        params.push((c_string(&options_field, key)?, value));
    }
    Ok(What::New { fstype, params })
}

/// A new file system; `source` is only what mount(8) shows of it.
pub(super) fn new(fstype: &str, mut params: Vec<Param>) -> What {
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

pub(super) fn escape(options: &mut Vec<u8>, path: &Path, special: &[u8]) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// A path within the root: absolute, and without a step back.
pub(super) fn dest(field: &str, path: &Path, create: Create) -> Result<Dest, Error> {
    absolute(field, path)?;
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => relative.push(name),
            _ => return Err(Error::invalid(field, format!("{} goes back with ..", path.display()))),
        }
    }
    let (path, last) = match relative.file_name() {
        None => (c".".into(), None),
        Some(name) => {
            let name = c_string(field, name)?;
            let within = relative.parent().filter(|dir| !dir.as_os_str().is_empty());
            let within = within.map(|dir| c_string(field, dir)).transpose()?;
            (c_string(field, &relative)?, Some(Last { within, name }))
        }
    };
    Ok(Dest { base: Slot::Root, no_links: false, path, last, create })
}
