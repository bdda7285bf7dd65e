//! Properties that need no kernel.

use ns_core::{Extent, IdMap, Kind, Kinds, NamespaceId, NamespaceSet, SubIds, TimeOffset, TimeOffsets, proc};
use proptest::prelude::*;

fn extent() -> impl Strategy<Value = Extent> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(inside, outside, count)| Extent {
        inside,
        outside,
        count,
    })
}

/// Extents that are often adjacent and sometimes overlap.
fn close_extent() -> impl Strategy<Value = Extent> {
    (0..40u32, 0..40u32, 0..6u32).prop_map(|(inside, outside, count)| Extent { inside, outside, count })
}

fn set() -> impl Strategy<Value = NamespaceSet> {
    proptest::array::uniform8(0..3u64)
        .prop_map(|inos| NamespaceSet::new(inos.map(|ino| NamespaceId { dev: 4, ino })))
}

proptest! {
    #[test]
    fn kinds_survive_text_bits_and_iteration(bits in any::<u64>()) {
        let kinds = Kinds::from_bits_truncate(bits);
        prop_assert_eq!(kinds.to_string().parse::<Kinds>().unwrap(), kinds);
        prop_assert_eq!(kinds.kinds().collect::<Kinds>(), kinds);
        for kind in Kind::ALL {
            prop_assert_eq!(kinds.contains_kind(kind), bits & kind.clone_flag() != 0);
        }
    }

    #[test]
    fn sets_coincide_exactly_where_their_ids_are_equal(a in set(), b in set()) {
        for kind in Kind::ALL {
            prop_assert_eq!(a.coincide(&b).contains_kind(kind), a[kind] == b.get(kind));
        }
        prop_assert_eq!(a.coincide(&b), b.coincide(&a));
        prop_assert_eq!(a.coincide(&a), Kinds::all());
    }

    #[test]
    fn id_maps_survive_text(extents in prop::collection::vec(extent(), 0..20)) {
        let map = IdMap::from(extents);
        prop_assert_eq!(map.to_string().parse::<IdMap>().unwrap(), map);
    }

    #[test]
    fn a_valid_id_map_is_a_bijection(extents in prop::collection::vec(close_extent(), 1..5)) {
        let map = IdMap::from(extents);
        prop_assume!(map.validate().is_ok());
        for id in 0..50 {
            if let Some(outside) = map.to_outside(id) {
                prop_assert_eq!(map.to_inside(outside), Some(id));
            }
            if let Some(inside) = map.to_inside(id) {
                prop_assert_eq!(map.to_outside(inside), Some(id));
            }
        }
    }

    #[test]
    fn an_id_map_is_valid_if_and_only_if_no_id_is_mapped_twice(
        extents in prop::collection::vec(close_extent(), 1..5)
    ) {
        let twice = |ids: Vec<u32>| {
            let mut unique = ids.clone();
            unique.sort_unstable();
            unique.dedup();
            unique.len() != ids.len()
        };
        let ids = |first: fn(&Extent) -> u32| {
            extents.iter().flat_map(|e| first(e)..first(e) + e.count).collect::<Vec<_>>()
        };
        let valid = extents.iter().all(|e| e.count > 0)
            && !twice(ids(|e| e.inside))
            && !twice(ids(|e| e.outside));
        prop_assert_eq!(IdMap::from(extents).validate().is_ok(), valid);
    }

    #[test]
    fn a_rootless_map_of_separate_ranges_is_valid(
        own in 0..1000u32, counts in prop::collection::vec(1..1u32 << 30, 0..6)
    ) {
        let mut start = 1000u32;
        let mut text = String::new();
        for count in counts {
            let Some(end) = start.checked_add(count) else { break };
            text += &format!("user:{start}:{count}\n");
            start = end;
        }
        let ranges = SubIds::parse(&text).of_user(Some("user"), own);
        let map = IdMap::rootless(own, &ranges);
        prop_assert!(map.validate().is_ok());
        prop_assert_eq!(map.to_outside(0), Some(own));
        prop_assert_eq!(map.to_outside(1), ranges.first().map(|range| range.start));
    }

    #[test]
    fn time_offsets_survive_text(m in any::<(i64, u32)>(), b in any::<(i64, u32)>()) {
        let offset = |(secs, nanos): (i64, u32)| TimeOffset { secs, nanos: nanos % 1_000_000_000 };
        let offsets = TimeOffsets { monotonic: offset(m), boottime: offset(b) };
        prop_assert_eq!(offsets.to_string().parse::<TimeOffsets>().unwrap(), offsets);
    }

    #[test]
    fn parsers_never_panic(text in "(?s).{0,200}", lines in "([a-zA-Z0-9:\\[\\] +-]{0,24}\n){0,6}") {
        for text in [&text, &lines] {
            let bytes = text.as_bytes();
            let _ = text.parse::<Kind>();
            let _ = text.parse::<Kinds>();
            let _ = text.parse::<TimeOffsets>();
            let _ = text.parse::<ns_core::Setgroups>();
            let _ = SubIds::parse(text).of_user(Some("a"), 0);
            let _ = (proc::nspid(bytes), proc::fdinfo_pid(bytes), proc::ns_link(bytes));
            let _ = ns_core::user_name(text, 0);
            if let Ok(map) = text.parse::<IdMap>() {
                let _ = map.validate();
            }
        }
    }

    #[test]
    fn validating_and_querying_any_id_map_never_overflows(
        extents in prop::collection::vec(extent(), 0..8), id in any::<u32>()
    ) {
        let map = IdMap::from(extents);
        let _ = (map.validate(), map.to_inside(id), map.to_outside(id));
    }

    #[test]
    fn a_rootless_map_of_any_ranges_never_overflows(ranges in prop::collection::vec(any::<(u32, u32)>(), 0..8)) {
        let ranges: Vec<_> =
            ranges.into_iter().map(|(start, count)| ns_core::SubIdRange { start, count }).collect();
        let _ = IdMap::rootless(0, &ranges).validate();
    }
}

