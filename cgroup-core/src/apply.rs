//! Writing limits to a cgroup: either all of them, or an error with the reason.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::controller::{Controller, Controllers};
use crate::error::{Error, Result};
use crate::hierarchy::Hierarchy;
use crate::limits::Limits;
use crate::limits::table::Limit;
use crate::missing::Missing;

/// The files and values that were written, in order. The kernel may round a value, for example
/// memory to whole pages. Section "Controllers".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Names of the files, and values. Network limits follow: see
    /// [`net::Limits::settings`](crate::net::Limits::settings).
    pub writes: Vec<(String, String)>,
}

/// Returns the file of another mechanism for the same purpose.
fn alternative(file: &str) -> Option<&'static str> {
    Limit::of_file(file)?.alternative
}

impl Cgroup {
    /// Writes the limits to this cgroup. The controllers must be available in it: see
    /// [`enable_path`](Self::enable_path).
    ///
    /// All values are checked and all files are opened before the first write. So after
    /// `InvalidLimit` and `Unenforceable` nothing has changed.
    ///
    /// Since Linux 4.5; [`Limits`] documents the first kernel version of each file. Section
    /// "Controllers".
    ///
    /// # Errors
    /// - `InvalidLimit`: see [`Limits::validate`].
    /// - `Unenforceable`: a file is missing; [`Error::unenforceable`] lists each with the reason.
    /// - Any other kind (`EINVAL`, `ERANGE`, `ENODEV`, `EOPNOTSUPP`, `EBUSY`, `EACCES`): the kernel
    ///   rejected one value. The limits before it are in force, and those after it are not. For
    ///   [`Limits::net`] see [`limit_net`](Self::limit_net).
    pub fn apply(&self, limits: &Limits) -> Result<Applied> {
        limits.validate()?;
        let writes = limits.writes();
        let mut files = Vec::with_capacity(writes.len());
        for (file, value) in &writes {
            match self.open_for_write(file, value) {
                Ok(fd) => files.push((fd, file, value)),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {
                    if self.alternative_exists(&writes, file)? {
                        continue;
                    }
                    let missing = self.unenforceable(limits)?;
                    return Err(match missing.is_empty() {
                        true => error,
                        false => Error::cannot_enforce(self.path(), missing),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let mut applied = Applied::default();
        let mut refused = Vec::new();
        for (fd, file, value) in &files {
            let device = value.split(' ').next();
            let other_file = |(_, other, value): &(OwnedFd, &String, &String)| {
                alternative(file) == Some(other.as_str()) && value.split(' ').next() == device
            };
            match self.write_to(fd, file, value) {
                Ok(()) => applied.writes.push(((*file).clone(), (*value).clone())),
                // The disk may support only the other weight.
                Err(error)
                    if error.errno() == Some(Errno::EOPNOTSUPP)
                        && files.iter().any(other_file)
                        && !refused.contains(&device) =>
                {
                    refused.push(device);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(net) = &limits.net {
            self.limit_net(net)?;
            applied.writes.extend(net.settings());
        }
        Ok(applied)
    }

    /// Returns the limits that cannot be enforced in this cgroup as it is now: the file of each,
    /// and the reason.
    ///
    /// Since Linux 5.6. Section "Enabling and Disabling".
    ///
    /// # Errors
    /// - `NotFound` (`ENODEV`): the cgroup was removed.
    /// - As [`Hierarchy::detect`].
    pub fn unenforceable(&self, limits: &Limits) -> Result<Vec<(String, Missing)>> {
        let mut host = None;
        let mut all: Vec<(String, Missing)> = Vec::new();
        let available = self.available()?;
        let writes = limits.writes();
        for (file, _) in &writes {
            if all.last().is_some_and(|(last, _)| last == file)
                || self.has(file)?
                || self.alternative_exists(&writes, file)?
            {
                continue;
            }
            let why = match Controller::of_file(file) {
                Some(controller) if !available.contains(controller.into()) => {
                    if host.is_none() {
                        host = Some(Hierarchy::detect()?);
                    }
                    self.why_missing(controller, host.as_ref())?
                }
                _ => Missing::NoFile { file: file.clone(), requirement: Limit::requirement(file) },
            };
            all.push((file.clone(), why));
        }
        Ok(all)
    }

    /// Returns whether the file of another mechanism for the same purpose is written too, and exists.
    fn alternative_exists(&self, writes: &[(String, String)], file: &str) -> Result<bool> {
        match alternative(file) {
            Some(other) if writes.iter().any(|(file, _)| file == other) => self.has(other),
            _ => Ok(false),
        }
    }

    /// Returns whether the cgroup has a file with this name.
    fn has(&self, file: &str) -> Result<bool> {
        use nix::fcntl::OFlag;
        match self.open_file(file, OFlag::O_PATH) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT | Errno::EXDEV | Errno::ENAMETOOLONG) => Ok(false),
            Err(errno) => Err(self.fail(
                format_args!("look for {file} in {}", self.path().display()),
                "openat2",
                file,
                errno,
            )),
        }
    }

    fn why_missing(&self, controller: Controller, host: Option<&Hierarchy>) -> Result<Missing> {
        if let Some(missing) = host.and_then(|host| host.why_missing(controller)) {
            return Ok(missing);
        }
        // The host has the controller: find the uppermost cgroup that does not.
        let wanted = Controllers::from(controller);
        let mut at = self.path().to_owned();
        let mut above = self.parent()?;
        while let Some(parent) = above {
            if parent.available()?.contains(wanted) {
                break;
            }
            at = parent.path().to_owned();
            above = parent.parent()?;
        }
        Ok(Missing::NotDelegated { controller, at })
    }
}
