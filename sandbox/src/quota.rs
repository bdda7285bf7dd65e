//! Limits of directories on disk: project quotas of ext4 and xfs.
//!
//! Each limited root or volume gets a project id from [`IDS`]. A file in [`CLAIMS`] reserves the id
//! while the container exists. It names the directories, so that any program can release them
//! later. Files that keep an id after its release (links, pipes and devices, whose id cannot be
//! changed before Linux 6.17) still count for it: an id with usage is not given to a container.
//!
//! [Project quotas](https://man7.org/linux/man-pages/man2/quotactl.2.html) of ext4 are since
//! Linux 4.5, the call quotactl_fd(2) since 5.14.

mod sys;
mod tree;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use ns_core::ProcessId;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, fstat, fstatfs, openat, openat2, renameat_with,
    unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::ended::has_ended;
use crate::error::{Error, ErrorKind};
use crate::outcome::StorageUsage;
use crate::spec::{MountKind, Root, Spec, StorageLimit, Writes};
use crate::store::{Dir, Lock, random_name};

/// The project ids of containers.
const IDS: Range<u32> = 0x6e73_0000..0x6e74_0000;
/// The directory with a file for each id in use. It is empty after a boot.
const CLAIMS: &str = "/run/nspod-quota";
const STEP: &str = "quota";

/// Commands of ioctl(2) with which the owner of a file can change its project id, or prevent that
/// new files get the id of their directory: `FS_IOC_FSSETXATTR`, `FS_IOC_SETFLAGS` and
/// `FS_IOC32_SETFLAGS`. overlayfs passes them on. In a user namespace the kernel rejects such a
/// change. Since Linux 6.17, file_setattr(2) can make it too.
pub(crate) const CHANGES: [u32; 3] = [0x401c_5820, 0x4008_6602, 0x4004_6602];

/// The project quota of a container's root or volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Quota {
    /// The name of the claim.
    #[serde(skip)]
    id: u32,
    /// A name that no other claim has: the id can be claimed again after its release.
    claim: String,
    /// The path in the container.
    destination: PathBuf,
    directories: Vec<PathBuf>,
    limit: StorageLimit,
    /// Size of the directories themselves when they are empty. It does not count.
    #[serde(default)]
    own: u64,
    /// The directory of the container's entry in a store. The quota lasts as long as the entry.
    owner: Option<PathBuf>,
    /// The process that set the limit, and the container's first process. Without an entry, the
    /// quota lasts as long as they.
    processes: Vec<ProcessId>,
}

/// The limited directories of a root or a volume.
pub(crate) struct Limited<'a> {
    /// The field of the spec.
    pub(crate) field: String,
    /// The path in the container.
    pub(crate) destination: &'a Path,
    pub(crate) directories: Vec<&'a Path>,
    /// Whether the last directory is the work directory of an overlay.
    pub(crate) is_overlay: bool,
    pub(crate) limit: StorageLimit,
}

/// Returns the limited directories of a spec.
pub(crate) fn limited(spec: &Spec) -> Vec<Limited<'_>> {
    let mut all = Vec::new();
    if let Root::Overlay { writes: Writes::Dir { upper, work }, limit, .. } = &spec.root
        && !limit.is_empty()
    {
        let (field, directories) = ("root.limit".into(), vec![upper.as_path(), work]);
        let destination = Path::new("/");
        all.push(Limited { field, destination, directories, is_overlay: true, limit: *limit });
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if let MountKind::Bind { source, .. } = &mount.kind
            && !mount.limit.is_empty()
        {
            let (field, directories) = (format!("mounts[{index}].limit"), vec![source.as_path()]);
            let (destination, limit) = (mount.destination.as_path(), mount.limit);
            all.push(Limited { field, destination, directories, is_overlay: false, limit });
        }
    }
    all
}

impl Spec {
    /// Returns whether the spec limits the space of directories. Such a limit ends when the container
    /// is [deleted](crate::Container::delete), or by [`release_quotas`].
    pub fn limits_directories(&self) -> bool {
        !limited(self).is_empty()
    }

    /// Returns whether the spec limits the space of the root's writes or of a mount.
    pub fn limits_storage(&self) -> bool {
        let root = matches!(&self.root, Root::Overlay { limit, .. } if !limit.is_empty());
        root || self.mounts.iter().any(|mount| !mount.limit.is_empty())
    }
}

