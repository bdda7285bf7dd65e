//! A bundle for the tests of nspod-oci.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{OCI, Output, busybox_root, end_of, eventually, unique};

/// A bundle with busybox as its root file system, a state directory, and an id.
pub struct Bundle {
    dir: TempDir,
    pub id: String,
    /// Global options of each command.
    options: &'static [&'static str],
}

impl Bundle {
    /// Creates a bundle that runs this script in a writable root.
    pub fn new(script: &str) -> Bundle {
        Bundle::changed(script, |_| {})
    }

    /// Creates a bundle like [`new`](Self::new), and changes its configuration.
    pub fn changed(script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
        Bundle::inside(tempfile::tempdir().unwrap(), &[], &[], script, |config| {
            config["root"]["readonly"] = false.into();
            change(config);
        })
    }

    /// Creates a bundle in this directory from the configuration that `spec` writes with these flags.
    pub fn inside(
        dir: TempDir,
        options: &'static [&'static str],
        spec: &[&str],
        script: &str,
        change: impl FnOnce(&mut Value),
    ) -> Bundle {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let names = ["sh", "cat", "sleep", "id", "echo", "ls", "true", "readlink", "env", "stty"];
        busybox_root(&dir.path().join("rootfs"), &names);
        let bundle = Bundle { dir, id: unique(), options };
        bundle.command(&[&["spec"], spec].concat()).ok();
        bundle.edit(|config| {
            config["process"]["terminal"] = false.into();
            config["process"]["args"] = json!(["sh", "-c", script]);
            change(config);
        });
        bundle
    }

    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn raw(&self, args: &[&str]) -> Command {
        let mut command = Command::new(OCI);
        command.arg("--root").arg(self.path("state")).args(self.options).args(args);
        command.current_dir(self.dir.path());
        command
    }

    /// Runs a command to its end. Its streams are files: a container may keep a pipe open, and the caller
    /// would wait for the end of the pipe.
    pub fn run(&self, command: &mut Command) -> Output {
        let file = |name| fs::File::create(self.path(name)).unwrap();
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let status = end_of(&mut command.spawn().unwrap());
        let read = |name| fs::read_to_string(self.path(name)).unwrap();
        Output { status, out: read("stdout"), err: read("stderr") }
    }

    pub fn command(&self, args: &[&str]) -> Output {
        self.run(&mut self.raw(args))
    }

    /// Runs a command with its flags and the id.
    pub fn verb(&self, args: &[&str]) -> Output {
        self.command(&[args, &[&self.id]].concat())
    }

    pub fn status(&self) -> String {
        let state: Value = serde_json::from_str(self.verb(&["state"]).ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        eventually(status, || self.status() == status);
    }

    /// Returns the container's record in the state directory.
    pub fn record(&self) -> Value {
        let state = fs::read(self.path("state").join(&self.id).join("state.json")).unwrap();
        serde_json::from_slice(&state).unwrap()
    }

    pub fn cgroup(&self) -> PathBuf {
        self.record()["cgroup_paths"][""].as_str().unwrap().into()
    }

    /// Returns the text of a file in the container's cgroup.
    #[track_caller]
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.cgroup().join(file)).unwrap().trim_end().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.verb(&["delete", "--force"]);
    }
}
