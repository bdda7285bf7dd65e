//! The programs that enforce the limits of a cgroup. Their maps contain the limits. A program has the
//! parts for some [`Features`], and is replaced if an update requires more.
//!
//! Each program loads the number of the current limits once, and looks up only entries with this number
//! (`table.rs`). So all of its decisions about a packet follow from the same limits.

use super::assembler::{Assembler, Condition, Function, Label, Operand, Operation, Register, Size};
use super::limits::{Limits, RATE_UNIT};
use super::maps::Maps;
use super::rule::{Direction, Protocol};
use super::state::{BYTES, CALLS_DENIED, DROPPED, MARKED, PACKETS, Side, counters};
use super::table::{ADDRESS, ALLOWED, DENIED, KEY_BITS, PORT, RATE, Rate, UNLISTED};
use crate::sys::bpf::{Hook, Name};
use Register::{FP, R0, R1, R2, R3, R4, R6, R7, R8, R9};

bitflags::bitflags! {
    /// The limits that a program can enforce.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Features: u8 {
        /// `net.allow` and `net.deny`.
        const RULES = 0x01;
        /// `net.connects.max`.
        const CONNECTS = 0x02;
        /// `net.accepts.max`.
        const ACCEPTS = 0x04;
        /// `net.packets.max`.
        const PACKETS = 0x08;
        /// `net.sockets.max`, which has programs of its own.
        const SOCKETS = 0x20;
        /// `net.egress.max`.
        const EGRESS = 0x40;
        /// `net.ingress.max`.
        const INGRESS = 0x80;
    }
}

impl Features {
    pub(super) fn of(limits: &Limits) -> Self {
        let mut features = Self::empty();
        features.set(Self::RULES, !limits.allow.is_empty() || !limits.deny.is_empty());
        features.set(Self::CONNECTS, limits.connects_max.is_some());
        features.set(Self::ACCEPTS, limits.accepts_max.is_some());
        features.set(Self::PACKETS, limits.packets_max.is_some());
        features.set(Self::SOCKETS, limits.sockets_max.is_some());
        features.set(Self::EGRESS, limits.egress_max.is_some());
        features.set(Self::INGRESS, limits.ingress_max.is_some());
        features
    }
}

/// A program: the start of its name, its hook, the limits that it can enforce, and its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    stem: &'static str,
    pub(super) hook: Hook,
    features: Features,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Packet(Side),
    Call(Call, Family),
}

/// A system call with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Connect,
    Send,
    Bind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

const PACKET: u32 = 8;
const CALL: u32 = 18;

/// All programs. The maps of a cgroup are found through the first, which counts and is always attached.
/// Another is attached if the limits include one of its features.
#[rustfmt::skip]
pub(super) const PROGRAMS: [Program; 8] = {
    let rules = Features::RULES;
    let packets = rules.union(Features::PACKETS);
    let egress = packets.union(Features::EGRESS);
    let ingress = packets.union(Features::ACCEPTS).union(Features::INGRESS);
    let connects = rules.union(Features::CONNECTS);
    [
        program("nspod_net_out", PACKET, 1, egress, Kind::Packet(Side::Egress)),
        program("nspod_net_in", PACKET, 0, ingress, Kind::Packet(Side::Ingress)),
        program("nspod_connect", CALL, 10, connects, Kind::Call(Call::Connect, Family::V4)),
        program("nspod_connect", CALL, 11, connects, Kind::Call(Call::Connect, Family::V6)),
        program("nspod_sendmsg", CALL, 14, rules, Kind::Call(Call::Send, Family::V4)),
        program("nspod_sendmsg", CALL, 15, rules, Kind::Call(Call::Send, Family::V6)),
        program("nspod_bind", CALL, 8, rules, Kind::Call(Call::Bind, Family::V4)),
        program("nspod_bind", CALL, 9, rules, Kind::Call(Call::Bind, Family::V6)),
    ]
};

/// The programs that count. They are attached with any limit.
pub(super) const COUNTING: usize = 2;

