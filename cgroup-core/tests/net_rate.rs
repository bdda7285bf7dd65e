//! The bytes per second of a cgroup on the real kernel, for TCP over the loopback interface and a pair
//! of virtual Ethernet devices. The agent is a process in the cgroup.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cgroup_core::Cgroup;
use cgroup_core::net::{Limits, bytes_per_second};
use common::{Agent, Own};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    setsockopt,
    sockopt::{TcpCongestion, UdpGsoSegment},
};

/// The time until the connections have used up the bytes that pass at once.
const START: Duration = Duration::from_millis(1500);
const WINDOW: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Side {
    Egress,
    Ingress,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Path {
    Loopback,
    Veth,
}

fn ip(command: &str) {
    assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "ip {command}");
}

/// Moves this thread to a network namespace of its own. Returns a listener of a peer.
fn network(path: Path) -> TcpListener {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    if path == Path::Loopback {
        return TcpListener::bind("127.0.0.1:0").unwrap();
    }
    let own = nix::unistd::gettid();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip(&format!("link add peer type veth peer name own netns {own}"));
        ip("addr add 10.9.0.1/24 dev peer");
        ip("link set peer up");
        TcpListener::bind("10.9.0.1:0").unwrap()
    })
    .join()
    .inspect(|_| {
        ip("addr add 10.9.0.2/24 dev own");
        ip("link set own up");
    })
    .unwrap()
}

/// Sends without end. Ends with the connection.
fn send(mut stream: TcpStream) {
    let data = [0; 1 << 16];
    while stream.write_all(&data).is_ok() {}
}

/// Counts what arrives.
fn receive(mut stream: TcpStream, total: &AtomicU64) {
    let mut data = vec![0; 1 << 18];
    while let Ok(count @ 1..) = stream.read(&mut data) {
        total.fetch_add(count as u64, Ordering::Relaxed);
    }
}

fn transfer(stream: TcpStream, sends: bool, total: &Arc<AtomicU64>) {
    // Most hosts have this algorithm by default.
    let algorithm = std::env::var_os("NSPOD_TCP_CONGESTION").unwrap_or("cubic".into());
    setsockopt(&stream, TcpCongestion, &algorithm).unwrap();
    let total = Arc::clone(total);
    std::thread::spawn(move || if sends { send(stream) } else { receive(stream, &total) });
}

impl Agent {
    /// Starts an agent that sends or receives over connections to the address.
    fn new(cgroup: &Cgroup, side: Side, to: SocketAddr) -> Self {
        Self::start(cgroup, &[("AGENT_SIDE", &format!("{side:?}")), ("AGENT_TO", &to.to_string())])
    }

    /// Adds connections. Returns the bytes that it has received.
    fn connect(&mut self, connections: usize) -> u64 {
        self.number(&connections.to_string())
    }

    /// Sends a request, and returns the answer as a number.
    fn number(&mut self, request: &str) -> u64 {
        self.ask(request).parse().unwrap()
    }
}

#[test]
#[ignore = "the agent of the other tests"]
fn agent() {
    let total = Arc::new(AtomicU64::new(0));
    let sends = std::env::var("AGENT_SIDE").unwrap() == "Egress";
    let to = std::env::var("AGENT_TO").unwrap();
    for line in std::io::stdin().lines() {
        let answer = match line.unwrap().as_str() {
            "datagrams" => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                (0..50).filter(|_| socket.send_to(&[0; 1000], &to).is_ok()).count() as u64
            }
            "segments" => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                setsockopt(&socket, UdpGsoSegment, &100).unwrap();
                u64::from(socket.send_to(&[0; 2000], &to).is_ok())
            }
            "limit" => (1..64).filter(|kinds| limit_kinds(*kinds)).count() as u64,
            connections => {
                for _ in 0..connections.parse().unwrap() {
                    transfer(TcpStream::connect(&to).unwrap(), sends, &total);
                }
                total.load(Ordering::Relaxed)
            }
        };
        println!("\nanswer: {answer}");
    }
}

