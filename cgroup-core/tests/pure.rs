//! The part without a kernel: parsers never panic, and printed values are parsed back to the same
//! values.

use std::collections::BTreeMap;

use cgroup_core::{
    Controller, Controllers, CpuList, CpuMax, CpuStat, Device, ErrorKind, Events, IoMax, IoStat, Limits, Max,
    MemoryEvents, MemoryStat, Pressure, RdmaMax, parse,
};
use proptest::prelude::*;

fn max() -> impl Strategy<Value = Max> {
    prop_oneof![Just(Max::Max), (1..u64::MAX).prop_map(Max::Value)]
}

fn device() -> impl Strategy<Value = Device> {
    (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device::new(major, minor))
}

fn io_max() -> impl Strategy<Value = IoMax> {
    let field = || proptest::option::of(max());
    (field(), field(), field(), field()).prop_map(|(rbps, wbps, riops, wiops)| IoMax {
        rbps,
        wbps,
        riops,
        wiops,
    })
}

fn rdma_max() -> impl Strategy<Value = RdmaMax> {
    let count =
        || proptest::option::of(prop_oneof![Just(Max::Max), (0..=i32::MAX as u64).prop_map(Max::Value)]);
    (count(), count()).prop_map(|(hca_handle, hca_object)| RdmaMax { hca_handle, hca_object })
}

fn cpu_max() -> impl Strategy<Value = CpuMax> {
    (proptest::option::of(1_000..1_u64 << 40), 1_000..=1_000_000_u64)
        .prop_map(|(quota, period)| CpuMax { quota, period })
}

fn cpu_list() -> impl Strategy<Value = CpuList> {
    proptest::collection::vec(0..300_u32, 0..20).prop_map(CpuList::from_iter)
}

