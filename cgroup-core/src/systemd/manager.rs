//! A connection to systemd that starts, changes and stops units.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::geteuid;

use super::bus::{Connection, Failure};
use super::held::{Held, Placeholder};
use super::property::Property;
use super::scope::{Scope, common, slice_path};
use super::wire::{Call, Writer};
use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::hierarchy::Hierarchy;

/// Time limit of a systemd job, which may wait for other jobs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a systemd manager. The methods call the D-Bus interface
/// `org.freedesktop.systemd1.Manager`; see
/// [org.freedesktop.systemd1(5)](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html).
#[derive(Debug)]
pub struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects to the systemd that manages the caller's cgroups: the machine's for root, and the
    /// user's for other users. For the root of a user namespace this is the user's systemd if
    /// `DBUS_SESSION_BUS_ADDRESS` or `XDG_RUNTIME_DIR` is set.
    ///
    /// Calls [`Subscribe`](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html).
    ///
    /// # Errors
    /// - `Unsupported` (`ENOENT`, `ECONNREFUSED`): no systemd accepts the connection.
    /// - `PermissionDenied` (`EACCES`), `TimedOut`.
    pub fn connect() -> Result<Self> {
        let session = ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"];
        let session = session.iter().any(|name| std::env::var_os(name).is_some());
        if geteuid().is_root() && !(session && in_user_namespace()) { Self::system() } else { Self::user() }
    }

    /// Connects to the machine's systemd: over the system bus (`DBUS_SYSTEM_BUS_ADDRESS`), or
    /// directly at `/run/systemd/private` if no bus runs, which requires root.
    ///
    /// Calls [`Subscribe`](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn system() -> Result<Self> {
        let bus = bus_of("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| "/run/dbus/system_bus_socket".into());
        Self::open(
            [(bus, true), ("/run/systemd/private".into(), false)],
            "boot this machine with systemd, or manage the cgroups without systemd (cgroupfs)",
        )
    }

    /// Connects to the user's systemd: over the session bus (`DBUS_SESSION_BUS_ADDRESS`, or `bus`
    /// in `XDG_RUNTIME_DIR`, by default `/run/user/UID`), or directly if no bus runs.
    ///
    /// Calls [`Subscribe`](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn user() -> Result<Self> {
        let dir = std::env::var_os("XDG_RUNTIME_DIR");
        let dir = dir.map_or_else(|| PathBuf::from(format!("/run/user/{}", geteuid())), PathBuf::from);
        let bus = bus_of("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| dir.join("bus"));
        Self::open(
            [(bus, true), (dir.join("systemd/private"), false)],
            "log in through a session with a user manager (loginctl enable-linger USER), or manage the cgroups without systemd (cgroupfs)",
        )
    }

    fn open(places: [(PathBuf, bool); 2], cure: &'static str) -> Result<Self> {
        let (mut failures, mut last) = (Vec::new(), None);
        for (place, is_bus) in places {
            // systemd reports the end of jobs only to subscribers.
            let subscribed = Connection::open(&place, is_bus).and_then(|mut connection| {
                connection.call(Call::manager("Subscribe", "", Writer::default()))?;
                Ok(connection)
            });
            match subscribed {
                Ok(connection) => return Ok(Self { connection }),
                Err(failure) => {
                    failures.push(format!("{}: {failure}", place.display()));
                    last = Some((place, failure));
                }
            }
        }
        let what = format!("cannot connect to systemd at {}", failures.join(" or at "));
        let (place, source) = last.map_or_else(Default::default, |(place, failure)| (place, Some(failure)));
        let kind = match source.as_ref().map(Failure::kind) {
            Some(kind @ (ErrorKind::PermissionDenied | ErrorKind::TimedOut)) => kind,
            _ => ErrorKind::Unsupported,
        };
        let source = source.and_then(Failure::into_source);
        Err(Error::systemd(kind, what, Some(cure), place.display().to_string(), source))
    }

    /// Starts a scope with an existing process and returns its cgroup. systemd moves the process
    /// there with all its threads. The pid is that in the pid namespace of systemd.
    ///
    /// Calls `StartTransientUnit`. systemd.scope(5).
    ///
    /// # Errors
    /// - `Refused`, `PermissionDenied`: systemd rejects the scope or a property. `AlreadyExists`: a scope
    ///   with this name is active.
    /// - `TimedOut` after 30 s.
    /// - `NotFound`: the scope has ended already.
    /// - As [`cgroup_of`](Self::cgroup_of).
    pub fn start_scope(&mut self, scope: &Scope, pid: i32) -> Result<Cgroup> {
        let properties = scope.properties(pid);
        let started = match self.start(&scope.name, &properties) {
            // A failed unit with this name may still exist.
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

    /// Starts a scope with only a placeholder in it, for processes that are started in the scope.
    ///
    /// Since Linux 5.9 (`close_range`). systemd.scope(5).
    ///
    /// # Errors
    /// As [`start_scope`](Self::start_scope), and `Os` (`EAGAIN`, `ENOMEM`): the placeholder cannot
    /// be started.
    pub fn hold_scope(&mut self, scope: &Scope) -> Result<Held> {
        // The pid cannot be reused before the placeholder is reaped.
        let placeholder = Placeholder::start()?;
        let cgroup = self.start_scope(scope, placeholder.pid)?;
        Ok(Held { cgroup, placeholder })
    }

    /// Starts a slice, for limits of several scopes together, and returns its cgroup. The slice
    /// exists until it is [stopped](Self::stop). If it is active already, this sets the properties.
    ///
    /// Calls `StartTransientUnit`. systemd.slice(5).
    ///
    /// # Errors
    /// As [`start_scope`](Self::start_scope), and `InvalidName`: see [`slice_path`].
    pub fn start_slice(&mut self, name: &str, properties: &[Property]) -> Result<Cgroup> {
        slice_path(name)?;
        let mut all = vec![Property::new("Description", name)];
        // The name determines the parent slice, which must exist.
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

    /// Opens the cgroup of an active unit.
    ///
    /// Calls [`GetUnit`](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html),
    /// and reads the property `ControlGroup` of the unit.
    ///
    /// # Errors
    /// - `NotFound`: the unit does not exist, or has no cgroup, such as a failed unit.
    /// - `NotFound` (`ENOENT`): the cgroup of the unit was removed.
    /// - As [`Hierarchy::detect`].
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
        if path.is_empty() {
            // As a path, this would name the root of the hierarchy.
            let what = format!("the unit {unit} has no cgroup");
            return Err(Error::systemd(
                ErrorKind::NotFound,
                what,
                Some("it has ended"),
                unit.to_owned(),
                None,
            ));
        }
        Hierarchy::detect()?.at(path, &format!("the unit {unit}"))
    }

    /// Sets properties of an active unit, until it ends.
    ///
    /// Calls `SetUnitProperties`. systemd.resource-control(5).
    ///
    /// # Errors
    /// `Refused`, `PermissionDenied`: systemd rejects a property. `NotFound`: the unit does not exist.
    /// `TimedOut`: systemd does not answer within 10 s.
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut body = Writer::default();
        body.text(unit);
        body.word(1); // At run time only, not in a file that outlives the unit.
        body.properties(properties);
        let call = Call::manager("SetUnitProperties", "sba(sv)", body);
        self.connection.call(call).map_err(|failure| failed("change", unit, failure))?;
        Ok(())
    }

    /// Stops a unit and removes it from systemd, also after a failure. A unit that does not exist
    /// is not an error.
    ///
    /// systemd sends SIGTERM to the processes of the unit, and SIGKILL after 90 s
    /// (`DefaultTimeoutStopSec`). To avoid the wait, call [`Cgroup::kill`] first.
    ///
    /// Calls [`StopUnit`](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html).
    ///
    /// # Errors
    /// - `Refused`, `PermissionDenied`: systemd rejects the request.
    /// - `TimedOut` after 30 s.
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

    /// Requests the start of a transient unit. Returns the path of the job.
    fn start(&mut self, unit: &str, properties: &[Property]) -> Result<String, Failure> {
        let mut body = Writer::default();
        body.text(unit);
        body.text("fail");
        body.properties(properties);
        body.array(8, |_| {}); // No auxiliary units.
        let reply = self.connection.call(Call::manager("StartTransientUnit", "ssa(sv)a(sa(sv))", body))?;
        Ok(reply.text().unwrap_or_default().to_owned())
    }

    /// Calls a method with the name of a unit. Returns its text result, if any.
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
                ErrorKind::Refused,
                format!("systemd failed to {verb} {unit}: the job ended as {result:?}"),
                Some("see its journal (journalctl --unit, for a user manager with --user)"),
                unit.to_owned(),
                None,
            )),
            Err(failure) if failure.is_late() => {
                Err(Error::timed_out(format!("systemd to {verb} {unit}"), unit.to_owned(), PATIENCE))
            }
            Err(failure) => Err(failed(verb, unit, failure)),
        }
    }
}

fn failed(verb: &str, unit: &str, failure: Failure) -> Error {
    let what = format!("systemd cannot {verb} {unit}: {failure}");
    Error::systemd(failure.kind(), what, None, unit.to_owned(), failure.into_source())
}

/// Returns the path of the socket that a variable of the environment contains.
fn bus_of(variable: &str) -> Option<PathBuf> {
    let told = std::env::var(variable).ok()?;
    let path = told.split(';').find_map(|one| one.strip_prefix("unix:path=")?.split(',').next())?;
    Some(path.into())
}

/// Returns whether the caller's user namespace does not map all ids.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bus_is_reported_with_both_sockets_and_the_cure() {
        let places = [("/nonexistent/bus".into(), true), ("/dev/null".into(), false)];
        let error = Manager::open(places, "do that").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!((error.object(), error.raw_os_error()), (Some("/dev/null"), Some(libc::ECONNREFUSED)));
        let expected = "cannot connect to systemd at /nonexistent/bus: No such file or directory (ENOENT) or at /dev/null: Connection refused (ECONNREFUSED); do that";
        assert_eq!(error.to_string(), expected);
        let source = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(source.raw_os_error(), Some(libc::ECONNREFUSED));
    }
}
