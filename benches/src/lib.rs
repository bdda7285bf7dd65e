//! What the benches and the runner of the peers share: the baselines, and the work that both
//! they and the library do.

pub mod c;
pub mod floor;
pub mod work;

/// Whether this process may make namespaces. Says so on standard error if not, for a bench that
/// measures nothing must not look like one that ran.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: the benches start containers, which takes root");
    }
    root
}

/// Memory that processes can have, in MiB: `MemAvailable` of `/proc/meminfo`.
pub fn available_mib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// So many MiB of memory with every page touched.
///
/// In pages of the smallest size, as memory has that grew little by little: it is these whose
/// tables a fork copies.
#[derive(Debug)]
pub struct Ballast(memmap2::MmapMut);

impl Ballast {
    /// Takes the memory.
    ///
    /// # Errors
    /// `ENOMEM` where there is not so much.
    pub fn new(mib: usize) -> std::io::Result<Ballast> {
        let mut map = memmap2::MmapMut::map_anon(mib.max(1) << 20)?;
        let _ = map.advise(memmap2::Advice::NoHugePage);
        map.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        Ok(Ballast(map))
    }

    /// Its size in MiB.
    pub fn mib(&self) -> usize {
        self.0.len() >> 20
    }
}

/// The program that the benches start, at a path that containers see: their `/tmp` and `/run`
/// are their own, and the build may lie there. [`Program::remove`] it at the end.
#[derive(Debug)]
pub struct Program(std::path::PathBuf);

impl Program {
    /// A copy of what was built.
    ///
    /// # Panics
    /// If it cannot be copied.
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

/// What a bench that starts containers needs: root, and a cgroup2 file system. Says loudly what is
/// missing; without limits in cgroup v2 containers are started all the same, and that is said too.
///
/// # Panics
/// If the root directory and the cgroup cannot be made.
pub fn ground(nothing: &str) -> Option<work::Ground> {
    use nspod_sandbox::cgroup_core::{Controllers, Hierarchy};
    if !is_root() {
        return None;
    }
    let hierarchy = match Hierarchy::detect() {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            eprintln!("SKIPPED: the benches start containers in cgroups, and there are none: {error}");
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
        eprintln!("NOTE: cgroup v2 lacks {missing} here: what is started has a cgroup, and no limits");
    }
    let name = format!("nspod-bench-{}", std::process::id());
    let root = std::path::Path::new("/var/tmp").join(&name);
    Some(work::Ground::new(nothing.as_ref(), root, top.join(name)).expect("a root directory and a cgroup"))
}

/// Whether the benches were called with `--quick`: as a check that they run, with small numbers.
pub fn is_quick() -> bool {
    std::env::args().any(|arg| arg == "--quick" || arg == "--test")
}
