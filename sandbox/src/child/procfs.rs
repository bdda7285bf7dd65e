//! A procfs of a pid namespace that this process is not in.
//!
//! fsopen(2) makes a procfs of its caller's pid namespace. If the caller entered the container's
//! pid namespace, processes of the container could see the caller. Therefore a process outside
//! makes the mount. Since Linux 6.17 it uses the option `pidns`; on an older kernel it copies the
//! mount of a process inside.

use ::core::ffi::c_int;
use ::core::option::Option::{self, None, Some};
use ::core::result::Result::{Err, Ok};
use ::libc;
use ::std::os::fd::OwnedFd;

use super::file::proc_at_root;
use super::mount::new_mount_in;
use super::sys::{Done, Fault, Run, close, exit, fstat, open_tree, openat, setns};
use crate::step::{Call, Param};

/// Data of the process that makes the mount. The process shares memory and descriptors with its
/// parent.
pub(crate) struct Procfs<'a> {
    /// The pid namespace.
    pub(crate) namespace: c_int,
    /// The user namespace to enter first, or -1.
    pub(crate) user: c_int,
    /// Pidfd of a process in the pid namespace whose mount is copied, or -1 to make a new mount.
    pub(crate) member: c_int,
    /// Options of a new mount.
    pub(crate) params: &'a [Param],
    /// The detached mount.
    pub(crate) made: Option<OwnedFd>,
    /// The failed call and its errno.
    pub(crate) failed: Option<(Call, c_int)>,
}

impl Run for Procfs<'_> {
    fn run(&mut self) -> ! {
        self.failed = match attempt(self) {
            Ok(()) => None,
            Err(Fault { call, errno }) => Some((call, errno)),
        };
        exit(0)
    }
}

fn attempt(job: &mut Procfs<'_>) -> Done {
    if job.user >= 0 {
        setns(job.user, libc::CLONE_NEWUSER)?;
    }
    if job.member < 0 {
        job.made = Some(new_mount_in(c"proc", job.params, 0, Some(job.namespace))?);
        return Ok(());
    }
    setns(job.member, libc::CLONE_NEWNS)?;
    let root = proc_at_root()?;
    let copied = check_shown(root, job.namespace).and_then(|()| open_tree(root, c"", false));
    // The parent has the same descriptor table.
    close(root);
    job.made = Some(copied?);
    Ok(())
}

/// Checks that a procfs shows this pid namespace. The pid namespace of process 1 is the one that the
/// procfs shows.
fn check_shown(root: c_int, namespace: c_int) -> Done {
    let first = openat(root, c"1/ns/pid", libc::O_RDONLY | libc::O_CLOEXEC, 0)?;
    let shown = fstat(first);
    close(first);
    let (shown, wanted) = (shown?, fstat(namespace)?);
    match shown.st_ino == wanted.st_ino && shown.st_dev == wanted.st_dev {
        true => Ok(()),
        false => Err(Fault { call: Call::Fstat, errno: libc::EXDEV }),
    }
}
