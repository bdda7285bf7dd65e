//! The types of hogs and victims, and the actions that several of them use.

use std::any::Any;
use std::fmt;
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The directory that victim and hog share with the host in the troubles with a disk.
pub const DATA: &str = "/run/data";

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
/// victim has a fixed amount of work per second, tries a step some times, or measures its share of a processor.
pub enum Victim {
    /// A step of work, which is due at each interval. Progress is the number of steps per second.
    Work(Duration, Box<dyn FnMut() -> io::Result<()>>),
    /// A step that the kernel allows or refuses at once. Progress is the part of some tries that it allows.
    Tries(Box<dyn FnMut() -> io::Result<()>>),
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

    /// Returns a victim that tries this step.
    pub fn tries(step: impl FnMut() -> io::Result<()> + 'static) -> Victim {
        Victim::Tries(Box::new(step))
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
            Victim::Tries(step) => tries(step),
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

/// Tries the step some times, with time between them in which a hog can take what has become free.
fn tries(step: &mut dyn FnMut() -> io::Result<()>) -> (f64, Option<io::Error>) {
    const COUNT: u32 = 10;
    let (mut done, mut problem) = (0, None);
    for _ in 0..COUNT {
        std::thread::sleep(Duration::from_millis(10));
        match step() {
            Ok(()) => done += 1,
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    (f64::from(done) / f64::from(COUNT), problem)
}

/// Spins, and returns the share of a processor in percent.
fn share(window: Duration) -> io::Result<f64> {
    let used = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let (start, before) = (Instant::now(), used()?);
    while start.elapsed() < window {
        spin(1000);
    }
    Ok(100.0 * (used()? - before).as_secs_f64() / start.elapsed().as_secs_f64())
}

impl fmt::Debug for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Victim::Work(..) => "Work",
            Victim::Tries(_) => "Tries",
            Victim::Spin => "Spin",
            Victim::Whole(_) => "Whole",
        })
    }
}

/// Makes objects until the kernel refuses one or there are `most`. Returns them, and why it made no more.
pub(super) fn take<T>(most: usize, mut make: impl FnMut() -> io::Result<T>) -> (Vec<T>, String) {
    let mut taken = Vec::new();
    while taken.len() < most {
        match make() {
            Ok(object) => taken.push(object),
            Err(error) => return (taken, error.to_string()),
        }
    }
    (taken, "enough".to_owned())
}

pub(super) const PAGE: usize = 4096;

/// Returns memory with a byte written to each page.
pub(super) fn touched(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    touch(&mut memory);
    memory
}

/// Writes to each page.
pub(super) fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE) {
        page[0] = page[0].wrapping_add(1);
    }
}

/// Counts to a number.
pub(super) fn spin(to: u64) {
    for number in 0..to {
        black_box(number);
    }
}