prop_compose! {
    fn limits()(
        cpu in (proptest::option::of(cpu_max()), proptest::option::of(0..1_000_u64)),
        weight in proptest::option::of(1..=10_000_u64),
        cpus in proptest::option::of(cpu_list()),
        mems in proptest::option::of(cpu_list()),
        memory in proptest::array::uniform6(proptest::option::of(max())),
        group in proptest::option::of(any::<bool>()),
        pids in proptest::option::of(max()),
        io in proptest::collection::btree_map(device(), io_max(), 0..3),
        weights in proptest::collection::btree_map(device(), 1..=10_000_u64, 0..3),
        bfq in (
            proptest::option::of(1..=1_000_u64),
            proptest::collection::btree_map(device(), 1..=1_000_u64, 0..3),
        ),
        rdma in proptest::collection::btree_map("[a-z0-9_]{1,9}", rdma_max(), 0..3),
        rsvd in proptest::collection::btree_map("[1-9][0-9]?[KMG]B", max(), 0..3),
        latency in proptest::collection::btree_map(device(), any::<u64>(), 0..3),
        hugetlb in proptest::collection::btree_map("[1-9][0-9]?[KMG]B", max(), 0..3),
        unified in proptest::collection::btree_map("(memory|x)\\.[a-z.]{1,9}", "[ -~]{0,9}", 0..3),
        net in proptest::option::of(proptest::option::of(any::<u32>())),
    ) -> Limits {
        let [memory_min, memory_low, memory_high, memory_max, memory_swap_max, memory_zswap_max] = memory;
        Limits {
            cpu_max: cpu.0, cpu_max_burst: cpu.1, cpu_weight: weight, cpu_idle: None,
            cpuset_cpus: cpus, cpuset_mems: mems,
            memory_min, memory_low, memory_high, memory_max, memory_swap_max, memory_zswap_max,
            memory_oom_group: group, pids_max: pids,
            io_max: io, io_weight: weight, io_weight_device: weights, io_latency: latency,
            io_bfq_weight: bfq.0, io_bfq_weight_device: bfq.1,
            hugetlb_max: hugetlb, hugetlb_rsvd_max: rsvd, rdma_max: rdma, unified,
            net: net.map(|connects_max| cgroup_core::net::Limits { connects_max, ..Default::default() }),
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in prop_oneof![
        ".*",
        "(?s).*",
        "([0-9:,. =-]|max|some|full|avg10|total|rbps|populated|\n){0,40}",
        "[0-9]+ [0-9]+ 0:1 (/|\\\\[0-9]{1,4})+ /[a-z\\\\0-9]* rw - cgroup2? [a-z]* [a-z,]*\n",
    ]) {
        let _ = parse::controllers(&text);
        let _ = parse::number(&text);
        let _ = text.parse::<Max>();
        let _ = parse::flat_keyed(&text).map(Iterator::count);
        let _ = parse::pids(&text);
        let _ = text.parse::<CpuList>().map(|list| (list.len(), list.to_string()));
        let _ = Pressure::parse(&text);
        let _ = IoStat::parse(&text);
        let _ = IoMax::parse(&text);
        let _ = parse::mountinfo(&text);
        let _ = parse::proc_cgroups(&text);
        let _ = parse::proc_self_cgroup(&text);
        let _ = (Events::parse(&text), MemoryEvents::parse(&text), CpuStat::parse(&text), MemoryStat::parse(&text));
        let _ = (text.parse::<CpuMax>(), text.parse::<Device>(), text.parse::<Controllers>());
    }

    #[test]
    fn a_cpu_list_is_a_set_and_reads_back(numbers in proptest::collection::btree_set(0..200_u32, 0..50)) {
        let list: CpuList = numbers.iter().copied().collect();
        prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list.clone());
        prop_assert_eq!(list.len(), numbers.len() as u64);
        prop_assert!(numbers.iter().all(|&n| list.contains(n)));
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), numbers.into_iter().collect::<Vec<_>>());
        let gaps = list.ranges().zip(list.ranges().skip(1)).all(|(a, b)| *a.end() + 1 < *b.start());
        prop_assert!(gaps, "ranges that touch are one");
    }

    #[test]
    fn values_read_back(max in max(), cpu in cpu_max(), device in device(), bits in 0..512_u16) {
        prop_assert_eq!(max.to_string().parse::<Max>().unwrap(), max);
        prop_assert_eq!(cpu.to_string().parse::<CpuMax>().unwrap(), cpu);
        prop_assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        let controllers = Controllers::from_bits_truncate(bits);
        prop_assert_eq!(controllers.to_string().parse::<Controllers>().unwrap(), controllers);
        prop_assert_eq!(parse::controllers(&controllers.to_string()), controllers);
    }

    #[test]
    fn io_max_lines_read_back(all in proptest::collection::btree_map(device(), io_max(), 0..5)) {
        let text: String = all.iter().map(|(device, max)| format!("{device} {max}\n")).collect();
        prop_assert_eq!(IoMax::parse(&text).unwrap(), all);
    }

    #[test]
    fn valid_limits_are_written_by_controller_to_plain_file_names(limits in limits()) {
        let quota = limits.cpu_max.and_then(|max| max.quota);
        prop_assume!(quota.is_none_or(|quota| limits.cpu_max_burst.is_none_or(|burst| burst <= quota)));
        limits.validate().unwrap();
        let writes = limits.writes();
        prop_assert_eq!(limits.is_empty(), writes.is_empty());
        for (file, _) in &writes {
            prop_assert!(!file.contains('/'), "{}", file);
            if let Some(controller) = Controller::of_file(file) {
                prop_assert!(limits.controllers().contains(controller.into()), "{}", file);
            }
        }
        let position = |file| writes.iter().position(|(f, _)| f == file);
        if let (Some(swap), Some(max)) = (position("memory.swap.max"), position("memory.max")) {
            prop_assert!(swap < max);
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn limits_survive_json_under_the_kernels_names(limits in limits()) {
        let json = serde_json::to_value(&limits).unwrap();
        prop_assert_eq!(json.get("memory.max").is_some(), limits.memory_max.is_some());
        prop_assert_eq!(serde_json::from_value::<Limits>(json).unwrap(), limits);
    }
}

#[test]
fn values_that_the_kernel_would_refuse_are_refused_by_name() {
    let of = |limits: Limits| limits.validate().unwrap_err();
    let cases = [
        (
            Limits { cpu_weight: Some(0), ..Default::default() },
            "cpu.weight cannot be \"0\": a weight must be from 1 to 10000",
        ),
        (
            Limits { cpu_max: Some(CpuMax::new(999, 100_000)), ..Default::default() },
            "cpu.max cannot be \"999 100000\": the quota must be from 1000 µs to 203 days",
        ),
        (
            Limits { cpu_max: Some(CpuMax::new(1_000, 999)), ..Default::default() },
            "cpu.max cannot be \"1000 999\": the period must be from 1000 to 1000000 µs",
        ),
        (
            Limits {
                cpu_max: Some(CpuMax::new(1_000, 1_000)),
                cpu_max_burst: Some(1_001),
                ..Default::default()
            },
            "cpu.max.burst cannot be \"1001\": it must be at most the quota of cpu.max",
        ),
        (
            Limits { cpu_weight: Some(1), cpu_idle: Some(true), ..Default::default() },
            "cpu.weight cannot be \"1\": an idle cgroup (cpu.idle) has no weight",
        ),
        (
            Limits { io_weight: Some(10_001), ..Default::default() },
            "io.weight cannot be \"10001\": a weight must be from 1 to 10000",
        ),
        (
            Limits {
                io_max: [(Device::new(8, 0), IoMax { rbps: Some(Max::Value(0)), ..Default::default() })]
                    .into(),
                ..Default::default()
            },
            "io.max cannot be \"8:0 rbps=0\": a rate must be above 0",
        ),
        (
            Limits { hugetlb_max: [("../x".into(), Max::Max)].into(), ..Default::default() },
            "hugetlb.SIZE.max cannot be \"../x\": a page size is a word such as 2MB",
        ),
        (
            Limits { io_bfq_weight: Some(1_001), ..Default::default() },
            "io.bfq.weight cannot be \"1001\": a bfq weight must be from 1 to 1000",
        ),
        (
            Limits { rdma_max: [("a b".into(), RdmaMax::default())].into(), ..Default::default() },
            "rdma.max cannot be \"a b\": the name of a device is a word such as mlx5_0",
        ),
        (
            Limits {
                rdma_max: [(
                    "mlx5_0".into(),
                    RdmaMax { hca_handle: Some(Max::Value(1 << 31)), hca_object: None },
                )]
                .into(),
                ..Default::default()
            },
            "rdma.max cannot be \"hca_handle=2147483648\": a count must be at most 2147483647",
        ),
    ];
    for (limits, sentence) in cases {
        let error = of(limits);
        assert_eq!(error.to_string(), sentence);
        assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidLimit, sentence.split(' ').next()));
    }
}

