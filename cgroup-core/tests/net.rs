//! The network limits on the real kernel. Each test has a network namespace of its own with the
//! loopback interface. The agent, a process in the cgroup, connects to peers outside of the cgroup.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use cgroup_core::Cgroup;
use cgroup_core::net::{Limits, Rule, Usage};
use common::{Agent, Own};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

/// Longer than a packet on the loopback interface needs, and shorter than the kernel's first retry.
const SHORT: Duration = Duration::from_millis(700);

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn allow(texts: &[&str]) -> Limits {
    Limits { allow: rules(texts), ..Limits::default() }
}

fn deny(texts: &[&str]) -> Limits {
    Limits { deny: rules(texts), ..Limits::default() }
}

/// Moves this thread and its later children to a network namespace of their own.
fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
}

impl Agent {
    /// Starts an agent that uses sockets.
    fn new(cgroup: &Cgroup) -> Self {
        let mut agent = Self::start(cgroup, &[]);
        assert_eq!(agent.ask("hello"), "ok");
        agent
    }

    fn connect(&mut self, to: impl std::fmt::Display) -> String {
        self.ask(&format!("connect {to}"))
    }
}

#[test]
#[ignore = "the agent of the other tests"]
fn agent() {
    let mut kept = Kept::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match kept.act(&words) {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::TimedOut => "timeout".to_owned(),
            Err(error) => match error.raw_os_error() {
                Some(errno) => format!("{:?}", Errno::from_raw(errno)),
                None => error.to_string(),
            },
        };
        println!("\nanswer: {answer}");
    }
}

/// The sockets of the agent.
#[derive(Default)]
struct Kept {
    streams: Vec<TcpStream>,
    listeners: Vec<TcpListener>,
    udp: Option<UdpSocket>,
    sockets: Vec<OwnedFd>,
}

impl Kept {
    fn act(&mut self, words: &[&str]) -> std::io::Result<String> {
        match *words {
            ["hello"] => {}
            ["connect", to] => self.streams.push(TcpStream::connect_timeout(&to.parse().unwrap(), SHORT)?),
            ["listen", at] => self.listeners.push(TcpListener::bind(at)?),
            ["udp", at] => self.udp = Some(UdpSocket::bind(at)?),
            ["send", to] => drop(self.udp.as_ref().unwrap().send_to(b"x", to)?),
            ["receive"] => {
                let socket = self.udp.as_ref().unwrap();
                socket.set_read_timeout(Some(SHORT))?;
                socket.recv(&mut [0; 8]).map_err(as_timeout)?;
            }
            // Answers with the number of sockets that could be created.
            ["sockets", count] => {
                let before = self.sockets.len();
                for index in 0..count.parse().unwrap() {
                    let family = [AddressFamily::Inet, AddressFamily::Inet6][index % 2];
                    let kind = [SockType::Stream, SockType::Datagram][index / 2 % 2];
                    match socket(family, kind, SockFlag::empty(), None) {
                        Err(Errno::EPERM) => {}
                        socket => self.sockets.push(socket?),
                    }
                }
                return Ok((self.sockets.len() - before).to_string());
            }
            ["close", count] => drop(self.sockets.drain(..count.parse::<usize>().unwrap())),
            ["accept"] => self.streams.push(self.listeners.last().unwrap().accept()?.0),
            ["write"] => self.streams.last_mut().unwrap().write_all(b"x")?,
            ["syn", from, to] => syn(from.parse().unwrap(), to.parse().unwrap())?,
            ["syn6", port, ref extensions @ ..] => syn6(port.parse().unwrap(), extensions)?,
            ["limit", path, rule] => {
                return Ok(match Cgroup::open(path).and_then(|cgroup| cgroup.limit_net(&deny(&[rule]))) {
                    Ok(()) => "ok".to_owned(),
                    Err(error) => error.to_string(),
                });
            }
            ["be-nobody"] => nix::unistd::setuid(65534.into())?,
            _ => panic!("{words:?}"),
        }
        Ok("ok".to_owned())
    }
}

fn as_timeout(error: std::io::Error) -> std::io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

/// Sends a TCP SYN with a raw socket.
fn syn(from: SocketAddrV4, to: SocketAddrV4) -> std::io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]);
    sendto(socket.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty())?;
    Ok(())
}

