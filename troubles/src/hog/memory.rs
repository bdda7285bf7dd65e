//! Memory and swap.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::act::{DATA, Hog, Victim, touch, touched};
use super::children::{is_ready, start};

const MIB: usize = 1 << 20;

/// Starts processes that together hold more than the machine has. Each holds less than the victim, so that the OOM
/// killer, which ends the largest process first, ends the victim.
pub(super) fn hog() -> io::Result<Hog> {
    let mut children =
        (0..8).map(|_| start(&["hold", &(32 * MIB).to_string()])).collect::<Result<Vec<_>, _>>()?;
    let ready = children.iter_mut().map(is_ready).filter(|ready| *ready).count();
    Ok(Hog::holds(format!("{ready} of 8 processes of 32 MiB"), children))
}

/// Holds memory and writes to it.
pub(super) fn victim() -> io::Result<Victim> {
    let mut memory = touched(64 * MIB);
    Ok(Victim::works(5, move || {
        touch(&mut memory);
        Ok(())
    }))
}

/// Fills the swap, if the container's memory is less.
pub(super) fn swap_hog() -> io::Result<Hog> {
    let free = || Ok::<_, io::Error>(swap_free(&fs::read_to_string("/proc/meminfo")?));
    let before = free()?;
    let mut children = Vec::new();
    // The processes are small and start one after the other. So the OOM killer ends only the one that finds no swap.
    for _ in 0..64 {
        let mut child = start(&["hold", &(2 * MIB).to_string()])?;
        let is_ready = is_ready(&mut child);
        children.push(child);
        if !is_ready || free()? < 2 << 10 {
            break;
        }
    }
    thread::sleep(Duration::from_millis(100));
    Ok(Hog::holds(format!("{} KiB of swap", before.saturating_sub(free()?)), children))
}

/// Needs more memory than its container may use, and swap for the rest.
pub(super) fn swap_victim() -> io::Result<Victim> {
    Ok(Victim::works(2, || {
        std::hint::black_box(touched(12 * MIB));
        Ok(())
    }))
}

/// Returns a file of this many MiB whose pages are in the page cache, as far as they fit.
fn file(name: &str, mib: usize) -> io::Result<File> {
    let path = format!("{DATA}/{name}");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    (0..mib).try_for_each(|n| file.write_all_at(&vec![7; MIB], (n * MIB) as u64))?;
    file.sync_all()?;
    Ok(file)
}

/// Reads all pages of a file, a MiB at once.
fn read(file: &File, mib: usize) -> io::Result<()> {
    let mut bytes = vec![0; MIB];
    (0..mib).try_for_each(|n| file.read_exact_at(&mut bytes, (n * MIB) as u64))
}

/// Reads a file that is larger than the memory.
pub(super) fn cache_hog() -> io::Result<Hog> {
    let file = Arc::new(file("hog", 96)?);
    Hog::repeats(4, move |_| read(&file, 96))
}

pub(super) fn cache_victim() -> io::Result<Victim> {
    let file = file("victim", 24)?;
    Ok(Victim::works(3, move || read(&file, 24)))
}

/// Returns the free swap in KiB, from `/proc/meminfo`.
fn swap_free(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
