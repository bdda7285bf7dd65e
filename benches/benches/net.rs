//! The cost of network limits, as Markdown for `benches/net.md`: the first limits in a process, those of a further
//! cgroup, an update, and the processor time of loopback TCP. Requires root and a machine without other work.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nspod_sandbox::cgroup_core::net::Limits;
use nspod_sandbox::cgroup_core::{self, Cgroup, Hierarchy};

/// The number of processes, cgroups and updates of which each row is the least and the median.
const STARTS: usize = 200;
/// The number of pairs of transfers of which each row is the median, and the bytes of a transfer.
const PAIRS: usize = 60;
const BYTES: usize = 64 << 20;
/// The kernel stops the programs of a removed cgroup a while after its removal. Only then is the hook unused.
const UNTIL_UNUSED: Duration = Duration::from_millis(60);
/// Names the limits that a process of this program sets and measures.
const FIRST: &str = "NSPOD_BENCH_FIRST";
/// Names the limits of the first container that a process of this program starts and measures.
const START: &str = "NSPOD_BENCH_START";

fn limits() -> [(&'static str, Limits); 6] {
    let none = Limits::default;
    [
        ("packets", Limits { packets_max: Some(u32::MAX), ..none() }),
        ("egress", Limits { egress_max: Some(34_359_738_360), ..none() }),
        ("ingress", Limits { ingress_max: Some(34_359_738_360), ..none() }),
        ("connects", Limits { connects_max: Some(u32::MAX), ..none() }),
        ("sockets", Limits { sockets_max: Some(1000), ..none() }),
        ("rules", Limits { deny: vec!["10.0.0.0/8:80/tcp".parse().expect("a rule")], ..none() }),
    ]
}

fn root() -> Cgroup {
    Hierarchy::detect().and_then(|host| host.root()).expect("cgroup v2")
}

fn create(name: &str) -> Cgroup {
    root().create_child(format!("nspod-bench-{name}-{}", std::process::id())).expect("root")
}

/// Sets the limits in a new cgroup. Returns the time that this took.
fn set(limits: &Limits) -> Duration {
    let cgroup = create("first");
    let began = Instant::now();
    cgroup.limit_net(limits).expect("limits");
    let taken = began.elapsed();
    cgroup.remove().expect("remove");
    taken
}

/// Starts a container with the limits. Returns the time until it has executed its program.
fn start(limits: &Limits) -> Duration {
    let mut command = nspod_sandbox::Command::new("true");
    command.limits(cgroup_core::Limits { net: Some(limits.clone()), ..Default::default() });
    let began = Instant::now();
    let mut container = command.spawn().expect("a container");
    let taken = began.elapsed();
    container.wait().expect("an end");
    container.delete().expect("nothing is left");
    taken
}

/// Sets the first limits of a new process of this program, or starts its first container. Returns the time that
/// this took.
fn in_process(what: &str, name: &str) -> Duration {
    let program = std::env::current_exe().expect("the path of this program");
    let output = Command::new(program).env(what, name).output().expect("a process");
    let text = String::from_utf8(output.stdout).expect("a number");
    Duration::from_nanos(text.trim().parse().expect("a number"))
}

fn least_and_median(count: usize, mut measure: impl FnMut() -> Duration) -> String {
    let mut all: Vec<f64> = (0..count).map(|_| measure().as_secs_f64() * 1e6).collect();
    all.sort_by(f64::total_cmp);
    format!("{:.0} / {:.0}", all[0], all[count / 2])
}

fn starts() {
    println!("| limit | process, hooks unused | process, hooks in use | further cgroup | update |");
    println!("|---|---:|---:|---:|---:|");
    for (name, limits) in limits() {
        let unused = least_and_median(STARTS / 4, || {
            std::thread::sleep(UNTIL_UNUSED);
            in_process(FIRST, name)
        });
        let other = create("other");
        other.limit_net(&limits).expect("limits");
        let in_use = least_and_median(STARTS, || in_process(FIRST, name));
        let further = least_and_median(STARTS, || set(&limits));
        let update = least_and_median(STARTS / 4, || {
            let began = Instant::now();
            other.limit_net(&limits).expect("limits");
            began.elapsed()
        });
        other.remove().expect("remove");
        println!("| {name} | {unused} | {in_use} | {further} | {update} |");
    }
}

/// Measures first starts of a process, with limits and without in turns. A difference is that of the least times, and
/// the median of the differences in the pairs.
fn first_starts() {
    println!("\n| limit | start, hooks in use | without limits | difference |");
    println!("|---|---:|---:|---:|");
    let start = |limits: &str| in_process(START, limits).as_secs_f64() * 1e6;
    let least_and_median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[0], times[times.len() / 2])
    };
    let text = |(least, median): (f64, f64)| format!("{least:.0} / {median:.0}");
    for (name, limits) in limits() {
        let other = create("other");
        other.limit_net(&limits).expect("limits");
        let (mut with, mut without, mut differences) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..STARTS {
            let pair = [start(name), start("nothing")];
            with.push(pair[0]);
            without.push(pair[1]);
            differences.push(pair[0] - pair[1]);
        }
        other.remove().expect("remove");
        let [with, without, differences] = [with, without, differences].map(least_and_median);
        let difference = (with.0 - without.0, differences.1);
        println!("| {name} | {} | {} | {} |", text(with), text(without), text(difference));
    }
}

/// Measures transfers without and with limits in turns. Both ends of the connection are in the cgroup, so each
/// packet is checked twice.
fn loopback() {
    println!("\n| limit | bytes per processor time, of those without limits | quartiles |");
    println!("|---|---:|---:|");
    let without = create("without");
    let none = [("nothing", Limits::default())];
    for (name, limits) in none.into_iter().chain(limits()) {
        let with = create(name);
        with.limit_net(&limits).expect("limits");
        let time = |cgroup: &Cgroup| {
            cgroup.attach(std::process::id() as i32).expect("attach");
            let before = processor_time();
            transfer().expect("transfer");
            processor_time() - before
        };
        let pair = |index: usize| {
            let first = if index.is_multiple_of(2) { Some(time(&without)) } else { None };
            let limited = time(&with);
            first.unwrap_or_else(|| time(&without)) / limited
        };
        let mut ratios: Vec<f64> = (0..PAIRS).map(pair).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |quarters: usize| ratios[PAIRS * quarters / 4];
        println!("| {name} | {:.3} | {:.3} to {:.3} |", at(2), at(1), at(3));
        root().attach(std::process::id() as i32).expect("attach");
        with.remove().expect("remove");
    }
    without.remove().expect("remove");
}

/// Returns the seconds of this process on a processor.
fn processor_time() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn transfer() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut to = TcpStream::connect(listener.local_addr()?)?;
    let (mut from, _) = listener.accept()?;
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        while from.read(&mut buffer)? > 0 {}
        Ok(())
    });
    let buffer = vec![0; 256 << 10];
    for _ in 0..BYTES / buffer.len() {
        to.write_all(&buffer)?;
    }
    drop(to);
    reader.join().expect("the reader")
}

fn main() {
    for (what, measure) in [(FIRST, set as fn(&Limits) -> Duration), (START, start)] {
        if let Ok(wanted) = std::env::var(what) {
            let limits = limits().into_iter().find(|(name, _)| *name == wanted);
            println!("{}", measure(&limits.map_or_else(Limits::default, |(_, limits)| limits)).as_nanos());
            return;
        }
    }
    // `cargo test --benches` only checks that the program starts.
    if std::env::args().any(|argument| argument == "--bench") {
        starts();
        first_starts();
        loopback();
    }
}
