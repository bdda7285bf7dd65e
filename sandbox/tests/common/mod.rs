//! Helpers for the tests of single containers.
#![allow(dead_code, unreachable_pub)]

use std::io::Read;
use std::path::{Path, PathBuf};

use nspod_sandbox::{Command, ExitStatus, Stdio};

/// Runs a shell line in a container. Returns its output and exit status.
pub fn shell(command: &mut Command, line: &str) -> (String, ExitStatus) {
    command.spec_mut().process.args = vec!["sh".into(), "-c".into(), line.into()];
    command.stdin(Stdio::Null).stdout(Stdio::Piped);
    let mut container = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
    let mut text = String::new();
    container.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let status = container.wait().unwrap().status;
    container.delete().unwrap();
    (text, status)
}

pub fn output(command: &mut Command, line: &str) -> String {
    let (text, status) = shell(command, line);
    assert!(status.success(), "{line}: {status}: {text}");
    text.trim_end().to_owned()
}

pub fn error(command: &mut Command) -> nspod_sandbox::Error {
    command.stdin(Stdio::Null).stdout(Stdio::Null).stderr(Stdio::Null);
    command.spawn().expect_err("the start must fail")
}

/// An image with a shell and its library, in a temporary directory.
pub struct Image(tempfile::TempDir);

impl Image {
    pub fn new() -> Image {
        let dir = tempfile::tempdir().unwrap();
        for name in ["proc", "sys", "dev", "tmp", "bin"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let image = Image(dir);
        for name in ["sh", "cat", "ls", "touch", "id", "stat", "sleep", "readlink", "tty", "stty"] {
            image.add(name);
        }
        image
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// Copies a program and the libraries that `ldd` lists.
    pub fn add(&self, name: &str) {
        let path = ["/bin", "/usr/bin"].map(|d| PathBuf::from(d).join(name)).into_iter().find(|p| p.exists());
        let path = path.unwrap_or_else(|| panic!("{name} is not installed")).canonicalize().unwrap();
        nspod_testkit::copy_program(&path, self.0.path().join("bin").join(name));
        let ldd = std::process::Command::new("ldd").arg(&path).output().unwrap();
        for word in String::from_utf8_lossy(&ldd.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
            let to = self.0.path().join(&word[1..]);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            if !to.exists() {
                nspod_testkit::copy_program(word, to);
            }
        }
    }
}

/// A private mount of a directory on itself.
pub struct Private(PathBuf);

impl Private {
    pub fn new(path: &Path) -> Private {
        use nix::mount::{MsFlags, mount};
        let none = None::<&str>;
        mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, path, none, MsFlags::MS_PRIVATE, none).unwrap();
        Private(path.to_owned())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
