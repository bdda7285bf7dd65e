//! The limits and counters of a cgroup that its programs keep. The kernel exchanges all of it at once.

use std::mem::size_of;

use super::limits::{Limits, RATE_UNIT};
use super::table::Number;

/// The value of a cgroup: the number of the rules in the table, or 0 without rules; the greatest number of
/// sockets; what [`CONNECTS`] describes; and a block for each [`Side`]. New limits do not reset the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State([u64; WORDS]);

/// The place of a rate in bytes: its limit, and the time at which the next event is free by the clock of the
/// kernel. The limit of a number of events is the nanoseconds from one to the next. It is 0 if the number is not
/// limited, and very great if it is 0. The limit of bytes is their number in a second in [`RATE_UNIT`], or 0 if
/// it is not limited, and after it the burst: the nanoseconds whose bytes pass at once. It is [`NOTHING`] if
/// nothing passes, and [`ENDLESS`] if the bytes are not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) limit: i16,
    pub(super) time: i16,
}

/// The connections from the cgroup, relative to the first block.
pub(super) const CONNECTS: Rate = Rate { limit: -16, time: -8 };
/// The connections to the cgroup, relative to a block. No packet that leaves is one.
pub(super) const ACCEPTS: Rate = Rate { limit: 0, time: 8 };
/// The packets, relative to a block.
pub(super) const PACKETS: Rate = Rate { limit: 16, time: 24 };
/// The bytes, relative to a block.
pub(super) const BYTES: Rate = Rate { limit: 32, time: 48 };
/// The burst of [`BYTES`].
pub(super) const BURST: i16 = BYTES.limit + 8;
/// The counters of a block.
pub(super) const BYTES_PASSED: i16 = 56;
pub(super) const PACKETS_PASSED: i16 = 64;
pub(super) const DROPPED: i16 = 72;
pub(super) const CALLS_DENIED: i16 = 80;
pub(super) const MARKED: i16 = 88;

/// The place of the first block, and the size of a block.
pub(super) const BLOCKS: i32 = 32;
pub(super) const BLOCK_SIZE: i32 = 96;
const WORDS: usize = (BLOCKS + 2 * BLOCK_SIZE) as usize / 8;
const SOCKETS_MAX: usize = 1;

/// The default of a burst in nanoseconds. TCP tries to send again after the 200 ms of its shortest timer and some
/// ticks of the clock, so with fewer bytes it would not reach the rate.
const DEFAULT_BURST: u64 = 220_000_000;
/// The burst of a rate of 0: a time before now, so that no packet passes, not even if another processor has an
/// older clock.
const NOTHING: u64 = ENDLESS.wrapping_neg();
/// Two of it after now are a time that a program can calculate with.
const ENDLESS: u64 = 1 << 60;
pub(super) const SECOND: u64 = 1_000_000_000;

impl State {
    pub(super) const SIZE: usize = size_of::<Self>();

    pub(super) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (words, _) = bytes.as_chunks();
        Self(std::array::from_fn(|at| u64::from_ne_bytes(words[at])))
    }

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *to = word.to_ne_bytes();
        }
        bytes
    }

    /// Returns the number of the rules.
    pub(super) fn number(&self) -> Option<Number> {
        Number::from_word(self.0[0])
    }

    /// Returns the greatest number of sockets.
    pub(super) fn sockets_max(&self) -> Option<u64> {
        Some(self.0[SOCKETS_MAX]).filter(|max| *max != u64::MAX)
    }

    /// Returns the bytes, packets, dropped packets, denied calls and marked packets of the direction.
    pub(super) fn counters(&self, side: Side) -> [u64; 5] {
        let first = word(BLOCKS + block(side) + i32::from(BYTES_PASSED));
        std::array::from_fn(|at| self.0[first + at])
    }

    /// Returns the state with other limits. `now` is the time of the kernel's clock.
    pub(super) fn with_limits(mut self, limits: &Limits, rules: Option<Number>, now: u64) -> Self {
        self.0[0] = rules.map_or(0, Number::word);
        self.0[SOCKETS_MAX] = limits.sockets_max.map_or(u64::MAX, u64::from);
        self.set_interval(Side::Egress, CONNECTS, limits.connects_max, now);
        self.set_interval(Side::Ingress, ACCEPTS, limits.accepts_max, now);
        for (side, rate, burst) in [
            (Side::Egress, limits.egress_max, limits.egress_burst),
            (Side::Ingress, limits.ingress_max, limits.ingress_burst),
        ] {
            self.set_interval(side, PACKETS, limits.packets_max, now);
            let (value, burst) = match rate {
                None => (0, ENDLESS),
                Some(0) => (1, NOTHING),
                Some(rate) => (rate.div_ceil(RATE_UNIT), burst.map_or(DEFAULT_BURST, |b| time(b, rate))),
            };
            let latest = rate.map(|rate| if rate == 0 { now } else { now.saturating_add(burst) });
            self.set(side, BYTES, value, latest);
            *self.at(side, BURST) = burst;
        }
        self
    }

    fn set_interval(&mut self, side: Side, of: Rate, limit: Option<u32>, now: u64) {
        self.set(side, of, interval(limit), limit.map(|_| now.saturating_add(SECOND)));
    }

    /// Sets a limit, and the latest time of the next event, if there is a limit. What has passed counts for the
    /// next limit, but the next event does not wait longer than after a whole burst of the new limit. Without
    /// that, a short burst at a high rate would wait for a long burst at a low one.
    fn set(&mut self, side: Side, of: Rate, value: u64, latest: Option<u64>) {
        *self.at(side, of.limit) = value;
        let time = self.at(side, of.time);
        *time = latest.map_or(0, |latest| latest.min(*time));
    }

    fn at(&mut self, side: Side, place: i16) -> &mut u64 {
        &mut self.0[word(BLOCKS + block(side) + i32::from(place))]
    }
}

