//! What a cgroup has used, and what has happened to it.

use std::collections::BTreeMap;

use crate::cgroup::Cgroup;
use crate::device_number::Device;
use crate::error::{Error, Result};
use crate::parse;

/// Derives for the plain data of this file; absent values are left out of serialized text.
macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
        #[non_exhaustive]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

/// The same, for a flat keyed file whose keys are the fields' names.
macro_rules! flat {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        plain! { $(#[$doc])* $name { $(
            $(#[$field_doc])*
            #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
            $field: Option<u64>,
        )* } }

        impl $name {
            /// From the file's text; keys that are not known are skipped.
            ///
            /// # Errors
            /// `InvalidText`, see [`parse::flat_keyed`].
            pub fn parse(text: &str) -> Result<Self> {
                let mut parsed = Self::default();
                for (key, value) in parse::flat_keyed(text)? {
                    match key {
                        $(stringify!($field) => parsed.$field = Some(value),)*
                        _ => {}
                    }
                }
                Ok(parsed)
            }
        }
    };
}

plain! {
    /// What a cgroup and all below it have used. Where a controller is not enabled its values are
    /// absent.
    Usage {
        /// `cpu.stat`
        cpu: CpuStat,
        /// `memory.*`
        memory: MemoryUsage,
        /// `pids.*`
        pids: PidsUsage,
        /// `io.stat`; absent without the controller, empty where nothing was read or written.
        io: Option<BTreeMap<Device, IoStat>>,
        /// `cpu.pressure`
        cpu_pressure: Option<Pressure>,
        /// `memory.pressure`
        memory_pressure: Option<Pressure>,
        /// `io.pressure`
        io_pressure: Option<Pressure>,
    }
}

flat! {
    /// `cpu.stat`. Times in µs. The first three are there even without the cpu controller.
    CpuStat {
        /// Processor time.
        usage_usec,
        /// Of which in user mode.
        user_usec,
        /// Of which in the kernel.
        system_usec,
        /// Periods of `cpu.max` in which something ran.
        nr_periods,
        /// Periods in which it was throttled.
        nr_throttled,
        /// Time throttled, summed over processors.
        throttled_usec,
        /// Periods in which it burst (`cpu.max.burst`).
        nr_bursts,
        /// Time above the quota by bursting.
        burst_usec,
    }
}

plain! {
    /// The memory controller's files; bytes.
    MemoryUsage {
        /// `memory.current`
        current: Option<u64>,
        /// `memory.peak`, since Linux 5.19.
        peak: Option<u64>,
        /// `memory.swap.current`
        swap_current: Option<u64>,
        /// `memory.swap.peak`, since Linux 6.5.
        swap_peak: Option<u64>,
        /// `memory.zswap.current`, since Linux 5.19.
        zswap_current: Option<u64>,
        /// `memory.stat`
        stat: MemoryStat,
        /// `memory.events`: in this cgroup and all below.
        events: MemoryEvents,
        /// `memory.events.local`: in this cgroup itself.
        events_local: MemoryEvents,
    }
}

flat! {
    /// The well-known keys of `memory.stat`; for the rest give [`Cgroup::read`]'s text to
    /// [`parse::flat_keyed`]. Bytes, save the counts at the end.
    MemoryStat {
        /// Anonymous memory.
        anon,
        /// Page cache, with shared memory.
        file,
        /// The kernel's memory.
        kernel,
        /// Kernel stacks.
        kernel_stack,
        /// Page tables.
        pagetables,
        /// Network buffers.
        sock,
        /// tmpfs, System V and POSIX shared memory.
        shmem,
        /// Page cache mapped by processes.
        file_mapped,
        /// Page cache to be written back.
        file_dirty,
        /// Page cache being written back.
        file_writeback,
        /// Inactive anonymous memory.
        inactive_anon,
        /// Active anonymous memory.
        active_anon,
        /// Inactive page cache: what is reclaimed first.
        inactive_file,
        /// Active page cache.
        active_file,
        /// Memory that cannot be reclaimed, such as mlock's.
        unevictable,
        /// Slab that can be reclaimed.
        slab_reclaimable,
        /// Slab that cannot.
        slab_unreclaimable,
        /// Slab in all.
        slab,
        /// Swapped out and still in memory.
        swapcached,
        /// Page faults.
        pgfault,
        /// Of which with input.
        pgmajfault,
        /// Refaults of evicted anonymous pages.
        workingset_refault_anon,
        /// Refaults of evicted file pages.
        workingset_refault_file,
    }
}

