//! The number of a device.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A device number. `FromStr` and `Display` use the form `MAJOR:MINOR` of `io.max`. Section "IO
/// Interface Files"; [makedev(3)](https://man7.org/linux/man-pages/man3/makedev.3.html).
///
/// ```
/// let disk: cgroup_core::Device = "8:16".parse().unwrap();
/// assert_eq!((disk.major, disk.minor), (8, 16));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Number of the driver.
    pub major: u32,
    /// Number of the device within the driver.
    pub minor: u32,
}

impl Device {
    /// Creates a device number.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(a, b)| Some(Self::new(a.parse().ok()?, b.parse().ok()?)));
        parts.ok_or_else(|| Error::text("a device number", text, "it is not MAJOR:MINOR"))
    }
}

#[cfg(feature = "serde")]
crate::serde_text::as_text!(Device);