/// Sends a TCP SYN to a port of `::1` behind extension headers, each with its number and optionally `NUMBER+OFFSET`
/// of a fragment or the length in units of 8 bytes.
fn syn6(port: u16, extensions: &[&str]) -> std::io::Result<()> {
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let headers: Vec<(u8, u8)> = extensions
        .iter()
        .map(|text| text.split_once('+').unwrap_or((text, "0")))
        .map(|(number, more)| (number.parse().unwrap(), more.parse().unwrap()))
        .collect();
    let mut payload = Vec::new();
    for (index, (number, more)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(6, |(number, _)| *number);
        match number {
            // The last bit says that more fragments follow.
            44 => payload.extend([next, 0, 0, more << 3 | 1, 0, 0, 0, 7]),
            _ => {
                payload.extend(
                    [next, *more, 1, 4, 0, 0, 0, 0].into_iter().chain(vec![0; 8 * usize::from(*more)]),
                )
            }
        }
    }
    payload.extend(1000_u16.to_be_bytes().into_iter().chain(port.to_be_bytes()));
    payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x10, 0, 0, 0, 0, 0]);
    let first = headers.first().map_or(6, |(number, _)| *number);
    let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, first, 64];
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    packet.extend(loopback.into_iter().chain(loopback).chain(payload));
    let to = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
    let SocketAddr::V6(to) = to else { unreachable!() };
    sendto(socket.as_raw_fd(), &packet, &SockaddrIn6::from(to), MsgFlags::empty())?;
    Ok(())
}

fn usage(cgroup: &Cgroup) -> Usage {
    cgroup.net_usage().unwrap().unwrap()
}

fn is_open(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), SHORT).is_ok()
}

#[test]
fn a_denied_connect_fails_at_once_in_every_form_of_the_address() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let _v4 = [80, 81].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let _v6 = [80, 81].map(|port| TcpListener::bind(("::1", port)).unwrap());
    let of_v4 = ["127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::ffff:0.0.0.0]"];
    let of_v6 = ["[::1]", "[::]"];
    for host in of_v4.into_iter().chain(of_v6) {
        assert_eq!(agent.connect(format_args!("{host}:80")), "ok", "{host}");
    }
    for (rule, denied, others) in [
        ("127.0.0.0/8:80/tcp", &of_v4[..], &of_v6[..]),
        ("[::1]:80/tcp", &of_v6, &of_v4),
        ("::/0", &of_v6, &of_v4),
    ] {
        own.limit_net(&deny(&[rule])).unwrap();
        for host in denied {
            let began = Instant::now();
            assert_eq!(agent.connect(format_args!("{host}:80")), "EPERM", "{rule} {host}");
            assert!(began.elapsed() < SHORT / 2);
            let other_port = if rule == "::/0" { "EPERM" } else { "ok" };
            assert_eq!(agent.connect(format_args!("{host}:81")), other_port, "{rule} {host}");
        }
        for host in others {
            assert_eq!(agent.connect(format_args!("{host}:80")), "ok", "{rule} {host}");
        }
    }
    assert_eq!(usage(&own).egress.denied, 4 + 2 + 4);
    // This process is not in the cgroup.
    assert!(is_open(80));
}

#[test]
fn only_what_is_on_the_allow_list_is_allowed_in_either_direction() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let _peers = [80, 81].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    for port in [90, 91] {
        assert_eq!(agent.ask(&format!("listen 127.0.0.1:{port}")), "ok");
    }
    let limits = allow(&["out 127.0.0.1/32:80/tcp", "in *:90/tcp"]);
    own.limit_net(&limits).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    assert_eq!(agent.connect("127.0.0.1:81"), "EPERM");
    assert!(is_open(90));
    assert!(!is_open(91));
    assert!(usage(&own).ingress.dropped > 0);
    own.limit_net(&Limits { deny: rules(&["in *:90"]), ..limits }).unwrap();
    assert!(!is_open(90));
    own.limit_net(&Limits::default()).unwrap();
    assert_eq!(agent.connect("127.0.0.1:81"), "ok");
    assert!(is_open(91));
}

