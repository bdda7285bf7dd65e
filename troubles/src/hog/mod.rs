//! Victims and hogs, as one table of functions.

mod calls;
mod children;
mod cpu;
mod disk;
mod forks;
mod memory;
mod net;
mod objects;
mod user;
mod walls;

use std::any::Any;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

pub use children::child;

/// The directory that victim and hog share with the host in the troubles with a disk.
pub const DATA: &str = "/run/data";

/// A victim and a hog.
#[derive(Debug)]
pub struct Trouble {
    /// The name, as argument of `nspod-hog`.
    pub name: &'static str,
    /// Starts the attack. Returns when it is in full swing; its threads and objects remain.
    pub hog: fn() -> io::Result<Hog>,
    /// Prepares the victim.
    pub victim: fn() -> io::Result<Victim>,
}

/// All victims and hogs.
pub const TABLE: &[Trouble] = &[
    Trouble { name: "cpu", hog: cpu::hog, victim: cpu::victim },
    Trouble { name: "forks", hog: forks::hog, victim: forks::victim },
    Trouble { name: "memory", hog: memory::hog, victim: memory::victim },
    Trouble { name: "swap", hog: memory::swap_hog, victim: memory::swap_victim },
    Trouble { name: "page-cache", hog: memory::cache_hog, victim: memory::cache_victim },
    Trouble { name: "descriptors", hog: objects::descriptor_hog, victim: objects::descriptor_victim },
    Trouble { name: "disk-space", hog: disk::space_hog, victim: disk::space_victim },
    Trouble { name: "inodes", hog: disk::inode_hog, victim: disk::inode_victim },
    Trouble { name: "egress", hog: net::stream_hog, victim: net::stream_victim },
    Trouble { name: "ingress", hog: net::stream_hog, victim: net::stream_victim },
    Trouble { name: "sockets", hog: net::port_hog, victim: net::port_victim },
    Trouble { name: "packets", hog: net::packet_hog, victim: net::packet_victim },
    Trouble { name: "connections", hog: net::connection_hog, victim: net::connection_victim },
    Trouble { name: "requests", hog: net::request_hog, victim: net::request_victim },
    Trouble { name: "signals", hog: walls::signal_hog, victim: walls::signal_victim },
    Trouble { name: "ptrace", hog: walls::ptrace_hog, victim: walls::ptrace_victim },
    Trouble { name: "proc-mem", hog: walls::memory_hog, victim: walls::memory_victim },
    Trouble { name: "shared-memory", hog: walls::shm_hog, victim: walls::shm_victim },
    Trouble { name: "abstract-sockets", hog: walls::abstract_hog, victim: walls::abstract_victim },
    Trouble { name: "path-sockets", hog: walls::path_hog, victim: walls::path_victim },
    Trouble { name: "files", hog: walls::file_hog, victim: walls::file_victim },
    Trouble { name: "clock", hog: walls::clock_hog, victim: walls::clock_victim },
    Trouble { name: "hostname", hog: walls::hostname_hog, victim: walls::hostname_victim },
    Trouble { name: "mounts", hog: walls::mount_hog, victim: walls::mount_victim },
    Trouble { name: "disk-rate", hog: disk::rate_hog, victim: disk::rate_victim },
    Trouble { name: "fsync", hog: disk::fsync_hog, victim: disk::fsync_victim },
    Trouble { name: "inotify", hog: user::inotify_hog, victim: user::inotify_victim },
    Trouble { name: "inotify-watches", hog: user::watch_hog, victim: user::watch_victim },
    Trouble { name: "fanotify", hog: user::fanotify_hog, victim: user::fanotify_victim },
    Trouble { name: "pipes", hog: user::pipe_hog, victim: user::pipe_victim },
    Trouble { name: "timers", hog: user::timer_hog, victim: user::timer_victim },
    Trouble { name: "message-queues", hog: user::queue_hog, victim: user::queue_victim },
    Trouble { name: "keys", hog: user::key_hog, victim: user::key_victim },
    Trouble { name: "locked-memory", hog: user::lock_hog, victim: user::lock_victim },
    Trouble { name: "processes", hog: user::process_hog, victim: user::process_victim },
    Trouble { name: "sent-descriptors", hog: user::flight_hog, victim: user::flight_victim },
    Trouble { name: "epoll", hog: user::epoll_hog, victim: user::epoll_victim },
    Trouble { name: "terminals", hog: user::terminal_hog, victim: user::terminal_victim },
    Trouble { name: "aio", hog: user::aio_hog, victim: user::aio_victim },
];

