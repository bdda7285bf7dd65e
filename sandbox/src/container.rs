//! A running container: its process and its cgroup, held by descriptors.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cgroup_core::{Cgroup, Limits, Usage};
use nix::fcntl::OFlag;
use ns_core::{Kind, Kinds, NamespaceSet, Pidfd};

use crate::cgroups::Home;
use crate::command::{CgroupUse, Command, OnPrepared, Streams};
use crate::error::{Error, ErrorKind};
use crate::family::{self, Guests, Process};
use crate::init;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::spawn::{self, Held};
use crate::spec::{Join, Namespace, Namespaces, Root, Spec};

/// A running container.
///
/// Dropping it kills what is in it and removes its cgroup; [`detach`](Self::detach) lets
/// it live on.
#[derive(Debug)]
pub struct Container {
    process: Arc<Process>,
    /// Further processes in it that this program has started.
    guests: Guests,
    /// The container or pod that it is a guest of.
    hosts: Vec<Guests>,
    home: Option<Home>,
    plan: Arc<Plan>,
    exit_file: Option<File>,
    held: Option<Held>,
    /// By [`kill`](Container::kill): to delete it takes no second one.
    killed: AtomicBool,
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
    /// Where the kernel asks about calls, if its filter has `SCMP_ACT_NOTIFY`
    /// ([seccomp_unotify(2)](https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html)).
    /// It is to be in the hands of who answers before [`start`](Container::start).
    pub seccomp_listener: Option<OwnedFd>,
}

impl Container {
    pub(crate) fn start_plan(
        plan: Arc<Plan>,
        streams: &mut Streams,
        home: Option<Home>,
        exit_file: Option<File>,
        hosts: Vec<Guests>,
        prepared: Option<OnPrepared>,
    ) -> Result<Container, Error> {
        let exit_file = match (plan.spec.init, exit_file) {
            (true, None) => Some(init::exit_file()?),
            (_, given) => given,
        };
        let started = Instant::now();
        let cgroup = home.as_ref().map(|h| h.cgroup().as_fd());
        let spawned = spawn::spawn(&plan, streams.child(), cgroup, exit_file.as_ref(), prepared);
        // If it failed, the child is gone, and its cgroup goes with `home`.
        let spawned = spawned.map_err(|e| why_killed(e, home.as_ref()))?;
        let process = Process::new(spawned.pid, spawned.pidfd);
        for host in &hosts {
            host.add(&process);
        }
        streams.close_child();
        let [stdin, stdout, stderr] = std::mem::take(&mut streams.ours);
        Ok(Container {
            process,
            guests: Guests::default(),
            hosts,
            home,
            plan,
            exit_file,
            held: spawned.held,
            killed: AtomicBool::new(false),
            started,
            outcome: None,
            stdin,
            stdout,
            stderr,
            terminal: spawned.terminal.map(File::from),
            seccomp_listener: spawned.listener,
        })
    }

    /// The pid of its first process, as the caller sees it.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Its first process.
    pub fn pidfd(&self) -> &Pidfd {
        &self.process.pidfd
    }