const fn program(
    stem: &'static str,
    program_type: u32,
    attach_type: u32,
    features: Features,
    kind: Kind,
) -> Program {
    Program { stem, hook: Hook { program_type, attach_type }, features, kind }
}

impl Program {
    /// Returns those of the features that the program can have.
    pub(super) fn needed(&self, features: Features) -> Features {
        self.features & features
    }

    /// Returns the name: the stem, and the features as two hexadecimal digits.
    pub(super) fn name(&self, features: Features) -> Name {
        let mut name = Name::default();
        let text = format!("{}{:02x}", self.stem, features.bits());
        name[..text.len()].copy_from_slice(text.as_bytes());
        name
    }

    /// Returns the features of an attached program with this name, and `None` for another program.
    pub(super) fn features_in(&self, name: &Name) -> Option<Features> {
        let text = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
        let digits = text.strip_prefix(self.stem)?;
        (digits.len() == 2).then_some(())?;
        Some(Features::from_bits_retain(u8::from_str_radix(digits, 16).ok()?))
    }

    /// Returns the instructions.
    pub(super) fn assemble(&self, maps: &Maps, features: Features) -> Vec<u64> {
        match self.kind {
            Kind::Packet(side) => packet(maps, side, features),
            Kind::Call(call, family) => address(maps, call, family, features),
        }
    }
}

// The stack. KEY is a key of the table, 24 bytes: the length, the kind, and 16 bytes.
const KEY: i16 = -24;
const KEY_TAG: i16 = KEY + 4;
const KEY_DATA: i16 = KEY + 8;
const CLASS: i16 = -32;
const VERDICTS: i16 = -40;
/// The ports of a packet: source, destination.
const PORTS: i16 = -44;
const FLAGS: i16 = -48;
const EXTENSION: i16 = -52;
const HAS_RULES: i16 = -56;
/// The latest time of a rate at which it lets something pass.
const LATEST: i16 = -64;
const HEADER: i16 = -104;
/// The address of the [`State`](super::state::State).
const STATE: i16 = -112;

// struct bpf_sock_addr.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const SOCKET_TYPE: i16 = 32;
const SOCKET_PROTOCOL: i16 = 36;
const SOCKET: i16 = 64;
// struct bpf_sock.
const LOCAL_PORT: i16 = 44;
// struct __sk_buff.
const PACKET_LENGTH: i16 = 0;
const PACKET_MARK: i16 = 8;
const PACKET_PROTOCOL: i16 = 16;
const PACKET_SEGMENTS: i16 = 164;

const SOCK_STREAM: i32 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// A protocol that no packet has: the transport header cannot be found.
const UNKNOWN: i32 = 256;

const MAPPED: u32 = 0xffff_u32.to_be();
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
const LOOPBACK6: u32 = 1_u32.to_be();

/// Assembles the program of a call with an address. R6: context, R7: number of the limits, R8: port,
/// R9: protocol.
fn address(maps: &Maps, call: Call, family: Family, features: Features) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, denied, open] = [a.label(), a.label(), a.label()];
    a.set(R6, R1);
    number(&mut a, maps, passed);
    if features.contains(Features::RULES) {
        rules_of_call(&mut a, maps, call, family, [open, denied]);
    }
    a.place(open);
    if call == Call::Connect && features.contains(Features::CONNECTS) {
        a.load(Size::Word, R1, R6, SOCKET_TYPE);
        a.jump_if(Condition::NotEqual, R1, SOCK_STREAM, passed);
        rate(&mut a, maps, Rate::Connects, passed, denied);
    }
    a.place(passed);
    a.set(R0, 1);
    a.exit();
    a.place(denied);
    let side = if call == Call::Bind { Side::Ingress } else { Side::Egress };
    count(&mut a, counters(side) + CALLS_DENIED, 1);
    a.set(R0, 0);
    a.exit();
    a.finish()
}

