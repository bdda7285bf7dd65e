//! The types of the values of limits.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::device_number::Device;
use crate::error::{Error, Result};
use crate::parse;

/// A number, or `max` for no limit. Section "Format".
///
/// ```
/// use cgroup_core::Max;
/// assert_eq!("max".parse::<Max>().unwrap(), Max::Max);
/// assert_eq!(Max::from(4096).to_string(), "4096");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Max {
    /// The greatest permitted value.
    Value(u64),
    /// No limit.
    Max,
}

impl From<u64> for Max {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl fmt::Display for Max {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Max {
    type Err = Error;

    /// Parses a decimal number of 64 bits or `max`, with white space around it.
    fn from_str(text: &str) -> Result<Self> {
        match text.trim_ascii() {
            "max" => Ok(Self::Max),
            text => parse::number(text).map(Self::Value),
        }
    }
}

/// The value of `cpu.max`: at most `quota` µs of processor time in each `period` µs. A quota of twice
/// the period is two processors. Since Linux 4.15. Section "CPU Interface Files".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CpuMax {
    /// Quota in µs, at least 1000. `None`: no limit.
    pub quota: Option<u64>,
    /// Period in µs, from 1000 to 1000000.
    pub period: u64,
}

impl CpuMax {
    /// The default period of the kernel, in µs.
    pub const DEFAULT_PERIOD: u64 = 100_000;

    /// Creates a limit of `quota` µs in each `period` µs.
    pub const fn new(quota: u64, period: u64) -> Self {
        Self { quota: Some(quota), period }
    }

    /// Checks the values against the ranges that the kernel accepts.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !(1_000..=1_000_000).contains(&self.period) {
            return Err("the period must be from 1000 to 1000000 µs");
        }
        match self.quota {
            // The kernel's maximum is max_cfs_runtime: 2^64 - 1 ns, in µs shifted by BW_SHIFT (20).
            Some(quota) if !(1_000..=MAX_QUOTA).contains(&quota) => {
                Err("the quota must be from 1000 µs to 203 days")
            }
            _ => Ok(()),
        }
    }
}

/// `max_cfs_runtime` of kernel/sched/core.c in µs: 2^44 - 1.
const MAX_QUOTA: u64 = (1 << 44) - 1;

impl fmt::Display for CpuMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quota {
            Some(quota) => write!(f, "{quota} {}", self.period),
            None => write!(f, "max {}", self.period),
        }
    }
}

/// Parses `QUOTA PERIOD`, or a quota with the default period of the kernel.
impl FromStr for CpuMax {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim_ascii();
        let (quota, period) = text.split_once(' ').unwrap_or((text, "100000"));
        let quota = match quota.parse()? {
            Max::Value(quota) => Some(quota),
            Max::Max => None,
        };
        Ok(Self { quota, period: parse::number(period)? })
    }
}

/// The limits of a device in `io.max`. `None` leaves a value as it is. Since Linux 4.5. Section "IO
/// Interface Files".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct IoMax {
    /// Bytes read per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub rbps: Option<Max>,
    /// Bytes written per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub wbps: Option<Max>,
    /// Read operations per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub riops: Option<Max>,
    /// Write operations per second.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub wiops: Option<Max>,
}

impl IoMax {
    /// Parses `io.max`: a line `MAJOR:MINOR rbps=… wbps=… riops=… wiops=…` for each device with a
    /// limit. Section "IO Interface Files".
    ///
    /// ```
    /// use cgroup_core::{IoMax, Max};
    /// let limits = IoMax::parse("8:16 rbps=1048576 wbps=max riops=max wiops=120\n")?;
    /// assert_eq!(limits[&"8:16".parse()?].wiops, Some(Max::Value(120)));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidText` for a line that does not begin with a device number, an unknown key, or a value
    /// that is neither a number nor `max`.
    pub fn parse(text: &str) -> Result<BTreeMap<Device, Self>> {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let (device, rest) = parse::keyed_by_device("a line of io.max", line)?;
            let mut limit = Self::default();
            for word in rest {
                let wrong =
                    || Error::text("a line of io.max", line, "a field is rbps, wbps, riops or wiops=VALUE");
                let (key, value) = word.split_once('=').ok_or_else(wrong)?;
                let value = Some(value.parse()?);
                match key {
                    "rbps" => limit.rbps = value,
                    "wbps" => limit.wbps = value,
                    "riops" => limit.riops = value,
                    "wiops" => limit.wiops = value,
                    _ => return Err(wrong()),
                }
            }
            all.insert(device, limit);
        }
        Ok(all)
    }

    /// Returns whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Max> {
        [self.rbps, self.wbps, self.riops, self.wiops].into_iter().flatten()
    }
}

/// Prints the limits without the device: `rbps=1048576 wiops=max`.
impl fmt::Display for IoMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nested_keyed(
            f,
            [("rbps", self.rbps), ("wbps", self.wbps), ("riops", self.riops), ("wiops", self.wiops)],
        )
    }
}

/// The limits of an RDMA device in `rdma.max`. `None` leaves a value as it is. Since Linux 4.11.
/// Section "RDMA Interface Files".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct RdmaMax {
    /// Maximum number of handles (connections to the device).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub hca_handle: Option<Max>,
    /// Maximum number of objects, such as queue pairs and memory regions.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub hca_object: Option<Max>,
}

impl RdmaMax {
    /// Returns whether no limit is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = Max> {
        [self.hca_handle, self.hca_object].into_iter().flatten()
    }
}

/// Prints the limits without the device: `hca_handle=2 hca_object=max`.
impl fmt::Display for RdmaMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nested_keyed(f, [("hca_handle", self.hca_handle), ("hca_object", self.hca_object)])
    }
}

/// Prints the pairs that have a value: `KEY=VALUE KEY=VALUE`.
fn nested_keyed<const N: usize>(f: &mut fmt::Formatter<'_>, fields: [(&str, Option<Max>); N]) -> fmt::Result {
    let set = fields.into_iter().filter_map(|(key, value)| Some((key, value?)));
    for (i, (key, value)) in set.enumerate() {
        write!(f, "{}{key}={value}", if i == 0 { "" } else { " " })?;
    }
    Ok(())
}

#[cfg(feature = "serde")]
mod serde_impls {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{CpuMax, Max};

    crate::serde_text::as_text!(CpuMax);

    /// A number, or the text `max`.
    impl Serialize for Max {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Value(value) => serializer.serialize_u64(*value),
                Self::Max => serializer.serialize_str("max"),
            }
        }
    }

    impl<'de> Deserialize<'de> for Max {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            #[derive(Deserialize)]
            #[serde(untagged)]
            enum Either {
                Number(u64),
                Text(String),
            }
            match Either::deserialize(deserializer)? {
                Either::Number(value) => Ok(Self::Value(value)),
                Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
            }
        }
    }
}
