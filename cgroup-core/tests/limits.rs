//! The effect of limits, on a kernel whose v2 hierarchy has the controllers; skipped elsewhere.

mod common;

use std::io::Read;
use std::time::Duration;

use cgroup_core::{
    Cgroup, Controller, Controllers, CpuMax, Device, Hierarchy, IoMax, Limits, Max, MemoryEvents, Missing,
};
use common::Own;
use nspod_testkit::Guard;

const LONG: Option<Duration> = Some(Duration::from_secs(120));
const MIB: u64 = 1 << 20;
/// A command that uses 64 MiB of memory and prints the number of bytes.
const HOG: &str = "head -c 64M /dev/zero | tail -c 64M | wc -c";

/// Creates a child with limits in a cgroup that enables the controllers.
fn limited(own: &Own, name: &str, limits: &Limits) -> Cgroup {
    own.enable(limits.controllers()).unwrap();
    let child = own.create_child(name).unwrap();
    assert_eq!(child.apply(limits).unwrap().writes, limits.writes());
    child
}

/// Runs a shell that begins once it is in the cgroup. Returns its output.
fn run(cgroup: &Cgroup, script: &str) -> String {
    let mut helper = Guard::sh(&format!("read line; {script}"));
    cgroup.attach(helper.pid()).unwrap();
    drop(helper.0.stdin.take());
    let mut out = String::new();
    helper.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    out
}

fn memory(max: u64) -> Limits {
    let max = Some(Max::Value(max));
    Limits { memory_max: max, memory_swap_max: None, ..Limits::default() }
}

#[test]
fn memory_max_kills_the_hog_not_its_neighbour_and_the_counters_name_the_level() {
    let Some(own) = Own::with(Controllers::MEMORY) else { return };
    let (small, large) =
        (limited(&own, "small", &memory(16 * MIB)), limited(&own, "large", &memory(1024 * MIB)));
    let mut watch = small.watch().unwrap();
    assert_ne!(run(&small, HOG).trim(), (64 * MIB).to_string());
    assert_eq!(run(&large, HOG).trim(), (64 * MIB).to_string());
    watch.wait(LONG, |state| state.memory.oom_kill > Some(0)).unwrap().unwrap();
    let local = small.memory_events_local().unwrap();
    assert!(local.oom > Some(0) && local.oom_kill > Some(0), "{local:?}");
    assert_eq!(large.memory_events().unwrap().oom_kill, Some(0));
    assert!(own.memory_events().unwrap().oom_kill > Some(0), "the parent counts events of its children");
    assert_eq!(own.memory_events_local().unwrap().oom_kill, Some(0));
    let usage = small.usage().unwrap();
    assert!(usage.memory.current.is_some() && usage.memory.stat.anon.is_some(), "{usage:?}");
    if let Some(peak) = usage.memory.peak {
        assert!(peak <= 16 * MIB && peak > MIB, "{peak}");
    }
}

#[test]
fn memory_oom_group_kills_every_process_of_the_cgroup() {
    let Some(own) = Own::with(Controllers::MEMORY) else { return };
    let group = limited(&own, "g", &Limits { memory_oom_group: Some(true), ..memory(16 * MIB) });
    let bystander = Guard::sleep();
    group.attach(bystander.pid()).unwrap();
    run(&group, HOG);
    group.await_empty(LONG.unwrap()).unwrap();
    let MemoryEvents { oom_kill, oom_group_kill, .. } = group.memory_events().unwrap();
    assert!(oom_kill >= Some(2), "{oom_kill:?}");
    assert!(oom_group_kill.is_none_or(|count| count > 0));
}

#[test]
fn pids_max_refuses_the_fork_and_counts_it() {
    let Some(own) = Own::with(Controllers::PIDS) else { return };
    let few = limited(&own, "few", &Limits { pids_max: Some(Max::Value(3)), ..Limits::default() });
    // More processes than permitted. The shell exits when it cannot fork.
    run(&few, "for i in 1 2 3 4; do sleep 1000 >&- & done");
    let usage = few.usage().unwrap().pids;
    assert!(usage.events.max > Some(0), "{usage:?}");
    assert!(usage.current.is_some_and(|count| count <= 3), "{usage:?}");
    few.kill().unwrap();
}