/// Checks the rules for a call. Jumps to a label if they do not apply or deny, else continues.
fn rules_of_call(a: &mut Assembler, maps: &Maps, call: Call, family: Family, [open, denied]: [Label; 2]) {
    match family {
        Family::V4 => {
            a.load(Size::Word, R1, R6, USER_IP4);
            key_of_v4(a, R1);
        }
        Family::V6 => {
            for word in 0..4 {
                a.load(Size::Word, R1, R6, USER_IP6 + 4 * word);
                a.store(Size::Word, FP, KEY_DATA + 4 * word, R1);
            }
        }
    }
    if call != Call::Bind {
        unspecified_is_loopback(a);
    }
    a.load(Size::Word, R9, R6, SOCKET_PROTOCOL);
    a.load(Size::Word, R8, R6, USER_PORT);
    let with_ports = a.label();
    for protocol in Protocol::WITH_PORTS {
        a.jump_if(Condition::Equal, R9, i32::from(protocol.0), with_ports);
    }
    a.set(R8, 0);
    a.place(with_ports);
    class(a, maps, open);
    match call {
        Call::Connect => verdict(a, maps, Direction::Out),
        Call::Bind => verdict(a, maps, Direction::Bind),
        Call::Send => {
            verdict(a, maps, Direction::Out);
            a.load(Size::Double, R1, R6, SOCKET);
            a.load(Size::Word, R8, R1, LOCAL_PORT);
            a.network_half(R8);
            verdict(a, maps, Direction::In);
        }
    }
    decide(a, denied);
    if call == Call::Bind && family == Family::V6 {
        // A socket that is bound to :: receives IPv4 too.
        for word in 0..4 {
            a.load(Size::Word, R1, R6, USER_IP6 + 4 * word);
            a.jump_if(Condition::NotEqual, R1, 0, open);
        }
        key_of_v4(a, R1);
        class(a, maps, open);
        verdict(a, maps, Direction::Bind);
        decide(a, denied);
    }
}

/// Assembles the program for packets. R6: context, R7: number of the limits, R8: offset of the transport
/// header and then whether the packet opens a TCP connection, R9: protocol.
fn packet(maps: &Maps, side: Side, features: Features) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, dropped, congested, below] = [a.label(), a.label(), a.label(), a.label()];
    let accepts = side == Side::Ingress && features.contains(Features::ACCEPTS);
    a.set(R6, R1);
    a.load(Size::Word, R1, R6, PACKET_MARK);
    a.set_word(R2, DROPPED_BELOW);
    a.jump_if(Condition::Equal, R1, R2, below);
    number(&mut a, maps, passed);
    if accepts || features.contains(Features::RULES) {
        network_header(&mut a, side, passed, dropped);
        if features.contains(Features::RULES) {
            rules_of_packet(&mut a, maps, side, dropped);
        } else {
            transport_header(&mut a);
        }
    }
    if accepts {
        let accepted = a.label();
        a.jump_if(Condition::Equal, R8, 0, accepted);
        rate(&mut a, maps, Rate::Accepts, accepted, dropped);
        a.place(accepted);
    }
    if features.contains(Features::PACKETS) {
        let of_packets = if side == Side::Egress { Rate::PacketsOut } else { Rate::PacketsIn };
        let counted = a.label();
        rate(&mut a, maps, of_packets, counted, dropped);
        a.place(counted);
    }
    let (feature, of_bytes, verdict) = match side {
        Side::Egress => (Features::EGRESS, Rate::BytesOut, DROP_CONGESTED),
        Side::Ingress => (Features::INGRESS, Rate::BytesIn, DROP),
    };
    if features.contains(feature) {
        rate(&mut a, maps, of_bytes, passed, congested);
    }
    a.place(passed);
    a.load(Size::Word, R2, R6, PACKET_LENGTH);
    count(&mut a, counters(side) + BYTES, R2);
    count(&mut a, counters(side) + PACKETS, 1);
    a.set(R0, 1);
    a.exit();
    for (label, verdict) in [(congested, verdict), (dropped, DROP)] {
        if a.is_used(label) {
            a.place(label);
            count(&mut a, counters(side) + DROPPED, 1);
            a.set_word(R2, DROPPED_BELOW);
            a.store(Size::Word, R6, PACKET_MARK, R2);
            a.set(R0, verdict);
            a.exit();
        }
    }
    a.place(below);
    a.set(R0, DROP);
    a.exit();
    a.finish()
}

