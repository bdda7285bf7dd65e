//! `/etc/subuid`: ranges are complete, belong to the requested user, and form a map without gaps.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::{IdMap, SubIds};

fuzz_target!(|text: &str| {
    let ids = SubIds::parse(text);
    assert_eq!(ids.of_user(None, 1000), ids.of_user(Some("1000"), 1000));
    let owners = text.lines().filter_map(|line| line.split_once(':')).map(|(owner, _)| owner);
    for owner in owners.chain(["root"]).take(20) {
        let ranges = ids.of_user(Some(owner), 0);
        for range in &ranges {
            assert!(range.count > 0 && range.start.checked_add(range.count).is_some(), "{range:?}");
            let named = |name: &str| text.contains(&format!("{name}:"));
            assert!(named(owner) || named("0"), "{owner}");
        }
        let map = IdMap::rootless(7, &ranges);
        assert_eq!((map.to_outside(0), map.extents()[0].count), (Some(7), 1));
        let mut next = 0;
        for extent in map.extents() {
            assert_eq!(extent.inside, next);
            next += extent.count;
        }
    }
});