impl Quota {
    /// Reserves an id and limits the directories.
    fn set(limited: &Limited<'_>, owner: Option<&Path>) -> Result<Quota, Error> {
        let opened = limited.directories.iter().map(|path| open(path)).collect::<Result<Vec<_>, Error>>()?;
        for (path, dir) in limited.directories.iter().zip(&opened) {
            check(path, dir).map_err(|e| e.with_field(&limited.field))?;
        }
        let claims = claims()?;
        let draft = format!("new-{}", random_name());
        let mut quota = Quota {
            id: 0,
            claim: draft.clone(),
            destination: limited.destination.into(),
            directories: limited.directories.iter().map(|path| path.to_path_buf()).collect(),
            limit: limited.limit,
            own: own(&opened, limited.is_overlay)
                .map_err(|e| failed("read the size of", limited.directories[0], "fstat", e))?,
            owner: owner.map(Into::into),
            processes: vec![ProcessId::current()?],
        };
        // A claim has its content from the first moment on, so that it can be pruned.
        claims.replace(&draft, &quota.text())?;
        for id in IDS {
            if !rename(&claims, &draft, &name(id))? {
                continue;
            }
            quota.id = id;
            match quota.apply(&claims, &opened) {
                Ok(true) => return Ok(quota),
                Ok(false) => {
                    rename(&claims, &name(id), &draft)?;
                }
                Err(e) => {
                    quota.release_claimed(&claims, |_| true)?;
                    return Err(e.with_field(&limited.field));
                }
            }
        }
        remove(&claims, &draft)?;
        let what = format!("cannot limit {}: all project ids are in use", limited.destination.display());
        Err(Error::new(ErrorKind::LimitReached, STEP, what)
            .and_hint("remove containers, or the directories that they wrote"))
    }

    /// Sets ids and limit after the id was claimed. Returns false if files have the id.
    fn apply(&self, claims: &Dir, opened: &[OwnedFd]) -> Result<bool, Error> {
        let (Some(first), Some(on)) = (self.directories.first(), opened.first()) else { return Ok(true) };
        let used = sys::usage(on, self.id);
        if used.map_err(|e| failed("read the quota of", first, "quotactl_fd", e))? != (0, 0) {
            return Ok(false);
        }
        for (path, dir) in self.directories.iter().zip(opened) {
            let stale = |id| IDS.contains(&id) && !is_claimed(claims, id);
            tree::assign(dir, self.id, stale).map_err(|(call, below, e)| {
                let path = if below == Path::new(".") { path.clone() } else { path.join(below) };
                match e {
                    Errno::EXIST => taken(&path),
                    _ => failed("set the project id of", &path, call, e),
                }
            })?;
        }
        let size = self.limit.size.map(|size| size.saturating_add(self.own));
        let limit = StorageLimit { size, ..self.limit };
        sys::set_limit(on, self.id, limit).map_err(|e| failed("limit", first, "quotactl_fd", e))?;
        Ok(true)
    }

    /// Returns the usage; `None` if the directories are gone.
    fn usage(&self) -> Option<StorageUsage> {
        let dir = self.directories.iter().find_map(|path| open(path).ok())?;
        let (size, inodes) = sys::usage(dir, self.id).ok()?;
        let size = size.saturating_sub(self.own);
        Some(StorageUsage { destination: self.destination.clone(), size, inodes, limit: self.limit })
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Removes the limit and the ids, and gives the id back.
    fn release(&self) -> Result<(), Error> {
        self.release_claimed(&claims()?, |_| true)
    }

    /// Releases the quota if the claim is still this one and fulfills the condition. Another program can have
    /// released it since it was read, and a container can have claimed the id again.
    fn release_claimed(&self, claims: &Dir, condition: fn(&Quota) -> bool) -> Result<(), Error> {
        // One program releases at a time.
        let _lock =
            Lock::take(claims.open_file(), true).map_err(|e| failed("lock", claims.path(), "flock", e))?;
        let now = read(claims, &name(self.id))?;
        if !now.is_some_and(|now| now.claim == self.claim && condition(&now)) {
            return Ok(());
        }
        for path in &self.directories {
            // The directory can be gone, or another one can be at its path. The limit of an id without
            // files has no effect, and the next container that gets the id replaces it.
            let Ok(dir) = open(path) else { continue };
            if !sys::project(&dir).is_ok_and(|project| project.id == self.id) {
                continue;
            }
            // The limit is the first: after an interruption the directory itself may have no id.
            let cleared = sys::set_limit(&dir, self.id, StorageLimit::default());
            cleared.map_err(|e| failed("remove the limit of", path, "quotactl_fd", e))?;
            tree::clear(&dir, self.id);
        }
        remove(claims, &name(self.id))
    }

    fn is_abandoned(&self) -> bool {
        self.processes.iter().all(has_ended) && !self.owner.as_ref().is_some_and(|entry| entry.exists())
    }
}

/// The quotas of a container that is being started, or that has a handle. Dropping releases them.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Vec<Quota>);

impl Quotas {
    /// Limits the directories of the spec. `owner` is the container's entry in a store.
    pub(crate) fn set(spec: &Spec, owner: Option<&Path>) -> Result<Quotas, Error> {
        let mut quotas = Quotas::default();
        for limited in limited(spec) {
            quotas.0.push(Quota::set(&limited, owner)?);
        }
        Ok(quotas)
    }

