//! The pids that one process has in nested pid namespaces.

use std::io::Read;

use libc::pid_t;
use nix::errno::Errno;

use crate::id::explain;
use crate::{Error, ErrorKind, Result, parse};

/// The pids of a process: first the one here, then the one in each pid namespace below, last
/// the one in its own. Since Linux 4.1.
///
/// ```
/// let myself = std::process::id() as i32;
/// assert_eq!(ns_core::pid_chain(myself)?[0], myself);
/// # Ok::<(), ns_core::Error>(())
/// ```
///
/// # Errors
/// [`NoSuchProcess`](ErrorKind::NoSuchProcess): it has ended, or lives outside this pid
/// namespace.
pub fn pid_chain(pid: pid_t) -> Result<Vec<pid_t>> {
    let path = format!("/proc/{pid}/status");
    let step = || format!("read the pids of process {pid}");
    // Names of processes are any bytes. std would ask for the size, which files of /proc do not
    // have, and read them in small pieces.
    let mut bytes = Vec::with_capacity(4096);
    let file = std::fs::File::open(&path);
    file.and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes)).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        explain(Error::os(step(), format!("read({path})"), errno), errno)
    })?;
    parse::nspid(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            step(),
            format!("{path} has no NSpid line: it came with Linux 4.1"),
        )
    })
}