fn one_of_each(memory: u64, device: &str) -> Limits {
    let io = IoMax { rbps: Some(Max::Value(memory)), ..IoMax::default() };
    Limits {
        memory_max: Some(Max::Value(memory)),
        io_max: [(device.parse().unwrap(), io)].into(),
        io_weight: Some(memory),
        io_weight_device: [(device.parse().unwrap(), memory)].into(),
        hugetlb_max: [("2MB".into(), Max::Value(memory)), ("1GB".into(), Max::Max)].into(),
        hugetlb_rsvd_max: [("2MB".into(), Max::Max)].into(),
        unified: [(format!("a.{device}"), "1".into()), ("b.c".into(), "2".into())].into(),
        ..Limits::default()
    }
}

#[test]
fn merge_changes_the_named_limits_and_keeps_the_rest() {
    let mut limits = one_of_each(1, "8:0");
    limits.pids_max = Some(Max::Value(5));
    let wiops = IoMax { wiops: Some(Max::Max), ..IoMax::default() };
    let new = Limits { io_max: [(Device::new(8, 0), wiops)].into(), ..one_of_each(2, "8:16") };
    limits.merge(&new);
    assert_eq!((limits.pids_max, limits.memory_max), (Some(Max::Value(5)), Some(Max::Value(2))));
    let both = IoMax { rbps: Some(Max::Value(1)), ..wiops };
    assert_eq!(limits.io_max, [(Device::new(8, 0), both)].into());
    assert_eq!(limits.io_weight_device, [(Device::new(8, 0), 1), (Device::new(8, 16), 2)].into());
    assert_eq!(limits.unified.keys().collect::<Vec<_>>(), ["a.8:0", "a.8:16", "b.c"]);
}

