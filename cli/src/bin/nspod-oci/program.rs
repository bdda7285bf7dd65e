//! The container's program: whether a held container will find it, said at once and not when it
//! is started, in the words that clients look for.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use ns_core::Kind;
use nspod_cli::error::{Error, Result};
use nspod_sandbox::spec::{PATH, Process, Seccomp};
use nspod_sandbox::{Command, ErrorKind};

use crate::log;

/// Looks the program up in the root of a process.
pub(crate) fn check(pid: i32, process: &Process) -> Result<()> {
    let Some(program) = process.args.first() else { return Ok(()) };
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(&root, flags, Mode::empty()).map_err(|e| Error::path("open", &root, e))?;
    let cwd = process.cwd.as_deref().unwrap_or(Path::new("/"));
    let executable = |path: &Path| -> std::result::Result<(), Errno> {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let stat = fstat(openat2(&root, &cwd.join(path), how)?)?;
        let file = SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFREG);
        if file && stat.st_mode & 0o111 != 0 { Ok(()) } else { Err(Errno::EACCES) }
    };
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program)).map_err(|e| Error::new(sentence(program, e)));
    }
    let path = process.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(PATH), |(_, value)| value);
    let mut found = Errno::ENOENT;
    for dir in std::env::split_paths(path) {
        match executable(&dir.join(program)) {
            Ok(()) => return Ok(()),
            Err(Errno::EACCES) => found = Errno::EACCES,
            Err(_) => {}
        }
    }
    Err(Error::new(sentence(program, found)))
}

fn sentence(program: &OsStr, errno: Errno) -> String {
    let name = program.to_string_lossy();
    match errno {
        Errno::ENOENT if !name.contains('/') => {
            format!("process.args: exec: {name:?}: executable file not found in $PATH")
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            format!("process.args: exec: {name:?}: stat {name}: no such file or directory")
        }
        Errno::EACCES => {
            format!("process.args: exec: {name:?}: permission denied: it is no file that can be executed")
        }
        other => format!("process.args: exec: {name:?}: {} ({other:?})", other.desc()),
    }
}

/// Logs for `--debug` what will be done: namespaces, limits, mounts, the filter, each step.
pub(crate) fn tell(command: &mut Command) {
    if !log::is_debug() {
        return;
    }
    let spec = command.spec();
    for (kind, choice) in Kind::ALL.into_iter().map(|kind| (kind, spec.namespaces.get(kind))) {
        log::debug(&format_args!("{} namespace: {choice:?}", kind.name()));
    }
    match &spec.process.seccomp {
        Seccomp::Profile(profile) => {
            let (default, rules) = (profile.default_action, profile.syscalls.len());
            log::debug(&format_args!("seccomp: default action {default:?}, {rules} rules"));
        }
        other => log::debug(&format_args!("seccomp: {other:?}")),
    }
    // What is wrong with it is said when it is started.
    if let Ok(plan) = command.plan() {
        plan.to_string().lines().for_each(|line| log::debug(&line));
    }
}

/// The sandbox's sentence, with runc's where the program is not there.
pub(crate) fn failed(program: &OsStr) -> impl Fn(nspod_sandbox::Error) -> Error {
    let program = program.to_owned();
    move |e| match e.kind() {
        ErrorKind::ProgramNotFound => Error::new(format!("{}: {e}", sentence(&program, Errno::ENOENT))),
        _ => nspod_oci_runtime::Error::from(e).into(),
    }
}