#[test]
fn kinds_have_the_flags_of_the_kernel_headers() {
    let flags = [
        (Kind::Mnt, libc::CLONE_NEWNS),
        (Kind::Net, libc::CLONE_NEWNET),
        (Kind::Pid, libc::CLONE_NEWPID),
        (Kind::User, libc::CLONE_NEWUSER),
        (Kind::Uts, libc::CLONE_NEWUTS),
        (Kind::Ipc, libc::CLONE_NEWIPC),
        (Kind::Cgroup, libc::CLONE_NEWCGROUP),
        (Kind::Time, libc::CLONE_NEWTIME),
    ];
    for (kind, flag) in flags {
        assert_eq!(kind.clone_flag(), flag as u64);
        assert_eq!(Kind::from_clone_flag(flag as u64), Some(kind));
        assert_eq!(kind.name().parse::<Kind>().unwrap(), kind);
    }
    assert_eq!(Kind::from_clone_flag(libc::CLONE_FILES as u64), None);
    assert_eq!(Kinds::FIVE.kinds().count(), 5);
    assert_eq!(Kinds::all().kinds().count(), 8);
}

#[test]
fn an_invalid_id_map_is_refused_with_the_faulty_extent() {
    let why = |text: &str| text.parse::<IdMap>().unwrap().validate().unwrap_err().to_string();
    assert_eq!(why("0 5 0"), "cannot use an id map: the extent 0 5 0 maps no id");
    assert_eq!(why("0 0 10\n9 20 1"), "cannot use an id map: the extents 0 0 10 and 9 20 1 overlap inside");
    assert_eq!(why("0 0 10\n10 9 1"), "cannot use an id map: the extents 0 0 10 and 10 9 1 overlap outside");
    assert_eq!(
        why("1 0 4294967295"),
        "cannot use an id map: the extent 1 0 4294967295 ends after the last id, 4294967294"
    );
    assert!(why("").contains("the map is empty"));
    assert!(IdMap::identity().validate().is_ok());
}

#[test]
fn an_id_map_has_at_most_340_extents_and_less_than_a_page_of_text() {
    let of = |n: u32| (0..n).map(|i| Extent { inside: i, outside: i, count: 1 }).collect::<IdMap>();
    assert!(of(340).validate().is_ok());
    assert!(of(341).validate().unwrap_err().to_string().contains("341 extents"));
    let long: IdMap =
        (0..300).map(|i| Extent { inside: 1_000_000 + i, outside: 2_000_000 + i, count: 1 }).collect();
    assert!(long.validate().unwrap_err().to_string().contains("bytes"));
}

#[test]
fn malformed_texts_are_refused_with_the_line() {
    for text in ["0 0", "0 0 1 1", "a 0 1", "-1 0 1", "+1 0 1", "0 0 4294967296"] {
        let error = text.parse::<IdMap>().unwrap_err();
        assert_eq!(error.kind(), ns_core::ErrorKind::Parse);
        assert!(error.to_string().contains(text), "{error}");
    }
    for text in ["monotonic 1", "realtime 0 0", "boottime 0 1000000000", "boottime 0 -1"] {
        let error = text.parse::<TimeOffsets>().unwrap_err();
        assert_eq!(error.kind(), ns_core::ErrorKind::Parse);
        assert!(error.to_string().contains(text), "{error}");
    }
    let kernels = "monotonic           0         0\nboottime         -10        5\n";
    assert_eq!(kernels.parse::<TimeOffsets>().unwrap().boottime, TimeOffset { secs: -10, nanos: 5 });
}

#[test]
fn malformed_lines_of_subuid_are_ignored_as_in_shadow() {
    let text = "# comment\n\nu:1:2:3\nu:x:1\nu:5:0\n:5:5\nu:4294967295:2\nu:100:10\nu:200:5";
    let ranges = SubIds::parse(text).of_user(Some("u"), 7);
    assert_eq!(ranges.iter().map(|r| (r.start, r.count)).collect::<Vec<_>>(), [(100, 10), (200, 5)]);
}

#[cfg(feature = "serde")]
#[test]
fn plain_data_survives_json() {
    let kinds = Kinds::PID | Kinds::NET;
    assert_eq!(serde_json::to_string(&kinds).unwrap(), r#"["net","pid"]"#);
    assert_eq!(serde_json::from_str::<Kinds>(r#"["pid","net"]"#).unwrap(), kinds);
    let map = IdMap::single(0, 1000);
    let text = serde_json::to_string(&map).unwrap();
    assert_eq!(text, r#"[{"inside":0,"outside":1000,"count":1}]"#);
    assert_eq!(serde_json::from_str::<IdMap>(&text).unwrap(), map);
}
