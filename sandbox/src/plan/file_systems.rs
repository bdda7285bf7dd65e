//! File systems to mount: their names, parameters and attributes.

use std::ffi::{CStr, CString};
use std::path::Path;

use ns_core::Kind;

use crate::error::Error;
use crate::plan::text::c_string;
use crate::spec::{Attributes, MountKind, StorageLimit};
use crate::step::{CopyUp, MountStep, OverProc, Param, Place, What};

pub(super) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(super) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(super) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
pub(super) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
/// All attributes of mount_setattr(2) except the id mapping.
const ALL_ATTRIBUTES: u64 =
    RDONLY | NOSUID | NODEV | NOEXEC | ATIME | libc::MOUNT_ATTR_NODIRATIME | libc::MOUNT_ATTR_NOSYMFOLLOW;
/// Maximum length of a key or value of fsconfig(2), in bytes.
pub(super) const FSCONFIG_MAX: usize = 255;
/// Maximum length of the options of mount(2), in bytes: a page without the terminating NUL.
pub(super) const OPTIONS_MAX: usize = 4095;

/// Returns a mount step without attributes.
pub(super) fn mount_step(what: What, place: Place) -> MountStep {
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

/// Returns attributes that set these flags.
pub(super) fn to_set(set: u64) -> Attributes {
    Attributes { set, clear: 0 }
}

/// Checks attributes, and returns them in the form that mount_setattr(2) requires: to set one of
/// the access time attributes, all of them are cleared first.
pub(super) fn attributes(field: &str, attributes: Attributes) -> Result<Attributes, Error> {
    let Attributes { set, mut clear } = attributes;
    if (set | clear) & !ALL_ATTRIBUTES != 0 {
        let unknown = (set | clear) & !ALL_ATTRIBUTES;
        return Err(Error::invalid(field, format!("{unknown:#x} has an unknown attribute")));
    }
    if set & ATIME != 0 {
        clear |= ATIME;
    }
    Ok(Attributes { set, clear })
}

/// Returns the kind of namespace that a file system shows, the caller's path of that file system,
/// and its type.
pub(super) fn shown(kind: &MountKind) -> Option<(Kind, &'static str, &'static CStr)> {
    let fstype = match kind {
        MountKind::Proc => c"proc",
        MountKind::Sysfs => c"sysfs",
        MountKind::Cgroup => c"cgroup2",
        MountKind::Mqueue => c"mqueue",
        MountKind::FileSystem { fstype, .. } => &CString::new(fstype.as_str()).ok()?,
        _ => return None,
    };
    let all = [
        (Kind::Pid, "/proc", c"proc"),
        (Kind::Net, "/sys", c"sysfs"),
        (Kind::Cgroup, "/sys/fs/cgroup", c"cgroup2"),
        (Kind::Ipc, "/dev/mqueue", c"mqueue"),
    ];
    all.into_iter().find(|(_, _, name)| *name == fstype)
}

/// Returns a file system of any type, with options for its driver.
pub(super) fn file_system(
    field: &str,
    fstype: &str,
    source: &Path,
    options: &[(String, Option<String>)],
) -> Result<What, Error> {
    if fstype.is_empty() {
        return Err(Error::invalid(format!("{field}.fstype"), "a file system type is required"));
    }
    let fstype = c_string(&format!("{field}.fstype"), fstype)?;
    let options_field = format!("{field}.options");
    let source = c_string(&format!("{field}.source"), source)?;
    let long = |text: &str| text.len() > FSCONFIG_MAX;
    // Only mount(2) supports this option, as a flag.
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
            let problem =
                "the options are longer than a page, which the kernel does not allow: use shorter paths";
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

/// Returns a new instance of a file system. mount(8) displays its source; nothing else reads it.
pub(super) fn new_fs(fstype: &CStr, mut params: Vec<Param>) -> What {
    let fstype = CString::from(fstype);
    params.insert(0, (c"source".into(), Some(fstype.clone())));
    What::New { fstype, params }
}

/// Returns the parameters of a tmpfs: its limit, and the mode of its root directory.
pub(super) fn tmpfs_params(limit: StorageLimit, mode: Option<u32>) -> Result<Vec<Param>, Error> {
    let mut params = Vec::new();
    if let Some(mode) = mode {
        params.push((c"mode".into(), Some(c_string("mode", format!("{mode:o}"))?)));
    }
    for (key, value) in [(c"size", limit.size), (c"nr_inodes", limit.inodes)] {
        if let Some(value) = value {
            params.push((key.into(), Some(c_string("limit", value.to_string())?)));
        }
    }
    Ok(params)
}

/// Returns the parameters of a devpts. With `tty_group`, terminals belong to gid 5.
///
/// The host has 3072 terminals for all containers (`kernel.pty.max` without `kernel.pty.reserve`), which no cgroup
/// bounds. One container gets a third.
pub(super) fn devpts_params(tty_group: bool) -> Vec<Param> {
    let mut params: Vec<Param> = vec![
        (c"max".into(), Some(c"1024".into())),
        (c"ptmxmode".into(), Some(c"0666".into())),
        (c"mode".into(), Some(c"0620".into())),
    ];
    if tty_group {
        params.push((c"gid".into(), Some(c"5".into())));
    }
    params
}

/// Returns whether a new file system has an option of this name.
pub(super) fn has_option(what: &What, key: &CStr) -> bool {
    match what {
        What::New { params, .. } => params.iter().any(|(has, _)| has.as_c_str() == key),
        What::Long { options, .. } => {
            let name = |option: &[u8]| option.split(|b| *b == b'=').next() == Some(key.to_bytes());
            options.to_bytes().split(|b| *b == b',').any(name)
        }
        _ => false,
    }
}
