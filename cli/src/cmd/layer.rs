//! `nspod diff` and `nspod commit`: the changes that a container left in its overlay.

use std::ffi::OsString;
use std::io::{IsTerminal, Write, stderr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::geteuid;
use nspod_sandbox::layer::{Change, ChangeKind, Facts, FileType, Layer, Marks, Part};
use nspod_sandbox::spec::{IdMaps, NamespaceMode, Root, Spec, Writes};
use nspod_sandbox::{Command, Container, ErrorKind};

use crate::error::{Error, Result};
use crate::output;
use crate::state::{Entry, State, Store};

// A plain comment: clap would print a doc comment of flattened arguments as help of the command.
#[derive(Debug, Args)]
struct OverlayArgs {
    /// Directory of an overlay (--overlay=DIR of `nspod run`), for example of a container that was removed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "lower")]
    overlay: Option<PathBuf>,
    /// Directory below the overlay (--rootfs of `nspod run`, otherwise /)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "overlay")]
    lower: Option<PathBuf>,
    /// The container of the overlay had a user namespace [default for an ordinary user]
    #[arg(long, requires = "overlay")]
    userxattr: bool,
    /// This process is in a user namespace that nspod made for it
    #[arg(long, requires = "overlay", hide = true)]
    inside: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Print type, mode, owner, size and the changed parts
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER", required_unless_present = "overlay", conflicts_with = "overlay")]
    id: Option<String>,
}

#[derive(Debug, Args)]
#[command(override_usage = "nspod commit [OPTIONS] <CONTAINER> <DIR>\n       \
    nspod commit [OPTIONS] --discard <CONTAINER> [DIR]\n       \
    nspod commit [OPTIONS] --overlay <DIR> --lower <DIR> <DIR>")]
pub(crate) struct CommitArgs {
    /// Remove the changes from the overlay, after they were applied if DIR is given. The container must
    /// not run
    #[arg(long)]
    discard: bool,
    /// Freeze a running container meanwhile
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pause: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    /// Name or id of the container, unless --overlay is given, and the directory to change: the one below
    /// the overlay, or a copy of it
    #[arg(value_name = "CONTAINER DIR", num_args = 0..=2, value_hint = ValueHint::DirPath)]
    operands: Vec<OsString>,
}

pub(crate) fn diff(args: &DiffArgs, json: bool) -> Result<i32> {
    let overlay = args.overlay.resolve(args.id.as_deref())?;
    if let Some(maps) = &overlay.id_maps {
        let long = args.long.then(|| "--long".into());
        return overlay.run_inside(maps, json, "diff", long);
    }
    let changes = overlay.open()?.changes().map_err(for_users)?;
    match json {
        true => output::json(&changes)?,
        false if args.long => output::print(long(&changes))?,
        false => {
            let line = |change: &Change| format!("{} {}\n", letter(change.kind), escape(&change.path));
            output::print(changes.iter().map(line).collect::<String>())?;
        }
    }
    Ok(0)
}

pub(crate) fn commit(args: &CommitArgs, json: bool) -> Result<i32> {
    let (id, dir) = args.operands()?;
    let overlay = args.overlay.resolve(id)?;
    let users = if args.overlay.inside { Vec::new() } else { users(&overlay.upper)? };
    if let Some(user) = users.first() {
        let in_use = |problem: &str| {
            let sentence = format!("the container {} is running: {problem}", user.id());
            let hint = format!("`nspod stop {}` ends it", user.id());
            Err(Error::state("commit", user.id(), sentence).hint(hint))
        };
        if args.discard {
            return in_use("its changes cannot be removed");
        }
        if dir.is_some_and(|dir| is_same(dir, &overlay.lower)) {
            return in_use("the directory below its overlay cannot be changed");
        }
    }
    let signals = Interrupt::hold()?;
    let frozen = if args.pause { Frozen::freeze(&users)? } else { Frozen(Vec::new()) };
    let committed = match &overlay.id_maps {
        Some(maps) => {
            let dir = dir.map(std::path::absolute).transpose();
            let dir = dir.map_err(|e| Error::io_call("commit", "resolve the directory", "getcwd", &e))?;
            let discard = args.discard.then(|| "--discard".into());
            overlay.run_inside(
                maps,
                json,
                "commit",
                discard.into_iter().chain(dir.map(PathBuf::into_os_string)),
            )
        }
        None => apply(&overlay.open()?, dir, args.discard, json, &signals),
    };
    frozen.thaw()?;
    committed
}

/// Applies or discards the changes, or both.
fn apply(layer: &Layer, dir: Option<&Path>, discard: bool, json: bool, signals: &Interrupt) -> Result<i32> {
    let mut count = 0;
    if let Some(dir) = dir {
        let mut progress = Progress::new();
        let committed = layer.commit(dir, &mut |done, total| {
            progress.show(done, total);
            signals.check()
        });
        drop(progress);
        count = committed.map_err(for_users)?;
    }
    if discard {
        layer.discard().map_err(for_users)?;
    }
    if json {
        output::json(&serde_json::json!({ "changes": count, "discarded": discard }))?;
    }
    Ok(0)
}

impl CommitArgs {
    /// Returns the container and the directory to change.
    fn operands(&self) -> Result<(Option<&str>, Option<&Path>)> {
        let (id, dir) = match (&self.operands[..], self.overlay.overlay.is_some()) {
            ([], true) => (None, None),
            ([dir], true) => (None, Some(dir)),
            ([id], false) => (Some(id), None),
            ([id, dir], false) => (Some(id), Some(dir)),
            _ => {
                let problem = "name a container and a directory, or --overlay, --lower and a directory";
                return Err(Error::usage("CONTAINER", problem));
            }
        };
        if dir.is_none() && !self.discard {
            let problem = "name the directory to change, or --discard to remove the changes";
            return Err(Error::usage("DIR", problem));
        }
        let invalid = || Error::usage("CONTAINER", "the name of the container is not valid");
        let id = id.map(|id| id.to_str().ok_or_else(invalid)).transpose()?;
        Ok((id, dir.map(Path::new)))
    }
}

/// The overlay that a command is about.
struct Overlay {
    upper: PathBuf,
    lower: PathBuf,
    marks: Marks,
    /// Id maps of the container, if the caller is an ordinary user. Only in a user namespace with these maps
    /// the caller can read and make the files of all users of the container.
    id_maps: Option<IdMaps>,
}

impl OverlayArgs {
    /// Returns the overlay of a container, or the one that the flags name.
    fn resolve(&self, id: Option<&str>) -> Result<Overlay> {
        let ordinary = !self.inside && !geteuid().is_root();
        if let (Some(overlay), Some(lower)) = (&self.overlay, &self.lower) {
            let marks = if self.userxattr || ordinary { Marks::User } else { Marks::Trusted };
            let id_maps = ordinary.then(IdMaps::default);
            return Ok(Overlay { upper: overlay.join("upper"), lower: lower.clone(), marks, id_maps });
        }
        let entry = Store::open()?.find(id.unwrap_or_default())?;
        let spec = &entry.record()?.container.spec;
        let layer = Layer::of_spec(spec).map_err(|e| Error::from(e).on(entry.id()))?;
        let own = ordinary && spec.namespaces.user == NamespaceMode::New;
        Ok(Overlay {
            upper: layer.upper().into(),
            lower: layer.lower().into(),
            marks: Marks::of_spec(spec),
            id_maps: own.then(|| spec.id_maps.clone()),
        })
    }
}

impl Overlay {
    fn open(&self) -> Result<Layer> {
        Ok(Layer::open(&self.upper, &self.lower, self.marks)?)
    }

    /// Runs nspod with this overlay in a new user namespace, and returns its exit code.
    fn run_inside(
        &self,
        maps: &IdMaps,
        json: bool,
        command: &str,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<i32> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|e| Error::io_call("layer", "resolve a path", "getcwd", &e))
        };
        let mut inside = Command::bare("/proc/self/exe");
        inside.args(json.then_some("--json"));
        inside.args([command, "--inside", "--userxattr", "--overlay"]);
        inside.args([absolute(self.upper.parent().unwrap_or(&self.upper))?]).args(["--lower"]);
        inside.args([absolute(&self.lower)?]).args(args);
        let spec = inside.spec_mut();
        spec.namespaces.user = NamespaceMode::New;
        spec.id_maps = maps.clone();
        Ok(inside.status()?.status.shell_code())
    }
}

