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

/// Time limit of [`Cgroup::freeze`], [`Cgroup::thaw`] and the fallback of [`Cgroup::kill`].
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of pidfds that [`Cgroup::signal`] opens at a time.
const BATCH: usize = 64;

impl Cgroup {
    /// Moves a process with all its threads into this cgroup. The pid 0 is the caller.
    ///
    /// A move acquires a lock of the whole thread group. To start a process in a cgroup,
    /// `CLONE_INTO_CGROUP` is cheaper, and the process is never outside.
    ///
    /// Since Linux 4.5. Sections "Processes" and "Core Interface Files".
    ///
    /// # Errors
    /// - `NotFound` (`ESRCH`): the process does not exist; (`ENODEV`): this cgroup was removed.
    /// - `Busy` (`EBUSY`): this cgroup enables controllers for its children.
    /// - `PermissionDenied` (`EACCES`, `EPERM`): the caller cannot write to `cgroup.procs` of this
    ///   cgroup and of the common ancestor.
    /// - `Unsupported` (`EOPNOTSUPP`): this cgroup is threaded or invalid.
    /// - `Os` (`EINVAL`): the process is a kernel thread that is bound to a processor.
    pub fn attach(&self, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Moves one thread into this cgroup, within one threaded subtree. The id 0 is the caller.
    ///
    /// Since Linux 4.14. Section "Threads".
    ///
    /// # Errors
    /// As [`attach`](Self::attach), and `Unsupported` (`EOPNOTSUPP`): the thread is outside of the
    /// threaded subtree.
    pub fn attach_thread(&self, tid: i32) -> Result<()> {
        self.write("cgroup.threads", &tid.to_string())
    }

    /// Makes this cgroup threaded, so that it accepts single threads of the processes of its
    /// domain. This cannot be undone.
    ///
    /// Since Linux 4.14. Section "Threads".
    ///
    /// # Errors
    /// - `Unsupported` (`EOPNOTSUPP`): the parent is an invalid domain, or this cgroup has
    ///   processes or enables controllers that do not support threads.
    /// - `PermissionDenied` (`EACCES`): the cgroup is not delegated to the caller.
    pub fn set_type_threaded(&self) -> Result<()> {
        self.write("cgroup.type", "threaded")
    }

    /// Returns the pids of the processes in this cgroup itself, without zombies: `cgroup.procs`. A
    /// process outside of the caller's pid namespace has the pid 0.
    ///
    /// Since Linux 4.5. Section "Core Interface Files".
    ///
    /// # Errors
    /// - `Unsupported` (`EOPNOTSUPP`): the cgroup is threaded; use [`threads`](Self::threads).
    /// - As [`read`](Self::read).
    pub fn procs(&self) -> Result<Vec<i32>> {
        parse::pids(&self.read("cgroup.procs")?)
    }

    /// Returns the pids of the processes in this cgroup and all below it. Leaves out cgroups that are
    /// removed meanwhile.
    ///
    /// Since Linux 5.6. Section "Core Interface Files", `cgroup.procs`.
    ///
    /// # Errors
    /// As [`procs`](Self::procs).
    pub fn procs_recursive(&self) -> Result<Vec<i32>> {
        let mut pids = self.procs()?;
        for child in self.each_child()? {
            match child.and_then(|child| child.procs_recursive()) {
                Ok(more) => pids.extend(more),
                Err(error)
                    if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT | Errno::EOPNOTSUPP)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// Returns the thread ids in this cgroup itself: `cgroup.threads`.
    ///
    /// Since Linux 4.14. Section "Core Interface Files".
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn threads(&self) -> Result<Vec<i32>> {
        parse::pids(&self.read("cgroup.threads")?)
    }

    /// Returns whether this cgroup or one below has a process, and whether it is frozen:
    /// `cgroup.events`.
    ///
    /// Since Linux 4.5, with `frozen` since 5.2. Section "Core Interface Files".
    ///
    /// # Errors
    /// `NotFound` (`ENOENT`): this is the root, which has no such file; (`ENODEV`): the cgroup was
    /// removed.
    pub fn events(&self) -> Result<Events> {
        Events::parse(&self.read("cgroup.events")?)
    }

    /// Stops all processes in this cgroup and below. Returns when all have stopped. Frozen
    /// processes keep their memory, and can be killed, moved and traced.
    ///
    /// A process that is created in a frozen cgroup, for example with `CLONE_INTO_CGROUP`, does not
    /// run until the cgroup is thawed or killed. If it was created with `CLONE_VFORK`, its parent
    /// waits for its `exec` in a sleep that only SIGKILL ends. `posix_spawn` and nspod-sandbox start
    /// processes this way, so do not freeze a cgroup while they start one in it. To end the wait, thaw
    /// the cgroup or kill the processes in it.
    ///
    /// Since Linux 5.2. Section "Core Interface Files".
    ///
    /// # Errors
    /// - `TimedOut` after 10 s: a process is in an uninterruptible system call. The request stays
    ///   in force until [`thaw`](Self::thaw): the process stops when the call returns.
    /// - `NotFound` (`ENOENT`): the root cannot be frozen; (`ENODEV`): the cgroup was removed.
    /// - `PermissionDenied` (`EACCES`).
    pub fn freeze(&self) -> Result<()> {
        self.freeze_within(PATIENCE)
    }

    /// Stops all processes like [`freeze`](Self::freeze), with another time limit.
    ///
    /// Since Linux 5.2. Section "Core Interface Files", `cgroup.freeze`.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn freeze_within(&self, timeout: Duration) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.await_events(
            "all processes to stop (one is in an uninterruptible system call)",
            timeout,
            |events| events.frozen,
        )
    }

    /// Lets all processes in this cgroup and below continue. A cgroup below that is frozen itself
    /// stays frozen.
    ///
    /// Since Linux 5.2. Section "Core Interface Files".
    ///
    /// # Errors
    /// - `TimedOut` after 10 s: an ancestor is frozen, which keeps this cgroup frozen.
    /// - As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<()> {
        self.thaw_within(PATIENCE)
    }

