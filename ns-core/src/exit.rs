//! Exit status and resource usage of a process.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

/// Exit status of a child, and the resources that it used. See
/// [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Resources that the process used, including those of the children that it waited for.
    pub usage: Usage,
}

/// Exit code of a process, or the signal that ended it.
///
/// See [wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html).
///
/// ```
/// use ns_core::ExitStatus;
/// let status = ExitStatus::from_wait(3 << 8);
/// assert_eq!((status.code(), status.signal()), (Some(3), None));
/// assert_eq!(status.to_string(), "exited with code 3");
/// let killed = ExitStatus::Signaled { signal: libc::SIGKILL, core_dumped: false };
/// assert_eq!((killed.signal(), killed.shell_code()), (Some(9), 137));
/// assert_eq!(killed.to_string(), "ended by SIGKILL");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum ExitStatus {
    /// The process exited with this code, 0 to 255.
    Exited(i32),
    /// A signal ended the process.
    Signaled {
        /// Number of the signal.
        signal: i32,
        /// Whether the kernel wrote a core dump.
        #[cfg_attr(feature = "serde", serde(rename = "core"))]
        core_dumped: bool,
    },
}

/// Resources that a process used.
///
/// See [getrusage(2)](https://man7.org/linux/man-pages/man2/getrusage.2.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in kernel mode.
    pub system: Duration,
    /// Largest resident set in bytes, of the process or of one of its children.
    pub max_rss: u64,
}

impl ExitStatus {
    /// Decodes the status word of [wait(2)](https://man7.org/linux/man-pages/man2/wait.2.html).
    /// The kernel's `exit_code` has the same format.
    ///
    /// ```
    /// use ns_core::ExitStatus;
    /// assert_eq!(ExitStatus::from_wait(3 << 8), ExitStatus::Exited(3));
    /// let dumped = ExitStatus::Signaled { signal: 11, core_dumped: true };
    /// assert_eq!(ExitStatus::from_wait(0x80 | 11), dumped);
    /// ```
    pub fn from_wait(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Exited((status >> 8) & 0xff),
            signal => Self::Signaled { signal, core_dumped: status & 0x80 != 0 },
        }
    }

    /// Returns whether the process exited with code 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// Returns the exit code, 0 to 255; `None` if a signal ended the process.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Exited(code) => Some(code),
            Self::Signaled { .. } => None,
        }
    }

    /// Returns the number of the signal that ended the process; `None` if it exited.
    pub fn signal(self) -> Option<i32> {
        match self {
            Self::Exited(_) => None,
            Self::Signaled { signal, .. } => Some(signal),
        }
    }

    /// Returns whether the kernel wrote a core dump.
    pub fn core_dumped(self) -> bool {
        matches!(self, Self::Signaled { core_dumped: true, .. })
    }

    /// Returns the number that a shell reports in `$?`: the exit code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => 128 + signal,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled { signal, core_dumped } => {
                match Signal::try_from(signal) {
                    Ok(name) => write!(f, "ended by {name}")?,
                    Err(_) => write!(f, "ended by signal {signal}")?,
                }
                if core_dumped { f.write_str(", core dumped") } else { Ok(()) }
            }
        }
    }
}
