//! The same work by the library and by the baselines, over the same root directory, in cgroups of
//! the same place.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nspod_sandbox::cgroup_core::Cgroup;
use nspod_sandbox::ns_core::{Kind, Kinds};
use nspod_sandbox::spec::{Mount, MountKind, Root, Seccomp};
use nspod_sandbox::{Command, Container, Pool, PoolOptions};

use crate::{c, floor};

/// How many directories for further mounts a [`Ground`] has.
pub const EXTRA_MOUNTS: usize = 64;

/// Where the benches' containers are: a root directory that holds the program alone, and a
/// cgroup that theirs are made under. Both go when this is dropped.
#[derive(Debug)]
pub struct Ground {
    /// The root directory.
    pub root: PathBuf,
    /// The cgroup's directory.
    pub cgroup: PathBuf,
    owned: bool,
}

impl Ground {
    /// Makes both.
    ///
    /// # Errors
    /// Where one of them cannot be made.
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

    /// One that somebody else has made, and will remove.
    pub fn open(root: PathBuf, cgroup: PathBuf) -> Ground {
        Ground { root, cgroup, owned: false }
    }

    /// The program's path as the host sees it.
    pub fn program(&self) -> PathBuf {
        self.root.join("nothing")
    }

    /// A container of the library's with the floor's work: its namespaces, mounts, nodes, links and host
    /// name, with no filter, no capability taken and nothing masked.
    pub fn container(&self) -> Command {
        let mut command = Command::bare("/nothing");
        command
            .isolate(Kinds::FIVE)
            .hostname("c")
            .root(Root::Dir { path: self.root.clone(), readonly: false })
            .cgroup_parent(&self.cgroup);
        for (path, kind) in [("/proc", MountKind::Proc), ("/dev", MountKind::Dev), ("/sys", MountKind::Sysfs)]
        {
            command.mount(Mount::new(path, kind));
        }
        command
    }

    /// The same with so many further mounts of tmpfs.
    pub fn container_with_mounts(&self, extra: usize) -> Command {
        let mut command = self.container();
        for number in 0..extra {
            let kind = MountKind::Tmpfs { size: None, mode: None };
            command.mount(Mount::new(Path::new("/").join(extra_path(number)), kind));
        }
        command
    }

    /// The same under the default seccomp profile.
    pub fn container_with_seccomp(&self) -> Command {
        let mut command = self.container();
        command.spec_mut().process.seccomp = Seccomp::Standard;
        command.spec_mut().process.no_new_privs = true;
        command
    }

    /// A pool with what [`container_of`](Self::container_of) can have of it.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn pool(&self) -> std::result::Result<Pool, nspod_sandbox::Error> {
        Pool::new(PoolOptions { cgroup_parent: Some(self.cgroup.clone()), ..PoolOptions::default() })
    }

    /// The container with what a pool has ready, and with `lo` up, as a pool's is.
    pub fn container_of(&self, pool: &Pool) -> Command {
        let mut command = self.container();
        command.pool(pool).spec_mut().loopback = true;
        command
    }

    /// A container that sleeps until it is deleted.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub fn sleeper(&self) -> std::result::Result<Container, nspod_sandbox::Error> {
        self.container().arg("sleep").spawn()
    }

    /// The floor in C.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn floor(&self) -> Result<c::Floor> {
        c::Floor::new(&self.root, Path::new("/nothing"))
    }

    /// The floor in C with so many further mounts.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn floor_with_mounts(&self, extra: usize) -> Result<c::Floor> {
        self.floor()?.extra((0..extra).map(extra_path))
    }

    /// The floor in Rust.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn floor_in_rust(&self) -> Result<floor::Floor> {
        floor::Floor::new(&self.root, Path::new("/nothing"), &self.cgroup.join("floor-rust"))
    }

    /// The path of a cgroup for a baseline, which makes and removes it.
    ///
    /// # Errors
    /// Where a path holds a NUL byte.
    pub fn cgroup_path(&self, name: &str) -> Result<CString> {
        CString::new(self.cgroup.join(name).as_os_str().as_bytes()).map_err(Error::other)
    }

    /// The program's path for [`c::raw`].
    ///
    /// # Errors
    /// Where it holds a NUL byte.
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

/// Where the further mounts are, under the root.
fn extra_path(number: usize) -> PathBuf {
    PathBuf::from(format!("mnt{number}"))
}

/// The library's start of a prepared command, to its end and the removal of what was made.
///
/// # Errors
/// As [`Command::status`]; where the program did not end by exit code 0.
pub fn run(command: &mut Command) -> Result<()> {
    let outcome = command.status().map_err(Error::other)?;
    if outcome.status.success() { Ok(()) } else { Err(Error::other(format!("{:?}", outcome.status))) }
}

/// A process with nothing isolated, by the standard library.
///
/// # Errors
/// Where it cannot be started or did not end by exit code 0.
pub fn run_std(command: &mut std::process::Command) -> Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(Error::other(status.to_string())) }
}

/// The flag of clone3 that makes a namespace of each of these kinds.
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
