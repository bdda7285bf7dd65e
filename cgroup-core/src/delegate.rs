//! A cgroup in which the caller may create others: root's own, or a delegated one.
//!
//! v2 has two rules that make this more than a question of permission. A cgroup other than the
//! root either holds processes or hands controllers down, not both. And where systemd runs, it
//! alone writes to what it has not delegated.
//!
//! Source: <https://systemd.io/CGROUP_DELEGATION/>

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::cgroup::Cgroup;
use crate::controller::Controllers;
use crate::error::{Error, Result, errno_text};
use crate::hierarchy::Hierarchy;
use crate::sys;
use crate::systemd::{Manager, Scope};

/// How the scopes begin that this crate asks for; they are always delegated.
const SCOPE: &str = "nspod-scope-";

/// Which process may be moved to make room. Nothing is ever moved that is not named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// None.
    Nothing,
    /// The caller, or a process of the same user: into a scope of its own, or out of the delegated
    /// cgroup into a leaf beside the base.
    Process(i32),
}

/// By which right the base may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Right {
    /// The caller is root: the base is right below the top of the mount.
    Root,
    /// The caller's own cgroup is delegated to it.
    Delegated,
    /// The caller can write to its own cgroup, but systemd, whose unit it is in, has not marked it
    /// as delegated and may write there too.
    Unmarked,
    /// systemd made this scope for the process that was moved.
    Scope(String),
}

/// Where to create cgroups.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delegation {
    /// The cgroup to create others in: it holds no process, and stays until it is removed.
    pub base: Cgroup,
    /// By which right.
    pub right: Right,
    /// The controllers that v2 has on this host.
    pub controllers: Controllers,
    /// The processes in the base's parent. Unless that is the root of the hierarchy, they keep it
    /// from handing down controllers that it does not yet: [`Cgroup::enable_path`] is then `Busy`.
    pub in_the_way: Vec<i32>,
}

/// Finds the base, and makes the cgroup `name` for it where it does not exist.
///
/// As root it is `name` below the top of the cgroup2 mount. As another user, or as a root that
/// cannot write there, it is `name` below the caller's own cgroup if that is delegated, else below
/// a systemd scope if a process may be moved into one.
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
/// `NotDelegated`: says what is missing and what to do. `NoHierarchy`, `InvalidName`, and as
/// [`Cgroup::create_child`].
pub fn find(name: &str, may: Move) -> Result<Delegation> {
    if geteuid().is_root() {
        let root = Cgroup::top()?;
        if writable(&root).is_ok() {
            return below(root.available()?, &root, name, Right::Root, may);
        }
    }
    let host = Hierarchy::detect()?;
    let mut own = host.own()?;
    // Moved there by an earlier call: what was delegated is the cgroup above.
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
                errno_text(errno)
            ),
            "run it under systemd-run --user --scope -p Delegate=yes, or have root give the user a cgroup: \
             chown it, its cgroup.procs and its cgroup.subtree_control, and move the process there"
                .to_owned(),
            source,
        )),
    }
}

/// The base below `parent`, after the process that may be moved has left the parent. The root of
/// the whole hierarchy, which alone has no `cgroup.events`, may hold processes.
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

/// The name of the leaf that processes are moved to.
fn callers(name: &str) -> String {
    format!("{name}-callers")
}

/// Whether the caller may create cgroups in it and hand controllers down: what delegation gives.
/// If not, the first thing that it may not write.
fn writable(cgroup: &Cgroup) -> std::result::Result<(), (String, Errno)> {
    for file in [".", "cgroup.procs", "cgroup.subtree_control"] {
        if let Err(errno) = faccessat(cgroup, file, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
            let path = if file == "." { cgroup.path().to_owned() } else { cgroup.path().join(file) };
            return Err((path.display().to_string(), errno));
        }
    }
    Ok(())
}

/// Whether no systemd claims it: the nearest cgroup at or above it that is a unit's, if any, is a
/// scope of ours or bears the mark of delegation. Newer systemds set it (252 does not yet), and
/// Linux keeps it since 5.7.
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

/// Has the user's systemd make a delegated scope with the process in it.
fn scope(pid: i32) -> Result<(Cgroup, String)> {
    let unit = format!("{SCOPE}{pid}-{}.scope", unique());
    let cgroup = Manager::user()?.start_scope(&Scope::new(unit.clone()), pid)?;
    Ok((cgroup, unit))
}

/// Differs from one call to the next, so that a scope that is still ending is not in the way.
fn unique() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_micros())
}
