//! Shared helpers of the end-to-end tests. They run `nspod` with a time limit on every wait, and remove named
//! containers and pods at the end.

#![allow(dead_code, unreachable_pub, unused_imports)] // Each test file uses some of these helpers.

pub mod bundle;
pub mod fault;
pub mod terminal;
pub mod user;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cgroup_core::Hierarchy;
pub use nspod_testkit::{Guard, Output, PATIENCE, end_of, eventually, programs, root, run_with, skip};
pub use nspod_tests::lane::controllers;

pub const NSPOD: &str = env!("CARGO_BIN_EXE_nspod");
pub const OCI: &str = env!("CARGO_BIN_EXE_nspod-oci");

/// Runs nspod to its end.
pub fn nspod(args: &[&str]) -> Output {
    run_with(Command::new(NSPOD).args(args), "")
}

/// Returns the output of nspod, which must succeed and print nothing on standard error.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let output = nspod(args);
    assert_eq!((output.code(), output.err.as_str()), (0, ""), "{args:?}: {}", output.out);
    output.out
}

/// Returns the output of nspod as JSON.
#[track_caller]
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(args)).unwrap()
}

/// Returns the commands in a help text.
pub fn commands(help: &str) -> Vec<&str> {
    let list = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    // Other lines continue a description.
    let names = list.lines().filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help").collect()
}

/// Runs a script, with `$N` for nspod, in a new mount namespace with an empty /run, which also has the logs.
pub fn alone(script: &str) -> Output {
    let script = format!("mount -t tmpfs none /run && {script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).env("N", NSPOD);
    command.env("NSPOD_LOG_DIR", "/run/logs");
    run_with(&mut command, "")
}

/// A unique name of a container or pod, which is removed at the end.
pub struct Name {
    name: String,
    remove: &'static [&'static str],
}

impl Name {
    pub fn container() -> Name {
        Name { name: unique(), remove: &["rm", "-f"] }
    }

    pub fn pod() -> Name {
        Name { name: unique(), remove: &["pod", "rm", "-f"] }
    }

    /// Runs a command in a detached container.
    #[track_caller]
    pub fn detached(flags: &[&str], command: &[&str]) -> Name {
        let name = Name::container();
        ok(&[&["run", "-d", "--name", &name], flags, command].concat());
        name
    }

    /// Returns the directory with the state of the container.
    pub fn state(&self) -> PathBuf {
        Path::new("/run/nspod/containers").join(&self.name)
    }

    /// Returns the row of the container in `nspod ps -a --json`.
    pub fn row(&self) -> Option<serde_json::Value> {
        let rows = json(&["ps", "-a", "--json"]);
        rows.as_array().unwrap().iter().find(|row| row["id"] == self.name.as_str()).cloned()
    }

    /// Returns the state of the container; empty if there is no such container.
    pub fn at(&self) -> String {
        self.row().map_or(String::new(), |row| row["state"].as_str().unwrap().into())
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Command::new(NSPOD)
            .args(self.remove)
            .arg(&self.name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// Returns a name that no other running test has.
pub fn unique() -> String {
    nspod_testkit::unique("e2e")
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Returns the cgroup that nspod makes for root's container.
pub fn cgroup(name: &str) -> PathBuf {
    Hierarchy::detect().unwrap().mount_point().unwrap().join("nspod").join(name)
}

/// Makes a root file system with busybox, which also has these names.
pub fn busybox_root(root: &Path, names: &[&str]) {
    for made in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(made)).unwrap();
    }
    let busybox = run_with(Command::new("sh").args(["-c", "command -v busybox"]), "");
    nspod_testkit::copy_program(busybox.ok().trim(), root.join("bin/busybox"));
    for name in names {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

/// A program for i386 that makes the directory /made and exits with the error's number.
pub fn mkdir_of_i386() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE: u32 = BASE + 52 + 32;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut code = vec![0xb8]; // mov eax, mkdir
    code.extend(words(&[39]));
    code.push(0xbb); // mov ebx, the path after the code
    code.extend(words(&[CODE + 25]));
    code.extend([0x31, 0xc9, 0xcd, 0x80]); // xor ecx, ecx; int 0x80
    code.extend([0xf7, 0xd8, 0x89, 0xc3]); // neg eax; mov ebx, eax
    code.extend([0x31, 0xc0, 0x40, 0xcd, 0x80]); // xor eax, eax; inc eax (exit); int 0x80
    code.extend([0x90, 0x90]);
    code.extend(b"/made\0");
    let size = 52 + 32 + code.len() as u32;
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    program.extend(words(&[1, CODE, 52, 0, 0]));
    program.extend([52, 0, 32, 0, 1, 0, 40, 0, 0, 0, 0, 0]);
    program.extend(words(&[1, 0, BASE, BASE, size, size, 5, 4096]));
    program.extend(code);
    program
}
