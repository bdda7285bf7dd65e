//! The watcher: a process that ends the containers of this program when this program ends, also by
//! SIGKILL.
//!
//! The first container that is tied to this program starts the watcher. The watcher polls a pidfd of this
//! program, and not of the thread that started the container. It executes the embedded init
//! (`init/watch.rs`), so it has no memory, environment, executable or descriptor of this program. It
//! learns of containers from a [`Table`] in shared memory: a start writes to memory and makes no call.
//!
//! The watcher is in a cgroup of its own, so that it survives a kill of this program's whole cgroup. It
//! is not a child of this program, except if this program is a subreaper
//! ([PR_SET_CHILD_SUBREAPER(2const)](https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html)).
//!
//! A forked copy of this program has another pid, and starts a watcher of its own.

mod layout;
mod table;

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cgroup_core::{Cgroup, Controllers, Hierarchy};
use ns_core::{Clone3, ExitStatus, Pidfd, ProcessId};

use self::layout::{CGROUP, PATH, PROCESS};
use self::table::Table;
pub(crate) use self::table::Watched;
use crate::child::Watch;
use crate::error::{Error, ErrorKind};
use crate::fd::duplicate_above;
use crate::init;
use crate::parent::{WATCH, create_in_parent, is_not_allowed};
use crate::spawn::{Memory, Stack};
use crate::stale::owned_name;
use crate::step::CStrings;

/// Whether a container ends with this program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Dies {
    /// If it has its own cgroup and its handle kills it when dropped.
    #[default]
    Auto,
    /// Yes, or the start is refused.
    Yes,
    /// No.
    No,
}

/// The watcher of this program.
struct Watcher {
    /// Pid of this program when it started the watcher. It differs in a forked copy.
    owner: u32,
    pidfd: Pidfd,
    table: Arc<Table>,
}

static WATCHER: Mutex<Option<Watcher>> = Mutex::new(None);

/// Ties the processes in a cgroup and the cgroup itself to this program. Returns `None` if they cannot
/// outlive it. If `by_default` is set, also returns `None` if the table has no place for the cgroup, or if this
/// program is a subreaper, which would get the watcher as a child.
pub(crate) fn watch_cgroup(cgroup: &Cgroup, by_default: bool) -> Result<Option<Watched>, Error> {
    let path = cgroup.path().as_os_str().as_bytes();
    if path.len() >= PATH {
        if by_default {
            return Ok(None);
        }
        let what = format!("cannot watch a cgroup whose path has {} bytes or more", PATH);
        return Err(
            Error::new(ErrorKind::InvalidInput, "watch", what).on(cgroup.path().display().to_string())
        );
    }
    let full = |e: &Error| by_default && e.kind() == ErrorKind::LimitReached && e.raw_os_error().is_none();
    let table = match table(by_default) {
        Ok(Some(table)) => table,
        Ok(None) => return Ok(None),
        Err(e) if full(&e) => return Ok(None),
        Err(e) => return Err(e),
    };
    let stat = rustix::fs::fstat(cgroup);
    let stat = stat.map_err(|e| Error::call("watch", "identify the cgroup", "fstat", e.raw_os_error()))?;
    let watched = table.add(CGROUP, |slot| {
        slot.id.store(stat.st_ino, Ordering::Relaxed);
        let bytes = path.iter().chain([&0]);
        slot.path.iter().zip(bytes).for_each(|(place, byte)| place.store(*byte, Ordering::Relaxed));
    });
    match watched {
        Err(e) if full(&e) => Ok(None),
        watched => watched.map(Some),
    }
}

/// Ties process 1 of a pid namespace to this program, and the others in the namespace with it.
pub(crate) fn watch_process(process: &ProcessId) -> Result<Option<Watched>, Error> {
    let Some(table) = table(false)? else { return Ok(None) };
    let watched = table.add(PROCESS, |slot| {
        slot.number.store(process.pid as u32, Ordering::Relaxed);
        slot.id.store(process.start, Ordering::Relaxed);
    });
    watched.map(Some)
}

