//! The programs that enforce the limits of a cgroup. They are the same for all limits. Their maps
//! contain the limits.
//!
//! Each program looks up the current table (`table.rs`) in a map of one map, so that all of its
//! decisions about a packet follow from the same limits.

use std::mem::size_of;

use super::assembler::{Assembler, Condition, Function, Label, Operand, Operation, Register, Size};
use super::rule::{Direction, Protocol};
use super::table::{ADDRESS, ALLOWED, DENIED, INTERVAL, KEY_BITS, PORT, Rate, UNLISTED};
use crate::sys::bpf::{Hook, Map, Name};
use Register::{FP, R0, R1, R2, R3, R4, R6, R7, R8, R9};

/// The maps of the programs of a cgroup.
#[derive(Debug)]
pub(super) struct Maps {
    /// A map with one map: the table of the limits.
    pub(super) rules: Map,
    /// An array with one value: [`State`].
    pub(super) state: Map,
}

/// Counters and state of the programs. A new limit does not reset them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct State([u64; 12]);

/// The place of the counters in [`State`], in bytes: 32 for each side. Before them is a time for each
/// [`Rate`]: when the next connection or packet is free, by the clock of the kernel.
const COUNTERS: i16 = 32;
const BYTES: i16 = 0;
const PACKETS: i16 = 8;
const DROPPED: i16 = 16;
const CALLS_DENIED: i16 = 24;

impl State {
    pub(super) const SIZE: usize = size_of::<Self>();

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let mut state = Self::default();
        for (number, bytes) in state.0.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_ne_bytes(*bytes);
        }
        state
    }

    /// Returns the bytes, packets, dropped packets and denied calls of the direction.
    pub(super) fn counters(&self, direction: Side) -> [u64; 4] {
        let first = counters(direction) as usize / 8;
        std::array::from_fn(|i| self.0[first + i])
    }
}

fn counters(side: Side) -> i16 {
    COUNTERS + 32 * side as i16
}

/// The side of the counters: packets that leave the cgroup, or packets that arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Egress,
    Ingress,
}

/// A program: its name, its hook and its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    pub(super) name: Name,
    pub(super) hook: Hook,
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

/// All programs. The maps of a cgroup are found through the first.
#[rustfmt::skip]
pub(super) const PROGRAMS: [Program; 8] = [
    program(*b"nspod_net_out\0\0\0", PACKET, 1, Kind::Packet(Side::Egress)),
    program(*b"nspod_net_in\0\0\0\0", PACKET, 0, Kind::Packet(Side::Ingress)),
    program(*b"nspod_connect4\0\0", CALL, 10, Kind::Call(Call::Connect, Family::V4)),
    program(*b"nspod_connect6\0\0", CALL, 11, Kind::Call(Call::Connect, Family::V6)),
    program(*b"nspod_sendmsg4\0\0", CALL, 14, Kind::Call(Call::Send, Family::V4)),
    program(*b"nspod_sendmsg6\0\0", CALL, 15, Kind::Call(Call::Send, Family::V6)),
    program(*b"nspod_bind4\0\0\0\0\0", CALL, 8, Kind::Call(Call::Bind, Family::V4)),
    program(*b"nspod_bind6\0\0\0\0\0", CALL, 9, Kind::Call(Call::Bind, Family::V6)),
];

const fn program(name: Name, program_type: u32, attach_type: u32, kind: Kind) -> Program {
    Program { name, hook: Hook { program_type, attach_type }, kind }
}

impl Program {
    /// Returns the instructions.
    pub(super) fn assemble(&self, maps: &Maps) -> Vec<u64> {
        match self.kind {
            Kind::Packet(side) => packet(maps, side),
            Kind::Call(call, family) => address(maps, call, family),
        }
    }
}

// The stack. KEY is a key of the table, 24 bytes: the length, the kind, and 16 bytes.
const KEY: i16 = -24;
const KEY_TAG: i16 = KEY + 4;
const KEY_DATA: i16 = KEY + 8;
const INDEX: i16 = -28;
const CLASS: i16 = -32;
const VERDICTS: i16 = -40;
/// The ports of a packet: source, destination.
const PORTS: i16 = -44;
const FLAGS: i16 = -48;
const EXTENSION: i16 = -52;
const HAS_RULES: i16 = -56;
const HEADER: i16 = -96;

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

