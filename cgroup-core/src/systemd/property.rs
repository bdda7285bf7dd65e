//! Properties of units, and the properties for limits.

use crate::cpu_list::CpuList;
use crate::error::{Error, Result};
use crate::limits::table::{Limit, Systemd};
use crate::limits::{CpuMax, Limits, Max};

/// A property of a unit, with its name on D-Bus, such as `MemoryMax` or `TimeoutStopUSec`.
/// [systemd.resource-control(5)](https://www.freedesktop.org/software/systemd/man/latest/systemd.resource-control.html).
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Name on D-Bus.
    pub name: String,
    /// Value, of the type that systemd expects.
    pub value: Value,
}

/// A value of D-Bus. The text at each variant is its
/// [type code](https://dbus.freedesktop.org/doc/dbus-specification.html#type-system).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    F64(f64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `au`
    U32s(Vec<u32>),
}

impl Property {
    /// Creates a property.
    pub fn new(name: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { name: name.into(), value: value.into() }
    }

    /// Returns the properties for these limits. systemd may write the values of its properties
    /// again at any time (`systemctl daemon-reload`), so it must know the limits.
    /// systemd.resource-control(5).
    ///
    /// Limits without a property are left out. The quota of `cpu.max` is rounded up to whole
    /// percents, so that the exact quota in a cgroup below takes effect. After the unit has
    /// started, [`Cgroup::apply`](crate::Cgroup::apply) writes all limits with their exact values.
    ///
    /// ```
    /// use cgroup_core::{CpuMax, Limits, Max, systemd::Property};
    /// let limits = Limits {
    ///     memory_max: Some(Max::Value(64 << 20)),
    ///     cpu_max: Some(CpuMax::new(50_000, 100_000)),
    ///     ..Limits::default()
    /// };
    /// let expected = [
    ///     Property::new("CPUQuotaPeriodUSec", 100_000_u64),
    ///     Property::new("CPUQuotaPerSecUSec", 500_000_u64),
    ///     Property::new("MemoryMax", 67_108_864_u64),
    /// ];
    /// assert_eq!(Property::of_limits(&limits).unwrap(), expected);
    /// ```
    ///
    /// # Errors
    /// - `InvalidText`: systemd cannot represent a value of [`Limits::unified`] that the kernel
    ///   accepts, such as `64M` for `memory.max`.
    /// - `InvalidLimit`: a processor number above 8191, or a value of `cpu.max` out of range.
    pub fn of_limits(limits: &Limits) -> Result<Vec<Self>> {
        // The last value for a file is in force. The weight of a single device has no property.
        let device = |file: &str, value: &str| file == "io.weight" && value.contains(':');
        let mut last = Vec::new();
        for (file, value) in limits.writes().into_iter().filter(|(file, value)| !device(file, value)) {
            last.retain(|(earlier, _)| *earlier != file);
            last.push((file, value));
        }
        let mut all = Vec::new();
        for (file, value) in &last {
            all.extend(of_file(file, value)?);
        }
        // An idle cgroup has the weight 0 in systemd, and no other.
        if all.contains(&Self::new("CPUWeight", 0_u64)) {
            all.retain(|property| property.name != "CPUWeight" || property.value == Value::U64(0));
        }
        Ok(all)
    }
}

/// Returns the properties for a value of a file.
fn of_file(file: &str, value: &str) -> Result<Vec<Property>> {
    let number = |name: &str| {
        let number = match value.trim_start_matches("default ").parse()? {
            Max::Value(number) => number,
            Max::Max => u64::MAX,
        };
        Ok(vec![Property::new(name, number)])
    };
    match Limit::of_file(file).map_or(Systemd::None, |limit| limit.systemd) {
        Systemd::None => Ok(Vec::new()),
        Systemd::Positive(_) if value == "0" => Ok(Vec::new()),
        Systemd::Number(name) | Systemd::Positive(name) => number(name),
        Systemd::Mask(name) => Ok(vec![Property::new(name, mask(file, &value.parse()?)?)]),
        Systemd::Idle if value == "1" => Ok(vec![Property::new("CPUWeight", 0_u64)]),
        Systemd::Idle => Ok(Vec::new()),
        Systemd::Quota => {
            let max: CpuMax = value.parse()?;
            max.check().map_err(|why| Error::limit(file, max, why))?;
            let quota = max.quota.map_or(u64::MAX, |quota| per_second(quota, max.period));
            Ok(vec![
                Property::new("CPUQuotaPeriodUSec", max.period),
                Property::new("CPUQuotaPerSecUSec", quota),
            ])
        }
    }
}

