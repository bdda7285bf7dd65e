//! Descriptors of the caller that a container inherits.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ns_core::Pidfd;
use nspod_sandbox::Command;

use crate::error::{Error, ErrorKind, Result};

/// Descriptors that the container inherits from the caller, numbered from 3: first the descriptors of socket
/// activation ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)), then the
/// preserved ones.
#[derive(Debug, Default)]
pub struct InheritedFds {
    fds: Vec<OwnedFd>,
    listening: u16,
}

impl InheritedFds {
    /// Copies the descriptors that `LISTEN_FDS` counts, if `LISTEN_PID` is empty or the caller's pid, and
    /// `preserved` additional ones.
    ///
    /// Call this function before the program opens a descriptor that stays open. The function takes each
    /// descriptor below the lowest free number for an inherited one.
    ///
    /// Since Linux 5.6: [pidfd_getfd(2)](https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html).
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidInput`]: one of the descriptors is not open.
    /// - [`ErrorKind::LimitReached`] (`EMFILE`, `ENFILE`): no descriptor is free.
    pub fn take(preserved: u16) -> Result<InheritedFds> {
        let ours = |pid: &str| pid.is_empty() || pid.parse() == Ok(std::process::id());
        let listening = match std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u16>().ok()) {
            Some(n) if ours(&std::env::var("LISTEN_PID").unwrap_or_default()) => n,
            _ => 0,
        };
        let count = i32::from(listening) + i32::from(preserved);
        if count == 0 {
            return Ok(InheritedFds { fds: Vec::new(), listening });
        }
        let own = Pidfd::open(std::process::id() as i32)?;
        let first_free = own.as_fd().as_raw_fd();
        let copy = |fd| match fd < first_free {
            true => Ok(own.get_fd(fd)?),
            false => {
                let problem =
                    format!("cannot pass on descriptor {fd} of --preserve-fds or LISTEN_FDS: it is not open");
                Err(Error::new(ErrorKind::InvalidInput, "options", problem).on(fd.to_string()))
            }
        };
        Ok(InheritedFds { fds: (3..3 + count).map(copy).collect::<Result<_>>()?, listening })
    }

    /// Gives the descriptors to a container.
    pub(crate) fn give(self, command: &mut Command) {
        if self.listening > 0 {
            command.env("LISTEN_FDS", self.listening.to_string()).env("LISTEN_PID", "1");
        }
        for (fd, to) in self.fds.into_iter().zip(3..) {
            command.fd(fd, to);
        }
    }
}