/// Sets limits whose programs this process has not loaded before.
fn limit_kinds(kinds: u32) -> bool {
    let rate = |bit: u32| (kinds & 1 << bit != 0).then_some(1000);
    let limits = Limits {
        connects_max: rate(0),
        packets_max: rate(1),
        egress_max: rate(2).map(u64::from),
        ingress_max: rate(3).map(u64::from),
        accepts_max: rate(4),
        deny: rate(5).map(|_| "*:80".parse().unwrap()).into_iter().collect(),
        ..Limits::default()
    };
    Own::new().limit_net(&limits).inspect_err(|e| eprintln!("{e}")).is_ok()
}

fn limits(side: Side, bytes: Option<u64>) -> Limits {
    match side {
        Side::Egress => Limits { egress_max: bytes, ..Limits::default() },
        Side::Ingress => Limits { ingress_max: bytes, ..Limits::default() },
    }
}

/// Connections of an agent in a cgroup.
struct Flows {
    agent: Agent,
    received: Arc<AtomicU64>,
    side: Side,
}

impl Flows {
    fn new(cgroup: &Cgroup, listener: &TcpListener, side: Side, count: usize) -> Self {
        let mut agent = Agent::new(cgroup, side, listener.local_addr().unwrap());
        let received = Arc::new(AtomicU64::new(0));
        for _ in 0..count {
            agent.connect(1);
            let (stream, _) = listener.accept().unwrap();
            transfer(stream, side == Side::Ingress, &received);
        }
        Self { agent, received, side }
    }

    /// Returns the bytes that were received.
    fn total(&mut self) -> u64 {
        match self.side {
            Side::Egress => self.received.load(Ordering::Relaxed),
            Side::Ingress => self.agent.connect(0),
        }
    }

    /// Returns the bytes per second of a window.
    fn rate(&mut self) -> f64 {
        let (began, before) = (Instant::now(), self.total());
        std::thread::sleep(WINDOW);
        (self.total() - before) as f64 / began.elapsed().as_secs_f64()
    }
}

fn assert_near(limit: u64, rate: f64, of: &str) {
    let share = rate / limit as f64;
    println!("{of}: {share:.3}");
    let near = if nspod_testkit::is_slow() { 0.6..=1.15 } else { 0.85..=1.05 };
    assert!(near.contains(&share), "{of}: {share}");
}

fn settles(side: Side, path: Path, megabits: u64, count: usize) {
    let listener = network(path);
    let own = Own::new();
    let limit = bytes_per_second(&format!("{megabits}mbit")).unwrap();
    own.limit_net(&limits(side, Some(limit))).unwrap();
    let mut flows = Flows::new(&own, &listener, side, count);
    std::thread::sleep(START);
    let rate = flows.rate();
    assert_near(limit, rate, &format!("{side:?} {path:?}, {megabits} mbit, {count} connections"));
    let usage = own.net_usage().unwrap().unwrap();
    let traffic = if side == Side::Egress { usage.egress } else { usage.ingress };
    assert!(traffic.dropped > 0 && traffic.bytes as f64 > rate * WINDOW.as_secs_f64(), "{traffic:?}");
}

#[test]
fn tcp_settles_near_the_limit() {
    // With NSPOD_ALL_RATES each case runs alone, for two minutes in all.
    let (megabits, counts, together): (&[u64], &[usize], usize) = match () {
        () if std::env::var_os("NSPOD_ALL_RATES").is_some() => (&[10, 100, 1000], &[1, 8, 64], 1),
        () if nspod_testkit::is_slow() => (&[10], &[8], 1),
        () => (&[10, 50], &[1, 8, 64], 6),
    };
    for path in [Path::Loopback, Path::Veth] {
        for side in [Side::Egress, Side::Ingress] {
            let cases = megabits.iter().flat_map(|rate| counts.iter().map(|count| (*rate, *count)));
            for cases in cases.collect::<Vec<_>>().chunks(together) {
                std::thread::scope(|scope| {
                    for (megabits, count) in cases.iter().copied() {
                        scope.spawn(move || settles(side, path, megabits, count));
                    }
                });
            }
        }
    }
}

