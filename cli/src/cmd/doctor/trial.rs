//! Starts real containers.

use std::ffi::OsString;
use std::path::PathBuf;

use ns_core::Kinds;
use nspod_sandbox::spec::{Namespaces, Root, Spec, StorageLimit, Writes};
use nspod_sandbox::{Command, ErrorKind, Stdio};

use super::probe;
use super::report::{Group, Mark};
use crate::error::{Error, Result};

pub(super) const GROUP: &str = "trial";
/// Name of the check that decides whether the caller can start containers.
pub(super) const OWN: &str = "a container";

pub(super) fn check(privileged: bool) -> Group {
    let mut group = Group::new(GROUP);
    group.tried(OWN, Mark::Missing, probe::container());
    if privileged {
        group.tried("a rootless container", Mark::Limited, rootless());
    }
    group
}

fn rootless() -> std::result::Result<(), String> {
    let state = Scratch::new().map_err(|e| e.to_string())?;
    probe::container_of_nobody(&state.0)
}

/// Checks whether an overlay can be a root file system. The overlay contains no program. The error that the
/// program is missing means that all earlier steps succeeded.
pub(super) fn overlay(privileged: bool) -> Result<()> {
    let lower = Scratch::new()?;
    let root =
        Root::Overlay { lower: vec![lower.0.clone()], writes: Writes::Tmpfs, limit: StorageLimit::default() };
    let mut spec = Spec { root, ..Spec::bare("/nothing") };
    spec.namespaces = new(privileged, Kinds::MNT);
    match Command::from_spec(spec).die_with_parent(false).status() {
        Err(e) if e.kind() == ErrorKind::ProgramNotFound => Ok(()),
        Err(e) => Err(Error::from(e).hint("containers cannot have an overlay (--overlay) as their root")),
        Ok(_) => Err(Error::new(ErrorKind::State, "doctor", "an empty directory has a program in it")),
    }
}

/// A directory that is removed at the end. It contains no mount points: an ordinary user could not unmount them in
/// the new mount namespace.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("nspod-doctor-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|e| Error::io("doctor", "make", &path, &e))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns new namespaces of these kinds, with a user namespace if the caller is not privileged.
pub(super) fn new(privileged: bool, kinds: Kinds) -> Namespaces {
    Namespaces::new(if privileged { kinds } else { kinds | Kinds::USER })
}

/// Returns the arguments of a program that exists on every host and does nothing: this program.
pub(super) fn nothing() -> Vec<OsString> {
    ["/proc/self/exe", "doctor", "--probe", "nothing"].map(OsString::from).into()
}

/// Runs a container to its end.
pub(super) fn start(spec: &Spec) -> Result<()> {
    let mut command = Command::from_spec(spec.clone());
    command.die_with_parent(false);
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    let outcome = command.status()?;
    match outcome.status.success() {
        true => Ok(()),
        false => {
            let problem = format!("it started and {}", outcome.status);
            Err(Error::new(ErrorKind::HelperFailed, "doctor", problem))
        }
    }
}
