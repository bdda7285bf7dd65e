//! Finding a cgroup in which the caller may create others: below the root for root, or a delegated
//! one.
//!
//! Write permission is not sufficient. A cgroup other than the root has either processes or
//! controllers for its children, not both. On a host with systemd, only systemd writes to cgroups
//! that it has not delegated.
//!
//! Sources: <https://systemd.io/CGROUP_DELEGATION/>, and cgroup-v2.rst, sections "Delegation" and
//! "No Internal Process Constraint".

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat, geteuid};
use nspod_errno::ErrnoText;

use crate::cgroup::Cgroup;
use crate::controller::Controllers;
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::sys;
use crate::systemd::{Manager, Scope};

/// Prefix of the scopes that this crate requests. They are always delegated.
const SCOPE: &str = "nspod-scope-";

/// The process that [`find`] may move out of the delegated cgroup. It moves no other process.
/// Section "No Internal Process Constraint".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// No process.
    Nothing,
    /// The process with this pid: the caller, or a process of the same user. [`find`] moves it into a
    /// new scope, or out of the delegated cgroup into a leaf beside the base.
    Process(i32),
}

/// Reason why the caller may write to the base. Section "Delegation".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Right {
    /// The caller is root. The base is directly below the top of the mount.
    Root,
    /// The caller's cgroup is delegated to it.
    Delegated,
    /// The caller can write to its cgroup, but the cgroup is in a systemd unit without the mark of
    /// delegation, so systemd may write to it too.
    Unmarked,
    /// systemd created this scope for the process that was moved.
    Scope(String),
}

/// The result of [`find`]. Section "Delegation".
#[derive(Debug)]
#[non_exhaustive]
pub struct Delegation {
    /// The cgroup in which to create others. It has no processes, and exists until it is removed.
    pub base: Cgroup,
    /// Reason why the caller may write to the base.
    pub right: Right,
    /// The controllers that v2 has on this host.
    pub controllers: Controllers,
    /// The processes in the parent of the base. Unless the parent is the root of the hierarchy,
    /// they prevent it from enabling more controllers, and [`Cgroup::enable_path`] fails with
    /// `Busy`.
    pub in_the_way: Vec<i32>,
}

/// Finds the base, and creates the cgroup `name` for it if it does not exist.
///
/// For root the base is `name` below the top of the cgroup2 mount. For another user, or a root that
/// cannot write there, it is `name` below the caller's cgroup if that is delegated. Otherwise, if
/// `may` permits a move, it is `name` below a new systemd scope.
///
/// Since Linux 4.5; the mark of delegation is an extended attribute, since 5.7. Section
/// "Delegation".
///
/// ```no_run
/// use cgroup_core::{Controllers, delegate};
/// let found = delegate::find("nspod", delegate::Move::Process(std::process::id() as i32))?;
/// found.base.enable_path(Controllers::MEMORY)?;
/// found.base.enable(Controllers::MEMORY)?;
/// let job = found.base.create_child("job")?;
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// - `NotDelegated`: no cgroup is delegated to the caller. The message has the cause and the remedy. If
///   systemd refused a scope, the source is that error.
/// - `NoHierarchy`, `InvalidName`, and as [`Cgroup::create_child`].
pub fn find(name: &str, may: Move) -> Result<Delegation> {
    if geteuid().is_root() {
        let root = Cgroup::top()?;
        if writable(&root).is_ok() {
            return below(root.available()?, &root, name, Right::Root, may);
        }
    }
    let host = Hierarchy::detect()?;
    let mut own = host.own()?;
    // An earlier call moved the caller there; the delegated cgroup is its parent.
    if own.name() == callers(name).as_str()
        && let Some(parent) = own.parent()?
    {
        own = parent;
    }
    let lacking = match writable(&own) {
        Ok(()) if marked(&own)? => return below(host.controllers(), &own, name, Right::Delegated, may),
        Ok(()) => None,
        Err(lacking) => Some(lacking),
    };
    let (refused, source) = match may {
        Move::Process(pid) => match scope(pid) {
            Ok((scope, unit)) => return below(host.controllers(), &scope, name, Right::Scope(unit), may),
            Err(refused) => (refused.to_string(), Some(refused)),
        },
        Move::Nothing => {
            ("no systemd scope was requested, because it would move the caller".to_owned(), None)
        }
    };
    match lacking {
        None => below(host.controllers(), &own, name, Right::Unmarked, may),
        Some((file, errno)) => Err(Error::not_delegated(
            format!(
                "the cgroup {} is not delegated to user {}: {file} is not writable: {}; {refused}",
                own.path().display(),
                geteuid(),
                ErrnoText(errno)
            ),
            "run it under systemd-run --user --scope -p Delegate=yes, or have root give the user a cgroup: \
             chown it, its cgroup.procs and its cgroup.subtree_control, and move the process there"
                .to_owned(),
            file,
            errno,
            source,
        )),
    }
}