/// Assembles the program of a call with an address. R6: context, R7: table, R8: port, R9: protocol.
fn address(maps: &Maps, call: Call, family: Family) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, denied, open] = [a.label(), a.label(), a.label()];
    a.set(R6, R1);
    table(&mut a, maps, passed);
    match family {
        Family::V4 => {
            a.load(Size::Word, R1, R6, USER_IP4);
            key_of_v4(&mut a, R1);
        }
        Family::V6 => {
            for word in 0..4 {
                a.load(Size::Word, R1, R6, USER_IP6 + 4 * word);
                a.store(Size::Word, FP, KEY_DATA + 4 * word, R1);
            }
        }
    }
    if call != Call::Bind {
        unspecified_is_loopback(&mut a);
    }
    a.load(Size::Word, R9, R6, SOCKET_PROTOCOL);
    a.load(Size::Word, R8, R6, USER_PORT);
    let with_ports = a.label();
    for protocol in Protocol::WITH_PORTS {
        a.jump_if(Condition::Equal, R9, i32::from(protocol.0), with_ports);
    }
    a.set(R8, 0);
    a.place(with_ports);
    class(&mut a, open);
    match call {
        Call::Connect => verdict(&mut a, Direction::Out),
        Call::Bind => verdict(&mut a, Direction::Bind),
        Call::Send => {
            verdict(&mut a, Direction::Out);
            a.load(Size::Double, R1, R6, SOCKET);
            a.load(Size::Word, R8, R1, LOCAL_PORT);
            a.network_half(R8);
            verdict(&mut a, Direction::In);
        }
    }
    decide(&mut a, denied);
    a.place(open);
    match call {
        Call::Connect => {
            a.load(Size::Word, R1, R6, SOCKET_TYPE);
            a.jump_if(Condition::NotEqual, R1, SOCK_STREAM, passed);
            rate(&mut a, maps, Rate::Connects, passed, denied);
        }
        Call::Bind if family == Family::V6 => {
            // A socket that is bound to :: receives IPv4 too.
            for word in 0..4 {
                a.load(Size::Word, R1, R6, USER_IP6 + 4 * word);
                a.jump_if(Condition::NotEqual, R1, 0, passed);
            }
            key_of_v4(&mut a, R1);
            class(&mut a, passed);
            verdict(&mut a, Direction::Bind);
            decide(&mut a, denied);
        }
        Call::Bind | Call::Send => {}
    }
    a.place(passed);
    a.set(R0, 1);
    a.exit();
    a.place(denied);
    let side = if call == Call::Bind { Side::Ingress } else { Side::Egress };
    count(&mut a, maps, counters(side) + CALLS_DENIED, 1);
    a.set(R0, 0);
    a.exit();
    a.finish()
}

/// Assembles the program for packets. R6: context, R7: table, R8: offset of the transport header and
/// then whether the packet opens a TCP connection, R9: protocol.
fn packet(maps: &Maps, side: Side) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, dropped, opened, checked] = [a.label(), a.label(), a.label(), a.label()];
    a.set(R6, R1);
    table(&mut a, maps, passed);
    network_header(&mut a, side, passed, dropped);
    let open = a.label();
    a.store(Size::Word, FP, HAS_RULES, 0);
    class(&mut a, open);
    a.store(Size::Word, FP, HAS_RULES, 1);
    a.place(open);
    transport_header(&mut a);
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
        verdict_about(&mut a, direction, R3);
    }
    a.place(opened);
    decide(&mut a, dropped);
    a.place(checked);
    if side == Side::Ingress {
        let accepted = a.label();
        a.jump_if(Condition::Equal, R8, 0, accepted);
        rate(&mut a, maps, Rate::Accepts, accepted, dropped);
        a.place(accepted);
    }
    let of_packets = if side == Side::Egress { Rate::Egress } else { Rate::Ingress };
    rate(&mut a, maps, of_packets, passed, dropped);
    a.place(passed);
    a.load(Size::Word, R2, R6, PACKET_LENGTH);
    count(&mut a, maps, counters(side) + BYTES, R2);
    count(&mut a, maps, counters(side) + PACKETS, 1);
    a.set(R0, 1);
    a.exit();
    a.place(dropped);
    count(&mut a, maps, counters(side) + DROPPED, 1);
    a.set(R0, 0);
    a.exit();
    a.finish()
}

