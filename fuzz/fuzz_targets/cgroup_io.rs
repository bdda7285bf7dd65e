//! `io.stat` and `io.max` survive printing in the kernel's format, and a limit that was read can be written.
#![no_main]

use cgroup_core::{IoMax, IoStat, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(all) = IoStat::parse(text) {
        let print = |(device, s): (&cgroup_core::Device, &IoStat)| {
            format!(
                "{device} rbytes={} wbytes={} rios={} wios={} dbytes={} dios={}\n",
                s.rbytes, s.wbytes, s.rios, s.wios, s.dbytes, s.dios
            )
        };
        let printed: String = all.iter().map(print).collect();
        assert_eq!(IoStat::parse(&printed).unwrap(), all);
    }
    if let Ok(mut io_max) = IoMax::parse(text) {
        io_max.retain(|_, max| !max.is_empty());
        let limits = Limits { io_max, ..Limits::default() };
        let writes = limits.writes();
        assert!(writes.iter().all(|(file, _)| file == "io.max"));
        let printed: String = writes.iter().map(|(_, value)| format!("{value}\n")).collect();
        assert_eq!(IoMax::parse(&printed).unwrap(), limits.io_max);
    }
});
