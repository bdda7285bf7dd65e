//! Flat keyed files: the pairs survive printing, and the typed views show the same values.
#![no_main]

use cgroup_core::{CpuStat, Events, MemoryEvents, MemoryStat, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(pairs) = parse::flat_keyed(text) else {
        assert!(text.lines().any(|line| line.split_ascii_whitespace().count() != 2));
        assert!(MemoryStat::parse(text).is_err());
        return;
    };
    let pairs: Vec<_> = pairs.collect();
    if !text.contains(['\r', '\x0c']) {
        // The kernel separates words by a space only.
        let words = text.lines().map(|line| line.split_ascii_whitespace());
        let values = words.filter_map(|mut words| Some((words.next()?, words.next()?.parse::<u64>().ok()?)));
        assert_eq!(pairs, values.collect::<Vec<_>>());
    }
    let printed: String = pairs.iter().map(|(key, value)| format!("{key} {value}\n")).collect();
    assert_eq!(parse::flat_keyed(&printed).unwrap().collect::<Vec<_>>(), pairs);

    let last = |name: &str| pairs.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let cpu = CpuStat::parse(text).unwrap();
    assert_eq!((cpu.usage_usec, cpu.nr_throttled), (last("usage_usec"), last("nr_throttled")));
    let events = MemoryEvents::parse(text).unwrap();
    assert_eq!((events.oom, events.oom_kill), (last("oom"), last("oom_kill")));
    let stat = MemoryStat::parse(text).unwrap();
    assert_eq!((stat.anon, stat.file), (last("anon"), last("file")));
    let _ = Events::parse(text);
});
