//! What the end-to-end tests have in common: running `nspod` with every wait bounded, and
//! names whose bearers are removed at the end.

#![allow(dead_code, unreachable_pub)] // Each test file uses its share.

pub mod fault;
pub mod terminal;
pub mod user;

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cgroup_core::{Controllers, Hierarchy};

pub const NSPOD: &str = env!("CARGO_BIN_EXE_nspod");

/// How long anything may take before it counts as hanging; the guest is an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Says that a test is skipped and why, which is a failure where nothing may be skipped.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a test");
    assert!(std::env::var_os("NSPOD_NO_SKIP").is_none(), "{name} must not be skipped: {reason}");
    eprintln!("SKIP {name}: {reason}");
}

/// Whether the caller is root; if not, the test is skipped.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("this takes root");
    }
    root
}

/// Whether this host's cgroups have these controllers; if not, the test is skipped.
pub fn controllers(wanted: Controllers) -> bool {
    if !root() {
        return false;
    }
    let has = Hierarchy::detect().is_ok_and(|host| host.controllers().contains(wanted));
    if !has {
        skip(&format!("this takes the controllers {wanted:?} in cgroup v2"));
    }
    has
}

/// What a program did.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Output {
    /// The exit code as a shell has it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap())
    }

    /// Its standard output; it must have succeeded, and have had nothing to complain of.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!((self.code(), self.err.as_str()), (0, ""), "{}", self.out);
        &self.out
    }
}

/// Runs a program to its end, with this on its standard input.
pub fn run_with(command: &mut Command, input: &str) -> Output {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    // Who does not read leaves a broken pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let status = end_of(&mut child);
    Output { status, out: out.join().unwrap(), err: err.join().unwrap() }
}

fn drain(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for the end of a child. One that hangs is killed, and the test fails.
#[track_caller]
pub fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("process {} hangs", child.id());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is so.
#[track_caller]
pub fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "this never came about: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs nspod to its end.
pub fn nspod(args: &[&str]) -> Output {
    run_with(Command::new(NSPOD).args(args), "")
}

/// What nspod prints; it must succeed without a word on standard error.
#[track_caller]
pub fn ok(args: &[&str]) -> String {
    let output = nspod(args);
    assert_eq!((output.code(), output.err.as_str()), (0, ""), "{args:?}: {}", output.out);
    output.out
}

/// What nspod prints, as JSON.
#[track_caller]
pub fn json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&ok(args)).unwrap()
}

/// Runs a script with `$N` for nspod, in a mount namespace of its own with nothing in /run.
pub fn alone(script: &str) -> Output {
    let script = format!("mount -t tmpfs none /run && {script}");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]).env("N", NSPOD);
    run_with(&mut command, "")
}

/// A name of this test's own, of a container or pod that is removed at the end.
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

    /// A container that runs this in the background.
    #[track_caller]
    pub fn detached(flags: &[&str], command: &[&str]) -> Name {
        let name = Name::container();
        ok(&[&["run", "-d", "--name", &name], flags, command].concat());
        name
    }

    /// Where nspod keeps what it knows of the container.
    pub fn state(&self) -> PathBuf {
        Path::new("/run/nspod/containers").join(&self.name)
    }

    /// Its row of `nspod ps -a --json`.
    pub fn row(&self) -> Option<serde_json::Value> {
        let rows = json(&["ps", "-a", "--json"]);
        rows.as_array().unwrap().iter().find(|row| row["id"] == self.name.as_str()).cloned()
    }

    /// Whether it runs, or what else it is at; empty if there is none.
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

pub fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Kills the child at the end, if it lives.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// The cgroup that nspod makes for a container of root's.
pub fn cgroup(name: &str) -> PathBuf {
    Hierarchy::detect().unwrap().mount_point().unwrap().join("nspod").join(name)
}

/// A program for i386 that makes the directory /made and exits with the error's number.
pub fn mkdir_of_i386() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE: u32 = BASE + 52 + 32;
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut code = vec![0xb8]; // mov eax, mkdir
    code.extend(words(&[39]));
    code.push(0xbb); // mov ebx, the path behind the code
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
