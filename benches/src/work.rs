//! The same work by the library and by the baselines, over the same root directory, with cgroups of the same
//! parent.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nspod_sandbox::cgroup_core::Cgroup;
use nspod_sandbox::ns_core::{Kind, Kinds};
use nspod_sandbox::spec::{Mount, MountKind, Root, Seccomp};
use nspod_sandbox::{Command, Container, Pool, PoolOptions};

use crate::{c, floor};

/// Number of directories for further mounts in a [`Ground`].
pub const EXTRA_MOUNTS: usize = 64;

/// The environment of the benches' containers: a root directory that contains only the program, and a parent
/// cgroup. Dropping the value removes both.
#[derive(Debug)]
pub struct Ground {
    /// The root directory.
    pub root: PathBuf,
    /// The directory of the parent cgroup.
    pub cgroup: PathBuf,
    owned: bool,
}

impl Ground {
    /// Creates both directories.
    ///
    /// # Errors
    /// If one of them cannot be created.
    pub fn new(nothing: &Path, root: PathBuf, cgroup: PathBuf) -> Result<Ground> {
        let ground = Ground { root, cgroup, owned: true };
        let extra = (0..EXTRA_MOUNTS).map(extra_path);
        for directory in ["proc", "dev", "sys"].into_iter().map(PathBuf::from).chain(extra) {
            std::fs::create_dir_all(ground.root.join(directory))?;
        }
        std::fs::copy(nothing, ground.root.join("nothing"))?;
        std::fs::create_dir_all(&ground.cgroup)?;
        Ok(ground)
    }

    /// Opens an environment that another process has created and will remove.
    pub fn open(root: PathBuf, cgroup: PathBuf) -> Ground {
        Ground { root, cgroup, owned: false }
    }

    /// Returns the path of the program on the host.
    pub fn program(&self) -> PathBuf {
        self.root.join("nothing")
    }

    /// Returns a command of the library with the floor's work: its namespaces, mounts, nodes, links and host name.
    /// It loads no filter, drops no capabilities and masks no paths.
    pub fn container(&self) -> Command {
        let mut command = Command::bare("/nothing");
        command
            .isolate(Kinds::FIVE)
            .init(false)
            .hostname("c")
            .root(Root::Dir { path: self.root.clone(), readonly: false })
            .cgroup_parent(&self.cgroup);
        for (path, kind) in [("/proc", MountKind::Proc), ("/dev", MountKind::Dev), ("/sys", MountKind::Sysfs)]
        {
            command.mount(Mount::new(path, kind));
        }
        command
    }

    /// Returns the same command with this many further mounts of tmpfs.
    pub fn container_with_mounts(&self, extra: usize) -> Command {
        let mut command = self.container();
        for number in 0..extra {
            let kind = MountKind::Tmpfs { mode: None };
            command.mount(Mount::new(Path::new("/").join(extra_path(number)), kind));
        }
        command
    }

    /// Returns the same command with the default seccomp profile.
    pub fn container_with_seccomp(&self) -> Command {
        let mut command = self.container();
        command.spec_mut().process.seccomp = Seccomp::Standard;
        command.spec_mut().process.no_new_privs = true;
        command
    }

    /// Returns a pool with the entries that [`container_of`](Self::container_of) can use.
    ///
    /// # Errors
    /// As for [`Pool::new`].
    pub fn pool(&self) -> std::result::Result<Pool, nspod_sandbox::Error> {
        Pool::new(PoolOptions { cgroup_parent: Some(self.cgroup.clone()), ..PoolOptions::default() })
    }

    /// Returns a command that uses the entries of a pool. `lo` is up, as in the pool's net namespaces.
    pub fn container_of(&self, pool: &Pool) -> Command {
        let mut command = self.container();
        command.pool(pool).spec_mut().loopback = true;
        command
    }

    /// Starts a container that sleeps until it is deleted.
    ///
    /// # Errors
    /// As for [`Command::spawn`].
    pub fn sleeper(&self) -> std::result::Result<Container, nspod_sandbox::Error> {
        self.container().arg("sleep").spawn()
    }

    /// Returns the floor in C.
    ///
    /// # Errors
    /// If a path contains a NUL byte.
    pub fn floor(&self) -> Result<c::Floor> {
        c::Floor::new(&self.root, Path::new("/nothing"))
    }

    /// Returns the floor in C with this many further mounts.
    ///
    /// # Errors
    /// If a path contains a NUL byte.
    pub fn floor_with_mounts(&self, extra: usize) -> Result<c::Floor> {
        self.floor()?.extra((0..extra).map(extra_path))
    }

    /// Returns the floor in Rust.
    ///
    /// # Errors
    /// If a path contains a NUL byte.
    pub fn floor_in_rust(&self) -> Result<floor::Floor> {
        floor::Floor::new(&self.root, Path::new("/nothing"), &self.cgroup.join("floor-rust"))
    }

    /// Returns the path of a cgroup for a baseline, which creates and removes the cgroup.
    ///
    /// # Errors
    /// If the path contains a NUL byte.
    pub fn cgroup_path(&self, name: &str) -> Result<CString> {
        CString::new(self.cgroup.join(name).as_os_str().as_bytes()).map_err(Error::other)
    }

    /// Returns the path of the program for [`c::raw`].
    ///
    /// # Errors
    /// If the path contains a NUL byte.
    pub fn program_c(&self) -> Result<CString> {
        CString::new(self.program().as_os_str().as_bytes()).map_err(Error::other)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.owned {
            let _ = std::fs::remove_dir_all(&self.root);
            let _ = Cgroup::open(&self.cgroup).and_then(|cgroup| cgroup.destroy());
        }
    }
}

/// Returns the path of a further mount, relative to the root.
fn extra_path(number: usize) -> PathBuf {
    PathBuf::from(format!("mnt{number}"))
}

/// Starts a prepared command, waits for its end and removes its resources.
///
/// # Errors
/// As for [`Command::status`], and if the program did not end with exit code 0.
pub fn run(command: &mut Command) -> Result<()> {
    let outcome = command.status().map_err(Error::other)?;
    if outcome.status.success() { Ok(()) } else { Err(Error::other(format!("{:?}", outcome.status))) }
}

/// Starts a process without isolation by the standard library, and waits for it.
///
/// # Errors
/// If the process cannot be started or does not end with exit code 0.
pub fn run_std(command: &mut std::process::Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(Error::other(status.to_string())) }
}

/// Returns the flags of clone3 for new namespaces of these kinds.
pub fn clone_flags(kinds: Kinds) -> u64 {
    let flag = |kind| match kind {
        Kind::Mnt => libc::CLONE_NEWNS,
        Kind::Net => libc::CLONE_NEWNET,
        Kind::Pid => libc::CLONE_NEWPID,
        Kind::User => libc::CLONE_NEWUSER,
        Kind::Uts => libc::CLONE_NEWUTS,
        Kind::Ipc => libc::CLONE_NEWIPC,
        Kind::Cgroup => libc::CLONE_NEWCGROUP,
        Kind::Time => 0x80,
    };
    kinds.kinds().map(|kind| flag(kind) as u64).sum()
}
