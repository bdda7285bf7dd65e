//! Where cgroup v2 is mounted, and which controllers it has.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::cgroup::Cgroup;
use crate::controller::{Controller, Controllers};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::missing::Missing;
use crate::parse::{self, Mount, Subsystem};

/// Versions of cgroups that are in use. Section "Mounting".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Only cgroup v2.
    Unified,
    /// cgroup v2 beside v1 hierarchies, which may have controllers.
    Hybrid,
    /// Only cgroup v1, which this crate does not support.
    Legacy,
    /// No cgroup file system is mounted here.
    None,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unified => "unified",
            Self::Hybrid => "hybrid",
            Self::Legacy => "legacy",
            Self::None => "none",
        })
    }
}

/// The cgroup v2 hierarchy as this process sees it: the cgroup2 mount in its mount namespace, the
/// root of its cgroup namespace, and the controllers of the kernel.
///
/// The value is a snapshot that [`detect`](Self::detect) takes. Section "Mounting".
///
/// ```
/// use cgroup_core::{Controller, Hierarchy};
/// let host = Hierarchy::detect()?;
/// println!("{} with {}", host.layout(), host.controllers());
/// if let Some(why) = host.why_missing(Controller::Memory) {
///     println!("no memory limits: {why}");
/// }
/// # Ok::<(), cgroup_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mounts: Vec<Mount>,
    subsystems: Vec<Subsystem>,
    /// Index in `mounts` of the cgroup2 mount in use.
    mount: Option<usize>,
    controllers: Controllers,
}

/// Returns whether an error is temporary, so that it does not show that the mount is hidden.
fn is_temporary(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO | Errno::EINTR))
}

impl Hierarchy {
    /// Reads `/proc/self/mountinfo`, `/proc/cgroups` and `cgroup.controllers` of the mount. If
    /// there are several cgroup2 mounts, uses the first that shows the caller's own cgroup, or else
    /// the first that is not hidden by another mount.
    ///
    /// A missing hierarchy is not an error: see [`layout`](Self::layout).
    ///
    /// Since Linux 4.5. Section "Mounting";
    /// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`), `PermissionDenied` (`EACCES`): `/proc` is not mounted or not
    ///   readable.
    /// - `Os` (`EMFILE`, `ENFILE`, `ENOMEM`): a resource is exhausted.
    /// - `InvalidText`: `/proc/cgroups` has an unknown format.
    pub fn detect() -> Result<Self> {
        let mounts = parse::mountinfo(&read("/proc/self/mountinfo")?);
        let subsystems = match read("/proc/cgroups") {
            Ok(text) => parse::proc_cgroups(&text)?,
            // A kernel without v1 may not have the file.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Vec::new(),
            Err(error) => return Err(error),
        };
        let own = read("/proc/self/cgroup")?;
        let own = parse::proc_self_cgroup(&own);
        let mut seen: Vec<(usize, Cgroup)> = Vec::new();
        for (i, mount) in mounts.iter().enumerate().filter(|(_, mount)| mount.v2) {
            match Cgroup::open(&mount.point) {
                Ok(cgroup) => seen.push((i, cgroup)),
                Err(e) if is_temporary(&e) => return Err(e),
                // Another mount hides it.
                Err(_) => {}
            }
        }
        let shows_own = |i: usize| own.is_some_and(|own| below(&mounts[i].root, own).is_some());
        let best = seen.iter().find(|(i, _)| shows_own(*i)).or(seen.first());
        let mount = best.map(|(i, _)| *i);
        let controllers = best.map_or(Ok(Controllers::empty()), |(_, root)| root.available())?;
        Ok(Self { mounts, subsystems, mount, controllers })
    }

    /// Returns the versions of cgroups that are in use. A v1 hierarchy counts if it is mounted, or if
    /// it has a controller although this mount namespace does not have its mount.
    pub fn layout(&self) -> Layout {
        let v1 =
            self.mounts.iter().any(|mount| !mount.v2) || self.subsystems.iter().any(|s| s.hierarchy != 0);
        match (self.mount.is_some(), v1) {
            (true, false) => Layout::Unified,
            (true, true) => Layout::Hybrid,
            (false, true) => Layout::Legacy,
            (false, false) => Layout::None,
        }
    }

    /// Returns the mount point of cgroup2, relative to the root directory of the caller; `None`
    /// without a cgroup2 mount.
    pub fn mount_point(&self) -> Option<&Path> {
        Some(&self.mount()?.point)
    }

    /// Opens the top directory of the cgroup2 mount.
    ///
    /// Since Linux 4.5. Section "Mounting".
    ///
    /// # Errors
    /// - `NoHierarchy`: no cgroup2 is mounted.
    /// - As [`Cgroup::open`].
    pub fn root(&self) -> Result<Cgroup> {
        Cgroup::open(&self.mounted()?.point)
    }

