//! Removal of a container and its remains.

use std::path::Path;
use std::time::Duration;

use ns_core::{Pidfd, boot_id};
use nspod_sandbox::store::Lock;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{OciRecord, Status};
use crate::state::{Entry, Store};
use crate::{cgroup, hooks, resctrl};

/// Time limit for the end of a killed process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the first process, and waits until it has ended.
pub(crate) fn kill_init(record: &OciRecord, process: &Pidfd) -> Result<()> {
    match process.send_signal(libc::SIGKILL) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e.into()),
        _ => {}
    }
    match process.poll(Some(PATIENCE))? {
        true => Ok(()),
        false => {
            let problem = format!("process {} was killed and does not end", record.init_process_pid);
            Err(Error::new(ErrorKind::TimedOut, "kill", problem).on(record.init_process_pid.to_string()))
        }
    }
}

/// Kills all processes of a container.
pub(crate) fn stop(record: &OciRecord) -> Result<()> {
    if record.cgroup_path().is_some() {
        record.cgroup()?.kill()?;
    }
    record.pidfd()?.map_or(Ok(()), |process| kill_init(record, &process))
}

/// Removes a container's cgroup with the processes in it, its resctrl group, and the mounts of its root.
/// Ignores objects that no longer exist.
pub(crate) fn remove(record: &OciRecord) -> Result<()> {
    resctrl::remove(&record.rdt_made)?;
    unmount(record)?;
    cgroup::remove(record)?;
    unmount_criu_root(record)
}

/// Unmounts the root that was mounted for criu. The state directory cannot be removed while the mount is
/// there.
pub(crate) fn unmount_criu_root(record: &OciRecord) -> Result<()> {
    let Some(path) = &record.criu_root else { return Ok(()) };
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // It is not mounted.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::path("criu", "unmount", path, e.raw_os_error())),
    }
}

/// Deletes the state of a container without processes, and runs its poststop hooks. Calls `before_hooks`
/// before the hooks, because hooks can run for a long time.
pub(crate) fn forget(
    store: &Store,
    entry: &Entry,
    record: &OciRecord,
    lock: &Lock,
    before_hooks: impl FnOnce(),
) -> Result<()> {
    store.remove(entry, lock)?;
    before_hooks();
    hooks::run_all("poststop", &record.poststop, &record.state_json(Status::Stopped)?);
    Ok(())
}

/// Returns the id of the mount at a path: statx(2) with `STATX_MNT_ID`, since Linux 5.8.
pub(crate) fn mount_id(path: &Path) -> Result<u64> {
    let wanted = rustix::fs::StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, rustix::fs::AtFlags::empty(), wanted);
    let stat = stat.map_err(|e| Error::path("delete", "look at", path, e.raw_os_error()))?;
    Ok(stat.stx_mnt_id)
}

/// Unmounts the root that was mounted in the caller's mount namespace, with the mounts in it. A mount
/// that another program has since put over it stays, and so does the root below.
fn unmount(record: &OciRecord) -> Result<()> {
    let Some((before, made)) = record.root_mount else { return Ok(()) };
    let rebooted = !record.boot_id.is_empty() && record.boot_id != boot_id()?;
    if rebooted || !record.rootfs.exists() {
        return Ok(());
    }
    let now = mount_id(&record.rootfs)?;
    if made.map_or(now == before, |made| now != made) {
        return Ok(());
    }
    rustix::mount::unmount(&record.rootfs, UnmountFlags::DETACH)
        .map_err(|e| Error::path("delete", "unmount", &record.rootfs, e.raw_os_error()))
}
