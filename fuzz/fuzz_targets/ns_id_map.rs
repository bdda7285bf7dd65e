//! Id maps survive printing, and a valid map is one-to-one and small enough to write.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::IdMap;

fuzz_target!(|text: &str| {
    let Ok(map) = text.parse::<IdMap>() else { return };
    assert_eq!(map.to_string().parse::<IdMap>().unwrap(), map);
    let valid = map.validate().is_ok();
    for extent in map.extents() {
        let last = extent.count.saturating_sub(1);
        let edges = [(extent.inside, extent.outside), {
            (extent.inside.saturating_add(last), extent.outside.saturating_add(last))
        }];
        for (inside, outside) in edges {
            let there = map.to_outside(inside);
            let back = map.to_inside(outside);
            if valid {
                assert_eq!((there, back), (Some(outside), Some(inside)), "{extent:?}");
            }
        }
    }
    if valid {
        assert!((1..=340).contains(&map.extents().len()) && map.to_string().len() < 4096);
    }
});
