//! A running container: its process and its cgroup, held by descriptors.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Limits, Usage};
use ns_core::{Kind, Kinds, NamespaceSet, Pidfd};

use crate::cgroups::Home;
use crate::command::{CgroupUse, Command, Streams};
use crate::error::{Error, ErrorKind};
use crate::init;
use crate::outcome::{Outcome, Status};
use crate::plan::{Plan, Through};
use crate::spawn;
use crate::spec::{Join, Namespace, Namespaces, Root, Spec};

/// A running container.
///
/// Dropping it kills what is in it and removes its cgroup; [`detach`](Self::detach) lets
/// it live on.
#[derive(Debug)]
pub struct Container {
    pid: i32,
    pidfd: Pidfd,
    home: Option<Home>,
    plan: Plan,
    exit_file: Option<File>,
    held: Option<OwnedFd>,
    started: Instant,
    outcome: Option<Outcome>,
    /// Its standard input, if it was piped.
    pub stdin: Option<File>,
    /// Its standard output, if it was piped.
    pub stdout: Option<File>,
    /// Its standard error, if it was piped.
    pub stderr: Option<File>,
    /// The other end of its terminal, if it has one.
    pub terminal: Option<File>,
}

impl Container {
    pub(crate) fn start_plan(
        plan: Plan,
        streams: &mut Streams,
        home: Option<Home>,
        exit_file: Option<File>,
    ) -> Result<Container, Error> {
        let exit_file = match (plan.through == Some(Through::Init), exit_file) {
            (true, None) => Some(init::exit_file()?),
            (_, given) => given,
        };
        let started = Instant::now();
        let cgroup = home.as_ref().map(|h| h.cgroup().as_fd());
        let spawned = spawn::spawn(&plan, streams.child(), cgroup, exit_file.as_ref());
        let spawned = match (spawned, home.as_ref()) {
            (Ok(spawned), _) => spawned,
            (Err(e), _) => {
                // The child is gone; so shall its cgroup be.
                let _ = home.map(Home::remove);
                return Err(e);
            }
        };
        streams.close_child();
        let [stdin, stdout, stderr] = std::mem::take(&mut streams.ours);
        Ok(Container {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            home,
            plan,
            exit_file,
            held: spawned.held,
            started,
            outcome: None,
            stdin,
            stdout,
            stderr,
            terminal: spawned.terminal.map(File::from),
        })
    }

