//! Steps for the mounts of the spec: one step for each mount.

use std::path::Path;

use ns_core::Kind;

use crate::error::Error;
use crate::plan::builder::FileSteps;
use crate::plan::file_systems::{
    NODEV, NOEXEC, NOSUID, RDONLY, attributes, devpts_params, file_system, has_option, mount_step, new_fs,
    shown, tmpfs_params,
};
use crate::plan::paths::{dest, over_proc};
use crate::plan::text::absolute;
use crate::spec::{Mount, MountKind};
use crate::step::{CopyUp, Create, MountStep, OverProc, Place, Slot, What};

impl FileSteps<'_> {
    /// Adds a mount of the spec.
    pub(super) fn mount(&mut self, field: &str, mount: &Mount) -> Result<(), Error> {
        let destination = &mount.destination;
        let create = match self.creates || self.within_mount(destination) || self.makes.contains(destination)
        {
            true => Create::Dir,
            false => Create::No,
        };
        let destination_field = format!("{field}.destination");
        if mount.id_maps.is_some() && !matches!(mount.kind, MountKind::Bind { .. }) {
            return Err(Error::invalid(format!("{field}.id_maps"), "only the ids of a bind can be mapped"));
        }
        if mount.kind == MountKind::Dev {
            over_proc(&destination_field, mount)?;
            return self.dev(&destination_field, mount, create);
        }
        let (what, recursive) = self.what(field, mount)?;
        let new = match &what {
            What::New { fstype, .. } | What::Long { fstype, .. } => Some(fstype.as_c_str()),
            _ => None,
        };
        let tmpfs = new == Some(c"tmpfs");
        let copy_up = copy_up(field, mount, &what, tmpfs)?;
        let mut dest = dest(&destination_field, &mount.destination, create)?;
        let keep = if mount.kind == MountKind::Remount { None } else { self.keep(mount, tmpfs) };
        let over_proc = over_proc(&destination_field, mount)?;
        // A symbolic link in an image must not redirect a kernel file system.
        dest.no_links = keep.is_some() || shown(&mount.kind).is_some() || over_proc == OverProc::Root;
        let last = new.is_some() && (tmpfs || mount.destination == Path::new("/dev"));
        let mut step = MountStep {
            attributes: attributes(&format!("{field}.attributes"), mount.attributes)?,
            recursive: attributes(&format!("{field}.recursive_attributes"), mount.recursive_attributes)?,
            copy_up,
            mode_of_covered: tmpfs && !has_option(&what, c"mode"),
            over_proc,
            propagation: mount.propagation.iter().map(|p| p.flags()).collect(),
            keep,
            ..mount_step(what, Place::In(dest))
        };
        let all = if recursive { &mut step.recursive } else { &mut step.attributes };
        all.set |= flags(mount) & !all.clear;
        self.covers(mount, step.attributes.clear & RDONLY != 0);
        if last && (step.attributes.set | step.recursive.set) & RDONLY != 0 {
            step.attributes.set &= !RDONLY;
            step.recursive.set &= !RDONLY;
            self.read_only_at_last(&destination_field, mount)?;
        }
        self.push_mount(step);
        Ok(())
    }

    /// Returns the source of the mount, and whether the attributes apply to all mounts below it.
    fn what(&mut self, field: &str, mount: &Mount) -> Result<(What, bool), Error> {
        let what = match &mount.kind {
            MountKind::Bind { source, recursive } => {
                let source = absolute(&format!("{field}.kind.source"), source)?;
                return Ok((self.bind_mount(field, source, *recursive, mount)?, *recursive));
            }
            MountKind::Tmpfs { mode } => new_fs(c"tmpfs", tmpfs_params(mount.limit, *mode)?),
            MountKind::Devpts => new_fs(c"devpts", devpts_params(self.tty_group)),
            MountKind::Remount => What::There,
            kind => return self.file_system(field, kind),
        };
        Ok((what, false))
    }

    /// Returns a new instance of a file system. If a new instance would show or change too much,
    /// returns a bind of the caller's instance.
    fn file_system(&mut self, field: &str, kind: &MountKind) -> Result<(What, bool), Error> {
        let shown = shown(kind);
        match (shown, self.cgroup2.clone()) {
            // A new procfs would show the processes of the caller's pid namespace.
            (Some((Kind::Pid, ..)), _) if self.plan.enters() => {
                return Ok((self.procfs(field, kind)?, false));
            }
            // The container does not own the namespace, so it may see only what the caller sees.
            (Some((shown, path, _)), _) if !self.owns(shown) => {
                return Ok((self.bind_callers(field, shown, path)?, true));
            }
            // In the host's cgroup namespace a new cgroup2 mount waits for all CPUs, and it removes
            // the options that it lacks from the host's mount. A bind has the same content.
            (Some((Kind::Cgroup, ..)), Some(point)) => {
                if let MountKind::FileSystem { options, .. } = kind
                    && !options.is_empty()
                {
                    let problem = "these would be changed for the whole host: leave them out, or \
                                   make a new cgroup namespace";
                    return Err(Error::invalid(format!("{field}.kind.options"), problem));
                }
                return Ok((self.bind(field, &point, false, None)?, false));
            }
            _ => {}
        }
        let what = match (kind, shown) {
            (MountKind::FileSystem { fstype, source, options }, _) => {
                file_system(&format!("{field}.kind"), fstype, source, options)?
            }
            (_, shown) => new_fs(shown.map_or(c"", |(_, _, fstype)| fstype), Vec::new()),
        };
        Ok((what, false))
    }

    /// Returns the slot that holds the mount. A slot becomes empty if this mount covers its mount.
    pub(super) fn keep(&mut self, mount: &Mount, tmpfs: bool) -> Option<Slot> {
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
}

/// Returns the attributes that are separate fields of the mount.
fn flags(mount: &Mount) -> u64 {
    let flags =
        [(mount.readonly, RDONLY), (mount.nosuid, NOSUID), (mount.nodev, NODEV), (mount.noexec, NOEXEC)];
    flags.into_iter().filter(|(wanted, _)| *wanted).fold(0, |set, (_, bit)| set | bit)
}

/// Returns what a tmpfs copies from the directory that it covers. Options that set the owner or the
/// mode take precedence.
fn copy_up(field: &str, mount: &Mount, what: &What, tmpfs: bool) -> Result<CopyUp, Error> {
    match what {
        _ if !mount.copy_up => Ok(CopyUp::No),
        What::New { .. } if tmpfs => {
            let sets = [c"mode", c"uid", c"gid"].into_iter().any(|key| has_option(what, key));
            Ok(if sets { CopyUp::Contents } else { CopyUp::All })
        }
        _ => Err(Error::invalid(format!("{field}.copy_up"), "only a tmpfs can start with a copy")),
    }
}
