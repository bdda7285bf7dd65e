//! The cgroups of a session: of the container's own processes, and of each call
//! ([`Container::call`](crate::Container::call)).
//!
//! A cgroup has either processes or controllers for its children, not both: section "No Internal
//! Process Constraint" of
//! [cgroup v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#no-internal-process-constraint).
//! So the first call moves the container's processes to a leaf. The container's limits stay on its
//! cgroup, above the leaf and the calls.

use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Controllers, MemoryEvents};
use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, ErrorKind};

/// Name of the cgroup of the container's own processes.
const MAIN: &str = "nspod-main";

/// Prefix for the names of the cgroups of calls.
const CALL: &str = "nspod-call-";

/// Makes the cgroup of a call in the container's. `wanted` are the controllers of the call's limits.
pub(crate) fn create(container: &Cgroup, name: &str, wanted: Controllers) -> Result<Cgroup, Error> {
    accepts_domains(container)?;
    if !wanted.is_empty() {
        // The error of the limit has the reason.
        let _ = container.enable_path(wanted);
    }
    hand_down(container)?;
    remove_abandoned(container)?;
    let name = format!("{CALL}{name}");
    for _ in 0..100 {
        let call = match container.create_child(&name) {
            Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound && container.events().is_ok() => continue,
            made => made?,
        };
        // The lock lasts as long as the descriptor is open. Another call may have removed the cgroup
        // before it was opened or locked.
        if flock(&call, FlockOperation::LockShared).is_ok() && call.events().is_ok() {
            return Ok(call);
        }
    }
    let what = format!("cannot make the cgroup {name}: another program removed it each time");
    Err(Error::new(ErrorKind::Busy, "cgroup", what).on(name))
}

/// Checks that new children of the cgroup can have processes, not only threads.
fn accepts_domains(container: &Cgroup) -> Result<(), Error> {
    let kind = container.read("cgroup.type")?;
    if kind.trim() == "domain" {
        return Ok(());
    }
    let path = container.path().display().to_string();
    let what = format!(
        "cannot start a call: the container's cgroup {path} is \"{}\" (cgroup.type), and the children of a \
         threaded cgroup accept only threads (EOPNOTSUPP): use `Container::exec`",
        kind.trim()
    );
    Err(Error::new(ErrorKind::Unsupported, "cgroup", what).on(path))
}

/// Enables the container's controllers for its children.
fn hand_down(container: &Cgroup) -> Result<(), Error> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let wanted = container.available()?;
    if (wanted - container.enabled()?).is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        vacate(container, deadline)?;
        match container.enable(wanted) {
            // A process has just been started in the cgroup.
            Err(e) if e.kind() == cgroup_core::ErrorKind::Busy && Instant::now() < deadline => {}
            done => return Ok(done?),
        }
    }
}

/// Moves the processes of the container's cgroup to the leaf. A child of a process that is not yet
/// moved starts in the container's cgroup, so several rounds may be necessary.
fn vacate(container: &Cgroup, deadline: Instant) -> Result<(), Error> {
    /// Time after which the processes are frozen meanwhile, so that they cannot fork. Some system
    /// calls of a frozen process end with EINTR, so this is not done at once.
    const FORKS: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let mut frozen = false;
    let vacated = loop {
        match move_all(container) {
            Ok(true) => break Ok(()),
            Err(e) => break Err(e),
            Ok(false) if Instant::now() > deadline => {
                let path = container.path().display().to_string();
                let what = format!(
                    "cannot start a call: the processes of {path} cannot be moved to {path}/{MAIN}, because some \
                     of them do not end or new ones are started all the time"
                );
                break Err(Error::new(ErrorKind::Busy, "cgroup", what).on(path));
            }
            Ok(false) if !frozen && began.elapsed() > FORKS => {
                frozen = true;
                match container.freeze_within(Duration::from_secs(1)) {
                    // Those that have stopped cannot fork.
                    Err(e) if e.kind() != cgroup_core::ErrorKind::TimedOut => break Err(e.into()),
                    _ => {}
                }
            }
            // A process that is ending cannot be moved.
            Ok(false) => std::thread::sleep(Duration::from_micros(200)),
        }
    };
    let thawed = if frozen { container.thaw().map_err(Error::from) } else { Ok(()) };
    vacated.and(thawed)
}

/// Moves the processes that are now in the container's cgroup. Returns whether there were none.
fn move_all(container: &Cgroup) -> Result<bool, Error> {
    let pids = container.procs()?;
    if pids.is_empty() {
        return Ok(true);
    }
    let main = match container.create_child(MAIN) {
        Err(e) if e.kind() == cgroup_core::ErrorKind::AlreadyExists => container.child(MAIN)?,
        made => made?,
    };
    for pid in pids {
        if pid == 0 {
            let path = container.path().display().to_string();
            let what = format!(
                "cannot start a call: {path} holds processes outside of the caller's pid namespace, which the \
                 caller cannot move"
            );
            return Err(Error::new(ErrorKind::State, "cgroup", what).on(path));
        }
        match main.attach(pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(false)
}

/// Removes the empty cgroups of calls that no handle owns: of detached calls that have ended, and of
/// programs that were killed.
fn remove_abandoned(container: &Cgroup) -> Result<(), Error> {
    for child in container.each_child()? {
        let child = child?;
        if is_call(&child) && flock(&child, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // A call that still runs stays.
            let _ = child.remove_within(Duration::ZERO);
        }
    }
    Ok(())
}

fn is_call(cgroup: &Cgroup) -> bool {
    cgroup.name().as_bytes().starts_with(CALL.as_bytes())
}

/// Removes a container's cgroup and the cgroups below, whose processes were killed.
pub(crate) fn remove_within(container: &Cgroup, patience: Duration) -> cgroup_core::Result<()> {
    let deadline = Instant::now() + patience;
    match container.remove_within(patience) {
        Err(e) if e.kind() == cgroup_core::ErrorKind::Busy => {}
        done => return done,
    }
    for child in container.each_child()? {
        remove_within(&child?, deadline.saturating_duration_since(Instant::now()))?;
    }
    container.remove_within(deadline.saturating_duration_since(Instant::now()))
}

/// Returns the counts of OOM kills without those in calls: `oom` and `oom_kill`. `None` without a
/// memory controller.
pub(crate) fn own_ooms(container: &Cgroup) -> Option<(u64, u64)> {
    let counts = |events: MemoryEvents| (events.oom.unwrap_or(0), events.oom_kill.unwrap_or(0));
    let all = counts(container.memory_events().ok()?);
    if all.1 == 0 || container.child(MAIN).is_err() {
        return Some(all);
    }
    let children = container.each_child().ok()?.flatten();
    let others = children.filter(|child| !is_call(child)).filter_map(|child| child.memory_events().ok());
    let of_container = container.memory_events_local().ok()?;
    Some(others.chain([of_container]).map(counts).fold((0, 0), |sum, add| (sum.0 + add.0, sum.1 + add.1)))
}
