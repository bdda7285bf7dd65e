//! Conversion of cgroup v1 numbers, which OCI configurations and docker's flags use, to limits of
//! v2. The results are those of runc and crun.
//!
//! In v1 a number of 0 means "not set", and -1 means "no limit". Here these are `None` and
//! [`Max::Max`].
//!
//! Sources:
//! <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups>,
//! <https://github.com/containers/crun/blob/main/crun.1.md#cgroup-v2>,
//! <https://github.com/opencontainers/cgroups/blob/main/utils.go>
//!
//! ```
//! use cgroup_core::{CpuMax, Limits, Max, v1};
//! // docker run --memory 64m --memory-swap 96m --cpu-shares 512 --cpu-quota 50000
//! let memory = v1::max("memory.limit", 64 << 20)?;
//! let both = v1::max("memory.swap", 96 << 20)?;
//! let limits = Limits {
//!     memory_max: memory,
//!     memory_swap_max: v1::swap_max(memory, both)?,
//!     cpu_weight: v1::cpu_weight(512),
//!     cpu_max: v1::cpu_max(50_000, 0),
//!     ..Limits::default()
//! };
//! assert_eq!(limits.memory_swap_max, Some(Max::Value(32 << 20)));
//! assert_eq!(limits.cpu_weight, Some(59));
//! assert_eq!(limits.cpu_max, Some(CpuMax::new(50_000, 100_000)));
//! # Ok::<(), cgroup_core::Error>(())
//! ```

use super::values::{CpuMax, Max};
use crate::error::{Error, Result};

/// Converts a number of bytes or processes: 0 means not set, and -1 means unlimited. `name` is the
/// limit in the error.
///
/// ```
/// use cgroup_core::{Max, v1};
/// assert_eq!(v1::max("pids.limit", 64)?, Some(Max::Value(64)));
/// assert_eq!([v1::max("pids.limit", 0)?, v1::max("pids.limit", -1)?], [None, Some(Max::Max)]);
/// # Ok::<(), cgroup_core::Error>(())
/// ```
///
/// Source:
/// <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups>
///
/// # Errors
/// `InvalidLimit`: the number is below -1.
pub fn max(name: &str, value: i64) -> Result<Option<Max>> {
    match value {
        0 => Ok(None),
        -1 => Ok(Some(Max::Max)),
        _ => match u64::try_from(value) {
            Ok(value) => Ok(Some(Max::Value(value))),
            Err(_) => Err(Error::limit(name, value, "a negative number must be -1, for no limit")),
        },
    }
}

/// Converts `cpu.shares` (2 to 262144) to `cpu.weight` (1 to 10000); 0 is not set. A number out of
/// range becomes the nearest weight, as in the kernel's v1.
///
/// The curve maps the minimum, the default and the maximum of shares to those of the weight. It is
/// quadratic in the logarithm of the shares, rounded up. runc 1.3.2 and crun 1.23 use the same
/// curve. Older versions used a straight line, which mapped the default of v1 to a weight of 39.
///
/// Source: <https://github.com/opencontainers/cgroups/blob/main/utils.go>
///
/// ```
/// let weights = [2, 1024, 2000, 22_000, 262_144].map(cgroup_core::v1::cpu_weight);
/// assert_eq!(weights, [1, 100, 170, 1_204, 10_000].map(Some));
/// ```
pub fn cpu_weight(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1 | 2 => Some(1),
        262_144.. => Some(10_000),
        shares => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            Some(10_f64.powf(exponent).ceil() as u64)
        }
    }
}

/// Converts `cpu.cfs_quota_us` and `cpu.cfs_period_us` to `cpu.max`, all in µs. A quota of 0 or
/// less removes the limit. A period of 0 means the kernel's default. Returns `None` if both are 0.
///
/// Source: <https://github.com/containers/crun/blob/main/crun.1.md#cgroup-v2>
///
/// ```
/// use cgroup_core::{CpuMax, v1};
/// assert_eq!(v1::cpu_max(50_000, 0), Some(CpuMax::new(50_000, 100_000)));
/// assert_eq!(v1::cpu_max(-1, 20_000), Some(CpuMax { quota: None, period: 20_000 }));
/// ```
pub fn cpu_max(quota: i64, period: u64) -> Option<CpuMax> {
    if quota == 0 && period == 0 {
        return None;
    }
    let quota = u64::try_from(quota).ok().filter(|&quota| quota > 0);
    Some(CpuMax { quota, period: if period == 0 { CpuMax::DEFAULT_PERIOD } else { period } })
}