    /// Opens the cgroup of the caller.
    ///
    /// Since Linux 4.5. Section "Namespace";
    /// [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), `/proc/PID/cgroup`.
    ///
    /// # Errors
    /// - `NoHierarchy`: no cgroup2 is mounted, or the cgroup of the caller is outside of the mount,
    ///   for example because the caller entered a cgroup namespace without a new mount.
    /// - As [`Cgroup::open`].
    pub fn own(&self) -> Result<Cgroup> {
        self.open_of("/proc/self/cgroup", "this process")
    }

    /// Opens the cgroup of the process `pid`.
    ///
    /// Since Linux 4.5. [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html),
    /// `/proc/PID/cgroup`.
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`, `ESRCH`): the process does not exist.
    /// - As [`own`](Self::own).
    pub fn of(&self, pid: i32) -> Result<Cgroup> {
        self.open_of(&format!("/proc/{pid}/cgroup"), &format!("process {pid}"))
    }

    fn open_of(&self, file: &str, who: &str) -> Result<Cgroup> {
        Cgroup::open(self.path_of(&read(file)?, who)?)
    }

    /// Opens the cgroup at a path of `/proc/PID/cgroup`, which is relative to the root of the caller's
    /// cgroup namespace.
    ///
    /// Since Linux 4.5. [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html),
    /// `/proc/PID/cgroup`.
    ///
    /// ```
    /// # if !std::path::Path::new("/proc/self/cgroup").exists() { return; }
    /// let hierarchy = cgroup_core::Hierarchy::detect().unwrap();
    /// # let Ok(root) = hierarchy.root() else { return };
    /// assert_eq!(hierarchy.open("/").unwrap().path(), hierarchy.mount_point().unwrap());
    /// ```
    ///
    /// # Errors
    /// - `NotFound` (`ENOENT`): the cgroup does not exist.
    /// - As [`own`](Self::own).
    pub fn open(&self, path: &str) -> Result<Cgroup> {
        self.at(path, "this path")
    }

    /// Opens the cgroup like [`open`](Self::open). `who` is its owner in an error.
    pub(crate) fn at(&self, path: &str, who: &str) -> Result<Cgroup> {
        Cgroup::open(self.path_to(path, who)?)
    }

    /// Returns the directory of the cgroup that a `/proc/PID/cgroup` names.
    fn path_of(&self, text: &str, who: &str) -> Result<PathBuf> {
        let path = parse::proc_self_cgroup(text)
            .ok_or_else(|| Error::no_hierarchy("/proc names no v2 cgroup: cgroup2 is not mounted"))?;
        self.path_to(path, who)
    }

    fn path_to(&self, path: &str, who: &str) -> Result<PathBuf> {
        let mount = self.mounted()?;
        let below = below(&mount.root, path)
            .ok_or_else(|| Error::outside(path, who.to_owned(), &mount.point, &mount.root))?;
        Ok(if below.is_empty() { mount.point.clone() } else { mount.point.join(below) })
    }

    /// Returns the controllers that v2 has on this host: `cgroup.controllers` of the mount.
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Returns why v2 does not have the controller here, or `None` if it does.
    pub fn why_missing(&self, controller: Controller) -> Option<Missing> {
        if self.controllers.contains(controller.into()) {
            return None;
        }
        let Some(mount) = self.mount() else { return Some(Missing::NoHierarchy) };
        Some(match self.subsystems.iter().find(|s| s.name == controller.v1_name()) {
            Some(s) if s.hierarchy != 0 => {
                let holds = |mount: &&Mount| !mount.v2 && mount.options.contains(&s.name);
                let mount = self.mounts.iter().find(holds).map(|mount| mount.point.clone());
                Missing::BoundToV1 { controller, mount }
            }
            Some(s) if !s.enabled => Missing::Disabled { controller },
            Some(_) => Missing::NotDelegated { controller, at: mount.point.clone() },
            None => Missing::NotInKernel { controller },
        })
    }

    /// Returns the limits whose controllers v2 lacks on this host: the file of each, and the reason.
    /// [`Cgroup::unenforceable`] also checks the controllers and files of one cgroup.
    pub fn unenforceable(&self, limits: &Limits) -> Vec<(String, Missing)> {
        let mut all: Vec<_> = limits
            .writes()
            .into_iter()
            .filter_map(|(file, _)| {
                let missing = self.why_missing(Controller::of_file(&file)?)?;
                Some((file, missing))
            })
            .collect();
        all.dedup();
        all
    }

    fn mount(&self) -> Option<&Mount> {
        Some(&self.mounts[self.mount?])
    }

    fn mounted(&self) -> Result<&Mount> {
        let why = match self.layout() {
            Layout::Legacy => {
                "only v1 cgroups are mounted here: mount cgroup2 beside them (mount -t cgroup2 none DIR), or boot with systemd.unified_cgroup_hierarchy=1"
            }
            _ => "no cgroup file system is mounted here: mount -t cgroup2 none /sys/fs/cgroup",
        };
        self.mount().ok_or_else(|| Error::no_hierarchy(why))
    }
}

