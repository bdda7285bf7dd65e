//! Shared code of the benches and the measuring program: the baselines, and the work that both the baselines and
//! the library do.

pub mod c;
pub mod floor;
pub mod work;

/// Returns whether this process is root, and so may make namespaces. If not, prints a message, so that a bench that
/// measures nothing is noticed.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: the benches start containers, which requires root");
    }
    root
}

/// Returns the memory that processes can still allocate, in MiB: `MemAvailable` of `/proc/meminfo`.
pub fn available_mib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Memory in which every page is in use.
///
/// The pages have the smallest size, like memory that grew little by little. A fork copies the tables of these
/// pages.
#[derive(Debug)]
pub struct Ballast(memmap2::MmapMut);

impl Ballast {
    /// Allocates this many MiB.
    ///
    /// # Errors
    /// `ENOMEM` if there is not enough memory.
    pub fn new(mib: usize) -> std::io::Result<Ballast> {
        let mut map = memmap2::MmapMut::map_anon(mib.max(1) << 20)?;
        let _ = map.advise(memmap2::Advice::NoHugePage);
        map.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        Ok(Ballast(map))
    }

    /// Returns the size in MiB.
    pub fn mib(&self) -> usize {
        self.0.len() >> 20
    }
}

/// The program that the benches start, at a path that containers can see. Containers have their own `/tmp` and
/// `/run`, where the build may be. Call [`Program::remove`] at the end.
#[derive(Debug)]
pub struct Program(std::path::PathBuf);

impl Program {
    /// Copies the built program.
    ///
    /// # Panics
    /// If the program cannot be copied.
    pub fn copy(built: &str) -> Program {
        let path = format!("/var/tmp/nspod-bench-nothing-{}", std::process::id()).into();
        std::fs::copy(built, &path).expect("copy the program");
        Program(path)
    }

    /// Removes the copy.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AsRef<std::ffi::OsStr> for Program {
    fn as_ref(&self) -> &std::ffi::OsStr {
        self.0.as_ref()
    }
}

impl AsRef<std::path::Path> for Program {
    fn as_ref(&self) -> &std::path::Path {
        &self.0
    }
}

/// Returns the environment for a bench that starts containers, which requires root and a cgroup2 file system.
/// Prints what is missing. If only the limits of cgroup v2 are missing, prints a note and returns the environment.
///
/// # Panics
/// If the root directory and the cgroup cannot be created.
/// If the root directory and the cgroup cannot be made.
pub fn ground(nothing: &str) -> Option<work::Ground> {
    use nspod_sandbox::cgroup_core::{Controllers, Hierarchy};
    if !is_root() {
        return None;
    }
    let hierarchy = match Hierarchy::detect() {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            eprintln!("SKIPPED: the benches start containers in cgroups, which this host lacks: {error}");
            return None;
        }
    };
    let Some(top) = hierarchy.mount_point() else {
        eprintln!("SKIPPED: the benches start containers in cgroups, and cgroup2 is not mounted");
        return None;
    };
    let wanted = Controllers::CPU | Controllers::MEMORY | Controllers::PIDS;
    let missing = wanted - hierarchy.controllers();
    if !missing.is_empty() {
        eprintln!("NOTE: cgroup v2 lacks {missing} here: the containers have a cgroup without limits");
    }
    let name = format!("nspod-bench-{}", std::process::id());
    let root = std::path::Path::new("/var/tmp").join(&name);
    Some(work::Ground::new(nothing.as_ref(), root, top.join(name)).expect("a root directory and a cgroup"))
}

/// Returns whether the benches were called with `--quick`, which only checks with small numbers that they run.
pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick" || arg == "--test")
}
