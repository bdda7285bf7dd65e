//! Helpers that the benches share.

pub mod floor;

/// Whether this process may make namespaces. Says so on standard error if not, for a bench that
/// measures nothing must not look like one that ran.
pub fn is_root() -> bool {
    // SAFETY: a plain query.
    #[allow(unsafe_code)]
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED: the benches start containers, which takes root");
    }
    root
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
