//! Victims and hogs, as one table of functions.

mod calls;
mod children;
mod cpu;
mod disk;
mod forks;
mod memory;
mod user;

use std::any::Any;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

pub use children::child;

/// A victim measures its best of this many parts of its window, so that a pause of the machine does not count.
const PARTS: u32 = 5;

/// The directory that victim and hog share with the host in the troubles with a disk.
pub const DATA: &str = "/data";

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
pub enum Victim {
    /// A step of work returns its amount. A step that fails has the amount 0.
    Work(Box<dyn FnMut() -> io::Result<u64>>),
    /// Returns whether the victim's possession is as it was.
    Whole(Box<dyn FnMut() -> io::Result<bool>>),
}

impl Victim {
    /// Returns a victim that repeats this step.
    pub fn works(step: impl FnMut() -> io::Result<u64> + 'static) -> Victim {
        Victim::Work(Box::new(step))
    }

    /// Returns a victim whose possession this function checks.
    pub fn is_whole(check: impl FnMut() -> io::Result<bool> + 'static) -> Victim {
        Victim::Whole(Box::new(check))
    }

    /// Works for this time and returns the progress per second in the best part of it; or 1 if the victim's possession
    /// is as it was, and 0 if not. The first error is printed.
    pub fn progress(&mut self, window: Duration) -> u64 {
        let mut complained = false;
        let mut complain = |error: io::Error| {
            if !std::mem::replace(&mut complained, true) {
                eprintln!("nspod-hog: the victim cannot work: {error}");
            }
        };
        match self {
            Victim::Whole(check) => check().map_or_else(
                |error| {
                    complain(error);
                    0
                },
                u64::from,
            ),
            Victim::Work(step) => (0..PARTS)
                .map(|_| {
                    let (start, mut done) = (Instant::now(), 0);
                    while start.elapsed() < window / PARTS {
                        match step() {
                            Ok(amount) => done += amount,
                            Err(error) => {
                                complain(error);
                                std::thread::sleep(Duration::from_millis(2));
                            }
                        }
                    }
                    (done as f64 / start.elapsed().as_secs_f64()) as u64
                })
                .max()
                .unwrap_or(0),
        }
    }
}

impl fmt::Debug for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Work(_) => "Work",
            Victim::Whole(_) => "Whole",
        })
    }
}