/// The mark of a packet that this cgroup drops. The kernel runs the programs of the ancestors too, which
/// must not count the packet and use up their rates. A process that sets this mark itself, which requires
/// CAP_NET_ADMIN or CAP_NET_RAW, only makes its packets be dropped.
const DROPPED_BELOW: u32 = 0x6e73_7064;
/// The packet is dropped, and the call fails with `EPERM`.
const DROP: i32 = 0;
/// The packet is dropped as by a full queue of a device: TCP reduces its window, and a call succeeds.
const DROP_CONGESTED: i32 = 2;

/// Checks the rules for a packet. Jumps if they deny it, else continues.
fn rules_of_packet(a: &mut Assembler, maps: &Maps, side: Side, dropped: Label) {
    let [opened, checked] = [a.label(), a.label()];
    let open = a.label();
    a.store(Size::Word, FP, HAS_RULES, 0);
    class(a, maps, open);
    a.store(Size::Word, FP, HAS_RULES, 1);
    a.place(open);
    transport_header(a);
    a.load(Size::Word, R1, FP, HAS_RULES);
    a.jump_if(Condition::Equal, R1, 0, checked);
    a.jump_if(Condition::Equal, R9, UNKNOWN, dropped);
    a.store(Size::Double, FP, VERDICTS, 0);
    // The port of the peer is the source of what arrives.
    let (remote, local) = match side {
        Side::Egress => (PORTS + 2, PORTS),
        Side::Ingress => (PORTS, PORTS + 2),
    };
    // A packet that opens a connection has one direction; any other can have either.
    let of_the_side = |side| match side {
        Side::Egress => (Direction::Out, remote),
        Side::Ingress => (Direction::In, local),
    };
    let other = if side == Side::Egress { Side::Ingress } else { Side::Egress };
    for (side, label) in [(side, None), (other, Some(opened))] {
        let (direction, port) = of_the_side(side);
        if let Some(label) = label {
            a.jump_if(Condition::NotEqual, R8, 0, label);
        }
        a.load(Size::Half, R3, FP, port);
        verdict_about(a, maps, direction, R3);
    }
    a.place(opened);
    decide(a, dropped);
    a.place(checked);
}

/// Stores the address of the [`State`](super::state::State), and sets R7 to the number of the current limits. Jumps if nothing
/// is limited.
fn number(a: &mut Assembler, maps: &Maps, unlimited: Label) {
    // All maps are found through any program.
    a.map(R1, &maps.table);
    a.map(R1, &maps.count);
    a.map(R1, &maps.state);
    a.set(R2, 0);
    a.call(Function::GetLocalStorage);
    a.load(Size::Word, R7, R0, 0);
    a.alu(Operation::Add, R0, 8);
    a.store(Size::Double, FP, STATE, R0);
    a.jump_if(Condition::Equal, R7, 0, unlimited);
}

/// Puts an IPv4 address into the key.
fn key_of_v4(a: &mut Assembler, address: Register) {
    a.store(Size::Double, FP, KEY_DATA, 0);
    a.store(Size::Word, FP, KEY_DATA + 8, MAPPED as i32);
    a.store(Size::Word, FP, KEY_DATA + 12, address);
}

/// Replaces `0.0.0.0` and `::` in the key by the loopback address.
fn unspecified_is_loopback(a: &mut Assembler) {
    let [done, v4] = [a.label(), a.label()];
    for offset in [0, 4, 12] {
        a.load(Size::Word, R1, FP, KEY_DATA + offset);
        a.jump_if(Condition::NotEqual, R1, 0, done);
    }
    a.load(Size::Word, R1, FP, KEY_DATA + 8);
    a.set_word(R2, MAPPED);
    a.jump_if(Condition::Equal, R1, R2, v4);
    a.jump_if(Condition::NotEqual, R1, 0, done);
    a.store(Size::Word, FP, KEY_DATA + 12, LOOPBACK6 as i32);
    a.jump(done);
    a.place(v4);
    a.store(Size::Word, FP, KEY_DATA + 12, LOOPBACK4 as i32);
    a.place(done);
}