#[test]
fn cpu_max_throttles_a_spinner() {
    let Some(own) = Own::with(Controllers::CPU) else { return };
    let tenth =
        limited(&own, "t", &Limits { cpu_max: Some(CpuMax::new(1_000, 10_000)), ..Limits::default() });
    let mut spinner = Guard::sh("read line; while :; do :; done");
    tenth.attach(spinner.pid()).unwrap();
    drop(spinner.0.stdin.take());
    // The kernel counts the time when the throttling ends.
    let mut rounds = 0;
    while tenth.cpu_stat().unwrap().throttled_usec == Some(0) {
        std::thread::sleep(Duration::from_millis(20));
        rounds += 1;
        assert!(rounds < 3_000, "{:?}", tenth.cpu_stat());
    }
    let stat = tenth.cpu_stat().unwrap();
    assert!(stat.nr_throttled > Some(0) && stat.nr_periods >= stat.nr_throttled, "{stat:?}");
}

#[test]
fn every_limit_reads_back_as_it_was_written_and_can_be_changed() {
    let wanted = Controllers::CPU | Controllers::CPUSET | Controllers::MEMORY | Controllers::PIDS;
    let Some(own) = Own::with(wanted) else { return };
    let mut limits = Limits {
        cpu_max: Some(CpuMax::new(50_000, 100_000)),
        cpu_max_burst: Some(10_000),
        cpu_weight: Some(50),
        cpu_idle: Some(false),
        cpuset_cpus: Some("0".parse().unwrap()),
        cpuset_mems: Some("0".parse().unwrap()),
        memory_min: Some(Max::Value(MIB)),
        memory_low: Some(Max::Value(2 * MIB)),
        memory_high: Some(Max::Value(32 * MIB)),
        memory_max: Some(Max::Value(64 * MIB)),
        memory_oom_group: Some(true),
        pids_max: Some(Max::Value(7)),
        ..Limits::default()
    };
    let cgroup = limited(&own, "all", &limits);
    let same = |limits: &Limits| {
        let last: std::collections::BTreeMap<_, _> = limits.writes().into_iter().collect();
        for (file, value) in last {
            assert_eq!(cgroup.read(&file).unwrap().trim_end(), value, "{file}");
        }
    };
    same(&limits);
    // The quota is below the burst in force, so the order of the writes matters.
    limits.cpu_max = Some(CpuMax::new(2_000, 10_000));
    limits.cpu_max_burst = Some(1_000);
    limits.memory_max = Some(Max::Max);
    cgroup.apply(&limits).unwrap();
    same(&limits);
    cgroup.apply(&Limits { cpu_idle: Some(true), ..Limits::default() }).unwrap();
    let error = cgroup.write("cpu.weight", "50").unwrap_err();
    assert!(error.to_string().contains("the cgroup is idle"), "{error}");
    cgroup.apply(&limits).unwrap();
    let nowhere = Limits { cpuset_cpus: Some("8000".parse().unwrap()), ..Limits::default() };
    let error = cgroup.apply(&nowhere).unwrap_err();
    assert!(error.to_string().contains("the list has a number that this machine does not have"), "{error}");
}

#[test]
fn io_max_of_a_disk_reads_back_and_is_refused_for_a_missing_disk() {
    let Some(own) = Own::with(Controllers::IO) else { return };
    let Some(disk) = disk() else { return nspod_testkit::skip("this machine has no disk in /sys/block") };
    let max = IoMax { rbps: Some(Max::Value(MIB)), wiops: Some(Max::Value(10)), ..IoMax::default() };
    let cgroup = limited(&own, "io", &Limits { io_max: [(disk, max)].into(), ..Limits::default() });
    let back = IoMax::parse(&cgroup.read("io.max").unwrap()).unwrap()[&disk];
    assert_eq!(back, IoMax { wbps: Some(Max::Max), riops: Some(Max::Max), ..max });
    let nothing = Limits { io_max: [(Device::new(4095, 7), max)].into(), ..Limits::default() };
    let error = cgroup.apply(&nothing).unwrap_err();
    assert!(error.to_string().contains("no such disk: name a whole disk"), "{error}");
    assert!(cgroup.usage().unwrap().io.is_some());
}