#[test]
fn a_merged_limit_replaces_the_file_that_would_be_written_after_it() {
    let unified = [("memory.max".to_owned(), "1".to_owned()), ("io.max".to_owned(), "8:0 rbps=1".to_owned())];
    let mut limits = Limits { unified: unified.into(), ..Limits::default() };
    limits.merge(&one_of_each(4096, "8:16"));
    assert!(!limits.unified.contains_key("memory.max"));
    assert!(limits.unified.contains_key("io.max"), "the line of another device stays");
}

#[test]
fn a_removed_file_leaves_the_others_and_comes_back() {
    let mut limits = one_of_each(1, "8:0");
    let all = limits.clone();
    let removed = limits.remove("io.weight");
    let file = |(file, _): (String, String)| file;
    assert_eq!(removed.writes().into_iter().map(file).collect::<Vec<_>>(), ["io.weight", "io.weight"]);
    assert_eq!((limits.io_weight, limits.io_weight_device.len()), (None, 0));
    let huge = limits.remove("hugetlb.2MB.max");
    assert_eq!(huge.writes(), [("hugetlb.2MB.max".to_owned(), "1".to_owned())]);
    assert_eq!((limits.hugetlb_max.len(), limits.hugetlb_rsvd_max.len()), (1, 1));
    assert_eq!(limits.remove("b.c").unified.len(), 1);
    assert_eq!(limits.remove("x.y"), Limits::default());
    for part in [removed, huge, Limits { unified: all.unified.clone(), ..Limits::default() }] {
        limits.merge(&part);
    }
    assert_eq!(limits, all);
}

#[test]
fn unified_accepts_limits_and_refuses_files_that_act_on_processes_or_other_paths() {
    let of =
        |file: &str| Limits { unified: [(file.into(), "1".into())].into(), ..Default::default() }.validate();
    for good in ["memory.reclaim", "cgroup.max.depth", "hugetlb.2MB.rsvd.max", "cpuset.cpus.partition"] {
        of(good).unwrap();
    }
    for bad in ["cgroup.procs", "cgroup.kill", "cgroup.freeze", "../memory.max", "", "memory", ".x", "a b.c"]
    {
        assert_eq!(of(bad).unwrap_err().kind(), ErrorKind::InvalidLimit, "{bad}");
    }
}