#[test]
fn binding_is_allowed_by_address_and_port() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    own.limit_net(&allow(&["bind *:8000-8010/tcp"])).unwrap();
    assert_eq!(agent.ask("listen 127.0.0.1:8000"), "ok");
    assert_eq!(agent.ask("listen [::1]:8010"), "ok");
    assert_eq!(agent.ask("listen 127.0.0.1:8011"), "EPERM");
    assert_eq!(agent.ask("listen [::]:7999"), "EPERM");
    assert_eq!(agent.ask("udp 127.0.0.1:8000"), "EPERM");
    // A socket that is bound to :: receives IPv4.
    own.limit_net(&deny(&["bind 0.0.0.0/0:22"])).unwrap();
    assert_eq!(agent.ask("listen [::]:22"), "EPERM");
    assert_eq!(agent.ask("listen [::1]:22"), "ok");
    assert_eq!(usage(&own).ingress.denied, 4);
}

#[test]
fn a_datagram_is_allowed_to_listed_peers_and_as_a_reply() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let peer = UdpSocket::bind("127.0.0.1:53").unwrap();
    let other = UdpSocket::bind("127.0.0.1:54").unwrap();
    own.limit_net(&allow(&["out *:53/udp"])).unwrap();
    assert_eq!(agent.ask("udp 127.0.0.1:1000"), "ok");
    assert_eq!(agent.ask("send 127.0.0.1:53"), "ok");
    peer.send_to(b"answer", "127.0.0.1:1000").unwrap();
    assert_eq!(agent.ask("receive"), "ok");
    assert_eq!(agent.ask("send 127.0.0.1:54"), "EPERM");
    other.send_to(b"unasked", "127.0.0.1:1000").unwrap();
    assert_eq!(agent.ask("receive"), "timeout");
    own.limit_net(&allow(&["in *:1000/udp"])).unwrap();
    other.send_to(b"request", "127.0.0.1:1000").unwrap();
    assert_eq!(agent.ask("receive"), "ok");
    assert_eq!(agent.ask("send 127.0.0.1:54"), "ok");
    // A socket of IPv6 that sends to an IPv4 address.
    assert_eq!(agent.ask("udp [::]:1001"), "ok");
    assert_eq!(agent.ask("send [::ffff:127.0.0.1]:54"), "EPERM");
    assert_eq!(agent.ask("send [::1]:54"), "EPERM");
}

#[test]
fn an_established_connection_stops_when_a_rule_denies_it_and_continues_without_the_rule() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let peer = TcpListener::bind("127.0.0.1:80").unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    let (mut stream, _) = peer.accept().unwrap();
    stream.set_read_timeout(Some(SHORT)).unwrap();
    let mut arrives = |agent: &mut Agent| {
        assert_eq!(agent.ask("write"), "ok");
        stream.read(&mut [0; 1]).is_ok()
    };
    assert!(arrives(&mut agent));
    own.limit_net(&deny(&["out 127.0.0.1:80"])).unwrap();
    assert!(!arrives(&mut agent));
    assert!(usage(&own).egress.dropped > 0);
    own.limit_net(&Limits::default()).unwrap();
    std::thread::sleep(SHORT);
    assert!(arrives(&mut agent));
}

#[test]
fn a_raw_socket_does_not_evade_the_rules() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    assert_eq!(agent.ask("syn 127.0.0.1:90 127.0.0.1:80"), "ok");
    // The local port is allowed for connections to the cgroup, not for those from it.
    own.limit_net(&allow(&["in *:90/tcp", "out *:81/tcp"])).unwrap();
    assert_eq!(agent.ask("syn 127.0.0.1:90 127.0.0.1:80"), "EPERM");
    assert_eq!(usage(&own).egress.dropped, 1);
    assert_eq!(agent.ask("syn 127.0.0.1:90 127.0.0.1:81"), "ok");
    let egress = usage(&own).egress;
    assert_eq!((egress.packets, egress.bytes), (1, 40));
}

#[test]
fn the_ports_are_found_behind_extension_headers() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    own.limit_net(&deny(&["out [::1]:80/tcp"])).unwrap();
    // Hop-by-hop options, routing, fragment and destination options.
    for extensions in ["", " 0", " 0+2", " 0 60+1 43 44 60", " 44", " 44 60+3", " 0 60 60 60 60 60"] {
        assert_eq!(agent.ask(&format!("syn6 80{extensions}")), "EPERM", "{extensions}");
        assert_eq!(agent.ask(&format!("syn6 81{extensions}")), "ok", "{extensions}");
    }
    // The ports are in another fragment, or there are too many headers.
    for extensions in [" 44+1", " 0 44+1", " 0 60 60 60 60 60 60"] {
        assert_eq!(agent.ask(&format!("syn6 81{extensions}")), "EPERM", "{extensions}");
    }
}