/// Returns the table of a watcher that runs. Starts the watcher if there is none, or if it was killed.
fn table(by_default: bool) -> Result<Option<Arc<Table>>, Error> {
    let owner = std::process::id();
    if owner == 1 {
        // The kernel kills all processes of a pid namespace with its process 1.
        return Ok(None);
    }
    let mut watcher = WATCHER.lock().unwrap_or_else(|e| e.into_inner());
    let known = match watcher.as_ref() {
        Some(known) if known.owner == owner => {
            if !known.pidfd.poll(Some(Duration::ZERO))? {
                return Ok(Some(known.table.clone()));
            }
            Some(known.table.clone())
        }
        _ if by_default && rustix::process::child_subreaper().is_ok_and(|it| it.is_some()) => {
            return Ok(None);
        }
        _ => None,
    };
    let table = known.map_or_else(|| Table::new().map(Arc::new), Ok)?;
    let pidfd = start(owner, &table)?;
    *watcher = Some(Watcher { owner, pidfd, table: table.clone() });
    Ok(Some(table))
}

/// Starts a watcher, and returns its pidfd.
fn start(owner: u32, table: &Table) -> Result<Pidfd, Error> {
    let cgroup = of_watcher()?;
    let callers = Hierarchy::detect().and_then(|host| host.own()).ok();
    let path = |cgroup: Option<&Cgroup>| {
        cgroup.map_or(Path::new(""), Cgroup::path).as_os_str().as_bytes().to_owned()
    };
    let text = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let argv = Box::new(CStrings::new(vec![
        text("nspod-watch".into()),
        text(table.len().to_string().into()),
        text(path(cgroup.as_ref())),
        text(path(callers.as_ref())),
    ]));
    let envp = Box::new(CStrings::new(Vec::new()));
    let process = duplicate_above(&Pidfd::open(owner as i32)?, Watch::ABOVE)?;
    let shared = duplicate_above(table, Watch::ABOVE)?;
    let image = init::image(Watch::ABOVE)?;
    let stack = Stack::new()?;
    let mut watch = Box::new(Watch {
        process: process.as_raw_fd(),
        table: shared.as_raw_fd(),
        image: image.as_raw_fd(),
        argv: &argv,
        envp: &envp,
        stack: Some(stack.second()),
        pid: 0,
        failed: None,
    });
    let clone =
        Clone3 { exit_signal: 0, cgroup: cgroup.as_ref().map(std::os::fd::AsFd::as_fd), ..Clone3::default() };
    let first = stack.start(clone, Memory::Shared, &mut *watch);
    let killed = first
        .map(|(_, first)| first.wait().is_ok_and(|exit| matches!(exit.status, ExitStatus::Signaled { .. })));
    let started = match (killed, watch.failed, watch.pid) {
        (Err(e), ..) => Err(e),
        (Ok(true), _, 0) | (Ok(_), None, 0) => {
            // The first process was killed, and the second one may still use this memory.
            std::mem::forget(watch);
            std::mem::forget((argv, envp, stack));
            let what = "cannot start the watcher: its parent was killed before the watcher was executed";
            Err(Error::new(ErrorKind::Killed, "watch", what))
        }
        (Ok(_), Some((call, errno)), _) => Err(Error::call("watch", "start the watcher", call.name(), errno)),
        (Ok(_), None, pid) => Pidfd::open(pid).map_err(Error::from),
    };
    if let (Err(_), Some(cgroup)) = (&started, cgroup) {
        let _ = cgroup.remove_within(Duration::ZERO);
    }
    started
}

/// Makes a cgroup for the watcher in the library's parent. Returns `None` if the caller may not make one.
fn of_watcher() -> Result<Option<Cgroup>, Error> {
    match create_in_parent(&format!("{WATCH}{}", owned_name()), Controllers::empty(), &mut None) {
        Ok((_, cgroup)) => Ok(Some(cgroup)),
        Err(e) if is_not_allowed(&e) => Ok(None),
        Err(e) => Err(e),
    }
}
