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
use ns_core::Pidfd;

use crate::claim;
use crate::error::{Error, ErrorKind};

/// Name of the cgroup of the container's own processes.
const MAIN: &str = "nspod-main";

/// Number of pidfds that a move opens at a time.
const BATCH: usize = 64;

/// Prefix for the names of the cgroups of calls.
const CALL: &str = "nspod-call-";

/// Makes the cgroup of a call in the container's, and removes the empty cgroups of calls that no handle owns: of
/// detached calls that have ended, and of programs that were killed. `wanted` are the controllers of the call's limits.
pub(crate) fn create(
    container: &Cgroup,
    name: impl Fn() -> String,
    wanted: Controllers,
) -> Result<Cgroup, Error> {
    accepts_domains(container)?;
    if !wanted.is_empty() {
        // The error of the limit has the reason.
        let _ = container.enable_path(wanted);
    }
    hand_down(container)?;
    claim::remove_abandoned(container, CALL)?;
    let create = |name: &str| match container.create_child(name) {
        Err(e) if e.kind() == cgroup_core::ErrorKind::NotFound && container.events().is_ok() => Ok(None),
        made => Ok(Some((made?, ()))),
    };
    Ok(claim::create_owned(|| format!("{CALL}{}", name()), create)?.0)
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
    let (mut may_freeze, mut frozen) = (true, false);
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
            Ok(false) if may_freeze && began.elapsed() > FORKS => {
                may_freeze = false;
                // The caller may have frozen the container. Then it stays frozen.
                if container.read("cgroup.freeze")?.trim() == "1" {
                    continue;
                }
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
    if pids.contains(&0) {
        let path = container.path().display().to_string();
        let what = format!(
            "cannot start a call: {path} holds processes outside of the caller's pid namespace, which the \
             caller cannot move"
        );
        return Err(Error::new(ErrorKind::State, "cgroup", what).on(path));
    }
    pids.chunks(BATCH).try_for_each(|pids| move_members(container, &main, pids)).map(|()| false)
}

/// Moves the processes with these pids that are in the container's cgroup. A process can end at any time, and a
/// process of the host can then get its pid.
fn move_members(container: &Cgroup, main: &Cgroup, pids: &[i32]) -> Result<(), Error> {
    let mut opened = Vec::with_capacity(pids.len());
    for pid in pids {
        match Pidfd::open(*pid) {
            Ok(pidfd) => opened.push((*pid, pidfd)),
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    // A process that is in this list now and exists after the move had its pid in between.
    let members = container.procs()?;
    for (pid, process) in opened.iter().filter(|(pid, _)| members.contains(pid)) {
        match main.attach(*pid) {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            Err(e) => return Err(e.into()),
            Ok(()) if is_reaped(process) => give_back(main, *pid)?,
            Ok(()) => {}
        }
    }
    Ok(())
}

fn is_reaped(process: &Pidfd) -> bool {
    process.send_signal(0).is_err_and(|e| e.raw_os_error() == Some(libc::ESRCH))
}

/// Moves the process that now has the pid from the leaf to the cgroup of its parent, where it started. If its
/// parent is in the container, the next round moves it again.
fn give_back(main: &Cgroup, pid: i32) -> Result<(), Error> {
    let process = Pidfd::open(pid);
    let (Ok(process), true) = (process, main.procs()?.contains(&pid)) else { return Ok(()) };
    let Some(parent) = parent_of(pid) else { return Ok(()) };
    let started_in = cgroup_core::Hierarchy::detect()?.of(parent)?;
    if !is_reaped(&process) {
        started_in.attach(pid)?;
    }
    Ok(())
}

/// Returns the parent of a process. `None` if the process has ended, or its parent is outside of the caller's pid
/// namespace.
fn parent_of(pid: i32) -> Option<i32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    ns_core::proc::number(&status, "PPid").filter(|parent| *parent != 0)
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use cgroup_core::Hierarchy;

    use super::*;

    struct Guard(Cgroup, Vec<Child>);

    impl Drop for Guard {
        fn drop(&mut self) {
            for child in &mut self.1 {
                let _ = child.kill();
                let _ = child.wait();
            }
            let _ = self.0.remove_recursive();
        }
    }

    #[test]
    fn a_process_outside_that_has_the_pid_of_a_member_stays_where_it_is() {
        if !nspod_testkit::root() {
            return;
        }
        let host = Hierarchy::detect().unwrap();
        let container = host.root().unwrap().create_child(nspod_testkit::unique("nspod-test-move")).unwrap();
        let mut guard = Guard(container, Vec::new());
        let main = guard.0.create_child(MAIN).unwrap();
        guard.1.extend((0..2).map(|_| Command::new("sleep").arg("1000").spawn().unwrap()));
        let [inside, outside] = [0, 1].map(|n| guard.1[n].id() as i32);
        guard.0.attach(inside).unwrap();
        move_members(&guard.0, &main, &[inside, outside]).unwrap();
        assert_eq!(main.procs().unwrap(), [inside]);
        // It is moved before the move notices that it is another process.
        main.attach(outside).unwrap();
        give_back(&main, outside).unwrap();
        assert_eq!(main.procs().unwrap(), [inside]);
        let cgroup = |pid: i32| host.of(pid).unwrap().path().to_owned();
        assert_eq!(cgroup(outside), cgroup(std::process::id() as i32));
        let ended = Pidfd::open(outside).unwrap();
        assert!(!is_reaped(&ended));
        let mut child = guard.1.pop().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_reaped(&ended));
    }

    #[test]
    fn a_container_that_the_caller_froze_stays_frozen() {
        if !nspod_testkit::root() {
            return;
        }
        let root = Hierarchy::detect().unwrap().root().unwrap();
        let container = root.create_child(nspod_testkit::unique("nspod-test-frozen")).unwrap();
        let sleep = |_| Command::new("sleep").arg("1000").spawn().unwrap();
        let guard = Guard(container, (0..8).map(sleep).collect());
        let container = &guard.0;
        let attach = || guard.1.iter().for_each(|child| container.attach(child.id() as i32).unwrap());
        attach();
        container.freeze().unwrap();
        let (began, (ready, starts)) = (Instant::now(), std::sync::mpsc::channel());
        std::thread::scope(|scope| {
            // It moves the processes back, so that the move needs longer than without a freeze.
            scope.spawn(move || {
                while began.elapsed() < Duration::from_millis(300) {
                    attach();
                    let _ = ready.send(());
                }
            });
            starts.recv().unwrap();
            vacate(container, began + Duration::from_secs(100)).unwrap();
        });
        assert_eq!(container.read("cgroup.freeze").unwrap(), "1\n");
    }
}
