//! How the time of a census grows with the number of processes. The time for each process should stay constant.
//!
//! The census includes the processes of the machine itself, so the machine should have few.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nspod_benches::Program;
use nspod_census::Options;

/// Sleeping processes, which end when this is dropped.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn up_to(&mut self, count: usize, program: &Program) {
        while self.0.len() < count {
            let mut command = Command::new(program);
            command.arg("sleep").stdin(Stdio::null()).stdout(Stdio::null());
            self.0.push(command.spawn().expect("start"));
        }
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn growth(criterion: &mut Criterion) {
    let program = Program::copy(env!("CARGO_BIN_EXE_nothing"));
    let mut sleepers = Sleepers(Vec::new());
    let mut group = criterion.benchmark_group("census");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2)).sample_size(10);
    for count in [100, 1_000, 4_000] {
        sleepers.up_to(count, &program);
        group.throughput(Throughput::Elements(count as u64));
        for (name, options) in [("default", Options::default()), ("all", Options::ALL)] {
            group.bench_function(format!("{name}/{count}"), |b| b.iter(|| options.take().expect("census")));
        }
    }
    group.finish();
    drop(sleepers);
    program.remove();
}

criterion_group!(census, growth);
criterion_main!(census);