#[test]
fn connections_per_second_are_limited() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let _peer = TcpListener::bind("127.0.0.1:80").unwrap();
    let connects = |agent: &mut Agent, count: usize| {
        let answers: Vec<String> = (0..count).map(|_| agent.connect("127.0.0.1:80")).collect();
        assert!(answers.iter().all(|answer| answer == "ok" || answer == "EPERM"), "{answers:?}");
        answers.iter().filter(|answer| *answer == "ok").count()
    };
    own.limit_net(&Limits { connects_max: Some(10), ..Limits::default() }).unwrap();
    let began = Instant::now();
    let done = connects(&mut agent, 30);
    let refilled = began.elapsed().as_secs_f64() * 10.0;
    assert!(done >= 10 && done as f64 <= 10.0 + refilled + 1.0, "{done} in {:?}", began.elapsed());
    assert_eq!(usage(&own).egress.denied, 30 - done as u64);
    std::thread::sleep(Duration::from_millis(550));
    assert_eq!(connects(&mut agent, 5), 5);
    own.limit_net(&Limits { connects_max: Some(0), ..Limits::default() }).unwrap();
    assert_eq!(connects(&mut agent, 5), 0);
    own.limit_net(&Limits::default()).unwrap();
    assert_eq!(connects(&mut agent, 30), 30);
}

#[test]
fn connections_from_peers_are_limited() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    assert_eq!(agent.ask("listen 127.0.0.1:80"), "ok");
    own.limit_net(&Limits { accepts_max: Some(5), ..Limits::default() }).unwrap();
    let connect = |wait| TcpStream::connect_timeout(&"127.0.0.1:80".parse().unwrap(), wait);
    let short = Duration::from_millis(20);
    let done = (0..15).filter(|_| connect(short).is_ok()).count();
    assert!((5..=9).contains(&done), "{done}");
    assert!(usage(&own).ingress.dropped >= 15 - done as u64);
    // The kernel of a refused peer sends the SYN again.
    connect(Duration::from_secs(10)).unwrap();
}

#[test]
fn packets_per_second_are_limited_in_each_direction() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let peer = UdpSocket::bind("127.0.0.1:53").unwrap();
    assert_eq!(agent.ask("udp 127.0.0.1:1000"), "ok");
    own.limit_net(&Limits { packets_max: Some(10), ..Limits::default() }).unwrap();
    let began = Instant::now();
    let answers: Vec<String> = (0..30).map(|_| agent.ask("send 127.0.0.1:53")).collect();
    let most = 10.0 + began.elapsed().as_secs_f64() * 10.0 + 1.0;
    assert!(answers.iter().all(|answer| answer == "ok" || answer == "EPERM"), "{answers:?}");
    let sent = answers.iter().filter(|answer| *answer == "ok").count();
    assert!(sent >= 10 && sent as f64 <= most, "{sent} of at most {most}");
    let egress = usage(&own).egress;
    assert_eq!((egress.packets, egress.dropped), (sent as u64, 30 - sent as u64));

    let began = Instant::now();
    for _ in 0..30 {
        peer.send_to(b"x", "127.0.0.1:1000").unwrap();
    }
    let most = 10.0 + began.elapsed().as_secs_f64() * 10.0 + 1.0;
    let ingress = usage(&own).ingress;
    assert!(ingress.packets >= 10 && ingress.packets as f64 <= most, "{ingress:?} of at most {most}");
    assert_eq!(ingress.packets + ingress.dropped, 30);

    // A TCP connection is slowed down, and is not lost. The packets before have used up the second.
    std::thread::sleep(SHORT);
    own.limit_net(&Limits { packets_max: Some(50), ..Limits::default() }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:80").unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    let (mut stream, _) = listener.accept().unwrap();
    (0..60).for_each(|_| assert_eq!(agent.ask("write"), "ok"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.read_exact(&mut [0; 60]).unwrap();
}

#[test]
fn the_limits_of_a_parent_hold_above_those_of_its_children() {
    own_network();
    let parent = Own::new();
    let child = parent.create_child("child").unwrap();
    let mut agent = Agent::new(&child);
    let _peers = [80, 81, 82].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    parent.limit_net(&deny(&["*:80"])).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    child.limit_net(&allow(&["*:80-81"])).unwrap();
    for (port, answer) in [(80, "EPERM"), (81, "ok"), (82, "EPERM")] {
        assert_eq!(agent.connect(format_args!("127.0.0.1:{port}")), answer);
    }
    assert_eq!(usage(&child).egress.denied, 1);
    assert_eq!(usage(&parent).egress.denied, 2);
    assert_eq!(usage(&parent).egress.bytes, usage(&child).egress.bytes);
}

#[test]
fn one_of_two_concurrent_updates_remains() {
    own_network();
    let _peers = [80, 81, 82, 83].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    for _ in 0..8 {
        let own = Own::new();
        let mut agent = Agent::new(&own);
        let path = own.path();
        std::thread::scope(|scope| {
            for list in [["*:80", "*:82"], ["*:81", "*:83"]] {
                scope.spawn(move || Cgroup::open(path).unwrap().limit_net(&deny(&list)).unwrap());
            }
        });
        let mut open =
            || [80, 81, 82, 83].map(|port| agent.connect(format_args!("127.0.0.1:{port}")) == "ok");
        let left = open();
        assert!(left == [false, true, false, true] || left == [true, false, true, false], "{left:?}");
        // Nothing of the other is left.
        own.limit_net(&Limits::default()).unwrap();
        assert_eq!(open(), [true; 4]);
    }
}

#[test]
fn many_first_updates_at_the_same_time_all_succeed() {
    // `strace -f -e inject=bpf:delay_exit=700` makes the races likely.
    for _ in 0..8 {
        let own = Own::new();
        let path = own.path();
        let start = std::sync::Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let cgroup = Cgroup::open(path).unwrap();
                    start.wait();
                    cgroup.limit_net(&deny(&["*:80"])).unwrap();
                });
            }
        });
    }
}

