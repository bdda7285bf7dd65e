//! The state of a cgroup that its programs keep.

use std::mem::size_of;

use super::table::Rate;

/// Counters and state of the programs. A new limit does not reset them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State([u64; Rate::COUNT + 10]);

/// The place of the counters in [`State`], in bytes: 40 for each side. Before them is a time for each
/// [`Rate`]: when the next connection, packet or byte is free, by the clock of the kernel.
const COUNTERS: i16 = 8 * Rate::COUNT as i16;
pub(super) const BYTES: i16 = 0;
pub(super) const PACKETS: i16 = 8;
pub(super) const DROPPED: i16 = 16;
pub(super) const CALLS_DENIED: i16 = 24;
pub(super) const MARKED: i16 = 32;

impl State {
    pub(super) const SIZE: usize = size_of::<Self>();

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let mut state = Self::default();
        for (number, bytes) in state.0.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_ne_bytes(*bytes);
        }
        state
    }

    /// Returns the bytes, packets, dropped packets, denied calls and marked packets of the direction.
    pub(super) fn counters(&self, direction: Side) -> [u64; 5] {
        let first = counters(direction) as usize / 8;
        std::array::from_fn(|i| self.0[first + i])
    }
}

/// Returns the place of the counters of a side.
pub(super) fn counters(side: Side) -> i16 {
    COUNTERS + 40 * side as i16
}

/// The side of the counters: packets that leave the cgroup, or packets that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Egress,
    Ingress,
}