    /// Notes the container's first process. If that fails, the quota lasts as long as the calling process.
    pub(crate) fn started(&mut self, pid: i32) {
        for quota in &mut self.0 {
            quota.processes.extend(ProcessId::of(pid));
            let _ = claims().and_then(|claims| claims.replace(&name(quota.id), &quota.text()));
        }
    }

    pub(crate) fn usage(&self) -> Vec<StorageUsage> {
        self.0.iter().filter_map(Quota::usage).collect()
    }

    /// Keeps the limits.
    pub(crate) fn leave(&mut self) {
        self.0.clear();
    }

    pub(crate) fn release(&mut self) -> Result<(), Error> {
        release_each(&std::mem::take(&mut self.0))
    }
}

/// Releases all of the quotas, and returns the first error.
fn release_each(quotas: &[Quota]) -> Result<(), Error> {
    quotas.iter().map(Quota::release).fold(Ok(()), Result::and)
}

impl Drop for Quotas {
    fn drop(&mut self) {
        let _ = self.release();
    }
}

/// Returns the usage of the limited directories of a container, which may have ended. `entry` is the
/// directory on the host of its entry in a store. See
/// [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html).
pub fn storage_of_ended(entry: &Path) -> Vec<StorageUsage> {
    of_entry(entry).unwrap_or_default().iter().filter_map(Quota::usage).collect()
}

/// Releases the project quotas of a container that has ended. `entry` is the directory on the host of
/// its entry in a store. The limits of the directories end, and the directories stay.
///
/// Project quotas of ext4: since Linux 4.5; see
/// [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html).
///
/// # Errors
/// The errno of open(2), unlink(2) or quotactl(2).
pub fn release_quotas(entry: &Path) -> Result<(), Error> {
    release_each(&of_entry(entry)?)
}

/// Returns the usage of the limited places in memory of a container by its first process.
pub(crate) fn usage_in_memory(spec: &Spec, pid: i32) -> Vec<StorageUsage> {
    let root = match &spec.root {
        Root::Overlay { writes: Writes::Tmpfs, limit, .. } => Some((Path::new("/"), *limit)),
        _ => None,
    };
    let tmpfs = spec.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Tmpfs { .. }));
    let places = root.into_iter().chain(tmpfs.map(|mount| (mount.destination.as_path(), mount.limit)));
    let limited = places.filter(|(_, limit)| !limit.is_empty());
    limited.filter_map(|(destination, limit)| in_memory(pid, destination, limit)).collect()
}

fn in_memory(pid: i32, destination: &Path, limit: StorageLimit) -> Option<StorageUsage> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
    // The container can have put a link in place of the directory.
    let place = openat2(root, destination, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
    let found = fstatfs(place).ok()?;
    Some(StorageUsage {
        destination: destination.into(),
        size: (found.f_blocks - found.f_bfree) * found.f_bsize as u64,
        inodes: found.f_files - found.f_ffree,
        limit,
    })
}

