//! A separate process that starts containers on request, so that it has exactly the requested memory, threads and
//! children. It reads one order from each line and answers with one line.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nspod_benches::work::{self, Ground};
use nspod_benches::{Ballast, c};
use nspod_sandbox::ns_core::{Extent, IdMap, Kind, Kinds};
use nspod_sandbox::spec::IdMaps;
use nspod_sandbox::{Command, Container};

use crate::measure::micros;

/// Number of threads that delete containers.
const DELETERS: usize = 8;

/// A prepared start.
type Once = Box<dyn FnMut() -> Result<()>>;

struct Station {
    ground: Ground,
    prepared: HashMap<String, Once>,
    ballast: Option<Ballast>,
    alive: Vec<Container>,
    crowds: Vec<i32>,
}

/// Executes orders until standard input ends.
pub(crate) fn serve(root: PathBuf, cgroup: PathBuf) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut station = Station {
        ground: Ground::open(root, cgroup),
        prepared: HashMap::new(),
        ballast: None,
        alive: Vec::new(),
        crowds: Vec::new(),
    };
    for order in std::io::stdin().lines() {
        let order = order?;
        let answer = match station.obey(&order) {
            Ok(words) => format!("ok {words}"),
            Err(error) => format!("error {}", format!("{error:#}").replace('\n', " ")),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    station.crowds(0, 0)?;
    station.alive(0)?;
    Ok(())
}

impl Station {
    fn obey(&mut self, order: &str) -> Result<String> {
        let words: Vec<&str> = order.split(' ').collect();
        let number = |at: usize| {
            let word = words.get(at).with_context(|| format!("a number in {order:?}"))?;
            word.parse::<usize>().with_context(|| format!("{word:?} is not a number"))
        };
        match words[0] {
            "start" => {
                let once = self.prepared(words.get(1).context("what")?)?;
                let start = Instant::now();
                once()?;
                Ok(micros(start.elapsed()).to_string())
            }
            "repeat" => {
                let once = self.prepared(words.get(2).context("what")?)?;
                (0..number(1)?).try_for_each(|_| once())?;
                Ok(String::new())
            }
            "loop" => self.throughput(words[1], number(2)?, number(3)?),
            "ballast" => {
                // Free the old memory before allocating new memory.
                self.ballast = None;
                self.ballast = Some(Ballast::new(number(1)?)?);
                Ok(self.ballast.as_ref().map_or(0, Ballast::mib).to_string())
            }
            "threads" => {
                // The threads end with the process.
                for _ in 0..number(1)? {
                    std::thread::Builder::new().stack_size(64 << 10).spawn(|| {
                        loop {
                            std::thread::park();
                        }
                    })?;
                }
                Ok(String::new())
            }
            "alive" => self.alive(number(1)?),
            "crowd" => self.crowds(number(1)?, number(2)?),
            "delete" => self.delete(number(1)?),
            "delete-floor" => self.delete_floor(number(1)?),
            other => bail!("unknown order {other:?}"),
        }
    }

    fn prepared(&mut self, what: &str) -> Result<&mut Once> {
        if !self.prepared.contains_key(what) {
            let once = prepare(&self.ground, what, 0)?;
            self.prepared.insert(what.to_owned(), once);
        }
        self.prepared.get_mut(what).context("what was prepared")
    }

    /// Returns the containers per second of this many threads, measured for this many milliseconds.
    fn throughput(&mut self, what: &str, threads: usize, milliseconds: usize) -> Result<String> {
        let ground = &self.ground;
        let done = AtomicU64::new(0);
        let start = Instant::now();
        let end = start + Duration::from_millis(milliseconds as u64);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|number| {
                    let done = &done;
                    scope.spawn(move || {
                        let mut once = prepare(ground, what, number)?;
                        while Instant::now() < end {
                            once()?;
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok::<_, anyhow::Error>(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread panicked"),
            })
        })?;
        Ok((done.into_inner() as f64 / start.elapsed().as_secs_f64()).to_string())
    }

    /// Starts or deletes containers until this many are alive.
    fn alive(&mut self, count: usize) -> Result<String> {
        while self.alive.len() < count {
            self.alive.push(self.ground.sleeper()?);
        }
        delete_all(self.alive.split_off(count))?;
        Ok(String::new())
    }

    /// Makes this many sets of namespaces, with this many processes in each.
    fn crowds(&mut self, sets: usize, each: usize) -> Result<String> {
        while self.crowds.len() < sets {
            self.crowds.push(c::crowd(each as u32)?);
        }
        let rest = self.crowds.split_off(sets);
        rest.iter().try_for_each(|pid| kill(*pid))?;
        rest.iter().try_for_each(|pid| c::wait(*pid).map(drop))?;
        Ok(String::new())
    }

    /// Starts this many containers and deletes them all. Returns the time of the deletion, and the number of
    /// remaining cgroups.
    fn delete(&mut self, count: usize) -> Result<String> {
        let containers = (0..count).map(|_| Ok(self.ground.sleeper()?)).collect::<Result<Vec<_>>>()?;
        let start = Instant::now();
        delete_all(containers)?;
        let time = micros(start.elapsed());
        Ok(format!("{time} {}", self.left()?))
    }

    fn delete_floor(&mut self, count: usize) -> Result<String> {
        let floor = self.ground.floor()?.argument(c"sleep");
        let mut containers = Vec::new();
        for number in 0..count {
            let name = format!("floor-{number}");
            let path = self.ground.cgroup_path(&name)?;
            containers.push((floor.start(&path)?, self.ground.cgroup.join(name)));
        }
        let start = Instant::now();
        on_threads(containers, |containers| {
            containers.iter().try_for_each(|(pid, _)| kill(*pid))?;
            containers.iter().try_for_each(|(pid, path)| {
                c::wait(*pid)?;
                Ok(std::fs::remove_dir(path)?)
            })
        })?;
        let time = micros(start.elapsed());
        Ok(format!("{time} {}", self.left()?))
    }

    fn left(&self) -> Result<String> {
        let entries = std::fs::read_dir(&self.ground.cgroup)?.flatten();
        Ok(entries.filter(|entry| entry.path().is_dir()).count().to_string())
    }
}

fn delete_all(containers: Vec<Container>) -> Result<()> {
    on_threads(containers, |containers| {
        // Both sides kill all containers before they wait for the first, so that the containers end at the same
        // time.
        containers.iter().try_for_each(Container::kill)?;
        containers.into_iter().try_for_each(|container| Ok(container.delete()?))
    })
}

/// Distributes the items over threads.
fn on_threads<T: Send>(mut items: Vec<T>, each: impl Fn(Vec<T>) -> Result<()> + Sync) -> Result<()> {
    let share = items.len().div_ceil(DELETERS).max(1);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        while !items.is_empty() {
            let part = items.split_off(items.len().saturating_sub(share));
            threads.push(scope.spawn(|| each(part)));
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

fn kill(pid: i32) -> Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL)?)
}

/// Prepares something to start repeatedly. The number distinguishes simultaneous starts.
pub(crate) fn prepare(ground: &Ground, what: &str, number: usize) -> Result<Once> {
    let (what, detail) = what.split_once(':').unwrap_or((what, ""));
    let library = |mut command: Command| -> Result<Once> {
        // The program prints nothing, so its output need not be redirected.
        Ok(Box::new(move || Ok(work::run(&mut command)?)))
    };
    let floor =
        |floor: c::Floor, path: CString| -> Result<Once> { Ok(Box::new(move || Ok(floor.run(&path)?))) };
    let path = ground.cgroup_path(&format!("floor-c-{}-{number}", std::process::id()))?;
    let program = ground.program_c()?;
    match what {
        "container" => library(ground.container()),
        "container-anew" => {
            let ground = Ground::open(ground.root.clone(), ground.cgroup.clone());
            Ok(Box::new(move || Ok(work::run(&mut ground.container())?)))
        }
        "container-plan" => {
            let mut command = ground.container();
            let launcher = command.launcher()?;
            Ok(Box::new(move || {
                let mut container = launcher.spawn()?;
                ensure!(container.wait()?.status.success(), "the program did not end with exit code 0");
                Ok(container.delete()?)
            }))
        }
        "container-seccomp" => library(ground.container_with_seccomp()),
        "container-mounts" => library(ground.container_with_mounts(detail.parse()?)),
        "floor" => floor(ground.floor()?, path),
        "floor-mounts" => floor(ground.floor_with_mounts(detail.parse()?)?, path),
        "floor-rust" => {
            let floor = ground.floor_in_rust()?;
            Ok(Box::new(move || Ok(floor.run()?)))
        }
        "kinds" => {
            let mut command = Command::bare(ground.program());
            command.isolate(kinds(detail)?).init(false);
            library(command)
        }
        "range" => {
            let mut command = Command::bare(ground.program());
            command.isolate(kinds(detail)?).init(false);
            let map = || IdMap::from(vec![Extent { inside: 0, outside: 0x6fff_0000, count: 65_536 }]);
            command.spec_mut().id_maps = IdMaps::Maps { uid: map(), gid: map() };
            library(command)
        }
        "raw" => {
            let flags = work::clone_flags(kinds(detail)?);
            Ok(Box::new(move || Ok(c::raw(&program, flags)?)))
        }
        "raw-shared" => {
            let flags = work::clone_flags(kinds(detail)?);
            Ok(Box::new(move || Ok(c::raw_shared(&program, flags)?)))
        }
        "plain" => library(Command::bare(ground.program())),
        "std" => {
            let mut command = std::process::Command::new(ground.program());
            Ok(Box::new(move || Ok(work::run_std(&mut command)?)))
        }
        other => bail!("unknown order {other:?}"),
    }
}

/// Parses `pid,mnt` and so on. An empty text means no kinds.
fn kinds(names: &str) -> Result<Kinds> {
    let mut kinds = Kinds::empty();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        kinds |= Kinds::from(kind.with_context(|| format!("{name:?} is not a kind of namespace"))?);
    }
    Ok(kinds)
}

/// Returns the number of removed cgroups below this one that the kernel has not yet freed.
pub(crate) fn dying(cgroup: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("nr_dying_descendants ")?.parse().ok())
}

/// Returns the number of net namespaces in the kernel, including dying ones.
pub(crate) fn net_namespaces() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/slabinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("net_namespace "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
