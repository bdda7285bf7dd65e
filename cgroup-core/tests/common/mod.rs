//! What the kernel tests share: cgroups of their own that are cleaned up even on failure, helper
//! processes, and the loud skip.
#![allow(dead_code)]

use std::ops::Deref;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cgroup_core::{Cgroup, Controllers, Hierarchy};

/// A cgroup of this test alone; killed and removed with all below when dropped.
pub(crate) struct Own(Cgroup);

impl Own {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nspod-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Hierarchy::detect().unwrap().root().unwrap();
        Self(root.create_child(name).unwrap())
    }

    /// With these controllers, or `None` and a loud skip where the host lacks one.
    pub(crate) fn with(controllers: Controllers) -> Option<Self> {
        let host = Hierarchy::detect().unwrap();
        let reasons: Vec<String> =
            controllers.members().filter_map(|c| host.why_missing(c)).map(|why| why.to_string()).collect();
        if !reasons.is_empty() {
            skip(&reasons.join("; "));
            return None;
        }
        let own = Self::new();
        own.enable_path(controllers).unwrap();
        Some(own)
    }
}

impl Deref for Own {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let gone = self.0.destroy();
        if !std::thread::panicking() {
            gone.unwrap();
        }
    }
}

/// Says that this test did not run and why; a failure where nothing may be skipped.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(std::env::var_os("NSPOD_NO_SKIP").is_none(), "{test} must not be skipped here: {reason}");
    // Not eprintln!, which the test harness would capture.
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
}

/// A helper process; killed and reaped when dropped.
pub(crate) struct Helper(pub(crate) Child);

impl Helper {
    pub(crate) fn sh(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn sleep() -> Self {
        Self(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
