//! The lookup of the container's program. `create` looks it up, so that a missing program is an error of
//! `create` and not of `start`. Engines match the texts of these errors.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};
use ns_core::Kind;
use nspod_errno::ErrnoText;
use nspod_sandbox::spec::{PATH, Process, Seccomp};
use nspod_sandbox::{Command, passwd};

use crate::error::{Error, ErrorKind, Result};

/// Sets `HOME` if it is not set. An invalid `/etc/passwd` in the image is logged and does not prevent a
/// start.
pub(crate) fn set_home(process: &mut Process, root: &Path) {
    if let Err(e) = passwd::set_home(process, &[root.to_owned()]) {
        log::warn!("HOME is set to /: {e}");
    }
}

/// Looks the program up in the root of a process.
pub(crate) fn check(pid: i32, process: &Process) -> Result<()> {
    let Some(program) = process.args.first() else { return Ok(()) };
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(&root, flags, Mode::empty())
        .map_err(|e| Error::path("process", "open", &root, e as i32))?;
    let cwd = process.cwd.as_deref().unwrap_or(Path::new("/"));
    let executable = |path: &Path| -> Result<(), Errno> {
        let how =
            OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let stat = fstat(openat2(&root, &cwd.join(path), how)?)?;
        let file = SFlag::from_bits_truncate(stat.st_mode).contains(SFlag::S_IFREG);
        if file && stat.st_mode & 0o111 != 0 { Ok(()) } else { Err(Errno::EACCES) }
    };
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program)).map_err(|e| missing(program, e));
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
    Err(missing(program, found))
}

/// Returns the error for a program that cannot be executed, with runc's text.
fn missing(program: &OsStr, errno: Errno) -> Error {
    let name = program.to_string_lossy();
    let (kind, problem) = match errno {
        Errno::ENOENT if !name.contains('/') => {
            (ErrorKind::ProgramNotFound, "executable file not found in $PATH".to_owned())
        }
        Errno::ENOENT | Errno::ENOTDIR => {
            (ErrorKind::ProgramNotFound, format!("stat {name}: no such file or directory"))
        }
        Errno::EACCES => {
            (ErrorKind::ProgramNotExecutable, "permission denied: the file is not executable".to_owned())
        }
        other => (ErrorKind::ProgramNotExecutable, ErrnoText(other).to_string()),
    };
    let problem = format!("exec: {name:?}: {problem}");
    Error::new(kind, "exec", problem).with_field("process.args").on(name)
}

/// Returns a conversion of the sandbox's error. If the program does not exist, runc's text is put first.
pub(crate) fn failed(program: &OsStr) -> impl Fn(nspod_sandbox::Error) -> Error {
    let program = program.to_owned();
    move |e| match e.kind() {
        ErrorKind::ProgramNotFound => {
            let words = missing(&program, Errno::ENOENT);
            Error::from(e).context(words).with_field("process.args")
        }
        _ => e.into(),
    }
}

/// Logs the plan of a start: namespaces, limits, mounts, the filter, and each step.
pub(crate) fn log_plan(command: &mut Command) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let spec = command.spec();
    for (kind, choice) in Kind::ALL.into_iter().map(|kind| (kind, spec.namespaces.get(kind))) {
        log::debug!("{} namespace: {choice:?}", kind.name());
    }
    match &spec.process.seccomp {
        Seccomp::Profile(profile) => {
            let (default, rules) = (profile.default_action, profile.syscalls.len());
            log::debug!("seccomp: default action {default:?}, {rules} rules");
        }
        other => log::debug!("seccomp: {other:?}"),
    }
    // The start reports the error of an invalid plan.
    if let Ok(plan) = command.plan() {
        plan.to_string().lines().for_each(|line| log::debug!("{line}"));
    }
}