#[test]
fn a_new_limit_applies_to_connections_that_exist() {
    for side in [Side::Egress, Side::Ingress] {
        let listener = network(Path::Veth);
        let own = Own::new();
        let mut flows = Flows::new(&own, &listener, side, 2);
        let limit = 2_000_000;
        own.limit_net(&limits(side, Some(limit))).unwrap();
        std::thread::sleep(START);
        assert_near(limit, flows.rate(), &format!("{side:?} after an update"));
        own.limit_net(&limits(side, None)).unwrap();
        // The connections may wait for a timer first.
        let (before, began) = (flows.total(), Instant::now());
        while flows.total() - before < 5 * WINDOW.as_secs() * limit {
            assert!(began.elapsed() < WINDOW, "{side:?} without a limit");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_connection_is_made_beside_others_that_use_all_of_the_rate() {
    for side in [Side::Egress, Side::Ingress] {
        let listener = network(Path::Loopback);
        let own = Own::new();
        own.limit_net(&limits(side, Some(1_000_000))).unwrap();
        let mut flows = Flows::new(&own, &listener, side, 4);
        std::thread::sleep(START);
        for _ in 0..20 {
            let began = Instant::now();
            flows.agent.connect(1);
            let _kept = listener.accept().unwrap();
            // The kernel sends a dropped SYN again after a second.
            assert!(began.elapsed() < Duration::from_millis(900), "{side:?}: {:?}", began.elapsed());
        }
    }
}

#[test]
fn a_packet_with_more_segments_than_a_second_of_the_packet_rate_passes() {
    let _listener = network(Path::Loopback);
    let own = Own::new();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut agent = Agent::new(&own, Side::Egress, peer.local_addr().unwrap());
    own.limit_net(&Limits { packets_max: Some(10), ..Limits::default() }).unwrap();
    assert_eq!([(); 2].map(|()| agent.number("segments")), [1, 0]);
    // The 20 segments have used up two seconds.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!([(); 2].map(|()| agent.number("segments")), [1, 0]);
}

#[test]
fn a_datagram_above_the_rate_is_dropped_as_by_a_full_queue() {
    let _listener = network(Path::Loopback);
    let own = Own::new();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut agent = Agent::new(&own, Side::Egress, peer.local_addr().unwrap());
    own.limit_net(&Limits { egress_max: Some(1000), ..Limits::default() }).unwrap();
    assert_eq!(agent.number("datagrams"), 50);
    let egress = own.net_usage().unwrap().unwrap().egress;
    assert_eq!((egress.packets, egress.bytes, egress.dropped), (1, 1028, 49));
    own.limit_net(&Limits { egress_max: Some(0), ..Limits::default() }).unwrap();
    assert_eq!(agent.number("datagrams"), 50);
    assert_eq!(own.net_usage().unwrap().unwrap().egress.dropped, 99);
}

#[test]
fn the_bytes_of_a_burst_pass_at_once() {
    let _listener = network(Path::Loopback);
    let own = Own::new();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut agent = Agent::new(&own, Side::Egress, peer.local_addr().unwrap());
    let limit = |burst| {
        let limits = Limits { egress_max: Some(104), egress_burst: burst, ..Limits::default() };
        own.limit_net(&limits).unwrap();
    };
    let passed = |agent: &mut Agent| {
        let before = own.net_usage().unwrap().unwrap().egress.packets;
        assert_eq!(agent.number("datagrams"), 50);
        own.net_usage().unwrap().unwrap().egress.packets - before
    };
    // Each datagram has 1028 bytes. The last one may be longer than the rest of the burst.
    limit(Some(10_000));
    assert_eq!(passed(&mut agent), 10);
    // What has passed counts for the next burst, which lets pass 20 more.
    limit(Some(30_000));
    assert_eq!(passed(&mut agent), 20);
    // A shorter burst does not wait for all that the longer one has let pass, but it is used up.
    limit(None);
    assert_eq!(passed(&mut agent), 1);
}

#[test]
fn a_burst_without_a_rate_and_one_that_is_too_small_or_great_are_refused() {
    let own = Own::new();
    for (rate, burst, problem) in [
        (None, 1, "requires a rate"),
        (Some(1000), 0, "at least 1 byte"),
        (Some(1000), 3_600_001, "in an hour"),
        (Some(0), 1, "in an hour"),
    ] {
        for side in [Side::Egress, Side::Ingress] {
            let (egress_burst, ingress_burst) = match side {
                Side::Egress => (Some(burst), None),
                Side::Ingress => (None, Some(burst)),
            };
            let error =
                own.limit_net(&Limits { egress_burst, ingress_burst, ..limits(side, rate) }).unwrap_err();
            assert!(error.field().is_some_and(|field| field.ends_with(".burst")), "{error}");
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
    own.limit_net(&Limits { egress_burst: Some(3_600_000), ..limits(Side::Egress, Some(1000)) }).unwrap();
}

#[test]
fn a_rate_that_is_too_great_is_refused() {
    let own = Own::new();
    let limit = |bytes| own.limit_net(&limits(Side::Egress, Some(bytes)));
    let error = limit(34_359_738_361).unwrap_err();
    assert_eq!(error.field(), Some("net.egress.max"));
    assert!(error.to_string().contains("at most 34359738360"), "{error}");
    limit(34_359_738_360).unwrap();
}

#[test]
fn signals_do_not_interrupt_the_first_limits() {
    let _listener = network(Path::Loopback);
    let own = Own::new();
    let mut agent = Agent::new(&own, Side::Egress, "127.0.0.1:1".parse().unwrap());
    let pid = nix::unistd::Pid::from_raw(agent.helper.pid());
    assert_eq!(agent.connect(0), 0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The long pauses let a slow machine load a program.
            for pause in (0..8).cycle().take_while(|_| !done.load(Ordering::Relaxed)) {
                kill(pid, Signal::SIGSTOP).unwrap();
                kill(pid, Signal::SIGCONT).unwrap();
                std::thread::sleep(Duration::from_micros(100 << pause));
            }
        });
        let limited = agent.number("limit");
        done.store(true, Ordering::Relaxed);
        assert_eq!(limited, 63);
    });
}

#[test]
fn what_a_child_drops_does_not_use_up_the_rate_of_the_parent() {
    let _listener = network(Path::Loopback);
    let parent = Own::new();
    let [hog, victim] = ["hog", "victim"].map(|name| parent.create_child(name).unwrap());
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let limit = |bytes| limits(Side::Egress, Some(bytes));
    parent.limit_net(&limit(400_000)).unwrap();
    hog.limit_net(&limit(1000)).unwrap();
    victim.limit_net(&limit(400_000)).unwrap();
    let [mut of_hog, mut of_victim] =
        [&hog, &victim].map(|cgroup| Agent::new(cgroup, Side::Egress, peer.local_addr().unwrap()));
    // 2 MB, in less time than the parent lets pass.
    for _ in 0..40 {
        of_hog.number("datagrams");
    }
    of_victim.number("datagrams");
    let egress = |cgroup: &Cgroup| cgroup.net_usage().unwrap().unwrap().egress;
    assert!(egress(&hog).dropped > 1900, "{:?}", egress(&hog));
    assert_eq!((egress(&victim).packets, egress(&victim).dropped), (50, 0));
    assert_eq!((egress(&parent).packets, egress(&parent).dropped), (50 + egress(&hog).packets, 0));
}

#[test]
fn packets_of_a_sender_with_ecn_are_marked() {
    for (side, ecn) in [Side::Egress, Side::Ingress].into_iter().flat_map(|side| [(side, "0"), (side, "1")]) {
        let listener = network(Path::Veth);
        // The agent asks for ECN, in both directions.
        std::fs::write("/proc/sys/net/ipv4/tcp_ecn", ecn).unwrap();
        let own = Own::new();
        own.limit_net(&limits(side, Some(2_000_000))).unwrap();
        let mut flows = Flows::new(&own, &listener, side, 2);
        std::thread::sleep(START);
        if ecn == "1" {
            assert_near(2_000_000, flows.rate(), &format!("{side:?} with ECN"));
        }
        let usage = own.net_usage().unwrap().unwrap();
        let traffic = if side == Side::Egress { usage.egress } else { usage.ingress };
        assert_eq!(traffic.marked > 0, ecn == "1", "{side:?} {traffic:?}");
    }
}