/// Releases the project quotas of containers that do not exist any more: their entries in the store are
/// gone, and so are their first processes and the programs that started them.
///
/// See [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html).
///
/// # Errors
/// The same as [`release_quotas`].
pub fn prune_quotas() -> Result<(), Error> {
    let Some(claims) = existing_claims()? else { return Ok(()) };
    let all = all(&claims)?;
    let mut abandoned = all.iter().filter(|quota| quota.is_abandoned());
    abandoned.try_for_each(|quota| quota.release_claimed(&claims, Quota::is_abandoned))?;
    let drafts = claims.names()?.into_iter().filter(|name| name.parse::<u32>().is_err());
    for draft in drafts {
        if read(&claims, &draft)?.is_some_and(|quota| quota.is_abandoned()) {
            remove(&claims, &draft)?;
        }
    }
    Ok(())
}

/// Returns the quotas of a container, by the directory of its entry in a store.
fn of_entry(entry: &Path) -> Result<Vec<Quota>, Error> {
    let Some(claims) = existing_claims()? else { return Ok(Vec::new()) };
    let mut quotas = all(&claims)?;
    quotas.retain(|quota| quota.owner.as_deref() == Some(entry));
    Ok(quotas)
}

/// Returns all quotas.
fn all(claims: &Dir) -> Result<Vec<Quota>, Error> {
    let mut all = Vec::new();
    for name in claims.names()? {
        if let Ok(id) = name.parse()
            && let Some(quota) = read(claims, &name)?
        {
            all.push(Quota { id, ..quota });
        }
    }
    Ok(all)
}