    /// The pid of its first process, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Its first process.
    pub fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }

    /// Its cgroup, if it has one of its own.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.home.as_ref().map(Home::cgroup)
    }

    /// The spec that it was made from.
    pub fn spec(&self) -> &Spec {
        self.plan.spec()
    }

    /// Its eight namespaces.
    ///
    /// # Errors
    /// If its first process has ended.
    pub fn namespaces(&self) -> Result<NamespaceSet, Error> {
        Ok(NamespaceSet::of_pidfd(&self.pidfd)?)
    }

    /// Lets a held container become its program.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is not held; what keeps it from executing the program.
    pub fn start(&mut self) -> Result<(), Error> {
        let Some(socket) = self.held.take() else {
            return Err(Error::new(ErrorKind::State, "the container has been started already"));
        };
        spawn::send_word(&socket)?;
        spawn::hear_last(&self.plan, &socket)
    }

    /// Waits for its first process to end, and says how and why it did.
    ///
    /// # Errors
    /// If somebody else has reaped it.
    pub fn wait(&mut self) -> Result<Outcome, Error> {
        if let Some(outcome) = &self.outcome {
            return Ok(outcome.clone());
        }
        let exit = self.pidfd.wait()?;
        let outcome = self.conclude(exit);
        self.outcome = Some(outcome.clone());
        Ok(outcome)
    }

    /// As [`wait`](Self::wait), for so long at most; `None` if it runs still.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>, Error> {
        if self.outcome.is_none() && !self.pidfd.poll(Some(timeout))? {
            return Ok(None);
        }
        self.wait().map(Some)
    }

    fn conclude(&mut self, exit: ns_core::Exit) -> Outcome {
        let wall_time = self.started.elapsed();
        let kernel = match exit.status {
            ns_core::ExitStatus::Code(code) => Status::Exited(code),
            ns_core::ExitStatus::Signal { signal, core_dumped: core } => Status::Signaled { signal, core },
        };
        // The init cannot die of its program's signal, so it writes it down.
        let status = self.exit_file.as_mut().and_then(init::read_exit).unwrap_or(kernel);
        let cpu = self.cgroup().and_then(|c| c.cpu_stat().ok());
        let peak = self.cgroup().and_then(|c| c.number("memory.peak").ok().flatten());
        let of_process = exit.usage.user + exit.usage.system;
        Outcome {
            status,
            oom: self.home.as_ref().and_then(Home::oom),
            peak_memory: peak.or(Some(exit.usage.max_rss)),
            cpu_time: cpu.as_ref().and_then(|c| c.usage_usec).map_or(of_process, Duration::from_micros),
            throttled_time: Duration::from_micros(cpu.as_ref().and_then(|c| c.throttled_usec).unwrap_or(0)),
            wall_time,
        }
    }

    /// Sends a signal to its first process.
    ///
    /// # Errors
    /// `ESRCH` if it has ended.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        Ok(self.pidfd.send_signal(signal)?)
    }

    /// Kills everything in it; of a further process in another container, that process alone.
    ///
    /// # Errors
    /// If a process cannot be killed.
    pub fn kill(&self) -> Result<(), Error> {
        match &self.home {
            // A further process in another's cgroup does not take the other along.
            Some(home) if !home.is_borrowed() => Ok(home.cgroup().kill()?),
            _ => self.kill_first(),
        }
    }

    fn kill_first(&self) -> Result<(), Error> {
        match self.pidfd.send_signal(libc::SIGKILL) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Stops everything in it, unseen by itself.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it has no cgroup of its own.
    pub fn freeze(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("freeze it")?.freeze()?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) -> Result<(), Error> {
        Ok(self.need_cgroup("thaw it")?.thaw()?)
    }

    /// Changes its limits; those not named stay.
    ///
    /// # Errors
    /// What this host cannot enforce, and what the kernel refuses.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        crate::cgroups::limit(self.need_cgroup("limit it")?, limits)
    }

    /// What it uses.
    ///
    /// # Errors
    /// As [`freeze`](Self::freeze).
    pub fn usage(&self) -> Result<Usage, Error> {
        Ok(self.need_cgroup("measure it")?.usage()?)
    }

    fn need_cgroup(&self, what: &str) -> Result<&Cgroup, Error> {
        self.cgroup().ok_or_else(|| {
            Error::new(
                ErrorKind::State,
                format!("the container has no cgroup of its own, which it takes to {what}: run as root, or have a cgroup delegated"),
            )
        })
    }

    /// A further process in this container: its namespaces, root, cgroup, ids,
    /// capabilities and filter.
    ///
    /// # Errors
    /// If the container has ended.
    pub fn exec(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, Error> {
        exec(&self.pidfd, self.pid, self.spec(), self.cgroup().map(|c| c.path()), program)
    }

    /// Kills what is left in it and removes its cgroup.
    ///
    /// # Errors
    /// If a process cannot be killed, or the cgroup not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Lets it live on without this handle.
    pub fn detach(mut self) {
        self.home = None;
        self.outcome.get_or_insert(Outcome::unknown());
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.held = None;
        if self.outcome.is_none() {
            // Its cgroup may be gone, with its pod's. Then it is dead, and yet to be reaped.
            self.kill().or_else(|_| self.kill_first())?;
            let own = self.pidfd.as_fd().try_clone_to_owned();
            let own = own.map_err(|e| Error::io(ErrorKind::Process, "keep a pidfd", "fcntl", &e))?;
            reap(Pidfd::from_owned_fd(own)?);
            self.outcome = Some(Outcome::unknown());
        }
        match self.home.take() {
            Some(home) => home.remove(),
            None => Ok(()),
        }
    }
}

/// Reaps a process that was killed; if it is another process's child, that is the other's to do.
///
/// It may take its time: a tracer hears of its end first, and the first process of a pid
/// namespace ends when everybody in it has been reaped. One who was in there may be a child of
/// this process whose handle is let go of later, by this very thread. So nothing waits here.
pub(crate) fn reap(pidfd: Pidfd) {
    if let Ok(true) = pidfd.poll(Some(Duration::from_millis(200)))
        && !matches!(pidfd.try_wait(), Ok(None))
    {
        return;
    }
    let later = std::thread::Builder::new().name("nspod-reap".into());
    let _ = later.spawn(move || pidfd.wait());
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// A command for a further process in the container of `pid`, whose spec and cgroup these
/// are.
///
/// # Errors
/// If the process has ended.
pub fn exec(
    pidfd: &Pidfd,
    pid: i32,
    container: &Spec,
    cgroup: Option<&Path>,
    program: impl AsRef<std::ffi::OsStr>,
) -> Result<Command, Error> {
    let theirs = NamespaceSet::of_pidfd(pidfd)?;
    let ours = NamespaceSet::current()?;
    let same = theirs.coincide(&ours);
    let mut namespaces = Namespaces::default();
    for kind in Kind::ALL.into_iter().filter(|k| !same.contains(Kinds::from(*k))) {
        *namespaces.get_mut(kind) = Namespace::Join(Join::Pid(pid));
    }
    let mut process = container.process.clone();
    process.args = vec![program.as_ref().into()];
    process.terminal = None;
    let spec = Spec { process, namespaces, root: Root::Host, ..Spec::default() };
    let mut command = Command::from_spec(spec);
    command.cgroup_use(match cgroup {
        Some(path) => CgroupUse::Inside(path.into()),
        None => CgroupUse::None,
    });
    Ok(command)
}
