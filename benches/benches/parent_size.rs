//! A start does not take longer from a program that holds more memory: the child borrows it.
//! `fork` copies the page tables, and so does a start whose child must go on beside its parent.

use std::sync::LazyLock;

use nspod_benches::Program;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nspod_sandbox::Command;
use nspod_sandbox::ns_core::Kinds;

static NOTHING: LazyLock<Program> = LazyLock::new(|| Program::copy(env!("CARGO_BIN_EXE_nothing")));
const MIB: usize = 1 << 20;

fn all(criterion: &mut Criterion) {
    if !nspod_benches::is_root() {
        return;
    }
    let mut group = criterion.benchmark_group("parent-size");
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(20);
    for mib in [10, 256, 1024] {
        // Touched, a byte of each page.
        let mut ballast = vec![0u8; mib * MIB];
        ballast.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        group.bench_function(BenchmarkId::new("five-shared", mib), |b| {
            b.iter(|| Command::bare(&*NOTHING).isolate(Kinds::FIVE).status().expect("start"));
        });
        group.bench_function(BenchmarkId::new("container-shared", mib), |b| {
            b.iter(|| Command::new(&*NOTHING).status().expect("start"));
        });
        // A new time namespace is refused to a child that shares memory.
        group.bench_function(BenchmarkId::new("five-and-time-copied", mib), |b| {
            b.iter(|| Command::bare(&*NOTHING).isolate(Kinds::FIVE | Kinds::TIME).status().expect("start"));
        });
        std::hint::black_box(&ballast);
    }
    group.finish();
    NOTHING.remove();
}

criterion_group!(parent_size, all);
criterion_main!(parent_size);