impl Cgroup {
    /// Opens the top of the cgroup2 mount. Tries the usual places first, and then
    /// [`Hierarchy::detect`], which reads more of `/proc`.
    ///
    /// ```no_run
    /// let top = cgroup_core::Cgroup::top()?;
    /// println!("{} has {}", top.path().display(), top.available()?);
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// Since Linux 4.5. Section "Mounting".
    ///
    /// # Errors
    /// - `NoHierarchy`: no cgroup2 is mounted.
    /// - As [`Cgroup::open`].
    pub fn top() -> Result<Self> {
        for usual in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            if let Ok(top) = Self::open(usual) {
                return Ok(top);
            }
        }
        Hierarchy::detect()?.root()
    }
}

/// Returns the part of `path` below `root`, both as the kernel prints them; `None` if it is not
/// below.
fn below<'a>(root: &str, path: &'a str) -> Option<&'a str> {
    let rest = if root == "/" { path } else { path.strip_prefix(root)? };
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return None,
    };
    // `/..` leads out of the cgroup namespace, and so out of the mount.
    (!rest.split('/').any(|part| part == "..")).then_some(rest)
}

fn read(path: &str) -> Result<String> {
    // std would ask for the size, which procfs does not have, and read in small pieces.
    let mut bytes = Vec::with_capacity(16 << 10);
    let read = std::fs::File::open(path).and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes));
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        Error::os(format!("read {path}"), "read", errno, None).on(path.as_ref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hybrid() -> Hierarchy {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            41 31 0:38 /a /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cgroups = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
            memory\t4\t12\t1\nhugetlb\t0\t1\t1\ncpu\t7\t1\t1\nblkio\t0\t1\t1\npids\t0\t1\t0\n";
        Hierarchy {
            mounts: parse::mountinfo(mountinfo),
            subsystems: parse::proc_cgroups(cgroups).unwrap(),
            mount: Some(1),
            controllers: Controllers::HUGETLB,
        }
    }

    #[test]
    fn each_missing_controller_has_its_reason() {
        use Controller::*;
        let host = hybrid();
        let bound =
            |controller, mount: Option<&str>| Missing::BoundToV1 { controller, mount: mount.map(Into::into) };
        assert_eq!(host.layout(), Layout::Hybrid);
        assert_eq!(host.why_missing(Hugetlb), None);
        assert_eq!(host.why_missing(Memory), Some(bound(Memory, Some("/sys/fs/cgroup/memory"))));
        assert_eq!(host.why_missing(Cpu), Some(bound(Cpu, None)));
        let at = "/sys/fs/cgroup/unified".into();
        assert_eq!(host.why_missing(Io), Some(Missing::NotDelegated { controller: Io, at }));
        assert_eq!(host.why_missing(Pids), Some(Missing::Disabled { controller: Pids }));
        assert_eq!(host.why_missing(Rdma), Some(Missing::NotInKernel { controller: Rdma }));
        for controller in Controller::ALL.into_iter().filter(|&c| c != Hugetlb) {
            let sentence = host.why_missing(controller).unwrap().to_string();
            assert!(sentence.contains(controller.name()), "{sentence}");
        }
    }

    #[test]
    fn a_path_is_found_below_a_mounted_root_and_not_outside_it() {
        let host = hybrid();
        let path = |text| host.path_of(text, "x");
        assert_eq!(path("0::/a/b c\n").unwrap(), Path::new("/sys/fs/cgroup/unified/b c"));
        assert_eq!(path("4:memory:/z\n0::/a\n").unwrap(), Path::new("/sys/fs/cgroup/unified"));
        for outside in ["0::/\n", "0::/ab\n", "0::/a/../b\n", "0::/../a\n", "4:memory:/a\n"] {
            assert_eq!(path(outside).unwrap_err().kind(), crate::ErrorKind::NoHierarchy, "{outside}");
        }
        assert_eq!(below("/", "/"), Some(""));
        assert_eq!(below("/..", "/../x"), Some("x"));
    }

    #[test]
    fn layouts_are_distinguished() {
        let hybrid = hybrid();
        let legacy = Hierarchy { mount: None, ..hybrid.clone() };
        let mounts: Vec<_> = hybrid.mounts.iter().filter(|m| m.v2).cloned().collect();
        let unified = Hierarchy { mounts, subsystems: vec![], mount: Some(0), ..hybrid.clone() };
        let none = Hierarchy { mounts: vec![], mount: None, ..unified.clone() };
        let layouts = [&hybrid, &legacy, &unified, &none].map(Hierarchy::layout);
        assert_eq!(layouts, [Layout::Hybrid, Layout::Legacy, Layout::Unified, Layout::None]);
        assert!(legacy.root().unwrap_err().to_string().contains("only v1"));
        assert_eq!(none.why_missing(Controller::Cpu), Some(Missing::NoHierarchy));
    }
}