/// Returns the directory that a container writes to.
fn upper(spec: &Spec) -> Option<&Path> {
    match &spec.root {
        Root::Overlay { writes: Writes::Dir { upper, .. }, .. } => Some(upper),
        _ => None,
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    id(one).is_some_and(|one| Some(one) == id(other))
}

/// Returns the running containers that write to this directory.
fn users(upper: &Path) -> Result<Vec<Entry>> {
    let mut users = Vec::new();
    for entry in Store::open()?.all()? {
        let other = entry.saved().and_then(|saved| self::upper(&saved.container.spec));
        if other.is_some_and(|other| is_same(other, upper)) && (entry.lives()? || entry.is_outlived()?) {
            users.push(entry);
        }
    }
    Ok(users)
}

/// Containers that are frozen until this is dropped.
struct Frozen(Vec<Container>);

impl Frozen {
    fn freeze(users: &[Entry]) -> Result<Frozen> {
        let mut frozen = Frozen(Vec::new());
        for user in users {
            // A container that was paused before stays paused.
            if user.state()? == State::Paused {
                continue;
            }
            let container = user.open()?;
            match container.freeze() {
                Err(e) if e.kind() == ErrorKind::State => {
                    return Err(Error::from(e).hint("stop it first, or use --pause=false"));
                }
                done => done?,
            }
            frozen.0.push(container);
        }
        Ok(frozen)
    }

    fn thaw(mut self) -> Result<()> {
        Ok(self.0.drain(..).try_for_each(|container| container.thaw())?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|container| container.thaw().unwrap_or_else(output::note));
    }
}

/// Signals that end the command after the containers continue.
struct Interrupt(SignalFd);

impl Interrupt {
    fn set() -> SigSet {
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
    }

    fn hold() -> Result<Interrupt> {
        let failed = |call| move |e| Error::call("signals", "block signals", call, e);
        Interrupt::set().thread_block().map_err(failed("sigprocmask"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Interrupt(SignalFd::with_flags(&Interrupt::set(), flags).map_err(failed("signalfd"))?))
    }

    /// Fails if one of the signals is pending. It stays pending.
    fn check(&self) -> std::result::Result<(), nspod_sandbox::Error> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) => {
                let sentence = "interrupted: repeat the command to apply the remaining changes";
                Err(nspod_sandbox::Error::new(ErrorKind::Os, "commit", sentence))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // A pending signal ends the process now.
        let _ = Interrupt::set().thread_unblock();
    }
}

/// The progress on a terminal.
struct Progress {
    shown: Option<Instant>,
    on: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { shown: None, on: stderr().is_terminal() }
    }

    fn show(&mut self, done: u64, total: u64) {
        const PERIOD: Duration = Duration::from_millis(100);
        if self.on && self.shown.is_none_or(|at| at.elapsed() >= PERIOD) {
            self.shown = Some(Instant::now());
            let _ = write!(stderr(), "\r\x1b[Kcommitting: {done} of {total} changes");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// Adds the cure to an error of an ordinary user.
fn for_users(e: nspod_sandbox::Error) -> Error {
    let ordinary = !geteuid().is_root();
    match e.kind() {
        ErrorKind::PermissionDenied if ordinary => Error::from(e).hint(
            "files of other users in the container can be read and made only by root, with --overlay, --lower and \
             --userxattr",
        ),
        _ => e.into(),
    }
}

fn letter(kind: ChangeKind) -> char {
    match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Changed => 'C',
        ChangeKind::Deleted => 'D',
    }
}

/// Returns a path on one line. Bytes that a terminal would interpret are escaped as in `ls -b`.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    let octal = |byte: &u8| format!("\\{byte:03o}");
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_control() => {
                    text.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(octal));
                }
                c => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(octal));
    }
    text
}