#[test]
fn cgroups_with_the_same_programs_have_limits_and_counters_of_their_own() {
    own_network();
    let owns = [Own::new(), Own::new(), Own::new()];
    let mut agents = owns.each_ref().map(|own| Agent::new(own));
    let _peers = [80, 81, 82].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let open = |agents: &mut [Agent; 3]| {
        agents
            .each_mut()
            .map(|agent| [80, 81, 82].map(|port| agent.connect(format_args!("127.0.0.1:{port}")) == "ok"))
    };
    for (own, rule) in owns.iter().zip(["*:80", "*:81", "*:82"]) {
        own.limit_net(&deny(&[rule])).unwrap();
    }
    let [a, b, c] = [[false, true, true], [true, false, true], [true, true, false]];
    assert_eq!(open(&mut agents), [a, b, c]);
    owns[0].limit_net(&deny(&["*:82"])).unwrap();
    owns[1].limit_net(&Limits::default()).unwrap();
    assert_eq!(open(&mut agents), [c, [true; 3], c]);
    assert_eq!(owns.each_ref().map(|own| usage(own).egress.denied), [2, 1, 2]);
}

#[test]
fn an_update_adds_the_programs_that_it_requires() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let _peer = TcpListener::bind("127.0.0.1:80").unwrap();
    own.limit_net(&Limits { packets_max: Some(1000), ..Limits::default() }).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    let packets = usage(&own).egress.packets;
    own.limit_net(&deny(&["*:80"])).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    assert_eq!(agent.ask("syn 127.0.0.1:90 127.0.0.1:80"), "EPERM");
    own.limit_net(&Limits { connects_max: Some(0), ..Limits::default() }).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    own.limit_net(&Limits { accepts_max: Some(1000), ..Limits::default() }).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    assert!(usage(&own).egress.packets > packets);
}

fn sockets(max: u32) -> Limits {
    Limits { sockets_max: Some(max), ..Limits::default() }
}