/// Converts the limits of memory, and of memory and swap together, to a limit of swap alone, all in
/// bytes. If memory is unlimited, `both` is the limit of swap alone, and swap is unlimited if
/// `both` is not set.
///
/// Source: <https://github.com/opencontainers/cgroups/blob/main/utils.go>
///
/// # Errors
/// `InvalidLimit`: `both` is less than `memory`, or `both` is limited and `memory` is not set.
pub fn swap_max(memory: Option<Max>, both: Option<Max>) -> Result<Option<Max>> {
    let wrong = |both, why| Err(Error::limit("memory and swap together", both, why));
    match (memory, both) {
        (Some(Max::Max), None) => Ok(Some(Max::Max)),
        (_, None | Some(Max::Max)) | (Some(Max::Max), Some(_)) => Ok(both),
        (None, Some(both)) => wrong(both, "the limit includes memory, so memory must be limited as well"),
        (Some(Max::Value(memory)), Some(Max::Value(both))) => match both.checked_sub(memory) {
            Some(swap) => Ok(Some(Max::Value(swap))),
            None => wrong(both.into(), "the limit includes memory, and is less than the limit of memory"),
        },
    }
}

/// Converts a weight of `blkio` (10 to 1000) to one of `io.weight` (1 to 10000), linearly; 0 is not
/// set. [`Limits::io_bfq_weight`](super::Limits::io_bfq_weight) has the scale of `blkio` and needs
/// no conversion.
///
/// Source: <https://github.com/containers/crun/blob/main/crun.1.md#cgroup-v2>
///
/// # Errors
/// `InvalidLimit`: the weight is out of range.
///
/// ```
/// let weights = [10, 500, 1000].map(|weight| cgroup_core::v1::io_weight(weight).unwrap());
/// assert_eq!(weights, [1, 4_950, 10_000].map(Some));
/// ```
pub fn io_weight(weight: u16) -> Result<Option<u64>> {
    match weight {
        0 => Ok(None),
        10..=1_000 => Ok(Some(1 + (u64::from(weight) - 10) * 9_999 / 990)),
        _ => Err(Error::limit("blkio.weight", weight, "a weight of v1 must be from 10 to 1000")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Limits;

    proptest! {
        #[test]
        fn every_converted_weight_is_valid_in_v2_and_keeps_its_order(
            shares in any::<u64>(), more in any::<u64>(), weight in 10..=1_000_u16,
        ) {
            let weights = Limits {
                cpu_weight: cpu_weight(shares),
                io_weight: io_weight(weight).unwrap(),
                io_bfq_weight: Some(weight.into()),
                ..Limits::default()
            };
            weights.validate().unwrap();
            prop_assert!(cpu_weight(shares.max(more)) >= cpu_weight(shares.min(more)));
            prop_assert!(weight == 1_000 || io_weight(weight + 1).unwrap() > io_weight(weight).unwrap());
        }
    }

    #[test]
    fn unset_fields_write_no_limits() {
        assert_eq!((cpu_weight(0), cpu_max(0, 0), io_weight(0).unwrap()), (None, None, None));
        assert_eq!((max("x", 0).unwrap(), swap_max(None, None).unwrap()), (None, None));
    }

    #[test]
    fn shares_out_of_range_are_clamped() {
        assert_eq!((cpu_weight(1), cpu_weight(u64::MAX)), (Some(1), Some(10_000)));
    }

    #[test]
    fn a_quota_or_a_period_alone_is_completed() {
        assert_eq!(cpu_max(5_000, 0), Some(CpuMax::new(5_000, 100_000)));
        assert_eq!(cpu_max(-1, 0), Some(CpuMax { quota: None, period: 100_000 }));
        assert_eq!(cpu_max(0, 20_000), Some(CpuMax { quota: None, period: 20_000 }));
    }

    #[test]
    fn the_swap_limit_is_the_total_minus_memory() {
        let of = |memory, both| swap_max(max("m", memory).unwrap(), max("s", both).unwrap());
        let cases = [
            (100, 0, None),
            (100, 100, Some(Max::Value(0))),
            (100, 150, Some(Max::Value(50))),
            (100, -1, Some(Max::Max)),
            (0, -1, Some(Max::Max)),
            (-1, -1, Some(Max::Max)),
            (-1, 0, Some(Max::Max)),
            (-1, 50, Some(Max::Value(50))),
        ];
        for (memory, both, swap) in cases {
            assert_eq!(of(memory, both).unwrap(), swap, "{memory} {both}");
        }
        let sentence = "memory and swap together cannot be \"99\": the limit includes memory, and is less than the limit of memory";
        assert_eq!(of(100, 99).unwrap_err().to_string(), sentence);
        assert!(of(0, 100).unwrap_err().to_string().ends_with("so memory must be limited as well"));
    }

    #[test]
    fn an_invalid_v1_number_is_refused_with_its_field() {
        let error = max("pids.limit", -2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pids.limit cannot be \"-2\": a negative number must be -1, for no limit"
        );
        for weight in [9, 1_001] {
            assert_eq!(io_weight(weight).unwrap_err().kind(), crate::ErrorKind::InvalidLimit);
        }
    }
}
