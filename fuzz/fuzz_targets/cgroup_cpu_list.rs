//! CPU lists contain the CPUs that their text names, and print in one canonical form.
#![no_main]

use cgroup_core::CpuList;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(list) = text.parse::<CpuList>() else { return };
    assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list);
    assert_eq!(list.is_empty(), list.len() == 0);
    let ranges: Vec<_> = list.ranges().collect();
    assert!(ranges.windows(2).all(|w| u64::from(*w[0].end()) + 1 < u64::from(*w[1].start())), "{ranges:?}");
    // The CPUs that the text names, part by part.
    let named = |n: u32| {
        text.split(',').map(str::trim_ascii).filter(|part| !part.is_empty()).any(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            (first.parse::<u32>().unwrap()..=last.parse().unwrap()).contains(&n)
        })
    };
    let edges = ranges
        .iter()
        .flat_map(|r| [r.start().saturating_sub(1), *r.start(), *r.end(), r.end().saturating_add(1)]);
    for n in edges.chain(0..70) {
        assert_eq!(list.contains(n), named(n), "{n} in {text:?}");
    }
    if list.len() < 10_000 {
        assert_eq!(list.iter().collect::<CpuList>(), list);
        assert_eq!(list.iter().count() as u64, list.len());
    }
});