#[test]
fn sockets_alive_are_limited_and_given_back() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    assert_eq!(agent.ask("sockets 3"), "3");
    own.limit_net(&sockets(10)).unwrap();
    // Those before the limit do not count.
    assert_eq!(agent.ask("sockets 20"), "10");
    assert_eq!((usage(&own).sockets.alive, usage(&own).sockets.denied), (10, 10));
    assert_eq!(agent.ask("listen 127.0.0.1:80"), "EPERM");
    assert_eq!(agent.ask("close 7"), "ok");
    assert_eq!(usage(&own).sockets.alive, 6);
    assert_eq!(agent.ask("sockets 20"), "4");
    own.limit_net(&sockets(15)).unwrap();
    assert_eq!(agent.ask("sockets 20"), "5");
    own.limit_net(&sockets(5)).unwrap();
    assert_eq!(usage(&own).sockets.alive, 15);
    assert_eq!(
        (agent.ask("sockets 1"), agent.ask("close 10"), agent.ask("sockets 1")),
        ("0".into(), "ok".into(), "0".into())
    );
    assert_eq!((agent.ask("close 1"), agent.ask("sockets 5")), ("ok".into(), "1".into()));
    own.limit_net(&deny(&["*:81"])).unwrap();
    assert_eq!(agent.ask("sockets 50"), "50");
    assert_eq!(usage(&own).sockets.alive, 55);
    // A socket from accept(2) does not count.
    own.limit_net(&sockets(56)).unwrap();
    assert_eq!(agent.ask("listen 127.0.0.1:80"), "ok");
    let _peers = [(); 3].map(|()| TcpStream::connect("127.0.0.1:80").unwrap());
    (0..3).for_each(|_| assert_eq!(agent.ask("accept"), "ok"));
    assert_eq!(usage(&own).sockets.alive, 56);
    drop(agent);
    assert_eq!(usage(&own).sockets.alive, 0);
    assert_eq!(Agent::new(&own).ask("sockets 100"), "56");
}

#[test]
fn a_socket_that_one_cgroup_denies_does_not_count_in_another() {
    own_network();
    for parent_first in [true, false] {
        let parent = Own::new();
        let child = parent.create_child("child").unwrap();
        let sibling = parent.create_child("sibling").unwrap();
        let [mut agent, mut beside] = [&child, &sibling].map(Agent::new);
        let limits = [(&*parent, 8), (&child, 100)];
        for index in if parent_first { [0, 1] } else { [1, 0] } {
            let (cgroup, max) = limits[index];
            cgroup.limit_net(&sockets(max)).unwrap();
        }
        assert_eq!(agent.ask("sockets 10000"), "8");
        let used = |cgroup: &Cgroup| (usage(cgroup).sockets.alive, usage(cgroup).sockets.denied);
        assert_eq!((used(&child), used(&parent)), ((8, 0), (8, 9992)));
        assert_eq!(beside.ask("sockets 1"), "0");
        parent.limit_net(&sockets(150)).unwrap();
        // The parent does not count a socket that the child denies.
        assert_eq!(agent.ask("sockets 10000"), "92");
        assert_eq!((used(&child), used(&parent)), ((100, 9908), (100, 9993)));
        assert_eq!(beside.ask("sockets 100"), "50");
        assert_eq!(agent.ask("close 100"), "ok");
        assert_eq!((used(&child).0, used(&parent).0), (0, 50));
        drop((agent, beside));
        assert_eq!((used(&child).0, used(&parent).0), (0, 0));
    }
}

#[test]
fn one_of_two_concurrent_updates_of_sockets_and_rules_remains() {
    own_network();
    let _peers = [80, 81].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    for _ in 0..8 {
        let own = Own::new();
        let mut agent = Agent::new(&own);
        let path = own.path();
        std::thread::scope(|scope| {
            for (rule, max) in [("*:80", 80), ("*:81", 81)] {
                let limits = Limits { sockets_max: Some(max), ..deny(&[rule]) };
                scope.spawn(move || Cgroup::open(path).unwrap().limit_net(&limits).unwrap());
            }
        });
        let open = [80, 81].map(|port| agent.connect(format_args!("127.0.0.1:{port}")) == "ok");
        let max = if open[0] { 81 } else { 80 };
        assert_eq!(open, [max == 81, max == 80]);
        // The connection is a socket too.
        assert_eq!(agent.ask("sockets 100"), (max - 1).to_string());
    }
}