/// Returns the nanoseconds between two events. The greatest number is more than the second of which events pass
/// at once, so nothing passes.
fn interval(rate: Option<u32>) -> u64 {
    let of = |rate| SECOND.checked_div(u64::from(rate)).map_or(u64::from(u32::MAX), |time| time.max(1));
    rate.map_or(0, of)
}

/// Returns the nanoseconds of so many bytes. [`Limits::validate`] checks that they are at most an hour.
fn time(bytes: u64, rate: u64) -> u64 {
    (u128::from(bytes) * u128::from(SECOND)).div_ceil(u128::from(rate)) as u64
}

fn word(place: i32) -> usize {
    place as usize / 8
}

/// Returns the place of the block of a side after the first block.
pub(super) fn block(side: Side) -> i32 {
    BLOCK_SIZE * side as i32
}

/// The side of the counters: packets that leave the cgroup, or packets that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Egress,
    Ingress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_limits_keep_the_counters_and_the_times_of_limits_that_remain() {
        let before = State(std::array::from_fn(|at| at as u64 + 1));
        let none = Limits::default();
        let limits = Limits { sockets_max: Some(3), packets_max: Some(1), ..none.clone() };
        let number = Number::random();
        let now = 100;
        let mut after = before.with_limits(&limits, Some(number), now);
        assert_eq!((after.number(), after.sockets_max()), (Some(number), Some(3)));
        for (side, time) in [(Side::Egress, 8), (Side::Ingress, 20)] {
            assert_eq!(after.counters(side), before.counters(side));
            assert_eq!((*after.at(side, PACKETS.limit), *after.at(side, PACKETS.time)), (SECOND, time));
            assert_eq!(*after.at(side, BYTES.time), 0);
        }
        let cleared = after.with_limits(&none, None, now);
        assert_eq!((cleared.number(), cleared.sockets_max()), (None, None));
        assert_eq!(cleared, before.with_limits(&none, None, now));
        assert_eq!(State::from_bytes(&after.to_bytes()), after);
    }

    #[test]
    fn the_next_event_waits_at_most_for_a_burst_of_the_new_limit() {
        const HOUR: u64 = 3600 * SECOND;
        let now = 5 * HOUR;
        let mut used = State([0; WORDS]);
        for of in [BYTES, PACKETS] {
            *used.at(Side::Egress, of.time) = now + HOUR;
        }
        let limit = |rate, burst| {
            let limits = Limits {
                egress_max: Some(rate),
                egress_burst: burst,
                packets_max: Some(5),
                ..Limits::default()
            };
            let mut after = used.with_limits(&limits, None, now);
            (*after.at(Side::Egress, BYTES.time), *after.at(Side::Egress, PACKETS.time))
        };
        assert_eq!(limit(1_000_000, None), (now + DEFAULT_BURST, now + SECOND));
        assert_eq!(limit(1000, Some(3_600_000)).0, now + HOUR, "the same limit");
        assert_eq!(limit(0, None).0, now);
    }

    #[test]
    fn a_burst_is_the_time_of_its_bytes() {
        assert_eq!(time(220, 1000), DEFAULT_BURST);
        assert_eq!(time(1, 34_359_738_360), 1);
        assert_eq!([None, Some(0), Some(1), Some(u32::MAX)].map(interval), [0, 4_294_967_295, SECOND, 1]);
    }
}