/// Returns the trouble with this name.
pub fn find(name: &str) -> Option<&'static Trouble> {
    TABLE.iter().find(|trouble| trouble.name == name)
}

/// A hog in full swing.
pub struct Hog {
    /// What it has got, for people to read.
    pub said: String,
    /// The objects that it holds.
    _kept: Box<dyn Any>,
}

impl Hog {
    /// Returns a hog that holds these objects.
    pub fn holds(said: impl Into<String>, kept: impl Any) -> Hog {
        Hog { said: said.into(), _kept: Box::new(kept) }
    }

    /// Starts threads that repeat an action. Each has its number. Returns after each thread has tried once.
    ///
    /// # Errors
    /// `EAGAIN` if the kernel refuses a thread: see clone(2).
    pub fn repeats(
        threads: usize,
        action: impl Fn(usize) -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<Hog> {
        let (sender, tried) = std::sync::mpsc::channel();
        for thread in 0..threads {
            let (action, sender) = (action.clone(), sender.clone());
            std::thread::Builder::new().spawn(move || {
                let first = action(thread);
                // The receiver waits for each thread.
                let _ = sender.send(first.map_err(|error| error.to_string()));
                loop {
                    // The limit may refuse some actions; the hog continues with the next.
                    let _ = action(thread);
                }
            })?;
        }
        let first: Vec<_> = tried.iter().take(threads).collect();
        let refused = first.iter().find_map(|first| first.as_ref().err());
        Ok(Hog::holds(refused.map_or("in full swing".to_owned(), |why| format!("refused: {why}")), ()))
    }
}

impl fmt::Debug for Hog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hog").field("said", &self.said).finish_non_exhaustive()
    }
}

/// A victim that is ready.
///
/// No measure depends on the speed of the machine, which differs from one moment to the next where it is emulated: a
/// victim has a fixed amount of work per second, or measures its share of a processor.
pub enum Victim {
    /// A step of work, which is due at each interval. Progress is the number of steps per second.
    Work(Duration, Box<dyn FnMut() -> io::Result<()>>),
    /// Spins. Progress is the share of a processor that it gets, in percent.
    Spin,
    /// Returns whether the victim's possession is as it was. Progress is 1 or 0.
    Whole(Box<dyn FnMut() -> io::Result<bool>>),
}

impl Victim {
    /// Returns a victim with this many steps of work per second.
    pub fn works(per_second: u32, step: impl FnMut() -> io::Result<()> + 'static) -> Victim {
        Victim::Work(Duration::from_secs(1) / per_second, Box::new(step))
    }

    /// Returns a victim whose possession this function checks.
    pub fn is_whole(check: impl FnMut() -> io::Result<bool> + 'static) -> Victim {
        Victim::Whole(Box::new(check))
    }

    /// Works for this time and returns the progress. A step that fails does not count.
    ///
    /// # Errors
    /// The first error of a step, beside the progress, or that of a clock.
    pub fn progress(&mut self, window: Duration) -> (f64, Option<io::Error>) {
        match self {
            Victim::Work(interval, step) => work(*interval, step, window),
            Victim::Spin => share(window).map_or_else(|error| (0.0, Some(error)), |share| (share, None)),
            Victim::Whole(check) => match check() {
                Ok(whole) => (f64::from(u8::from(whole)), None),
                Err(error) => (0.0, Some(error)),
            },
        }
    }
}

/// Does the steps when they are due. A late step is done at once; those that are due meanwhile are lost.
fn work(
    interval: Duration,
    step: &mut dyn FnMut() -> io::Result<()>,
    window: Duration,
) -> (f64, Option<io::Error>) {
    let (start, mut done, mut problem) = (Instant::now(), 0, None);
    let mut due = start;
    while start.elapsed() < window {
        match step() {
            Ok(()) => done += 1,
            Err(error) => problem = problem.or(Some(error)),
        }
        due = (due + interval).max(Instant::now());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    (f64::from(done) / start.elapsed().as_secs_f64(), problem)
}

/// Spins, and returns the share of a processor in percent.
fn share(window: Duration) -> io::Result<f64> {
    let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let (start, before) = (Instant::now(), used()?);
    while start.elapsed() < window {
        cpu::spin(1000);
    }
    Ok(100.0 * (used()? - before).as_secs_f64() / start.elapsed().as_secs_f64())
}

impl fmt::Debug for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Work(..) => "Work",
            Victim::Spin => "Spin",
            Victim::Whole(_) => "Whole",
        })
    }
}