flat! {
    /// `memory.events`: how often each limit took effect.
    MemoryEvents {
        /// Reclaimed although below `memory.low`.
        low,
        /// Slowed for passing `memory.high`.
        high,
        /// About to pass `memory.max`.
        max,
        /// An allocation was about to fail, and the OOM killer considered.
        oom,
        /// Processes that an OOM killer took.
        oom_kill,
        /// Times that a whole cgroup was taken (`memory.oom.group`). Since Linux 5.17.
        oom_group_kill,
    }
}

plain! {
    /// The pids controller's files.
    PidsUsage {
        /// `pids.current`
        current: Option<u64>,
        /// `pids.peak`, since Linux 6.1.
        peak: Option<u64>,
        /// `pids.events`
        events: PidsEvents,
    }
}

flat! {
    /// `pids.events`
    PidsEvents {
        /// Forks refused for `pids.max`.
        max,
    }
}

plain! {
    /// A device's line in `io.stat`, since the cgroup was made.
    IoStat {
        /// Bytes read.
        rbytes: u64,
        /// Bytes written.
        wbytes: u64,
        /// Reads.
        rios: u64,
        /// Writes.
        wios: u64,
        /// Bytes discarded.
        dbytes: u64,
        /// Discards.
        dios: u64,
    }
}

plain! {
    /// Pressure stall information: time lost to waiting for a resource.
    ///
    /// Source: <https://docs.kernel.org/accounting/psi.html>
    Pressure {
        /// Some task waited.
        some: PressureLine,
        /// All tasks waited. Absent for cpu before Linux 5.13.
        full: Option<PressureLine>,
    }
}

plain! {
    /// A line of a pressure file.
    PressureLine {
        /// Share of the last 10 s, in percent.
        avg10: f32,
        /// Share of the last 60 s, in percent.
        avg60: f32,
        /// Share of the last 300 s, in percent.
        avg300: f32,
        /// Time lost since the cgroup was made, in µs.
        total: u64,
    }
}

impl IoStat {
    /// Parses `io.stat`: a line `MAJOR:MINOR KEY=VALUE…` for each device. Unknown keys are skipped.
    ///
    /// # Errors
    /// `InvalidText` for a line that does not begin with a device number.
    pub fn parse(text: &str) -> Result<BTreeMap<Device, Self>> {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let (device, rest) = parse::keyed_by_device("a line of io.stat", line)?;
            let mut stat = Self::default();
            for (key, value) in rest.filter_map(|word| word.split_once('=')) {
                let Ok(value) = value.parse() else { continue };
                match key {
                    "rbytes" => stat.rbytes = value,
                    "wbytes" => stat.wbytes = value,
                    "rios" => stat.rios = value,
                    "wios" => stat.wios = value,
                    "dbytes" => stat.dbytes = value,
                    "dios" => stat.dios = value,
                    _ => {}
                }
            }
            all.insert(device, stat);
        }
        Ok(all)
    }
}

