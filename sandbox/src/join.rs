//! Selects the namespaces of another process that a new process joins.

use ns_core::{Kind, Kinds, NamespaceSet, Pidfd};

use crate::error::Error;
use crate::spec::{Join, NamespaceMode, Namespaces};

/// Returns the namespaces of a process that differ from the caller's, to be joined by pid.
///
/// # Errors
/// The process has ended (`ESRCH`).
pub(crate) fn namespaces_of(pid: i32, pidfd: &Pidfd) -> Result<Namespaces, Error> {
    let theirs = NamespaceSet::of_pidfd(pidfd)?;
    let same = theirs.coincide(&NamespaceSet::current()?);
    let mut namespaces = Namespaces::default();
    for kind in Kind::ALL.into_iter().filter(|kind| !same.contains(Kinds::from(*kind))) {
        *namespaces.get_mut(kind) = NamespaceMode::Join(Join::Pid(pid));
    }
    Ok(namespaces)
}