fn read(claims: &Dir, name: &str) -> Result<Option<Quota>, Error> {
    Ok(claims.read(name)?.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Opens the directory of the claims. Returns `None` if there are no claims. Only root has quotas.
fn existing_claims() -> Result<Option<Dir>, Error> {
    match Path::new(CLAIMS).exists() && geteuid().is_root() {
        true => claims().map(Some),
        false => Ok(None),
    }
}

/// Returns the size of the directories when they are empty. The overlay makes another one in its work directory.
fn own(opened: &[OwnedFd], is_overlay: bool) -> Result<u64, Errno> {
    let made = opened.last().filter(|_| is_overlay);
    let sizes = opened.iter().chain(made).map(|dir| {
        let found = fstat(dir)?;
        Ok((found.st_blocks as u64 * 512).min(found.st_blksize as u64))
    });
    sizes.sum()
}

fn claims() -> Result<Dir, Error> {
    Dir::private(Path::new(CLAIMS), || None)
}

fn name(id: u32) -> String {
    id.to_string()
}

/// Renames a claim. Returns false if the new name exists.
fn rename(claims: &Dir, from: &str, to: &str) -> Result<bool, Error> {
    match renameat_with(claims, from, claims, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(e) => Err(failed("make", &claims.at(to), "renameat2", e)),
    }
}

fn is_claimed(claims: &Dir, id: u32) -> bool {
    claims.at(name(id)).exists()
}

fn remove(claims: &Dir, name: &str) -> Result<(), Error> {
    match unlinkat(claims, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(failed("remove", &claims.at(name), "unlinkat", e)),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, Mode::empty());
    opened.map_err(|e| {
        let error = failed("open", path, "openat", e);
        match e {
            Errno::NOTDIR => error.and_hint("only the size of a directory can be limited"),
            _ => error,
        }
    })
}

/// Checks that the file system enforces project quotas, and that the directory has no other.
fn check(path: &Path, dir: &OwnedFd) -> Result<(), Error> {
    const CURE: &str = "mount an ext4 (made with `mkfs.ext4 -O quota,project`) or an xfs with the option \
                        prjquota, or limit an overlay in memory";
    let admin = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN);
    let enforced = match sys::is_enforced(dir) {
        _ if !admin.unwrap_or(false) => Err(Errno::PERM),
        // The capability can be one of a user namespace.
        Ok(true) => sys::usage(dir, IDS.start).map(|_| true),
        other => other,
    };
    match enforced {
        Ok(true) => {}
        Err(Errno::PERM) => {
            return Err(failed("limit", path, "quotactl_fd", Errno::PERM).and_hint(format_args!(
                "this requires CAP_SYS_ADMIN on the host: {}, or limit an overlay in memory",
                nspod_errno::how_to_get_sys_admin()
            )));
        }
        // ENOSYS: the kernel or the file system has no quotas. EINVAL: none of projects. ESRCH: off.
        Ok(false) | Err(_) => {
            let what =
                format!("cannot limit {}: its file system does not enforce project quotas", path.display());
            let error = Error::new(ErrorKind::Unenforceable, STEP, what).on(path.display().to_string());
            return Err(error.and_hint(CURE));
        }
    }
    if sys::project(dir).is_ok_and(|project| project.id != 0 && !IDS.contains(&project.id)) {
        return Err(taken(path));
    }
    Ok(())
}

fn taken(path: &Path) -> Error {
    let what = format!("cannot limit {}: it has another project quota", path.display());
    Error::new(ErrorKind::Busy, STEP, what).on(path.display().to_string()).and_hint(
        "remove the container that it belongs to, run `nspod prune`, or clear it with `chattr -R -p 0`",
    )
}

fn failed(what: &str, path: &Path, call: &'static str, e: Errno) -> Error {
    let path = path.display().to_string();
    Error::call(STEP, format!("{what} {path}"), call, e.raw_os_error()).on(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Mount;

    #[test]
    fn a_spec_names_its_limited_directories() {
        let (limit, none) = (StorageLimit::of_size(1 << 20), StorageLimit::default());
        let writes = || Writes::Dir { upper: "/o/upper".into(), work: "/o/work".into() };
        let bind = |limit| {
            let kind = MountKind::Bind { source: "/v".into(), recursive: false };
            Mount { limit, ..Mount::new("/mnt", kind) }
        };
        let mut spec = Spec::new("true");
        spec.root = Root::Overlay { lower: vec!["/".into()], writes: Writes::Tmpfs, limit };
        spec.mounts = vec![bind(none), Mount { limit, ..Mount::new("/t", MountKind::Tmpfs { mode: None }) }];
        assert!(!spec.limits_directories() && spec.limits_storage());
        spec.root = Root::Overlay { lower: vec!["/".into()], writes: writes(), limit: none };
        assert!(!spec.limits_directories());
        spec.root = Root::Overlay { lower: vec!["/".into()], writes: writes(), limit };
        spec.mounts.push(bind(limit));
        let found = limited(&spec);
        let named: Vec<_> = found.iter().map(|one| (one.field.as_str(), one.directories.len())).collect();
        assert_eq!(named, [("root.limit", 2), ("mounts[2].limit", 1)]);
        assert_eq!(found[1].destination, Path::new("/mnt"));
    }

    fn claimed(claim: &str) -> Quota {
        Quota {
            id: IDS.start,
            claim: claim.into(),
            destination: "/".into(),
            directories: Vec::new(),
            limit: StorageLimit::default(),
            own: 0,
            owner: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn a_claim_of_another_container_with_the_same_id_is_not_released() {
        let temp = tempfile::tempdir().unwrap();
        let claims = Dir::private(&temp.path().join("claims"), || None).unwrap();
        let (before, now) = (claimed("a"), claimed("b"));
        claims.replace(&name(now.id), &now.text()).unwrap();
        before.release_claimed(&claims, |_| true).unwrap();
        now.release_claimed(&claims, |_| false).unwrap();
        assert!(is_claimed(&claims, now.id));
        now.release_claimed(&claims, |_| true).unwrap();
        assert!(!is_claimed(&claims, now.id));
    }

    #[test]
    fn a_claim_is_abandoned_when_its_entry_and_its_processes_are_gone() {
        let entry = tempfile::tempdir().unwrap();
        let mut quota = Quota {
            owner: Some(entry.path().into()),
            processes: vec![ProcessId::current().unwrap()],
            ..claimed("a")
        };
        assert!(!quota.is_abandoned());
        quota.processes[0].start += 1;
        assert!(!quota.is_abandoned());
        drop(entry);
        assert!(quota.is_abandoned());
        quota.processes.push(ProcessId::current().unwrap());
        assert!(!quota.is_abandoned());
    }

    #[test]
    fn an_id_is_claimed_once() {
        let temp = tempfile::tempdir().unwrap();
        let claims = Dir::private(&temp.path().join("claims"), || None).unwrap();
        for draft in ["a", "b"] {
            claims.replace(draft, b"{}").unwrap();
        }
        assert!(rename(&claims, "a", "1").unwrap());
        assert!(!rename(&claims, "b", "1").unwrap());
        remove(&claims, "1").unwrap();
        assert!(rename(&claims, "b", "1").unwrap());
    }
}