#[test]
fn the_limits_survive_the_process_that_set_them_and_cannot_be_changed_without_capabilities() {
    own_network();
    let own = Own::new();
    let outside = Own::new();
    let path = own.path().to_str().unwrap().to_owned();
    let _peer = TcpListener::bind("127.0.0.1:80").unwrap();
    assert_eq!(Agent::new(&outside).ask(&format!("limit {path} *:80")), "ok");
    let mut agent = Agent::new(&own);
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    assert_eq!(agent.ask("be-nobody"), "ok");
    let answer = agent.ask(&format!("limit {path} *:81"));
    assert!(
        answer.contains("Operation not permitted (EPERM)") && answer.contains("CAP_SYS_ADMIN"),
        "{answer}"
    );
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    assert_eq!(usage(&own).egress.denied, 2);
    assert_eq!(outside.net_usage().unwrap(), None);
}

#[test]
fn a_setter_that_is_killed_leaves_nothing_that_a_later_one_does_not_replace() {
    own_network();
    let outside = Own::new();
    let _peers = [80, 81].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    for round in 0..20_u32 {
        let own = Own::new();
        let mut agent = Agent::new(&own);
        let mut setter = Agent::new(&outside);
        setter.tell(&format!("limit {} *:80", own.path().display()));
        std::thread::sleep(Duration::from_micros(100) * round);
        if round % 2 == 0 {
            own.limit_net(&deny(&["*:81"])).unwrap();
        }
        setter.helper.0.kill().unwrap();
        setter.helper.0.wait().unwrap();
        own.limit_net(&deny(&["*:81"])).unwrap();
        let open = [80, 81].map(|port| agent.connect(format_args!("127.0.0.1:{port}")) == "ok");
        assert_eq!(open, [true, false], "round {round}");
    }
}

#[test]
fn nothing_is_attached_if_nothing_is_limited_and_a_flawed_rule_is_refused() {
    let own = Own::new();
    own.limit_net(&Limits::default()).unwrap();
    assert_eq!(own.net_usage().unwrap(), None);
    let mut rule = rules(&["*:80/tcp"]).remove(0);
    rule.protocol = Some(cgroup_core::net::Protocol::ICMP);
    let error = own.limit_net(&Limits { deny: vec![rule], ..Limits::default() }).unwrap_err();
    assert_eq!(error.kind(), cgroup_core::ErrorKind::InvalidLimit);
    assert_eq!(error.field(), Some("net.deny"));
    assert_eq!(own.net_usage().unwrap(), None);
}

#[test]
fn a_removed_cgroup_is_reported() {
    let own = Own::new();
    let gone = Cgroup::open(own.path()).unwrap();
    drop(own);
    let error = gone.limit_net(&deny(&["*:80"])).unwrap_err();
    assert!(error.to_string().ends_with("the cgroup was removed"), "{error}");
    assert_eq!(error.kind(), cgroup_core::ErrorKind::NotFound, "{error}");
    assert_eq!(error.field(), Some("net"));
    assert!(gone.net_usage().is_err());
    let error = gone.attach_devices(&[]).unwrap_err();
    assert!(error.to_string().contains("the cgroup was removed"), "{error}");
}

#[test]
fn a_long_list_is_accepted() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    let _peers = [80, 81].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    let mut list: Vec<Rule> = (0..4000_u32)
        .map(|i| format!("10.{}.{}.0/24:{}-{}/tcp", i / 256, i % 256, i % 7, 7 + i % 5).parse().unwrap())
        .collect();
    list.push("127.0.0.1:81".parse().unwrap());
    own.limit_net(&Limits { deny: list, ..Limits::default() }).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "ok");
    assert_eq!(agent.connect("127.0.0.1:81"), "EPERM");
    assert_eq!(agent.connect("10.1.2.3:7"), "EPERM");
}

#[test]
fn network_limits_are_applied_and_counted_beside_the_others() {
    own_network();
    let own = Own::new();
    let mut agent = Agent::new(&own);
    assert_eq!(own.usage().unwrap().net, None);
    let limits = cgroup_core::Limits { net: Some(deny(&["*:80"])), ..Default::default() };
    let applied = own.apply(&limits).unwrap();
    assert_eq!(applied.writes, [("net.deny".to_owned(), "*:80".to_owned())]);
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
    assert_eq!(own.usage().unwrap().net, Some(usage(&own)));
    assert_eq!(usage(&own).egress.denied, 1);
    // Limits without network limits keep them.
    own.apply(&cgroup_core::Limits::default()).unwrap();
    assert_eq!(agent.connect("127.0.0.1:80"), "EPERM");
}