/// Sets R7 to the current table.
fn table(a: &mut Assembler, maps: &Maps, absent: Label) {
    a.store(Size::Word, FP, INDEX, 0);
    a.map(R1, &maps.rules);
    a.set(R2, FP);
    a.alu(Operation::Add, R2, i32::from(INDEX));
    a.call(Function::MapLookup);
    a.jump_if(Condition::Equal, R0, 0, absent);
    a.set(R7, R0);
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
fn lookup(a: &mut Assembler, tag: u8) {
    a.store(Size::Word, FP, KEY, KEY_BITS as i32);
    a.store(Size::Word, FP, KEY_TAG, i32::from_ne_bytes([tag, 0, 0, 0]));
    a.set(R1, R7);
    a.set(R2, FP);
    a.alu(Operation::Add, R2, i32::from(KEY));
    a.call(Function::MapLookup);
}

/// Stores the class of the address in the key, and clears the verdicts. Jumps if there are no rules.
fn class(a: &mut Assembler, no_rules: Label) {
    lookup(a, ADDRESS);
    a.jump_if(Condition::Equal, R0, 0, no_rules);
    a.load(Size::Word, R1, R0, 0);
    a.store(Size::Word, FP, CLASS, R1);
    a.store(Size::Double, FP, VERDICTS, 0);
}

/// Adds the verdict about the port in R8.
fn verdict(a: &mut Assembler, direction: Direction) {
    a.set(R3, R8);
    verdict_about(a, direction, R3);
}

/// Adds the verdict about the stored class, the direction, the protocol in R9 and this port.
fn verdict_about(a: &mut Assembler, direction: Direction, port: Register) {
    a.load(Size::Word, R1, FP, CLASS);
    a.store(Size::Word, FP, KEY_DATA, R1);
    a.store(Size::Byte, FP, KEY_DATA + 2, direction as i32);
    a.store(Size::Byte, FP, KEY_DATA + 3, R9);
    a.store(Size::Word, FP, KEY_DATA + 4, 0);
    a.store(Size::Half, FP, KEY_DATA + 4, port);
    a.store(Size::Double, FP, KEY_DATA + 8, 0);
    lookup(a, PORT);
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
        let [with_length, fragment, next] = [a.label(), a.label(), a.label()];
        a.jump_if(Condition::Equal, R9, FRAGMENT, fragment);
        for header in WITH_LENGTH {
            a.jump_if(Condition::Equal, R9, header, with_length);
        }
        a.jump(done);
        a.place(fragment);
        load_bytes(a, R8, EXTENSION, 4, unknown);
        a.load(Size::Byte, R9, FP, EXTENSION);
        a.alu(Operation::Add, R8, 8);
        a.load(Size::Half, R1, FP, EXTENSION + 2);
        a.jump_if(Condition::AnyBit, R1, i32::from(0xfff8_u16.to_be()), unknown);
        a.jump(next);
        a.place(with_length);
        load_bytes(a, R8, EXTENSION, 4, unknown);
        a.load(Size::Byte, R9, FP, EXTENSION);
        a.load(Size::Byte, R1, FP, EXTENSION + 1);
        a.alu(Operation::Add, R1, 1);
        a.alu(Operation::ShiftLeft, R1, 3);
        a.alu(Operation::Add, R8, R1);
        a.place(next);
    }
    for header in WITH_LENGTH.into_iter().chain([FRAGMENT]) {
        a.jump_if(Condition::Equal, R9, header, unknown);
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
/// Number of attempts to exchange the time while other processors change it. After the last one the
/// connection is refused.
const ATTEMPTS: usize = 16;

/// Jumps to `denied` if the rate is reached, else to `passed`. R8 and R9 are overwritten. This is the
/// generic cell rate algorithm: the stored time advances by the interval with each connection or
/// packet, and may be a second ahead of the clock.
fn rate(a: &mut Assembler, maps: &Maps, of: Rate, passed: Label, denied: Label) {
    a.store(Size::Double, FP, KEY_DATA, 0);
    a.store(Size::Byte, FP, KEY_DATA, of as i32);
    a.store(Size::Double, FP, KEY_DATA + 8, 0);
    lookup(a, INTERVAL);
    a.jump_if(Condition::Equal, R0, 0, passed);
    a.load(Size::Word, R9, R0, 0);
    if matches!(of, Rate::Egress | Rate::Ingress) {
        let single = a.label();
        a.load(Size::Word, R1, R6, PACKET_SEGMENTS);
        a.jump_if(Condition::Equal, R1, 0, single);
        a.alu(Operation::Multiply, R9, R1);
        a.place(single);
    }
    a.call(Function::KtimeGetNs);
    a.set(R8, R0);
    a.map_value(R4, &maps.state);
    let place = 8 * of as i16;
    for _ in 0..ATTEMPTS {
        let ahead = a.label();
        a.load(Size::Double, R0, R4, place);
        a.set(R1, R0);
        a.set(R2, R0);
        a.jump_if(Condition::Greater, R2, R8, ahead);
        a.set(R2, R8);
        a.place(ahead);
        a.alu(Operation::Add, R2, R9);
        a.set(R3, R2);
        a.alu(Operation::Subtract, R3, R8);
        a.jump_if(Condition::Greater, R3, SECOND, denied);
        a.compare_exchange(R4, place, R2);
        a.jump_if(Condition::Equal, R0, R1, passed);
    }
    a.jump(denied);
}

/// Adds to a counter. The value is not in R1.
fn count(a: &mut Assembler, maps: &Maps, place: i16, value: impl Into<Operand>) {
    a.map_value(R1, &maps.state);
    a.set(R2, value);
    a.atomic_add(R1, place, R2);
}
