//! Attacks that a namespace or a missing right must stop. A victim checks its possession once.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{ClockId, clock_gettime, clock_settime};
use nix::unistd::{Pid, gethostname, sethostname};

use super::act::{Hog, Victim};
use super::calls::SharedMemory;

const SOCKET: &str = "nspod-victim.sock";
const FILE: &str = "nspod-victim";
const TEXT: &[u8] = b"the victim's";

/// Returns the processes that run as a victim, as far as this process sees them.
fn victims() -> io::Result<Vec<i32>> {
    let is_victim = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"nspod-hog")) && words.next() == Some(b"victim")
    };
    let entries = fs::read_dir("/proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(pids.filter(is_victim).collect())
}

/// Attacks each victim, of which there must be one.
fn each<T: 'static>(attack: impl Fn(i32) -> io::Result<T>) -> io::Result<Hog> {
    let pids = victims()?;
    if pids.is_empty() {
        return Err(io::Error::new(ErrorKind::NotFound, "there is no process of the victim in /proc"));
    }
    let done = pids.iter().map(|pid| attack(*pid)).collect::<io::Result<Vec<_>>>()?;
    Ok(Hog::holds(format!("did it to process {pids:?}"), done))
}

pub(super) fn signal_hog() -> io::Result<Hog> {
    each(|pid| Ok(kill(Pid::from_raw(pid), Signal::SIGUSR1)?))
}

pub(super) fn signal_victim() -> io::Result<Victim> {
    let mask = SigSet::from(Signal::SIGUSR1);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK)?;
    Ok(Victim::is_whole(move || Ok(signals.read_signal()?.is_none())))
}

pub(super) fn ptrace_hog() -> io::Result<Hog> {
    each(|pid| Ok(ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty())?))
}

pub(super) fn ptrace_victim() -> io::Result<Victim> {
    Ok(Victim::is_whole(|| {
        let status = fs::read_to_string("/proc/self/status")?;
        Ok(status.lines().any(|line| line == "TracerPid:\t0"))
    }))
}

/// Returns bytes that are in no program's file.
fn pattern() -> Vec<u8> {
    (0..64_u8).map(|n| n.wrapping_mul(37) ^ 0xa5).collect()
}

/// Searches the writable memory of the process for the pattern, and overwrites it.
fn overwrite(pid: i32) -> io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        rest.starts_with("rw-p").then_some((number(from)?, number(to)?))
    };
    let (pattern, mut found) = (pattern(), false);
    for (from, to) in maps.lines().filter_map(range) {
        let mut bytes = vec![0; (to - from) as usize];
        let Ok(len) = memory.read_at(&mut bytes, from) else { continue };
        for at in (0..len.saturating_sub(pattern.len())).filter(|at| bytes[*at..].starts_with(&pattern)) {
            memory.write_all_at(&vec![0; pattern.len()], from + at as u64)?;
            found = true;
        }
    }
    if found { Ok(()) } else { Err(io::Error::new(ErrorKind::NotFound, "the pattern is not in its memory")) }
}

pub(super) fn memory_hog() -> io::Result<Hog> {
    each(overwrite)
}

pub(super) fn memory_victim() -> io::Result<Victim> {
    let mine = pattern();
    Ok(Victim::is_whole(move || Ok(std::hint::black_box(&mine) == &pattern())))
}

pub(super) fn shm_hog() -> io::Result<Hog> {
    let memory = SharedMemory::find()?;
    memory.set(0);
    Ok(Hog::holds("overwrote the segment", ()))
}

pub(super) fn shm_victim() -> io::Result<Victim> {
    let memory = SharedMemory::make()?;
    memory.set(7);
    Ok(Victim::is_whole(move || Ok(memory.get() == 7)))
}

/// Returns a victim that no one may connect to.
fn no_one_connects(listener: UnixListener) -> io::Result<Victim> {
    listener.set_nonblocking(true)?;
    Ok(Victim::is_whole(move || match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        result => result.map(|_| false),
    }))
}

fn abstract_name() -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(SOCKET)
}

pub(super) fn abstract_hog() -> io::Result<Hog> {
    Ok(Hog::holds("connected", UnixStream::connect_addr(&abstract_name()?)?))
}

pub(super) fn abstract_victim() -> io::Result<Victim> {
    no_one_connects(UnixListener::bind_addr(&abstract_name()?)?)
}

/// Returns the paths of a victim's file: here, and in the roots of the victims that this process sees.
fn paths(directory: &str, name: &str) -> io::Result<Vec<PathBuf>> {
    let roots = victims()?.into_iter().map(|pid| format!("/proc/{pid}/root"));
    let roots = std::iter::once(String::new()).chain(roots);
    Ok(roots.map(|root| Path::new(&format!("{root}{directory}")).join(name)).collect())
}

/// Returns the first success, or the first error.
fn first<T>(tried: impl IntoIterator<Item = io::Result<T>>) -> io::Result<T> {
    let mut tried = tried.into_iter();
    let first = tried.next().unwrap_or_else(|| Err(ErrorKind::NotFound.into()));
    first.or_else(|error| tried.find_map(Result::ok).ok_or(error))
}

pub(super) fn path_hog() -> io::Result<Hog> {
    Ok(Hog::holds("connected", first(paths("/run", SOCKET)?.iter().map(UnixStream::connect))?))
}

pub(super) fn path_victim() -> io::Result<Victim> {
    no_one_connects(UnixListener::bind(Path::new("/run").join(SOCKET))?)
}

pub(super) fn file_hog() -> io::Result<Hog> {
    let open = |path: &PathBuf| File::options().write(true).truncate(true).open(path);
    let mut file = first(paths("/tmp", FILE)?.iter().map(open))?;
    file.write_all(b"the hog's")?;
    Ok(Hog::holds("overwrote the file", file))
}

pub(super) fn file_victim() -> io::Result<Victim> {
    let path = Path::new("/tmp").join(FILE);
    fs::write(&path, TEXT)?;
    Ok(Victim::is_whole(move || Ok(fs::read(&path)? == TEXT)))
}

/// Returns the difference between the clock of the machine and the clock that no process can set, in seconds.
pub(crate) fn clock_offset() -> io::Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_REALTIME)?.tv_sec() - clock_gettime(ClockId::CLOCK_MONOTONIC)?.tv_sec())
}

pub(super) fn clock_hog() -> io::Result<Hog> {
    let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
    clock_settime(ClockId::CLOCK_REALTIME, now + nix::sys::time::TimeSpec::new(1000, 0))?;
    Ok(Hog::holds("set the clock", ()))
}

pub(super) fn clock_victim() -> io::Result<Victim> {
    let before = clock_offset()?;
    Ok(Victim::is_whole(move || Ok((clock_offset()? - before).abs() < 100)))
}

pub(super) fn hostname_hog() -> io::Result<Hog> {
    sethostname("hogged")?;
    Ok(Hog::holds("set the host name", ()))
}

pub(super) fn hostname_victim() -> io::Result<Victim> {
    let before = gethostname()?;
    Ok(Victim::is_whole(move || Ok(gethostname()? == before)))
}

pub(super) fn mount_hog() -> io::Result<Hog> {
    mount(Some("hog"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    Ok(Hog::holds("mounted", ()))
}

pub(super) fn mount_victim() -> io::Result<Victim> {
    let path = Path::new("/tmp").join(FILE);
    fs::write(&path, TEXT)?;
    Ok(Victim::is_whole(move || Ok(path.exists())))
}
