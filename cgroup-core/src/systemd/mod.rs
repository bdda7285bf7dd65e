//! systemd as the manager of cgroups: transient scopes and slices, over D-Bus.
//!
//! Where systemd runs, it alone writes to what it has not delegated. Who wants a cgroup asks it for
//! a *scope*, a unit of processes that somebody else starts, in a *slice*, a unit of units, and owns
//! what is below it by `Delegate=`.
//!
//! A scope is started with a process in it and ends with the last one. The programs of this crate's
//! users are born in their cgroup by `CLONE_INTO_CGROUP` and are no processes yet, so
//! [`Manager::hold_scope`] puts a placeholder there: a child that does nothing, and is ended when
//! the real one is in. The alternatives have their price: a program that is started outside and
//! moved, as runc's is, spends its first moments under no limit, and takes the lock of all of a
//! process's threads; the caller's own process, moved there and back, leaves its own unit.
//! systemd notes when the last process ends, and then removes the cgroup and forgets the unit;
//! nobody has to stay for that.
//!
//! ```no_run
//! use cgroup_core::{Limits, Max, systemd::{Manager, Property, Scope}};
//! let limits = Limits { memory_max: Some(Max::Value(64 << 20)), ..Limits::default() };
//! let mut manager = Manager::connect()?;
//! let scope = Scope {
//!     slice: Some("machine-web.slice".into()), // in machine.slice; both are made if need be
//!     properties: Property::of_limits(&limits)?,
//!     ..Scope::new("job-1.scope")
//! };
//! let held = manager.hold_scope(&scope)?;
//! held.cgroup().apply(&limits)?; // and what systemd has no property for
//! // … clone3 with CLONE_INTO_CGROUP and held.cgroup() …
//! let cgroup = held.release();
//! cgroup.kill()?;
//! manager.stop("job-1.scope")?;
//! # Ok::<(), cgroup_core::Error>(())
//! ```
//!
//! Source: <https://systemd.io/CGROUP_DELEGATION/>

mod annotation;
mod bus;
mod property;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{geteuid, pipe2};

use bus::{Call, Connection, Failure, Writer};
pub use property::{Property, Value};

use crate::{Cgroup, Error, Hierarchy, Result, sys};

/// For a job of systemd, which may have others to do first.
const PATIENCE: Duration = Duration::from_secs(30);

/// A scope to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The unit's name, which ends in `.scope`.
    pub name: String,
    /// The slice that it belongs to, made where it does not exist. `None`: systemd's default,
    /// `system.slice` or the user's `app.slice`.
    pub slice: Option<String>,
    /// What `systemctl status` says of it.
    pub description: String,
    /// Properties beside those that a delegated scope has: accounting of processor, memory, io and
    /// tasks, no dependencies by default, and to be forgotten when it ends, failed or not.
    pub properties: Vec<Property>,
}

impl Scope {
    /// A scope of this name, with nothing special about it.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { description: name.clone(), name, slice: None, properties: Vec::new() }
    }

    /// The scope that OCI's `cgroupsPath` means by its three parts, where systemd is the manager:
    /// `PREFIX-NAME.scope` in the slice. Slice and prefix may be empty.
    ///
    /// ```
    /// use cgroup_core::systemd::Scope;
    /// let scope = Scope::of_parts("machine.slice", "libpod", "c1")?;
    /// assert_eq!((scope.slice.as_deref(), scope.name.as_str()), (Some("machine.slice"), "libpod-c1.scope"));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidName` where the slice is none, see [`slice_path`].
    pub fn of_parts(slice: &str, prefix: &str, name: &str) -> Result<Self> {
        let slice = (!slice.is_empty()).then(|| slice_path(slice).map(|_| slice.to_owned())).transpose()?;
        let name = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        Ok(Self { slice, ..Self::new(name) })
    }

    fn properties(&self, pid: i32) -> Vec<Property> {
        let mut all = vec![Property::new("Description", self.description.as_str())];
        all.extend(self.slice.as_deref().map(|slice| Property::new("Slice", slice)));
        all.push(Property::new("Delegate", true));
        all.push(Property::new("PIDs", vec![pid.cast_unsigned()]));
        all.push(Property::new("CollectMode", "inactive-or-failed"));
        all.extend(common());
        all.extend(self.properties.iter().cloned());
        all
    }
}

/// What every unit for containers has, as runc's have it.
fn common() -> impl Iterator<Item = Property> {
    let accounting = ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"];
    let accounting = accounting.into_iter().map(|name| Property::new(name, true));
    accounting.chain([Property::new("DefaultDependencies", false)])
}