    /// Lets all processes continue like [`thaw`](Self::thaw), with another time limit.
    ///
    /// Since Linux 5.2. Section "Core Interface Files", `cgroup.freeze`.
    ///
    /// # Errors
    /// As [`thaw`](Self::thaw).
    pub fn thaw_within(&self, timeout: Duration) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        self.await_events("the processes to continue (an ancestor is frozen)", timeout, |events| {
            !events.frozen
        })
    }

    /// Waits until no process is left in this cgroup or below.
    ///
    /// Since Linux 4.5. Section "\[Un\]populated Notification".
    ///
    /// # Errors
    /// - `TimedOut`: a process is left after `timeout`.
    /// - As [`events`](Self::events).
    pub fn await_empty(&self, timeout: Duration) -> Result<()> {
        self.await_events("the last process to end", timeout, |events| !events.populated)
    }

    /// Sends SIGKILL to all processes in this cgroup and below at once, including frozen ones, so
    /// that a process cannot escape by forking. Returns before the processes have ended: see
    /// [`await_empty`](Self::await_empty).
    ///
    /// Since Linux 5.14 (`cgroup.kill`). On an older kernel this freezes the processes, kills each
    /// through a pidfd, and repeats until none is left. Section "Core Interface Files".
    ///
    /// # Errors
    /// - `Unsupported` (`EOPNOTSUPP`): the cgroup is threaded; only its domain can be killed.
    /// - `NotFound` (`ENOENT`): this is the root; (`ENODEV`): the cgroup was removed.
    /// - `PermissionDenied` (`EACCES`, `EPERM`).
    /// - `TimedOut` after 10 s, on an older kernel only.
    pub fn kill(&self) -> Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if error.errno() == Some(Errno::ENOENT) => self.kill_each(PATIENCE),
            done => done,
        }
    }

    /// Kills without `cgroup.kill`. A frozen process cannot fork, so the list of pids is complete.
    /// A process that is cloned into the cgroup from outside is killed in the next round.
    fn kill_each(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        // A process in an uninterruptible system call is killed although it has not stopped.
        if let Err(error) = self.freeze_within(Duration::from_millis(200))
            && error.kind() != ErrorKind::TimedOut
        {
            return Err(error);
        }
        let killed = loop {
            match self.signal(libc::SIGKILL).and_then(|()| Ok(self.events()?.populated)) {
                Ok(true) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Ok(true) => break Err(self.late("the killed processes to end", timeout)),
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let thawed = self.write("cgroup.freeze", "0");
        killed.and(thawed)
    }

    /// Sends a signal to each process in this cgroup and below. A process that is created or moved
    /// into the cgroup during the call may not get it. To kill all processes, use
    /// [`kill`](Self::kill).
    ///
    /// Since Linux 5.3: [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html).
    ///
    /// # Errors
    /// The first failure, after the other processes have got the signal:
    /// - As [`procs`](Self::procs).
    /// - `PermissionDenied` (`EPERM`): the caller may not signal a process.
    /// - `Os` (`EINVAL`): the signal does not exist, or a process is outside the caller's pid
    ///   namespace; (`EMFILE`, `ENFILE`): no descriptor is free.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let batches = self.procs_recursive()?;
        let sent = batches.chunks(BATCH).map(|pids| self.signal_inside(pids, signal));
        sent.fold(Ok(()), Result::and)
    }

    /// Sends a signal to the processes with these pids that are in this cgroup or below.
    fn signal_inside(&self, pids: &[i32], signal: i32) -> Result<()> {
        let fail = |pid, call, errno| {
            self.fail(format_args!("send signal {signal} to process {pid}"), call, "", errno)
        };
        let mut done = Ok(());
        let mut opened = Vec::with_capacity(pids.len());
        for &pid in pids {
            match sys::pidfd_open(pid) {
                Ok(pidfd) => opened.push((pid, pidfd)),
                Err(Errno::ESRCH) => {}
                Err(errno) => done = done.and(Err(fail(pid, "pidfd_open", errno))),
            }
        }
        // A pid may have been reused before its pidfd was opened. A process outside the cgroup is not
        // in the new list.
        let inside = self.procs_recursive()?;
        for (pid, pidfd) in opened.iter().filter(|(pid, _)| inside.contains(pid)) {
            match sys::pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => done = done.and(Err(fail(*pid, "pidfd_send_signal", errno))),
            }
        }
        done
    }

    /// Waits until `cgroup.events` is as wanted. The kernel signals POLLPRI after each change since
    /// the last read.
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
            // This file reports POLLERR together with POLLPRI. Both mean a change.
            match ready_before(fd.as_fd(), PollFlags::POLLPRI, Some(deadline)) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(self.late(what, timeout)),
                Err(errno) => return Err(fail("poll", errno)),
            }
        }
    }

    fn late(&self, what: &str, after: Duration) -> Error {
        let what = format!("{what} in cgroup {}", self.path().display());
        Error::timed_out(what, self.path().display().to_string(), after)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;
    use crate::Hierarchy;

    /// Ends the processes and removes the cgroup, also when the test fails.
    struct Guard(Cgroup, Vec<Child>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.kill();
            self.1.iter_mut().for_each(|child| drop(child.wait()));
            let _ = self.0.remove_recursive();
        }
    }

    #[test]
    fn a_signal_reaches_the_tree_and_no_process_outside() {
        let root = Hierarchy::detect().unwrap().root().unwrap();
        let own = root.create_child(format!("nspod-test-{}-signal", std::process::id())).unwrap();
        let mut guard = Guard(own, Vec::new());
        let deep = guard.0.create_child("a").unwrap();
        let sleep = || Command::new("sleep").arg("1000").spawn().unwrap();
        let mut outside = sleep();
        for group in [&guard.0, &deep] {
            let child = sleep();
            group.attach(child.id() as i32).unwrap();
            guard.1.push(child);
        }
        let sent = guard.0.signal_inside(&[outside.id() as i32], libc::SIGKILL);
        guard.0.signal(libc::SIGTERM).unwrap();
        for child in &mut guard.1 {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        }
        guard.0.signal(libc::SIGTERM).unwrap();
        let survived = outside.try_wait().unwrap().is_none();
        outside.kill().unwrap();
        outside.wait().unwrap();
        assert!(survived && sent.is_ok());
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