fn disk() -> Option<Device> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten().map(|entry| entry.path());
    let real = disks.filter(|path| path.join("device").exists());
    real.filter_map(|path| std::fs::read_to_string(path.join("dev")).ok()?.trim().parse().ok()).next()
}

#[test]
fn io_weight_is_written_to_the_file_that_the_kernel_has() {
    let Some(own) = Own::with(Controllers::IO) else { return };
    let Some(disk) = disk() else { return nspod_testkit::skip("this machine has no disk in /sys/block") };
    own.enable(Controllers::IO).unwrap();
    let cgroup = own.create_child("w").unwrap();
    let both = Limits { io_weight: Some(4_950), io_bfq_weight: Some(500), ..Limits::default() };
    let applied = cgroup.apply(&both).unwrap().writes;
    let has = |file: &str| cgroup.read_if_there(file).unwrap().is_some();
    let expected: Vec<_> = both.writes().into_iter().filter(|(file, _)| has(file)).collect();
    assert_eq!(applied, expected);
    assert!(!applied.is_empty());
    for (file, value) in &applied {
        assert!(cgroup.read(file).unwrap().starts_with(value), "{file}");
    }
    // By default the disk supports neither weight.
    let device = Limits {
        io_weight_device: [(disk, 4_950)].into(),
        io_bfq_weight_device: [(disk, 500)].into(),
        ..Limits::default()
    };
    match cgroup.apply(&device) {
        Ok(applied) => assert_eq!(applied.writes.len(), 1),
        Err(error) => assert!(error.to_string().contains("does not support this weight"), "{error}"),
    }
}

#[test]
fn huge_pages_are_limited_by_size_and_an_unknown_size_is_unenforceable() {
    let Some(own) = Own::with(Controllers::HUGETLB) else { return };
    let of =
        |size: &str| Limits { hugetlb_max: [(size.into(), Max::Value(4 * MIB))].into(), ..Limits::default() };
    let cgroup = limited(&own, "h", &of("2MB"));
    assert_eq!(cgroup.read("hugetlb.2MB.max").unwrap(), format!("{}\n", 4 * MIB));
    let reserved =
        Limits { hugetlb_rsvd_max: [("2MB".into(), Max::Value(2 * MIB))].into(), ..Limits::default() };
    cgroup.apply(&reserved).unwrap();
    assert_eq!(cgroup.read("hugetlb.2MB.rsvd.max").unwrap(), format!("{}\n", 2 * MIB));
    let error = cgroup.apply(&of("3MB")).unwrap_err();
    let [(limit, Missing::NoFile { file, .. })] = error.unenforceable() else { panic!("{error}") };
    assert_eq!((limit.as_str(), file.as_str()), ("hugetlb.3MB.max", "hugetlb.3MB.max"));
    assert!(error.to_string().contains("a page size of this machine, such as 2MB"), "{error}");
}

#[test]
fn a_controller_that_a_parent_does_not_enable_is_missing_from_there() {
    let host = Hierarchy::detect().unwrap();
    let Some(controller) = Controller::ALL.into_iter().find(|&c| {
        host.controllers().contains(c.into()) && matches!(c, Controller::Pids | Controller::Hugetlb)
    }) else {
        return nspod_testkit::skip("v2 has neither pids nor hugetlb here");
    };
    let own = Own::new();
    own.enable_path(controller.into()).unwrap();
    let stop = own.create_child("a").unwrap();
    let deep = stop.create_child("b").unwrap();
    let limits = match controller {
        Controller::Pids => Limits { pids_max: Some(Max::Max), ..Limits::default() },
        _ => Limits { hugetlb_max: [("2MB".into(), Max::Max)].into(), ..Limits::default() },
    };
    assert_eq!(host.unenforceable(&limits), []);
    let missing = deep.unenforceable(&limits).unwrap();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].1, Missing::NotDelegated { controller, at: stop.path().to_owned() });
    deep.enable_path(controller.into()).unwrap();
    assert_eq!(deep.unenforceable(&limits).unwrap(), []);
    deep.apply(&limits).unwrap();
}
