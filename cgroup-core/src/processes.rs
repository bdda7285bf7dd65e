//! The processes of a cgroup: move, list, freeze, kill.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::PollFlags;

use crate::cgroup::{Cgroup, read_all};
use crate::error::{Error, ErrorKind, Result};
use crate::usage::Events;
use crate::watch::ready_before;
use crate::{parse, sys};

/// How long [`Cgroup::freeze`] and [`Cgroup::thaw`] wait.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Moves a process with all its threads here; 0 is the caller.
    ///
    /// A move takes a lock of all of a process's threads: to start a process in a cgroup,
    /// `CLONE_INTO_CGROUP` is cheaper and leaves no moment outside.
    ///
    /// # Errors
    /// `NotFound` (`ESRCH`) no such process; `Busy` (`EBUSY`) this cgroup hands controllers down;
    /// `PermissionDenied` without write access here and in the common ancestor; `Unsupported`
    /// (`EOPNOTSUPP`) this cgroup is threaded or invalid.
    pub fn attach(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Moves one thread here, within one threaded subtree; 0 is the caller.
    ///
    /// # Errors
    /// As [`attach`](Self::attach); `Unsupported` (`EOPNOTSUPP`) from outside of the threaded subtree.
    pub fn attach_thread(&self, tid: i32) -> Result<()> {
        self.write("cgroup.threads", &tid.to_string())
    }

    /// Makes this cgroup threaded: it holds single threads of processes of its domain. It cannot
    /// be undone.
    ///
    /// # Errors
    /// `Unsupported` (`EOPNOTSUPP`) where the parent is an invalid domain, or this cgroup holds
    /// processes or hands domain controllers down.
    pub fn set_type_threaded(&self) -> Result<()> {
        self.write("cgroup.type", "threaded")
    }

    /// The pids in this cgroup itself, zombies left out; 0 for those outside of the caller's pid namespace.
    ///
    /// # Errors
    /// `Unsupported` (`EOPNOTSUPP`) in a threaded cgroup, see [`threads`](Self::threads); and as
    /// [`read`](Self::read).
    pub fn procs(&self) -> Result<Vec<i32>> {
        parse::pids(&self.read("cgroup.procs")?)
    }

    /// The pids in this cgroup and all below it. Cgroups that vanish meanwhile are left out.
    ///
    /// # Errors
    /// As [`procs`](Self::procs).
    pub fn procs_recursive(&self) -> Result<Vec<i32>> {
        let mut pids = self.procs()?;
        for child in self.children()? {
            match child.procs_recursive() {
                Ok(more) => pids.extend(more),
                Err(error)
                    if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// The thread ids in this cgroup itself.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn threads(&self) -> Result<Vec<i32>> {
        parse::pids(&self.read("cgroup.threads")?)
    }

    /// Whether it or a cgroup below holds processes, and whether it is frozen: `cgroup.events`.
    ///
    /// # Errors
    /// `NotFound` in the root (`ENOENT`) and where the cgroup was removed (`ENODEV`).
    pub fn events(&self) -> Result<Events> {
        Events::parse(&self.read("cgroup.events")?)
    }

    /// Stops every process of it and below, and returns when all have stopped. They keep their
    /// memory and can be killed, moved and traced.
    ///
    /// # Errors
    /// `TimedOut` after 10 s: a process is stuck in the kernel. The request then stands: it stops
    /// once it can, unless [`thaw`](Self::thaw) takes it back. And as [`write`](Self::write).
    pub fn freeze(&self) -> Result<()> {
        self.freeze_within(PATIENCE)
    }

    /// As [`freeze`](Self::freeze), within this time.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_within(&self, timeout: Duration) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.await_events("every process to stop (one is stuck in the kernel)", timeout, |events| {
            events.frozen
        })
    }

    /// Lets every process of it and below go on, save where a cgroup below is frozen itself.
    ///
    /// # Errors
    /// `TimedOut` after 10 s where an ancestor is frozen, which keeps this one so; and as
    /// [`write`](Self::write).
    pub fn thaw(&self) -> Result<()> {
        self.thaw_within(PATIENCE)
    }

    /// As [`thaw`](Self::thaw), within this time.
    ///
    /// # Errors
    /// As [`thaw`](Self::thaw).
    pub fn thaw_within(&self, timeout: Duration) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        self.await_events("thawing (an ancestor is frozen)", timeout, |events| !events.frozen)
    }

    /// Waits until no process is left in it or below.
    ///
    /// # Errors
    /// `TimedOut`, and as [`events`](Self::events).
    pub fn await_empty(&self, timeout: Duration) -> Result<()> {
        self.await_events("its last process to end", timeout, |events| !events.populated)
    }

    /// Sends SIGKILL to every process of it and below at once, so that forks cannot outrun it
    /// (`cgroup.kill`, since Linux 5.14), frozen ones too. Returns before they are gone: see
    /// [`await_empty`](Self::await_empty).
    ///
    /// On an older kernel it freezes them, kills each through a pidfd, and repeats until nothing is
    /// left.
    ///
    /// # Errors
    /// `Unsupported` (`EOPNOTSUPP`) in a threaded cgroup, where only the domain can be killed;
    /// `NotFound` in the root (`ENOENT`) and where the cgroup was removed (`ENODEV`);
    /// `PermissionDenied`.
    pub fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if error.errno() == Some(Errno::ENOENT) => self.kill_each(PATIENCE),
            done => done,
        }
    }

    /// The fallback: frozen, no process can fork, so the list is whole; what was cloned into the
    /// cgroup from outside meanwhile is caught by the next round.
    fn kill_each(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        // A process stuck in the kernel does not stop in time; it dies all the same.
        if let Err(error) = self.freeze_within(Duration::from_millis(200))
            && error.kind() != ErrorKind::TimedOut
        {
            return Err(error);
        }
        let killed = loop {
            match self.kill_listed().and_then(|()| Ok(self.events()?.populated)) {
                Ok(true) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Ok(true) => break Err(self.late("its killed processes to end", timeout)),
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let thawed = self.write("cgroup.freeze", "0");
        killed.and(thawed)
    }

    fn kill_listed(&self) -> Result<()> {
        for pid in self.procs_recursive()? {
            let fail = |call, errno| self.fail(format_args!("kill process {pid}"), call, "", errno);
            match sys::pidfd_open(pid) {
                // Of a pid that was reused meanwhile the cgroup is another: ask again, now that the pidfd pins it.
                Ok(pidfd) if self.procs_recursive()?.contains(&pid) => {
                    match sys::pidfd_send_signal(&pidfd, libc::SIGKILL) {
                        Ok(()) | Err(Errno::ESRCH) => {}
                        Err(errno) => return Err(fail("pidfd_send_signal", errno)),
                    }
                }
                Ok(_) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(fail("pidfd_open", errno)),
            }
        }
        Ok(())
    }

    /// Waits on `cgroup.events` until it is as wanted. The kernel marks the file for poll at each
    /// change since it was last read.
    fn await_events(&self, what: &str, timeout: Duration, wanted: impl Fn(Events) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let fail = |call, errno| {
            self.fail(format_args!("watch {}/cgroup.events", self.path().display()), call, "", errno)
        };
        let fd = self.open_file("cgroup.events", OFlag::O_RDONLY).map_err(|errno| fail("openat2", errno))?;
        loop {
            let events = Events::parse(&read_all(&fd).map_err(|errno| fail("read", errno))?)?;
            if wanted(events) {
                return Ok(());
            }
            // For this file POLLERR comes with POLLPRI: it means a change.
            match ready_before(fd.as_fd(), PollFlags::POLLPRI, Some(deadline)) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(self.late(what, timeout)),
                Err(errno) => return Err(fail("poll", errno)),
            }
        }
    }

    fn late(&self, what: &str, after: Duration) -> Error {
        Error::timed_out(format!("{what} in cgroup {}", self.path().display()), after)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;
    use crate::Hierarchy;

    /// Reaps and removes even on failure.
    struct Guard(Cgroup, Vec<Child>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.kill();
            self.1.iter_mut().for_each(|child| drop(child.wait()));
            let _ = self.0.remove_recursive();
        }
    }

    #[test]
    fn the_fallback_kills_a_tree_that_forks_all_the_time() {
        let root = Hierarchy::detect().unwrap().root().unwrap();
        let own = root.create_child(format!("nspod-test-{}-fallback", std::process::id())).unwrap();
        let mut guard = Guard(own, Vec::new());
        let deep = guard.0.create_child("a").unwrap();
        for (i, group) in [&guard.0, &deep].into_iter().enumerate() {
            let script = "while :; do sleep 0 & done";
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            group.attach(child.id() as i32).unwrap_or_else(|error| panic!("{i}: {error}"));
            guard.1.push(child);
        }
        guard.0.kill_each(Duration::from_secs(60)).unwrap();
        assert!(!guard.0.events().unwrap().populated);
        for child in &mut guard.1 {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
    }
}