/// Looks up the key in the table.
fn lookup(a: &mut Assembler, maps: &Maps, tag: u8) {
    a.store(Size::Word, FP, KEY, KEY_BITS as i32);
    a.set(R1, R7);
    a.alu(Operation::Or, R1, i32::from_ne_bytes([tag, 0, 0, 0]));
    a.store(Size::Word, FP, KEY_TAG, R1);
    a.map(R1, &maps.table);
    a.set(R2, FP);
    a.alu(Operation::Add, R2, i32::from(KEY));
    a.call(Function::MapLookup);
}

/// Stores the class of the address in the key, and clears the verdicts. Jumps if there are no rules.
fn class(a: &mut Assembler, maps: &Maps, no_rules: Label) {
    lookup(a, maps, ADDRESS);
    a.jump_if(Condition::Equal, R0, 0, no_rules);
    a.load(Size::Word, R1, R0, 0);
    a.store(Size::Word, FP, CLASS, R1);
    a.store(Size::Double, FP, VERDICTS, 0);
}

/// Adds the verdict about the port in R8.
fn verdict(a: &mut Assembler, maps: &Maps, direction: Direction) {
    a.set(R3, R8);
    verdict_about(a, maps, direction, R3);
}

/// Adds the verdict about the stored class, the direction, the protocol in R9 and this port.
fn verdict_about(a: &mut Assembler, maps: &Maps, direction: Direction, port: Register) {
    a.load(Size::Word, R1, FP, CLASS);
    a.store(Size::Word, FP, KEY_DATA, R1);
    a.store(Size::Byte, FP, KEY_DATA + 2, direction as i32);
    a.store(Size::Byte, FP, KEY_DATA + 3, R9);
    a.store(Size::Word, FP, KEY_DATA + 4, 0);
    a.store(Size::Half, FP, KEY_DATA + 4, port);
    a.store(Size::Double, FP, KEY_DATA + 8, 0);
    lookup(a, maps, PORT);
    let done = a.label();
    a.jump_if(Condition::Equal, R0, 0, done);
    a.load(Size::Word, R1, R0, 0);
    a.load(Size::Double, R2, FP, VERDICTS);
    a.alu(Operation::Or, R2, R1);
    a.store(Size::Double, FP, VERDICTS, R2);
    a.place(done);
}

/// Jumps if the verdicts deny, else continues.
fn decide(a: &mut Assembler, denied: Label) {
    let allowed = a.label();
    a.load(Size::Double, R1, FP, VERDICTS);
    a.jump_if(Condition::AnyBit, R1, DENIED as i32, denied);
    a.jump_if(Condition::AnyBit, R1, ALLOWED as i32, allowed);
    a.jump_if(Condition::AnyBit, R1, UNLISTED as i32, denied);
    a.place(allowed);
}

/// Puts the address of the peer into the key, R9 to the protocol, and R8 to the offset of its header.
fn network_header(a: &mut Assembler, side: Side, other: Label, dropped: Label) {
    let [v6, done, unknown] = [a.label(), a.label(), a.label()];
    a.load(Size::Word, R1, R6, PACKET_PROTOCOL);
    a.jump_if(Condition::Equal, R1, i32::from(ETH_P_IPV6.to_be()), v6);
    a.jump_if(Condition::NotEqual, R1, i32::from(ETH_P_IP.to_be()), other);

    load_bytes(a, 0, HEADER, 20, dropped);
    a.load(Size::Word, R1, FP, HEADER + if side == Side::Egress { 16 } else { 12 });
    key_of_v4(a, R1);
    a.load(Size::Byte, R8, FP, HEADER);
    a.alu(Operation::And, R8, 15);
    a.alu(Operation::ShiftLeft, R8, 2);
    a.load(Size::Byte, R9, FP, HEADER + 9);
    // Only the first fragment has the ports. The kernel divides packets after this program and joins
    // them before it; so only a raw socket sends a fragment.
    a.load(Size::Half, R1, FP, HEADER + 6);
    a.jump_if(Condition::AnyBit, R1, i32::from(0x1fff_u16.to_be()), unknown);
    a.jump(done);

    a.place(v6);
    load_bytes(a, 0, HEADER, 40, dropped);
    for word in 0..4 {
        a.load(Size::Word, R1, FP, HEADER + if side == Side::Egress { 24 } else { 8 } + 4 * word);
        a.store(Size::Word, FP, KEY_DATA + 4 * word, R1);
    }
    a.load(Size::Byte, R9, FP, HEADER + 6);
    a.set(R8, 40);
    extension_headers(a, done, unknown);

    a.place(unknown);
    a.set(R9, UNKNOWN);
    a.place(done);
}