/// Returns the processor time per second in µs, rounded up to the unit of systemd: one percent,
/// which is 10 ms.
fn per_second(quota: u64, period: u64) -> u64 {
    const PERCENT: u64 = 10_000;
    let exact = u128::from(quota) * 1_000_000 / u128::from(period);
    u64::try_from(exact).map_or(u64::MAX, |exact| exact.next_multiple_of(PERCENT))
}

/// Returns a set of processors or memory nodes as a bit mask. Like the kernel, systemd supports at
/// most 8192 processors.
fn mask(file: &str, list: &CpuList) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for range in list.ranges() {
        if *range.end() > 8_191 {
            return Err(Error::limit(file, list, "a number must be at most 8191"));
        }
        bytes.resize(*range.end() as usize / 8 + 1, 0);
        for n in range {
            bytes[n as usize / 8] |= 1 << (n % 8);
        }
    }
    Ok(bytes)
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}
value_from!(bool => Bool, i32 => I32, u32 => U32, i64 => I64, u64 => U64, f64 => F64, &str => Text,
    String => Text, Vec<String> => Texts, Vec<u8> => Bytes, Vec<u32> => U32s);

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limits: Limits) -> Vec<(String, Value)> {
        let all = Property::of_limits(&limits).unwrap();
        all.into_iter().map(|property| (property.name, property.value)).collect()
    }

    fn unified(file: &str, value: &str) -> Limits {
        Limits { unified: [(file.into(), value.into())].into(), ..Limits::default() }
    }

    #[test]
    fn each_limit_that_systemd_writes_has_its_property_and_unlimited_is_the_greatest_number() {
        let limits = Limits {
            cpu_weight: Some(50),
            cpuset_cpus: Some("0,2,9".parse().unwrap()),
            cpuset_mems: Some("0".parse().unwrap()),
            memory_min: Some(Max::Value(1)),
            memory_low: Some(Max::Value(2)),
            memory_high: Some(Max::Value(3)),
            memory_max: Some(Max::Max),
            memory_swap_max: Some(Max::Value(0)),
            pids_max: Some(Max::Value(7)),
            io_weight: Some(10),
            io_weight_device: [("8:0".parse().unwrap(), 20)].into(),
            hugetlb_max: [("2MB".into(), Max::Max)].into(),
            ..Limits::default()
        };
        let expected = [
            ("CPUWeight", 50_u64.into()),
            ("AllowedCPUs", vec![0b101_u8, 0b10].into()),
            ("AllowedMemoryNodes", vec![1_u8].into()),
            ("MemorySwapMax", 0_u64.into()),
            ("MemoryMin", 1_u64.into()),
            ("MemoryLow", 2_u64.into()),
            ("MemoryHigh", 3_u64.into()),
            ("MemoryMax", u64::MAX.into()),
            ("TasksMax", 7_u64.into()),
        ];
        let mut found = of(limits);
        assert_eq!(found.pop(), Some(("IOWeight".into(), 10_u64.into())));
        assert_eq!(found, expected.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
    }

    #[test]
    fn a_quota_is_rounded_up_to_whole_percents_and_keeps_its_period() {
        let quota = |max| of(Limits { cpu_max: Some(max), cpu_max_burst: Some(0), ..Limits::default() });
        let pair = |period: u64, quota: u64| {
            [
                ("CPUQuotaPeriodUSec".to_owned(), period.into()),
                ("CPUQuotaPerSecUSec".to_owned(), quota.into()),
            ]
        };
        assert_eq!(quota(CpuMax::new(1_001, 100_000)), pair(100_000, 20_000));
        assert_eq!(quota(CpuMax::new(75_000, 50_000)), pair(50_000, 1_500_000));
        assert_eq!(quota(CpuMax { quota: None, period: 20_000 }), pair(20_000, u64::MAX));
    }

    #[test]
    fn a_limit_set_by_file_name_overrides_its_field() {
        let limits = Limits { memory_max: Some(Max::Value(5)), ..unified("memory.max", "9") };
        assert_eq!(of(limits), [("MemoryMax".to_owned(), 9_u64.into())]);
        assert_eq!(of(unified("io.weight", "30")), [("IOWeight".to_owned(), 30_u64.into())]);
        assert_eq!(of(unified("memory.oom.group", "1")), []);
        let error = Property::of_limits(&unified("memory.max", "64M")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidText);
        let error = Property::of_limits(&unified("cpuset.cpus", "0-4294967295")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidLimit);
        let error = Property::of_limits(&unified("cpu.max", "1000 0")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidLimit);
    }

    #[test]
    fn only_an_idle_cgroup_has_the_weight_0() {
        let idle = Limits { cpu_idle: Some(true), ..unified("cpu.weight", "50") };
        assert_eq!(of(idle), [("CPUWeight".to_owned(), 0_u64.into())]);
        assert_eq!(of(Limits { cpu_idle: Some(false), ..Limits::default() }), []);
    }
}