/// The path of a slice's cgroup below systemd's own: a dash in the name is a level.
///
/// ```
/// use cgroup_core::systemd::slice_path;
/// assert_eq!(slice_path("user-1000.slice")?, "/user.slice/user-1000.slice");
/// assert_eq!(slice_path("-.slice")?, "/");
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidName` where it does not end in `.slice`, or a part of it is empty or has a slash.
pub fn slice_path(slice: &str) -> Result<String> {
    let wrong = |why| Err(Error::name(slice.as_bytes(), why));
    let Some(stem) = slice.strip_suffix(".slice") else { return wrong("a slice's name ends in .slice") };
    if stem == "-" {
        return Ok("/".to_owned());
    }
    if stem.split('-').any(str::is_empty) {
        return wrong("a slice's name is words with single dashes between");
    }
    if stem.contains('/') {
        return wrong("a slice's name has no slash: dashes are its levels");
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("/{}.slice", &stem[..end])).collect())
}

/// A scope with a placeholder in it, so that it lives although nothing runs in it yet.
///
/// The placeholder counts as a process of the cgroup: a `pids.max` of 1 leaves no room beside it,
/// and the cgroup cannot hand controllers down.
#[derive(Debug)]
pub struct Held {
    cgroup: Cgroup,
    placeholder: Placeholder,
}

impl Held {
    /// The scope's cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Ends the placeholder, which is gone and reaped on return. If there is no other process in
    /// the scope, it ends as well. So it does when this is dropped.
    pub fn release(self) -> Cgroup {
        drop(self.placeholder);
        self.cgroup
    }
}

/// A child that does nothing. It ends with the caller at the latest.
#[derive(Debug)]
struct Placeholder {
    pid: i32,
    pidfd: OwnedFd,
    /// It ends when this does.
    _alive: OwnedFd,
}

impl Placeholder {
    fn start() -> Result<Self> {
        let fail = |call, errno| Error::os("start a process to hold a scope".to_owned(), call, errno, None);
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| fail("pipe2", errno))?;
        let (pid, pidfd) = sys::idle_child(&theirs).map_err(|errno| fail("clone3", errno))?;
        Ok(Self { pid, pidfd, _alive: ours })
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        // Even where the scope is frozen.
        let _ = sys::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
        sys::reap(&self.pidfd);
    }
}

/// A connection to a systemd.
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects to the systemd that the caller's cgroups belong to: as root the machine's, as
    /// another the user's, and as the root of a user namespace the user's if a session is known by
    /// `DBUS_SESSION_BUS_ADDRESS` or `XDG_RUNTIME_DIR`.
    ///
    /// # Errors
    /// `Systemd` where none answers.
    pub fn connect() -> Result<Self> {
        let session = ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"];
        let session = session.iter().any(|name| std::env::var_os(name).is_some());
        if geteuid().is_root() && !(session && in_user_namespace()) { Self::system() } else { Self::user() }
    }

    /// Connects to the machine's systemd: over the system bus (`DBUS_SYSTEM_BUS_ADDRESS`), or
    /// directly where no bus runs, which takes root.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn system() -> Result<Self> {
        let bus = bus_of("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| "/run/dbus/system_bus_socket".into());
        Self::open(
            [(bus, true), ("/run/systemd/private".into(), false)],
            "boot this machine with systemd, or let the cgroups be managed without it (cgroupfs)",
        )
    }

    /// Connects to the user's systemd: over the session's bus (`DBUS_SESSION_BUS_ADDRESS`, or below
    /// `XDG_RUNTIME_DIR`, which is `/run/user/UID` where it is not set), or directly.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn user() -> Result<Self> {
        let dir = std::env::var_os("XDG_RUNTIME_DIR");
        let dir = dir.map_or_else(|| PathBuf::from(format!("/run/user/{}", geteuid())), PathBuf::from);
        let bus = bus_of("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| dir.join("bus"));
        Self::open(
            [(bus, true), (dir.join("systemd/private"), false)],
            "log in through a session with a user manager (loginctl enable-linger USER), or let the cgroups be managed without systemd (cgroupfs)",
        )
    }

    fn open(places: [(PathBuf, bool); 2], cure: &'static str) -> Result<Self> {
        let mut failures = Vec::new();
        for (place, is_bus) in places {
            // It tells subscribers alone which jobs have ended.
            let subscribed = Connection::open(&place, is_bus).and_then(|mut connection| {
                connection.call(Call::manager("Subscribe", "", Writer::default()))?;
                Ok(connection)
            });
            match subscribed {
                Ok(connection) => return Ok(Self { connection }),
                Err(failure) => failures.push(format!("{} ({failure})", place.display())),
            }
        }
        Err(Error::systemd(format!("no systemd answers at {}", failures.join(" or ")), Some(cure)))
    }

    /// Starts a scope with an existing process, which is moved there with all its threads, and
    /// returns its cgroup. The pid is as systemd sees it.
    ///
    /// # Errors
    /// `Systemd` where it refuses the scope or one of its properties, or such a scope is active;
    /// `TimedOut` after 30 s.
    pub fn start_scope(&mut self, scope: &Scope, pid: i32) -> Result<Cgroup> {
        let properties = scope.properties(pid);
        let started = match self.start(&scope.name, &properties) {
            // One that failed, and whose maker did not let systemd forget it.
            Err(failure) if failure.is("UnitExists") => {
                let _ = self.by_name("ResetFailedUnit", &scope.name);
                self.start(&scope.name, &properties)
            }
            started => started,
        };
        let job = started.map_err(|failure| failed("start", &scope.name, failure))?;
        self.finish("start", &scope.name, &job)?;
        self.cgroup_of(&scope.name)
    }

    /// Starts a scope with nothing in it but a placeholder, for processes that shall be born there.
    ///
    /// # Errors
    /// As [`start_scope`](Self::start_scope), and `Os` with `EAGAIN` or `ENOMEM` where no process
    /// can be started.
    pub fn hold_scope(&mut self, scope: &Scope) -> Result<Held> {
        // As long as it is not reaped its pid is no other's.
        let placeholder = Placeholder::start()?;
        let cgroup = self.start_scope(scope, placeholder.pid)?;
        Ok(Held { cgroup, placeholder })
    }

    /// Starts a slice, for limits over several scopes, and returns its cgroup. It stays until it is
    /// [stopped](Self::stop). If it is active already it gets the properties.
    ///
    /// # Errors
    /// As [`start_scope`](Self::start_scope); `InvalidName`, see [`slice_path`].
    pub fn start_slice(&mut self, name: &str, properties: &[Property]) -> Result<Cgroup> {
        slice_path(name)?;
        let mut all = vec![Property::new("Description", name)];
        // A slice is in the one that its name says; it only needs it to be there.
        if let Some((parent, _)) = name.rsplit_once('-').filter(|(parent, _)| !parent.is_empty()) {
            all.push(Property::new("Wants", vec![format!("{parent}.slice")]));
        }
        all.extend(common());
        all.extend_from_slice(properties);
        match self.start(name, &all) {
            Ok(job) => self.finish("start", name, &job)?,
            Err(failure) if failure.is("UnitExists") => self.set_properties(name, properties)?,
            Err(failure) => return Err(failed("start", name, failure)),
        }
        self.cgroup_of(name)
    }

    /// The cgroup of a unit that is active.
    ///
    /// # Errors
    /// `Systemd` where there is no such unit; `NotFound` where it has no cgroup any more; as
    /// [`Hierarchy::detect`].
    pub fn cgroup_of(&mut self, unit: &str) -> Result<Cgroup> {
        let fail = |failure| failed("find the cgroup of", unit, failure);
        let reply = self.by_name("GetUnit", unit).map_err(fail)?;
        let (_, kind) = unit.rsplit_once('.').unwrap_or_default();
        let mut body = Writer::default();
        body.text(match kind {
            "slice" => "org.freedesktop.systemd1.Slice",
            "service" => "org.freedesktop.systemd1.Service",
            _ => "org.freedesktop.systemd1.Scope",
        });
        body.text("ControlGroup");
        let get = Call {
            path: &reply,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
            body,
        };
        let reply = self.connection.call(get).map_err(fail)?;
        let path = reply.text().unwrap_or_default();
        Hierarchy::detect()?.at(path, &format!("the unit {unit}"))
    }

    /// Changes properties of an active unit, until it ends.
    ///
    /// # Errors
    /// `Systemd` where it refuses one, or there is no such unit.
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.word(1); // Not in a file, which would outlive the unit.
        body.properties(properties);
        let call = Call::manager("SetUnitProperties", "sba(sv)", body);
        self.connection.call(call).map_err(|failure| failed("change", unit, failure))?;
        Ok(())
    }

    /// Stops a unit, and has systemd forget it, if it failed too. One that is gone is fine.
    ///
    /// Processes that live in it are asked to end (SIGTERM) and get 90 s before they are killed:
    /// [`Cgroup::kill`] them first.
    ///
    /// # Errors
    /// `Systemd` where it refuses; `TimedOut` after 30 s.
    pub fn stop(&mut self, unit: &str) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("replace");
        match self.connection.call(Call::manager("StopUnit", "ss", body)) {
            Ok(reply) => self.finish("stop", unit, reply.text().unwrap_or_default())?,
            Err(failure) if failure.is("NoSuchUnit") => return Ok(()),
            Err(failure) => return Err(failed("stop", unit, failure)),
        }
        match self.by_name("ResetFailedUnit", unit) {
            Err(failure) if !failure.is("NoSuchUnit") => Err(failed("reset", unit, failure)),
            _ => Ok(()),
        }
    }

    /// Asks for the start of a transient unit; the path of the job.
    fn start(&mut self, unit: &str, properties: &[Property]) -> Result<String, Failure> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("fail");
        body.properties(properties);
        body.array(8, |_| {}); // No auxiliary units.
        let reply = self.connection.call(Call::manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body))?;
        Ok(reply.text().unwrap_or_default().to_owned())
    }

    /// A call that takes a unit's name; the text that it returns, if any.
    fn by_name(&mut self, member: &str, unit: &str) -> Result<String, Failure> {
        let mut body = Writer::default();
        body.text(unit);
        let reply = self.connection.call(Call::manager(member, "s", body))?;
        Ok(reply.text().unwrap_or_default().to_owned())
    }

    fn finish(&mut self, verb: &str, unit: &str, job: &str) -> Result<()> {
        match self.connection.job(job, PATIENCE) {
            Ok(result) if result == "done" => Ok(()),
            Ok(result) => Err(Error::systemd(
                format!("systemd could not {verb} {unit}: the job ended as {result:?}"),
                Some("its journal says why (journalctl --unit, as a user with --user)"),
            )),
            Err(failure) if failure.is_late() => {
                Err(Error::timed_out(format!("systemd to {verb} {unit}"), PATIENCE))
            }
            Err(failure) => Err(failed(verb, unit, failure)),
        }
    }
}

fn failed(verb: &str, unit: &str, failure: Failure) -> Error {
    Error::systemd(format!("systemd does not {verb} {unit}: {failure}"), None)
}

/// The socket that a variable tells of.
fn bus_of(variable: &str) -> Option<PathBuf> {
    let told = std::env::var(variable).ok()?;
    let path = told.split(';').find_map(|one| one.strip_prefix("unix:path=")?.split(',').next())?;
    Some(path.into())
}

/// Whether some of the machine's users do not exist here.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

impl Failure {
    /// Whether it is systemd's error of this name.
    fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(refused, _) if refused.strip_prefix("org.freedesktop.systemd1.") == Some(name))
    }

    fn is_late(&self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        matches!(self, Self::Io(error) if matches!(error.kind(), TimedOut | WouldBlock))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            _ if self.is_late() => f.write_str("it does not answer in time"),
            Self::Io(error) => match error.raw_os_error() {
                Some(errno) => f.write_str(Errno::from_raw(errno).desc()),
                None => write!(f, "{error}"),
            },
            Self::Refused(name, text) => write!(f, "{name}: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_in_a_slices_name_is_a_level() {
        for (slice, path) in [("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")] {
            assert_eq!(slice_path(slice).unwrap(), path);
        }
        for wrong in
            ["", ".slice", "a", "a.scope", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "--.slice"]
        {
            assert_eq!(slice_path(wrong).unwrap_err().kind(), crate::ErrorKind::InvalidName, "{wrong}");
        }
    }

    #[test]
    fn slice_and_prefix_of_a_scope_may_be_empty() {
        let of = |slice, prefix| Scope::of_parts(slice, prefix, "c").map(|scope| (scope.slice, scope.name));
        assert_eq!(of("a-b.slice", "cri").unwrap(), (Some("a-b.slice".into()), "cri-c.scope".into()));
        assert_eq!(of("", "").unwrap(), (None, "c.scope".into()));
        assert_eq!(of("kubepods", "cri").unwrap_err().kind(), crate::ErrorKind::InvalidName);
    }

    #[test]
    fn where_nothing_listens_the_sentence_names_both_places_and_what_to_do() {
        let places = [("/nonexistent/bus".into(), true), ("/dev/null".into(), false)];
        let error = Manager::open(places, "do that").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Systemd);
        let expected = "no systemd answers at /nonexistent/bus (No such file or directory) or /dev/null (Connection refused); do that";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_placeholder_waits_and_is_gone_when_it_is_dropped() {
        let placeholder = Placeholder::start().unwrap();
        let dir = PathBuf::from(format!("/proc/{}", placeholder.pid));
        let descriptors = || std::fs::read_dir(dir.join("fd")).unwrap().count();
        while descriptors() > 1 {
            std::thread::yield_now(); // It is on its way.
        }
        assert_eq!(descriptors(), 1);
        drop(placeholder);
        assert!(!dir.exists());
    }
}
