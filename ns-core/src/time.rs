//! Clock offsets of time namespaces.

use std::fmt;
use std::str::FromStr;

use libc::pid_t;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use crate::file::write_proc;
use crate::idmap::number;
use crate::{Error, ErrorKind, Result, file, hint};

/// Offset of a clock in a time namespace from the host's clock: the sum of `secs` and `nanos`. See
/// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TimeOffset {
    /// Seconds, which may be negative.
    pub secs: i64,
    /// Nanoseconds, 0 to 999999999.
    pub nanos: u32,
}

/// Clock offsets of a time namespace: the content of `/proc/PID/timens_offsets`. Since Linux 5.6. See
/// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
///
/// ```
/// use ns_core::{TimeOffset, TimeOffsets};
/// let hour = TimeOffset { secs: 3600, nanos: 0 };
/// let offsets = TimeOffsets { boottime: hour, ..TimeOffsets::default() };
/// assert_eq!(offsets.to_string(), "monotonic 0 0\nboottime 3600 0\n");
/// assert_eq!(offsets.to_string().parse::<TimeOffsets>()?, offsets);
/// # Ok::<(), ns_core::Error>(())
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TimeOffsets {
    /// Offset of CLOCK_MONOTONIC.
    pub monotonic: TimeOffset,
    /// Offset of CLOCK_BOOTTIME.
    pub boottime: TimeOffset,
}

impl TimeOffsets {
    /// Reads the offsets of the time namespace that the children of the process `pid` are in. Since
    /// Linux 5.6; see
    /// [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
    ///
    /// # Errors
    /// - `ENOENT`, `ESRCH` ([`NoSuchProcess`](ErrorKind::NoSuchProcess)): the process has ended, or is
    ///   outside this pid namespace.
    /// - `ENOENT` ([`Unsupported`](ErrorKind::Unsupported)): the kernel has no time namespaces.
    pub fn of_pid(pid: pid_t) -> Result<Self> {
        let path = format!("/proc/{pid}/timens_offsets");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let errno = file::errno(&error);
            cannot(Error::os(format!("read {path}"), "open", errno).on(&path), errno)
        })?;
        text.parse()
    }

    /// Writes the offsets of the time namespace that the children of the process `pid` will be in. This
    /// must happen after its [`unshare`](crate::unshare()) and before it has a child there. Since Linux
    /// 5.6; see [time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html).
    ///
    /// # Errors
    /// - `EACCES` ([`Busy`](ErrorKind::Busy)): a process is already in the namespace.
    /// - `EPERM`: the caller lacks CAP_SYS_TIME in the user namespace that owns the time namespace.
    /// - `ERANGE` ([`InvalidInput`](ErrorKind::InvalidInput)): a clock would become negative, or exceed
    ///   half of its range.
    /// - [`InvalidInput`](ErrorKind::InvalidInput): `nanos` is above 999999999.
    /// - `ENOENT` ([`Unsupported`](ErrorKind::Unsupported)): the kernel has no time namespaces.
    pub fn write(&self, pid: pid_t) -> Result<()> {
        let path = format!("/proc/{pid}/timens_offsets");
        let step = format!("write {:?} to {path}", self.to_string().trim_end());
        if self.monotonic.nanos.max(self.boottime.nanos) > 999_999_999 {
            let why = "nanos is at most 999999999";
            return Err(Error::new(ErrorKind::InvalidInput, step, why).on(path));
        }
        write_proc(AT_FDCWD, &path, &self.to_string(), step).map_err(|(error, errno)| cannot(error, errno))
    }
}

fn cannot(error: Error, errno: Errno) -> Error {
    match errno {
        Errno::EACCES => error.with_kind(ErrorKind::Busy).hint(
            "offsets can be set until the first process is in the time namespace (unshare, write, \
             then clone), and never for the initial time namespace",
        ),
        Errno::EPERM => {
            error.hint("this requires CAP_SYS_TIME in the user namespace that owns the time namespace")
        }
        Errno::ERANGE => {
            error.with_kind(ErrorKind::InvalidInput).hint("a clock would become negative or overflow")
        }
        Errno::ENOENT if !hint::supported(crate::Kind::Time) => error
            .with_kind(ErrorKind::Unsupported)
            .hint("this kernel has no time namespaces (Linux 5.6, CONFIG_TIME_NS)"),
        _ => hint::of_proc(error, errno),
    }
}

impl fmt::Display for TimeOffsets {
    /// Formats the offsets as the kernel accepts them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (m, b) = (self.monotonic, self.boottime);
        write!(f, "monotonic {} {}\nboottime {} {}\n", m.secs, m.nanos, b.secs, b.nanos)
    }
}

impl FromStr for TimeOffsets {
    type Err = Error;

    /// Parses lines `CLOCK SECONDS NANOSECONDS`. As in the kernel, a clock is a name or a number (1 and
    /// 7). The offset of a missing clock is 0.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |line: &str| {
            let why = "a line is monotonic or boottime, seconds, and nanoseconds up to 999999999";
            Error::parse("a clock offset", line, why)
        };
        let mut offsets = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let [clock, secs, nanos] = words[..] else { return Err(bad(line)) };
            let offset = TimeOffset {
                secs: secs.parse().map_err(|_| bad(line))?,
                nanos: number(nanos).filter(|n| *n <= 999_999_999).ok_or_else(|| bad(line))?,
            };
            match clock {
                "monotonic" | "1" => offsets.monotonic = offset,
                "boottime" | "7" => offsets.boottime = offset,
                _ => return Err(bad(line)),
            }
        }
        Ok(offsets)
    }
}
