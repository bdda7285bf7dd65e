//! Memory and swap.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use super::children::{is_ready, start};
use super::{Hog, Victim};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Returns memory with a byte written to each page.
pub(super) fn touched(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0; bytes];
    touch(&mut memory);
    memory
}

fn touch(memory: &mut [u8]) {
    for page in memory.chunks_mut(PAGE) {
        page[0] = page[0].wrapping_add(1);
    }
}

/// Starts processes that together hold more than the machine has. Each holds less than the victim, so that the OOM
/// killer, which ends the largest process first, ends the victim.
pub(super) fn hog() -> io::Result<Hog> {
    let mut children =
        (0..8).map(|_| start(&["hold", &(32 * MIB).to_string()])).collect::<Result<Vec<_>, _>>()?;
    let ready = children.iter_mut().filter_map(|child| is_ready(child).then_some(())).count();
    Ok(Hog::holds(format!("{ready} of 8 processes of 32 MiB"), children))
}

/// Holds memory and writes to it.
pub(super) fn victim() -> io::Result<Victim> {
    let mut memory = touched(64 * MIB);
    Ok(Victim::works(move || {
        touch(&mut memory);
        Ok(1)
    }))
}

/// Fills the swap, if the container's memory is less.
pub(super) fn swap_hog() -> io::Result<Hog> {
    let free = || Ok::<_, io::Error>(swap_free(&fs::read_to_string("/proc/meminfo")?));
    let before = free()?;
    let mut children = Vec::new();
    // One small process after the other, so that the OOM killer ends only the one for which there is no swap.
    for _ in 0..64 {
        let mut child = start(&["hold", &(4 * MIB).to_string()])?;
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
    Ok(Victim::works(|| Ok(u64::from(touched(24 * MIB).len() == 24 * MIB))))
}

/// Returns the free swap in KiB, from `/proc/meminfo`.
fn swap_free(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
