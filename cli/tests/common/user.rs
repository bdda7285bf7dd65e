//! An ordinary user, with a copy of nspod and a runtime directory.

use std::path::PathBuf;
use std::process::Command;

use super::{NSPOD, Output, run_with};

/// The user nobody, with a runtime directory. Dropping it ends the processes that it started.
pub struct User {
    dir: tempfile::TempDir,
    /// Lines of /etc/subuid and /etc/subgid; by default the host's.
    subids: Option<String>,
}

impl User {
    pub fn new() -> User {
        let dir = tempfile::tempdir().unwrap();
        nspod_testkit::copy_program(NSPOD, dir.path().join("bin"));
        nix::unistd::chown(dir.path(), Some(65_534.into()), Some(65_534.into())).unwrap();
        User { dir, subids: None }
    }

    pub fn with_subids(lines: &str) -> User {
        let mut user = User::new();
        user.subids = Some(lines.into());
        user
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
        let mut script = String::new();
        if let Some(lines) = &self.subids {
            let file = self.dir.path().join("subids");
            std::fs::write(&file, lines).unwrap();
            for of in ["uid", "gid"] {
                script += &format!("mount --bind {} /etc/sub{of}; ", file.display());
            }
        }
        script += "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
        command.arg(script).arg("sh").arg(self.dir.path().join("bin")).args(args);
        command.env("XDG_RUNTIME_DIR", self.dir.path()).env("XDG_STATE_HOME", self.dir.path());
        command.current_dir("/");
        command
    }

    pub fn nspod(&self, args: &[&str]) -> Output {
        run_with(&mut self.command(args), "")
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for id in self.nspod(&["ps", "-aq"]).out.lines() {
            self.nspod(&["rm", "-f", id]);
        }
        let pods = self.nspod(&["pod", "ls", "--json"]).out;
        let pods: serde_json::Value = serde_json::from_str(&pods).unwrap_or_default();
        for name in pods.as_array().into_iter().flatten().filter_map(|pod| pod["name"].as_str()) {
            self.nspod(&["pod", "rm", "-f", name]);
        }
    }
}