/// Creates the base below `parent`, and moves the permitted process out of the parent. The root of
/// the hierarchy may have processes; only the root has no `cgroup.events`.
fn below(
    controllers: Controllers,
    parent: &Cgroup,
    name: &str,
    right: Right,
    may: Move,
) -> Result<Delegation> {
    let base = parent.open_or_create_child(name)?;
    if parent.read_if_there("cgroup.events")?.is_none() {
        return Ok(Delegation { base, right, controllers, in_the_way: Vec::new() });
    }
    let mut in_the_way = parent.procs()?;
    if let Move::Process(pid) = may
        && in_the_way.contains(&pid)
    {
        parent.open_or_create_child(callers(name))?.attach(pid)?;
        in_the_way = parent.procs()?;
    }
    Ok(Delegation { base, right, controllers, in_the_way })
}

/// Returns the name of the leaf for moved processes.
fn callers(name: &str) -> String {
    format!("{name}-callers")
}

/// Checks that the caller can create cgroups in this one and enable controllers, as delegation
/// permits. Returns the first path that is not writable.
fn writable(cgroup: &Cgroup) -> std::result::Result<(), (String, Errno)> {
    for file in [".", "cgroup.procs", "cgroup.subtree_control"] {
        if let Err(errno) = faccessat(cgroup, file, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
            let path = if file == "." { cgroup.path().to_owned() } else { cgroup.path().join(file) };
            return Err((path.display().to_string(), errno));
        }
    }
    Ok(())
}

/// Returns whether no systemd claims the cgroup: the nearest systemd unit at or above it, if any, is a
/// scope of this crate or has the mark of delegation. The mark is an extended attribute:
/// `trusted.delegate`, or `user.delegate` of a user's systemd since version 251 and Linux 5.7.
fn marked(own: &Cgroup) -> Result<bool> {
    let is_unit = |cgroup: &Cgroup| {
        let kind = Path::new(cgroup.name()).extension();
        kind.is_some_and(|kind| ["service", "scope", "slice"].iter().any(|unit| kind == *unit))
    };
    let has_mark = |cgroup: &Cgroup| {
        cgroup.name().as_bytes().starts_with(SCOPE.as_bytes())
            || [c"user.delegate", c"trusted.delegate"].iter().any(|name| sys::xattr_is(cgroup, name, b"1"))
    };
    let mut above = own.parent()?;
    if has_mark(own) {
        return Ok(true);
    }
    if is_unit(own) {
        return Ok(false);
    }
    while let Some(cgroup) = above {
        if is_unit(&cgroup) {
            return Ok(has_mark(&cgroup));
        }
        above = cgroup.parent()?;
    }
    Ok(true)
}

/// Requests a delegated scope for the process from the user's systemd.
fn scope(pid: i32) -> Result<(Cgroup, String)> {
    let unit = format!("{SCOPE}{pid}-{}.scope", unique());
    let cgroup = Manager::user()?.start_scope(&Scope::new(unit.clone()), pid)?;
    Ok((cgroup, unit))
}

/// Returns a number that differs between calls, so that a scope that is still ending does not
/// conflict.
fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_micros())
}