/// The greatest number of IPv6 extension headers. A packet with more has an unknown protocol.
const EXTENSIONS: usize = 6;
const FRAGMENT: i32 = 44;
/// Hop-by-hop options, routing and destination options: a length in 8 bytes, without the first 8.
const WITH_LENGTH: [i32; 3] = [0, 43, 60];

/// Advances R8 and R9 over the extension headers.
fn extension_headers(a: &mut Assembler, done: Label, unknown: Label) {
    for _ in 0..EXTENSIONS {
        let [header, with_length] = [a.label(), a.label()];
        for kind in WITH_LENGTH.into_iter().chain([FRAGMENT]) {
            a.jump_if(Condition::Equal, R9, kind, header);
        }
        a.jump(done);
        a.place(header);
        load_bytes(a, R8, EXTENSION, 4, unknown);
        a.load(Size::Byte, R1, FP, EXTENSION + 1);
        a.jump_if(Condition::NotEqual, R9, FRAGMENT, with_length);
        a.set(R1, 0);
        a.load(Size::Half, R2, FP, EXTENSION + 2);
        a.jump_if(Condition::AnyBit, R2, i32::from(0xfff8_u16.to_be()), unknown);
        a.place(with_length);
        a.alu(Operation::Add, R1, 1);
        a.alu(Operation::ShiftLeft, R1, 3);
        a.alu(Operation::Add, R8, R1);
        a.load(Size::Byte, R9, FP, EXTENSION);
    }
    for kind in WITH_LENGTH.into_iter().chain([FRAGMENT]) {
        a.jump_if(Condition::Equal, R9, kind, unknown);
    }
    a.jump(done);
}

/// Loads the ports, and sets R8 to whether the packet is a TCP SYN without ACK.
fn transport_header(a: &mut Assembler) {
    let [with_ports, done, other, unknown] = [a.label(), a.label(), a.label(), a.label()];
    a.store(Size::Word, FP, PORTS, 0);
    for protocol in Protocol::WITH_PORTS {
        a.jump_if(Condition::Equal, R9, i32::from(protocol.0), with_ports);
    }
    a.jump(other);
    a.place(with_ports);
    load_bytes(a, R8, PORTS, 4, unknown);
    a.jump_if(Condition::NotEqual, R9, i32::from(Protocol::TCP.0), other);
    a.alu(Operation::Add, R8, 13);
    load_bytes(a, R8, FLAGS, 1, unknown);
    a.load(Size::Byte, R1, FP, FLAGS);
    a.alu(Operation::And, R1, SYN | ACK);
    a.set(R8, 1);
    a.jump_if(Condition::Equal, R1, SYN, done);
    a.jump(other);
    a.place(unknown);
    a.set(R9, UNKNOWN);
    a.place(other);
    a.set(R8, 0);
    a.place(done);
}

const SYN: i32 = 0x02;
const ACK: i32 = 0x10;

fn load_bytes(a: &mut Assembler, offset: impl Into<Operand>, to: i16, length: i32, failed: Label) {
    a.set(R1, R6);
    a.set(R2, offset);
    a.set(R3, FP);
    a.alu(Operation::Add, R3, i32::from(to));
    a.set(R4, length);
    a.call(Function::SkbLoadBytes);
    a.jump_if(Condition::NotEqual, R0, 0, failed);
}