    /// Its cgroup, if it has one of its own; a further process in a container has none.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.home.as_ref().filter(|home| !home.is_borrowed()).map(Home::cgroup)
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
        Ok(NamespaceSet::of_pidfd(&self.process.pidfd)?)
    }

    /// Lets a held container become its program.
    ///
    /// # Errors
    /// [`ErrorKind::State`] if it is not held; what keeps it from executing the program.
    pub fn start(&mut self) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Err(Error::new(ErrorKind::State, "the container has been started already"));
        };
        let exit_file = self.exit_file.as_ref().filter(|_| self.plan.spec.init);
        held.start(&self.plan, self.pidfd(), exit_file).map_err(|e| why_killed(e, self.home.as_ref()))
    }

    /// Waits for its first process to end, and says how and why it did.
    ///
    /// # Errors
    /// If somebody else has reaped it.
    pub fn wait(&mut self) -> Result<Outcome, Error> {
        loop {
            if let Some(outcome) = self.wait_for(None)? {
                return Ok(outcome);
            }
        }
    }

    /// As [`wait`](Self::wait), for so long at most; `None` if it runs still.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>, Error> {
        self.wait_for(Some(timeout))
    }

    fn wait_for(&mut self, timeout: Option<Duration>) -> Result<Option<Outcome>, Error> {
        if self.outcome.is_none()
            && let Some(exit) = self.process.wait(&self.guests, timeout)?
        {
            self.outcome = Some(self.conclude(exit));
        }
        Ok(self.outcome.clone())
    }

    fn conclude(&mut self, exit: ns_core::Exit) -> Outcome {
        let wall_time = self.started.elapsed();
        // The init cannot die of its program's signal, so it writes it down.
        let status = self.exit_file.as_mut().and_then(init::read_exit).unwrap_or(exit.status);
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
        Ok(self.process.pidfd.send_signal(signal)?)
    }

    /// Kills everything in it; of a further process in another container, that process alone.
    ///
    /// # Errors
    /// If a process cannot be killed.
    pub fn kill(&self) -> Result<(), Error> {
        match &self.home {
            // A further process in another's cgroup does not take the other along.
            Some(home) if !home.is_borrowed() => home.cgroup().kill()?,
            _ => self.kill_first()?,
        }
        self.killed.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn kill_first(&self) -> Result<(), Error> {
        match self.process.pidfd.send_signal(libc::SIGKILL) {
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
        let cgroup = self.home.as_ref().map(|home| home.cgroup().path());
        let mut command = exec(self.pidfd(), self.pid(), self.spec(), cgroup, program)?;
        self.hosts.iter().chain([&self.guests]).for_each(|host| command.guest_of(host));
        Ok(command)
    }

    /// Kills what is left in it and removes its cgroup.
    ///
    /// # Errors
    /// If a process cannot be killed, or the cgroup not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.clear()
    }

    /// Lets it live on without this handle. One that is held stays held as long as this
    /// program lives.
    pub fn detach(mut self) {
        if let Some(home) = self.home.take() {
            home.leave();
        }
        if let Some(held) = self.held.take() {
            std::mem::forget(held);
        }
        self.outcome.get_or_insert(Outcome::unknown());
    }

    fn clear(&mut self) -> Result<(), Error> {
        self.held = None;
        let mut result = Ok(());
        if self.outcome.is_none() {
            if !*self.killed.get_mut() {
                // Its cgroup may be gone, with its pod's. Then it is dead, and yet to be reaped.
                result = self.kill().or_else(|_| self.kill_first());
            }
            family::reap(self.process.clone(), &self.guests);
            self.outcome = Some(Outcome::unknown());
        }
        match self.home.take() {
            Some(home) => result.and(home.remove()),
            None => result,
        }
    }
}

/// Adds the likely cause to the error of a first process that was killed.
fn why_killed(error: Error, home: Option<&Home>) -> Error {
    if error.kind() != ErrorKind::Killed {
        return error;
    }
    let hint = match home.and_then(Home::oom) {
        Some(oom) => format!("{oom}: the memory limit may be too low for the start"),
        None => "a process outside sent it the signal, or it reached a limit of its own".to_owned(),
    };
    error.with_hint(Some(hint))
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// A command for a further process in the container of `pid`, whose spec and cgroup these
/// are. Where the process has moved on from that cgroup, and the cgroup is gone or can hold no
/// process, the command starts in the cgroup where the process is.
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
    command.joins_process(pid, pidfd)?;
    if container.mounts_stay {
        let path = format!("/proc/{pid}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty());
        let what = "open the root of the container";
        let root = root.map_err(|e| Error::call(ErrorKind::Process, what, "open", e as i32))?;
        // The pid was still its own.
        pidfd.send_signal(0)?;
        command.enters_root(root);
    }
    command.cgroup_use(match cgroup {
        Some(path) => CgroupUse::Inside { path: path.into(), of: Some(pid), even_frozen: false },
        None => CgroupUse::None,
    });
    Ok(command)
}