impl Pressure {
    /// Parses a pressure file (`*.pressure`).
    ///
    /// # Errors
    /// `InvalidText` for an unknown first word or a malformed number.
    ///
    /// ```
    /// let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=42\n";
    /// let pressure = cgroup_core::Pressure::parse(text).unwrap();
    /// assert_eq!((pressure.some.avg10, pressure.some.total), (1.5, 42));
    /// assert_eq!(pressure.full, None);
    /// ```
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why| Error::text("a pressure file", text, why);
        let mut pressure = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let kind = words.next();
            let mut parsed = PressureLine::default();
            for word in words {
                let (key, value) = word.split_once('=').ok_or_else(|| wrong("a field is KEY=VALUE"))?;
                let share = || match value.parse::<f32>() {
                    Ok(share) if share.is_finite() => Ok(share),
                    _ => Err(wrong("a share is a decimal number")),
                };
                match key {
                    "avg10" => parsed.avg10 = share()?,
                    "avg60" => parsed.avg60 = share()?,
                    "avg300" => parsed.avg300 = share()?,
                    "total" => parsed.total = parse::number(value)?,
                    _ => {}
                }
            }
            match kind {
                Some("some") => pressure.some = parsed,
                Some("full") => pressure.full = Some(parsed),
                _ => return Err(wrong("a line begins with some or full")),
            }
        }
        Ok(pressure)
    }
}

plain! {
    /// `cgroup.events`
    #[derive(Copy, Eq)]
    Events {
        /// It or a cgroup below holds a process.
        populated: bool,
        /// Every process in it and below has stopped, by its own or an ancestor's `cgroup.freeze`.
        frozen: bool,
    }
}

impl Events {
    /// From the file's text.
    ///
    /// # Errors
    /// `InvalidText`, see [`parse::flat_keyed`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut events = Self::default();
        for (key, value) in parse::flat_keyed(text)? {
            match key {
                "populated" => events.populated = value != 0,
                "frozen" => events.frozen = value != 0,
                _ => {}
            }
        }
        Ok(events)
    }
}

impl Cgroup {
    /// Reads everything: some 17 small files. For one value read its file, or use
    /// [`cpu_stat`](Self::cpu_stat) and the like.
    ///
    /// # Errors
    /// `NotFound` where the cgroup was removed; as [`read`](Self::read).
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            cpu: self.cpu_stat()?,
            memory: MemoryUsage {
                current: self.number("memory.current")?,
                peak: self.number("memory.peak")?,
                swap_current: self.number("memory.swap.current")?,
                swap_peak: self.number("memory.swap.peak")?,
                zswap_current: self.number("memory.zswap.current")?,
                stat: self.parsed("memory.stat", MemoryStat::parse)?.unwrap_or_default(),
                events: self.memory_events()?,
                events_local: self.memory_events_local()?,
            },
            pids: PidsUsage {
                current: self.number("pids.current")?,
                peak: self.number("pids.peak")?,
                events: self.parsed("pids.events", PidsEvents::parse)?.unwrap_or_default(),
            },
            io: self.parsed("io.stat", IoStat::parse)?,
            cpu_pressure: self.parsed("cpu.pressure", Pressure::parse)?,
            memory_pressure: self.parsed("memory.pressure", Pressure::parse)?,
            io_pressure: self.parsed("io.pressure", Pressure::parse)?,
        })
    }

    /// `cpu.stat`
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn cpu_stat(&self) -> Result<CpuStat> {
        Ok(self.parsed("cpu.stat", CpuStat::parse)?.unwrap_or_default())
    }

    /// `memory.events`: in this cgroup and all below.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        Ok(self.parsed("memory.events", MemoryEvents::parse)?.unwrap_or_default())
    }

    /// `memory.events.local`: in this cgroup itself.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn memory_events_local(&self) -> Result<MemoryEvents> {
        Ok(self.parsed("memory.events.local", MemoryEvents::parse)?.unwrap_or_default())
    }

    /// A file of one number; `None` where there is no such file or no access.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn number(&self, file: &str) -> Result<Option<u64>> {
        self.parsed(file, parse::number)
    }

    fn parsed<T>(&self, file: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        self.read_if_there(file)?.map(|text| parse(&text)).transpose()
    }
}