const SECOND: i32 = 1_000_000_000;
/// The bytes of this time pass at once. TCP tries to send again after the 200 ms of its shortest timer and
/// some ticks of the clock, so with fewer bytes it would not reach the rate.
const BURST: i32 = 220_000_000;
/// The greatest length of a packet that may use the bytes of another [`BURST`]: a TCP packet without
/// data. Else one connection with much data would prevent all new ones.
const SHORT: i32 = 128;

/// Jumps to `denied` if the rate is reached, else to `passed`. R8 and R9 are overwritten. This is the
/// generic cell rate algorithm: each connection, packet or byte advances the stored time, which may be
/// ahead of the clock when the last one passes. A long packet thus passes whole, and the next ones wait
/// longer.
fn rate(a: &mut Assembler, maps: &Maps, of: Rate, passed: Label, denied: Label) {
    a.store(Size::Double, FP, KEY_DATA, 0);
    a.store(Size::Byte, FP, KEY_DATA, of as i32);
    a.store(Size::Double, FP, KEY_DATA + 8, 0);
    lookup(a, maps, RATE);
    a.jump_if(Condition::Equal, R0, 0, passed);
    a.load(Size::Word, R9, R0, 0);
    a.jump_if(Condition::Equal, R9, 0, denied);
    a.call(Function::KtimeGetNs);
    a.set(R8, R0);
    match of {
        Rate::BytesOut | Rate::BytesIn => {
            let long = a.label();
            a.alu(Operation::Add, R0, BURST);
            a.load(Size::Word, R1, R6, PACKET_LENGTH);
            a.jump_if(Condition::Greater, R1, SHORT, long);
            a.alu(Operation::Add, R0, BURST);
            a.place(long);
            a.alu(Operation::Multiply, R1, SECOND / RATE_UNIT as i32);
            a.alu(Operation::Divide, R1, R9);
            a.set(R9, R1);
        }
        Rate::Connects | Rate::Accepts | Rate::PacketsOut | Rate::PacketsIn => {
            a.alu(Operation::Add, R0, SECOND);
            a.alu(Operation::Subtract, R0, R9);
        }
    }
    a.store(Size::Double, FP, LATEST, R0);
    if matches!(of, Rate::PacketsOut | Rate::PacketsIn) {
        let single = a.label();
        a.load(Size::Word, R1, R6, PACKET_SEGMENTS);
        a.jump_if(Condition::Equal, R1, 0, single);
        a.alu(Operation::Multiply, R9, R1);
        a.place(single);
    }
    a.load(Size::Double, R4, FP, STATE);
    let place = 8 * of as i16;
    let [ahead, taken] = [a.label(), a.label()];
    a.load(Size::Double, R0, R4, place);
    a.jump_if(Condition::Greater, R0, R8, ahead);
    // If another processor changes the time first, it is close enough.
    a.compare_exchange(R4, place, R8);
    a.place(ahead);
    a.set(R1, R9);
    a.fetch_add(R4, place, R1);
    a.load(Size::Double, R2, FP, LATEST);
    a.alu(Operation::Subtract, R1, R2);
    a.jump_if(Condition::SignedGreater, R1, 0, taken);
    if matches!(of, Rate::BytesOut | Rate::BytesIn) {
        let side = if of == Rate::BytesOut { Side::Egress } else { Side::Ingress };
        // The second half of the burst is in use.
        a.alu(Operation::Add, R1, BURST / 2);
        let marked = a.label();
        a.jump_if(Condition::SignedGreater, R1, 0, marked);
        a.jump(passed);
        a.place(marked);
        a.set(R1, R6);
        a.call(Function::SkbEcnSetCe);
        a.jump_if(Condition::Equal, R0, 0, passed);
        count(a, counters(side) + MARKED, 1);
    }
    a.jump(passed);
    a.place(taken);
    a.set(R1, 0);
    a.alu(Operation::Subtract, R1, R9);
    a.atomic_add(R4, place, R1);
    a.jump(denied);
}

/// Adds to a counter. The value is not in R1.
fn count(a: &mut Assembler, place: i16, value: impl Into<Operand>) {
    a.load(Size::Double, R1, FP, STATE);
    a.set(R2, value);
    a.atomic_add(R1, place, R2);
}
