//! Sets of processors or memory nodes.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A set of processors or memory nodes. `FromStr` and `Display` use the format of the kernel: `0-3,7`.
///
/// The ranges are sorted and do not overlap, so two lists of the same set are equal.
///
/// Section "Cpuset Interface Files"; "List format" in
/// [cpuset(7)](https://man7.org/linux/man-pages/man7/cpuset.7.html).
///
/// ```
/// use cgroup_core::CpuList;
/// let list: CpuList = "7,0-2,3".parse().unwrap();
/// assert_eq!(list.to_string(), "0-3,7");
/// assert_eq!(list.len(), 5);
/// assert!(list.contains(2) && !list.contains(4));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CpuList {
    ranges: Vec<(u32, u32)>,
}

impl CpuList {
    /// Returns the number of members.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// Returns whether the set has no member. The kernel interprets an empty list as "inherit from the
    /// parent".
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns whether `n` is a member.
    pub fn contains(&self, n: u32) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&n))
    }

    /// Returns the maximal ranges, in ascending order.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        self.ranges.iter().map(|&(first, last)| first..=last)
    }

    /// Returns the members, in ascending order. A range of an untrusted list may have 2³² members.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges().flatten()
    }

    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if u64::from(first) <= u64::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(iter: I) -> Self {
        Self::from_ranges(iter.into_iter().map(|n| (n, n)).collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Parses numbers and ranges between commas. An empty text is the empty list. Strides (`0-31:2/4`)
/// and the word `all` are rejected with `InvalidText`.
impl FromStr for CpuList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::text("a list of processors", text, why);
        let number = |part: &str| {
            let digits = part.bytes().all(|b| b.is_ascii_digit());
            let parsed = part.parse::<u32>().ok().filter(|_| digits);
            parsed.ok_or_else(|| wrong("it is not of the form 0-3,7"))
        };
        let mut ranges = Vec::new();
        for part in text.trim_ascii().split(',').map(str::trim_ascii).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong("the end of a range is before its start"));
            }
            ranges.push((first, last));
        }
        Ok(Self::from_ranges(ranges))
    }
}

#[cfg(feature = "serde")]
crate::serde_text::as_text!(CpuList);
