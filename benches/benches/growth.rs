//! How the cost of a start grows with its surroundings: the parent's memory and threads, living containers, mounts.
//! With `--quick`, only the ends of each curve, or values near them.

use std::sync::mpsc;
use std::time::Duration;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nspod_benches::work::{self, Ground};
use nspod_benches::{Ballast, available_mib, is_quick};
use nspod_sandbox::Command;
use nspod_sandbox::ns_core::{Extent, IdMap, Kinds};
use nspod_sandbox::spec::IdMaps;

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(20);
    group
}

/// Measures the library and the floor at one point of a curve.
fn both(group: &mut BenchmarkGroup<'_, WallTime>, ground: &Ground, at: impl Copy + std::fmt::Display) {
    let mut library = ground.container();
    group.bench_function(BenchmarkId::new("library", at), |b| {
        b.iter(|| work::run(&mut library).expect("start"));
    });
    let (floor, cgroup) = (ground.floor().expect("floor"), ground.cgroup_path("floor").expect("a path"));
    group.bench_function(BenchmarkId::new("floor-c", at), |b| b.iter(|| floor.run(&cgroup).expect("floor")));
}

/// The child borrows the parent's memory. The floor's `fork` copies the page tables of the parent, and so does a
/// start whose child must run beside its parent.
fn parent_size(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "parent-size");
    let sizes: &[usize] = if is_quick() { &[10, 256] } else { &[10, 64, 256, 1024, 4096, 8192] };
    let most = available_mib() / 2;
    for mib in sizes {
        if *mib as u64 > most.max(10) {
            eprintln!("SKIPPED parent-size/{mib}: only {most} MiB are available");
            continue;
        }
        let ballast = Ballast::new(*mib).expect("memory");
        both(&mut group, ground, mib);
        let mut five = Command::bare(ground.program());
        five.isolate(Kinds::FIVE).init(false);
        let mut start = |name: &str, command: &mut Command| {
            group.bench_function(BenchmarkId::new(name, mib), |b| {
                b.iter(|| work::run(command).expect("start"));
            });
        };
        start("five", &mut five);
        // Linux 6.2 or later: before, the memory is copied.
        start("five-and-time", five.isolate(Kinds::FIVE | Kinds::TIME));
        five.spec_mut().time_offsets = Some("monotonic 7 0".parse().expect("offsets"));
        start("five-and-time-offsets", &mut five);
        five.spec_mut().time_offsets = None;
        let map = || IdMap::from(vec![Extent { inside: 0, outside: 0x6fff_0000, count: 65_536 }]);
        five.spec_mut().id_maps = IdMaps::Maps { uid: map(), gid: map() };
        start("five-and-user-range", five.isolate(Kinds::FIVE | Kinds::USER));
        five.spec_mut().id_maps = IdMaps::Own { uid: map(), gid: map() };
        start("five-and-user-own", &mut five);
        drop(ballast);
    }
    group.finish();
}

fn threads(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "threads");
    let counts: &[usize] = if is_quick() { &[1, 64] } else { &[1, 16, 64, 256, 1024] };
    for count in counts {
        std::thread::scope(|scope| {
            let mut ends = Vec::new();
            for _ in 1..*count {
                let (end, ended) = mpsc::channel::<()>();
                ends.push(end);
                scope.spawn(move || ended.recv());
            }
            both(&mut group, ground, count);
        });
    }
    group.finish();
}

fn alive(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "alive");
    let counts: &[usize] = if is_quick() { &[10, 200] } else { &[10, 100, 1000, 5000] };
    let mut containers = Vec::new();
    for count in counts {
        while containers.len() < *count {
            containers.push(ground.sleeper().expect("start"));
        }
        both(&mut group, ground, count);
    }
    containers.into_iter().for_each(|container| container.delete().expect("delete"));
    group.finish();
}

fn mounts(criterion: &mut Criterion, ground: &Ground) {
    let mut group = group(criterion, "mounts");
    let counts: &[usize] = if is_quick() { &[0, 16] } else { &[0, 4, 16, 64] };
    let cgroup = ground.cgroup_path("floor").expect("a path");
    for count in counts {
        let mut library = ground.container_with_mounts(*count);
        group.bench_function(BenchmarkId::new("library", count), |b| {
            b.iter(|| work::run(&mut library).expect("start"));
        });
        let floor = ground.floor_with_mounts(*count).expect("floor");
        group.bench_function(BenchmarkId::new("floor-c", count), |b| {
            b.iter(|| floor.run(&cgroup).expect("floor"));
        });
    }
    group.finish();
}

fn all(criterion: &mut Criterion) {
    let Some(ground) = nspod_benches::ground(env!("CARGO_BIN_EXE_nothing")) else { return };
    // A living container uses descriptors.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit of descriptors");
    }
    parent_size(criterion, &ground);
    threads(criterion, &ground);
    mounts(criterion, &ground);
    alive(criterion, &ground);
}

criterion_group!(growth, all);
criterion_main!(growth);
