//! Paths within the root, and the paths that mounts may cover.

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::plan::text::{absolute, c_string};
use crate::spec::{Mount, MountKind};
use crate::step::{Create, Dest, Last, OverProc, Slot};

/// Returns a path within the root. It must be absolute and must not contain `..`.
pub(super) fn dest(field: &str, path: &Path, create: Create) -> Result<Dest, Error> {
    absolute(field, path)?;
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => relative.push(name),
            _ => return Err(Error::invalid(field, format!("{} contains `..`", path.display()))),
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

/// Returns the destination of a name in the directory of a slot.
pub(super) fn below(base: Slot, name: &CStr) -> Dest {
    let last = Some(Last { within: None, name: name.into() });
    Dest { base, no_links: true, path: name.into(), last, create: Create::No }
}

/// Appends a path to options, with a backslash before each of the special bytes.
pub(super) fn escape(options: &mut Vec<u8>, path: &Path, special: &[u8]) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            options.push(b'\\');
        }
        options.push(*byte);
    }
}

/// Files of a procfs that a mount may cover, as in runc. They describe the whole host; engines
/// often replace them with files that describe the container.
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

/// Returns whether a mount may cover a file of a procfs.
pub(super) fn over_proc(field: &str, mount: &Mount) -> Result<OverProc, Error> {
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

/// Returns whether a path is `/proc` or one of the files in it that a mount may cover.
///
/// # Errors
/// The path is another file in `/proc`.
pub(super) fn in_proc(field: &str, path: &Path) -> Result<OverProc, Error> {
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
            Err(Error::invalid(field, problem).on(path.display().to_string()))
        }
    }
}
