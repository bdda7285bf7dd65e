//! Descriptor numbers of the stage and the embedded init, relative to the highest number that the
//! program gets.
//!
//! They start at 21 because the caller's next free descriptors probably have lower numbers. If a
//! descriptor already has the right number, one call places it instead of two.

/// The socket to the parent.
pub(crate) const REPORT: i32 = 21;
/// The pipe on which a held container reports after its start.
pub(crate) const LATE: i32 = 22;
/// The file to which the init writes the exit status of the program.
pub(crate) const EXIT: i32 = 23;
/// The file `cgroup.kill` of the container, to which the init writes last.
pub(crate) const KILL: i32 = 24;
/// The encoded steps. Only the stage has this descriptor and the following ones.
pub(crate) const BLOB: i32 = 25;
/// The root of a procfs.
pub(crate) const PROC: i32 = 26;
/// The pipe on which a held container waits for its start.
pub(crate) const GO: i32 = 27;
/// The standard input of hooks.
pub(crate) const STATE: i32 = 28;
/// The file of the embedded init.
pub(crate) const IMAGE: i32 = 29;
/// The pipe that the init copies to the log. The files of the log follow.
pub(crate) const OUTPUT: i32 = 30;
/// The first number above all of these, except those of a log.
pub(crate) const ABOVE: i32 = 30;