#[test]
fn limits_per_device_are_lines_and_limits_per_page_size_are_files() {
    let rdma = RdmaMax { hca_handle: Some(Max::Value(2)), hca_object: Some(Max::Max) };
    let limits = Limits {
        io_weight: Some(100),
        io_bfq_weight: Some(50),
        io_bfq_weight_device: [(Device::new(8, 0), 60)].into(),
        hugetlb_max: [("2MB".into(), Max::Value(0))].into(),
        hugetlb_rsvd_max: [("2MB".into(), Max::Max)].into(),
        rdma_max: [("mlx5_0".into(), rdma), ("mlx5_1".into(), RdmaMax::default())].into(),
        ..Default::default()
    };
    let expected = [
        ("io.weight", "default 100"),
        ("io.bfq.weight", "default 50"),
        ("io.bfq.weight", "8:0 60"),
        ("hugetlb.2MB.max", "0"),
        ("hugetlb.2MB.rsvd.max", "max"),
        ("rdma.max", "mlx5_0 hca_handle=2 hca_object=max"),
    ];
    assert_eq!(limits.writes(), expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
    limits.validate().unwrap();
}

#[test]
fn the_burst_is_reset_before_the_quota_shrinks() {
    let limits = Limits {
        cpu_max: Some(CpuMax::new(2_000, 10_000)),
        cpu_max_burst: Some(1_000),
        ..Default::default()
    };
    let expected = [("cpu.max.burst", "0"), ("cpu.max", "2000 10000"), ("cpu.max.burst", "1000")];
    assert_eq!(limits.writes(), expected.map(|(file, value)| (file.to_owned(), value.to_owned())));
}

#[test]
fn real_files_are_read_and_future_keys_skipped() {
    let events =
        MemoryEvents::parse("low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\nsock_throttled 6\n")
            .unwrap();
    let values = [events.low, events.high, events.max, events.oom, events.oom_kill, events.oom_group_kill];
    assert_eq!(values, [0, 1, 2, 3, 4, 5].map(Some));
    assert_eq!(MemoryEvents::parse("low 0\noom_kill 1\n").unwrap().oom_group_kill, None);
    let io =
        IoStat::parse("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7\n254:1 \n").unwrap();
    let disk = &io[&Device::new(8, 0)];
    assert_eq!([disk.rbytes, disk.wbytes, disk.rios, disk.wios, disk.dbytes, disk.dios], [1, 2, 3, 4, 5, 6]);
    assert_eq!(io.len(), 2);
    let events = Events::parse("populated 1\nfrozen 0\n").unwrap();
    assert!(events.populated && !events.frozen);
    let io = IoMax::parse("8:16 rbps=2097152 wbps=max riops=max wiops=120\n").unwrap();
    let expected = IoMax {
        rbps: Some(Max::Value(2 << 20)),
        wbps: Some(Max::Max),
        riops: Some(Max::Max),
        wiops: Some(Max::Value(120)),
    };
    assert_eq!(io, BTreeMap::from([(Device::new(8, 16), expected)]));
    let mounts = parse::mountinfo("1 2 0:3 /a\\040b /m\\134n rw shared:1 - cgroup2 none rw\nnonsense\n");
    assert_eq!((mounts[0].root.as_str(), mounts[0].point.to_str()), ("/a b", Some("/m\\n")));
    assert_eq!(mounts.len(), 1);
    assert_eq!(Pressure::parse("some avg10=nan\n").unwrap_err().kind(), ErrorKind::InvalidText);
}

#[cfg(feature = "serde")]
#[test]
fn a_share_of_pressure_is_the_same_number_in_json() {
    let pressure = Pressure::parse("some avg10=0.72 avg60=99.99 avg300=0.10 total=42\n").unwrap();
    // A program that embeds the pressure in its own JSON converts it to a value first.
    let value = serde_json::to_value(&pressure).unwrap();
    let shares = ["avg10", "avg60", "avg300"].map(|share| value["some"][share].to_string());
    assert_eq!(shares, ["0.72", "99.99", "0.1"]);
}

#[cfg(feature = "serde")]
#[test]
fn limits_are_read_from_json_in_the_kernels_notation() {
    let json = r#"{"cpu.max": "max 100000", "memory.max": 4096, "memory.swap.max": "max", "cpuset.cpus": "0-1",
        "io.max": {"8:0": {"rbps": 1000}}, "memory.oom.group": true}"#;
    let limits: Limits = serde_json::from_str(json).unwrap();
    assert_eq!(limits.cpu_max, Some(CpuMax { quota: None, period: 100_000 }));
    assert_eq!((limits.memory_max, limits.memory_swap_max), (Some(Max::Value(4096)), Some(Max::Max)));
    assert_eq!(limits.io_max[&Device::new(8, 0)].rbps, Some(Max::Value(1000)));
    let error = serde_json::from_str::<Limits>(r#"{"memory.maximum": 1}"#).unwrap_err();
    assert!(error.to_string().contains("unknown field `memory.maximum`"), "{error}");
}

#[cfg(feature = "serde")]
#[test]
fn network_limits_are_one_value_among_the_limits() {
    let text = r#"{"net":{"allow":["*:53/udp"],"deny":["in [2001:db8::/32]:22/tcp"],"connects.max":10,"egress.max":1250000}}"#;
    let mut limits: Limits = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&limits).unwrap(), text);
    assert!(!limits.is_empty() && limits.writes().is_empty());
    limits.merge(&Limits::default());
    assert_eq!(limits.net.as_ref().unwrap().connects_max, Some(10));
    limits.merge(&Limits { net: Some(Default::default()), ..Limits::default() });
    assert_eq!(limits.net, Some(Default::default()));
    let error = serde_json::from_str::<Limits>(r#"{"net":{"allow":["10.0.0.0/40"]}}"#).unwrap_err();
    assert!(error.to_string().contains("at most 32"), "{error}");
}