/// Returns the table of `diff --long`.
fn long(changes: &[Change]) -> String {
    let row = |change: &Change| {
        let both = |value: &dyn Fn(&Facts) -> String| match (&change.before, &change.after) {
            (Some(before), Some(after)) if value(before) != value(after) => {
                format!("{} → {}", value(before), value(after))
            }
            (before, after) => after.as_ref().or(before.as_ref()).map(value).unwrap_or_default(),
        };
        let target = change.after.as_ref().and_then(|after| after.target.as_deref());
        let target = target.map_or(String::new(), |target| format!(" -> {}", escape(target)));
        vec![
            letter(change.kind).into(),
            both(&|facts| type_name(facts.file_type).into()),
            both(&|facts| format!("{:04o}", facts.mode)),
            both(&|facts| format!("{}:{}", facts.uid, facts.gid)),
            both(&|facts| match facts.device {
                Some((major, minor)) => format!("{major}:{minor}"),
                None if facts.file_type == FileType::Directory => "-".into(),
                None => facts.size.to_string(),
            }),
            change.parts.iter().map(|part| part_name(*part)).collect::<Vec<_>>().join(","),
            format!("{}{target}", escape(&change.path)),
        ]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    output::table(&["", "TYPE", "MODE", "OWNER", "SIZE", "CHANGED", "PATH"], &rows)
}

fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharDevice => "char device",
        FileType::BlockDevice => "block device",
    }
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Type => "type",
        Part::Content => "content",
        Part::Mode => "mode",
        Part::Owner => "owner",
        Part::Modified => "modified",
        Part::Xattrs => "xattrs",
        Part::HardLink => "hard_link",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_is_one_line_and_can_be_read_back() {
        let path = OsStr::from_bytes(b"/a b\n\t\\\x1b[31m\xff\xc2\x85\xe6\x97\xa5");
        assert_eq!(escape(Path::new(path)), "/a b\\n\\t\\\\\\033[31m\\377\\302\\205日");
    }
}
