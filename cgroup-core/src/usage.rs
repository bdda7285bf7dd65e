//! The resource usage and the events of a cgroup.

use std::collections::BTreeMap;

use crate::cgroup::Cgroup;
use crate::device_number::Device;
use crate::error::{Error, Result};
use crate::parse;

/// Declares a record with the derives of this file. Serialized text omits absent values.
macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
        #[non_exhaustive]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

/// Declares a record for a flat keyed file whose keys are the names of the fields.
macro_rules! flat {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        plain! { $(#[$doc])* $name { $(
            $(#[$field_doc])*
            #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
            $field: Option<u64>,
        )* } }

        impl $name {
            /// Parses the text of the file. Skips unknown keys. Section "Format".
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
    /// Resource usage of a cgroup and its descendants. The values of a controller that is not
    /// enabled are absent. Section "Controllers".
    Usage {
        /// `cpu.stat`.
        cpu: CpuStat,
        /// `memory.*`.
        memory: MemoryUsage,
        /// `pids.*`.
        pids: PidsUsage,
        /// `io.stat`. Absent without the controller, empty if nothing was read or written.
        io: Option<BTreeMap<Device, IoStat>>,
        /// `cpu.pressure`.
        cpu_pressure: Option<Pressure>,
        /// `memory.pressure`.
        memory_pressure: Option<Pressure>,
        /// `io.pressure`.
        io_pressure: Option<Pressure>,
        /// Network counters. Absent if no network limits were set in this cgroup, and for a caller
        /// without CAP_SYS_ADMIN and CAP_NET_ADMIN in the initial user namespace.
        #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
        net: Option<crate::net::Usage>,
    }
}

flat! {
    /// `cpu.stat`, with times in µs since the cgroup was created. The first three values exist
    /// without the cpu controller. Since Linux 4.15. Section "CPU Interface Files".
    CpuStat {
        /// Processor time.
        usage_usec,
        /// Processor time in user mode.
        user_usec,
        /// Processor time in the kernel.
        system_usec,
        /// Number of periods of `cpu.max` in which a process ran.
        nr_periods,
        /// Number of periods in which the cgroup was throttled.
        nr_throttled,
        /// Throttled time, summed over the processors.
        throttled_usec,
        /// Number of periods with a burst (`cpu.max.burst`). Since Linux 5.16.
        nr_bursts,
        /// Time above the quota in bursts. Since Linux 5.16.
        burst_usec,
    }
}

plain! {
    /// The files of the memory controller, in bytes. Since Linux 4.5. Section "Memory Interface
    /// Files".
    MemoryUsage {
        /// `memory.current`: memory in use.
        current: Option<u64>,
        /// `memory.peak`: greatest memory in use. Since Linux 5.19.
        peak: Option<u64>,
        /// `memory.swap.current`: swap in use.
        swap_current: Option<u64>,
        /// `memory.swap.peak`: greatest swap in use. Since Linux 6.5.
        swap_peak: Option<u64>,
        /// `memory.zswap.current`: compressed swap in memory. Since Linux 5.19.
        zswap_current: Option<u64>,
        /// `memory.stat`.
        stat: MemoryStat,
        /// `memory.events`: in this cgroup and all below.
        events: MemoryEvents,
        /// `memory.events.local`: in this cgroup itself. Since Linux 5.3.
        events_local: MemoryEvents,
    }
}

flat! {
    /// The common keys of `memory.stat`, in bytes; the values from `pgfault` on are counts. For
    /// other keys, pass the text from [`Cgroup::read`] to [`parse::flat_keyed`]. Since Linux 4.5.
    /// Section "Memory Interface Files".
    MemoryStat {
        /// Anonymous memory.
        anon,
        /// Page cache, including shared memory.
        file,
        /// Memory of the kernel. Since Linux 5.18.
        kernel,
        /// Kernel stacks.
        kernel_stack,
        /// Page tables.
        pagetables,
        /// Network buffers.
        sock,
        /// tmpfs, System V and POSIX shared memory.
        shmem,
        /// Page cache that is mapped by processes.
        file_mapped,
        /// Page cache that must be written back.
        file_dirty,
        /// Page cache that is being written back.
        file_writeback,
        /// Inactive anonymous memory.
        inactive_anon,
        /// Active anonymous memory.
        active_anon,
        /// Inactive page cache, which is reclaimed first.
        inactive_file,
        /// Active page cache.
        active_file,
        /// Memory that cannot be reclaimed, such as that of mlock(2).
        unevictable,
        /// Slab memory that can be reclaimed.
        slab_reclaimable,
        /// Slab memory that cannot be reclaimed.
        slab_unreclaimable,
        /// Slab memory in total.
        slab,
        /// Memory that is both in swap and in memory. Since Linux 5.12.
        swapcached,
        /// Page faults.
        pgfault,
        /// Page faults with input.
        pgmajfault,
        /// Refaults of evicted anonymous pages. Since Linux 5.9.
        workingset_refault_anon,
        /// Refaults of evicted file pages. Since Linux 5.9.
        workingset_refault_file,
    }
}

flat! {
    /// `memory.events`: how often each limit took effect. Since Linux 4.5. Section "Memory
    /// Interface Files".
    MemoryEvents {
        /// Times that memory was reclaimed although the usage was below `memory.low`.
        low,
        /// Times that a process was throttled because `memory.high` was exceeded.
        high,
        /// Times that the usage was about to exceed `memory.max`.
        max,
        /// Times that an allocation was about to fail because of this limit.
        oom,
        /// Processes that an OOM killer of any level has killed. Since Linux 4.13.
        oom_kill,
        /// Times that the whole cgroup was killed (`memory.oom.group`). Since Linux 5.17.
        oom_group_kill,
    }
}

plain! {
    /// The files of the pids controller. Since Linux 4.5. Section "PID Interface Files".
    PidsUsage {
        /// `pids.current`: processes and threads.
        current: Option<u64>,
        /// `pids.peak`: greatest number of processes and threads. Since Linux 6.1.
        peak: Option<u64>,
        /// `pids.events`.
        events: PidsEvents,
    }
}

flat! {
    /// `pids.events`. Since Linux 4.5. Section "PID Interface Files".
    PidsEvents {
        /// Forks that were rejected because of `pids.max`.
        max,
    }
}

plain! {
    /// The line of a device in `io.stat`, counted since the cgroup was created. Since Linux 4.5.
    /// Section "IO Interface Files".
    IoStat {
        /// Bytes read.
        rbytes: u64,
        /// Bytes written.
        wbytes: u64,
        /// Reads.
        rios: u64,
        /// Writes.
        wios: u64,
        /// Bytes discarded. Since Linux 4.19.
        dbytes: u64,
        /// Discards. Since Linux 4.19.
        dios: u64,
    }
}

plain! {
    /// Pressure stall information: time lost to waiting for a resource. Since Linux 4.20.
    /// [psi.rst](https://docs.kernel.org/accounting/psi.html)
    Pressure {
        /// Time in which at least one task waited.
        some: PressureLine,
        /// Time in which all tasks waited. Absent for cpu before Linux 5.13.
        full: Option<PressureLine>,
    }
}

plain! {
    /// One line of a pressure file. Documentation/accounting/psi.rst.
    PressureLine {
        /// Share of the last 10 s, in percent.
        avg10: f64,
        /// Share of the last 60 s, in percent.
        avg60: f64,
        /// Share of the last 300 s, in percent.
        avg300: f64,
        /// Time lost since the cgroup was created, in µs.
        total: u64,
    }
}

impl IoStat {
    /// Parses `io.stat`: a line `MAJOR:MINOR KEY=VALUE…` for each device. Skips unknown keys. Section
    /// "IO Interface Files".
    ///
    /// ```
    /// use cgroup_core::{Device, IoStat};
    /// let all = IoStat::parse("8:16 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n")?;
    /// assert_eq!((all[&Device::new(8, 16)].rbytes, all[&Device::new(8, 16)].rios), (4096, 1));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
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
    /// Parses a pressure file (`*.pressure`). Documentation/accounting/psi.rst.
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
                let share = || match value.parse::<f64>() {
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
    /// `cgroup.events`. Since Linux 4.5. Section "Core Interface Files".
    #[derive(Copy, Eq)]
    Events {
        /// Whether this cgroup or one below has a process.
        populated: bool,
        /// Whether all processes in this cgroup and below have stopped, because this cgroup or an
        /// ancestor is frozen. Since Linux 5.2.
        frozen: bool,
    }
}

impl Events {
    /// Parses the text of the file. Skips unknown keys. Section "Core Interface Files".
    ///
    /// ```
    /// let events = cgroup_core::Events::parse("populated 1\nfrozen 0\n")?;
    /// assert!(events.populated && !events.frozen);
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
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
    /// Reads all values, from 17 small files. For a single value read its file, or use
    /// [`cpu_stat`](Self::cpu_stat) or a similar method.
    ///
    /// Since Linux 5.6; [`Usage`] documents the first kernel version of each value. Section
    /// "Controllers".
    ///
    /// # Errors
    /// - `NotFound` (`ENODEV`, `ENOENT`): the cgroup was removed.
    /// - `InvalidText`: a file has an unknown format.
    /// - As [`read`](Self::read).
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage {
            cpu: CpuStat::default(),
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
                events: self.pids_events()?,
            },
            io: self.parsed("io.stat", IoStat::parse)?,
            cpu_pressure: self.parsed("cpu.pressure", Pressure::parse)?,
            memory_pressure: self.parsed("memory.pressure", Pressure::parse)?,
            io_pressure: self.parsed("io.pressure", Pressure::parse)?,
            net: self.net_usage_if_allowed()?,
        };
        // A removed cgroup has no files, as if it had no controllers. cpu.stat is in all other cgroups, except
        // the root on an old kernel. So it is read last.
        match self.parsed("cpu.stat", CpuStat::parse)? {
            Some(cpu) => usage.cpu = cpu,
            None => drop(self.available()?),
        }
        Ok(usage)
    }

    /// Reads `cpu.stat`.
    ///
    /// Since Linux 4.15. Section "CPU Interface Files".
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn cpu_stat(&self) -> Result<CpuStat> {
        Ok(self.parsed("cpu.stat", CpuStat::parse)?.unwrap_or_default())
    }

    /// Reads `pids.events`.
    ///
    /// Since Linux 4.5. Section "PID Interface Files".
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn pids_events(&self) -> Result<PidsEvents> {
        Ok(self.parsed("pids.events", PidsEvents::parse)?.unwrap_or_default())
    }

    /// Reads `memory.events`, which counts events in this cgroup and all below.
    ///
    /// Since Linux 4.5. Section "Memory Interface Files".
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn memory_events(&self) -> Result<MemoryEvents> {
        Ok(self.parsed("memory.events", MemoryEvents::parse)?.unwrap_or_default())
    }

    /// Reads `memory.events.local`, which counts events in this cgroup itself.
    ///
    /// Since Linux 5.3. Section "Memory Interface Files".
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub fn memory_events_local(&self) -> Result<MemoryEvents> {
        Ok(self.parsed("memory.events.local", MemoryEvents::parse)?.unwrap_or_default())
    }

    /// Reads a file that has one number. Returns `None` if the file does not exist or cannot be
    /// read here.
    ///
    /// Since Linux 5.6. Section "Format".
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
