//! Network limits of a cgroup: the addresses with which its processes may communicate, and the number
//! of connections, packets and bytes in a second, and of sockets.
//!
//! cgroup v2 has no network controller. The limits are eBPF programs that are attached to the
//! cgroup, so they apply to the sockets that its processes create, and those of all cgroups below.
//! The containers of a pod can share a network namespace and still have their own limits. A packet
//! passes only if the cgroup and all of its ancestors allow it.
//!
//! A rule names a network, and can name ports, a protocol and a direction:
//!
//! ```
//! use cgroup_core::net::{Direction, Limits, Protocol};
//! let limits = Limits {
//!     allow: vec!["10.0.0.0/8:443/tcp".parse()?, "in *:80/tcp".parse()?],
//!     deny: vec!["10.1.0.0/16".parse()?],
//!     ..Limits::default()
//! };
//! let out = |address: &str| limits.allows(Direction::Out, address.parse().unwrap(), Protocol::TCP);
//! assert!(out("10.0.0.1:443"));
//! assert!(!out("10.0.0.1:80"));
//! assert!(!out("10.1.0.1:443"));
//! assert!(out("[::ffff:10.0.0.1]:443"));
//! assert!(limits.allows(Direction::In, "192.0.2.1:80".parse().unwrap(), Protocol::TCP));
//! # Ok::<(), cgroup_core::Error>(())
//! ```
//!
//! # How the limits are enforced
//! - `connect` and `bind` fail with `EPERM` if the rules deny the address.
//! - Each packet of a socket of the cgroup is checked when it leaves and when it arrives. This also
//!   stops raw sockets, and connections that were established before the limits were set. A denied
//!   packet is dropped and counted, and `sendto` and `sendmsg` of a datagram fail with `EPERM`.
//! - A TCP SYN is checked in its own direction. Any other packet can belong to a connection of either
//!   direction. It is dropped if a deny rule of one direction applies to it; else it passes if an
//!   allow rule of one direction applies to it.
//! - An IPv4 address in IPv6 form (`::ffff:192.0.2.1`) counts as the IPv4 address. A connection to
//!   `0.0.0.0` or `::` counts as one to the loopback address, because the kernel makes it one.
//! - A socket that is bound to `::` receives IPv4 too, so the rules must allow both `::` and `0.0.0.0`.
//! - A packet that exceeds the bytes per second is dropped as by a full queue of a network device. A
//!   dropped packet that leaves is not lost: TCP keeps it and sends it again, and reduces its window. A
//!   dropped packet that arrives is lost for its sender, which sends it again. The bytes of a burst pass at
//!   once. Without [`Limits::egress_burst`] it is those of 220 ms, so that TCP reaches the rate even if it waits
//!   for its shortest timer, 200 ms. Packets of at most 128 bytes may use the bytes of another burst, so that
//!   acknowledgements and new connections pass beside much data.
//! - A packet of a sender that uses ECN (RFC 3168) is marked if less than half of the burst is free. So such
//!   a sender slows down before packets are dropped.
//! - A packet that a cgroup drops does not use up the rates of its ancestors, and they do not count it.
//! - A packet that is longer than the rest of its rate passes whole, and the next packets wait longer.
//!
//! # Which sockets are counted
//! `socket` for AF_INET and AF_INET6, of any type and protocol, fails with `EPERM` if the sockets of the
//! cgroup and its descendants are as many as [`Limits::sockets_max`], or those of an ancestor. A socket
//! counts until its last descriptor is closed, also if the process moves to another cgroup or passes the
//! descriptor on. `socket` that fails counts in no cgroup. These do not count:
//! - sockets that `accept` returns: [`Limits::accepts_max`] limits how many arrive in a second. Each that a
//!   process keeps has a descriptor, so RLIMIT_NOFILE and `pids.max` bound their number, and `memory.max` their
//!   memory. The kernel has no hook for `accept` that can deny. A program at the end of the handshake
//!   (`BPF_CGROUP_SOCK_OPS`) can count a socket but not refuse it. It cannot tell one that waits for `accept`,
//!   for which the hook of the end never runs, from one that a process keeps open after a reset. To refuse the
//!   SYN instead, each packet would have to be parsed;
//! - sockets that were created before their number was first limited in this cgroup;
//! - sockets of the kernel, and those of other families.
//!
//! If a program that does not belong to this library denies a socket, the socket stays counted. Further
//! limits of this library in the cgroups above and below do not have this effect.
//!
//! # What is not limited
//! - Sockets of other families than AF_INET and AF_INET6, for example AF_UNIX, AF_PACKET (which
//!   requires CAP_NET_RAW) and AF_VSOCK.
//! - The port that the kernel chooses: `listen` without `bind`, and `bind` to port 0. A rule for `bind`
//!   applies to the address that the process gives, so a rule for `127.0.0.0/8` does not apply to
//!   `0.0.0.0`.
//!
//! A socket stays in the cgroup in which it was created, and a connection that it accepts is in that
//! cgroup too. So the limits do not apply to a socket that a process inherits or receives from outside
//! the cgroup.
//!
//! # How long the limits last
//! They last as long as the cgroup, and need neither a file nor a process. The programs find the
//! limits in a map of the kernel, and an update replaces all of them at once. The programs apply
//! either the old limits or the new ones to a packet. The last of several concurrent updates remains.
//! An update can lose the counts of the packets that pass at that moment.
//! An update takes effect at once. If there were rules before, the call returns about 10 ms later, because the kernel
//! waits for its processors before the old rules are removed. A process in the
//! cgroup cannot change the limits without CAP_BPF and CAP_NET_ADMIN in the initial user namespace.
//!
//! # Cost
//! Without limits nothing runs. A process loads the programs once, and then attaches them to each further
//! cgroup. Almost all of the cost of the first limits in a process is the kernel's check of the programs: about 0.1 ms,
//! and 0.4 ms for rules. The first program of a hook that no other cgroup of the machine uses costs more.
//!
//! `cargo bench -p nspod-benches --bench net` measures these, the first limits of a further cgroup, updates, and the
//! processor time of loopback TCP; the results are in `benches/net.md`.
//!
//! Sources: <https://docs.kernel.org/bpf/libbpf/program_types.html>,
//! <https://docs.kernel.org/bpf/map_lpm_trie.html>, <https://man7.org/linux/man-pages/man2/bpf.2.html>

mod assembler;
mod attach;
mod bits;
mod limits;
mod maps;
mod program;
mod rule;
mod shared;
mod sockets;
mod state;
mod table;

pub use attach::{Traffic, Usage};
pub use bits::bytes_per_second;
pub use limits::Limits;
pub use rule::{Direction, Network, Protocol, Rule};
pub use sockets::Sockets;
