//! Which cgroup a container gets, and who makes it.

use std::path::{Path, PathBuf};

use cgroup_core::{Cgroup, Hierarchy};
use nix::errno::Errno;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nspod_cli::error::{Error, Result};
use nspod_sandbox::oci::{self, CgroupsPath};

use crate::args::{CgroupManager, Global};
use crate::log;
use crate::state::Record;

pub(crate) fn is_systemd(global: &Global) -> bool {
    global.systemd_cgroup || global.cgroup_manager == Some(CgroupManager::Systemd)
}

/// Where the container's cgroup is to be, counted from the top of the hierarchy; noted in the
/// record as a path of the host's.
pub(crate) fn place(
    global: &Global,
    wanted: &oci::Container,
    id: &str,
    record: &mut Record,
) -> Result<Option<PathBuf>> {
    if global.cgroup_manager == Some(CgroupManager::Disabled) {
        return Ok(None);
    }
    if is_systemd(global) {
        return Err(Error::new(
            "--systemd-cgroup: no systemd runs here to make the cgroup: leave the flag out, and the cgroup is made in the cgroup file system",
        ));
    }
    let owed = !wanted.spec.limits.is_empty() || wanted.spec.devices.is_some();
    let place = root().and_then(|root| Ok((root, path(&wanted.cgroup, id)?)));
    match place {
        Ok((root, path)) => {
            let full = root.join(path.strip_prefix("/").unwrap_or(&path));
            if owed || !global.rootless() || can_make(&full) {
                record.cgroup_paths.insert(String::new(), full);
                return Ok(Some(path));
            }
            log::debug(&format_args!("no cgroup: {} is not the caller's to make", full.display()));
        }
        Err(e) if owed => return Err(e),
        Err(e) => log::debug(&format_args!("no cgroup: {e}")),
    }
    Ok(None)
}

/// As runc has it: a path that is not absolute lies beside the cgroup of the caller.
fn path(wanted: &CgroupsPath, id: &str) -> Result<PathBuf> {
    let relative = match wanted {
        CgroupsPath::Absolute(path) => return Ok(path.clone()),
        CgroupsPath::Relative(path) => path,
        CgroupsPath::Default | CgroupsPath::Systemd { .. } => Path::new(id),
    };
    let text = std::fs::read_to_string("/proc/self/cgroup")
        .map_err(|e| Error::io("read", Path::new("/proc/self/cgroup"), &e))?;
    let own = Path::new(cgroup_core::parse::proc_self_cgroup(&text).unwrap_or("/"));
    Ok(own.parent().unwrap_or(own).join(relative))
}

/// Where cgroup2 is mounted: mostly where it is looked for first.
fn root() -> Result<PathBuf> {
    for usual in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        if statfs(usual).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return Ok(usual.into());
        }
    }
    Ok(Hierarchy::detect()?.root()?.path().to_owned())
}

/// Whether the caller may make a cgroup here: its nearest ancestor is a directory to write in.
fn can_make(path: &Path) -> bool {
    let there = path.ancestors().skip(1).find(|dir| dir.exists());
    let writable = |dir: &Path| {
        let flags = nix::unistd::AccessFlags::W_OK;
        let procs = dir.join("cgroup.procs");
        nix::unistd::access(dir, flags).is_ok() && nix::unistd::access(&procs, flags) != Err(Errno::EACCES)
    };
    there.is_some_and(writable)
}

/// Removes a container's cgroup with all that is in it; one that is gone is fine.
pub(crate) fn remove(record: &Record) -> Result<()> {
    let Some(path) = record.cgroup_path() else { return Ok(()) };
    match Cgroup::open(path) {
        Ok(cgroup) => Ok(cgroup.destroy()?),
        Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}
