//! The programs that enforce the limits of a cgroup. Their maps contain the limits. A program has the
//! parts for some [`Features`], and is replaced if an update requires more.
//!
//! Each program finds the current limits (`state.rs`) once, with the number of the rules, and looks up only
//! entries with this number (`table.rs`). So all of its decisions about a packet follow from the same limits.
//!
//! The kernel's check of a program is most of the cost of a start. It costs by jumps more than by instructions,
//! because each can double what has to be checked. So arithmetic replaces jumps, and both directions share the
//! code.

use super::assembler::{Assembler, Condition, Function, Label, Operand, Operation, Register, Size};
use super::limits::{Limits, RATE_UNIT};
use super::maps::Maps;
use super::rule::{Direction, Protocol};
use super::state::{
    ACCEPTS, BLOCK_SIZE, BLOCKS, BURST, BYTES, BYTES_PASSED, CALLS_DENIED, CONNECTS, DROPPED, MARKED,
    PACKETS, PACKETS_PASSED, Rate, Side, block,
};
use super::table::{ADDRESS, ALLOWED, DENIED, KEY_BITS, PORT, UNLISTED};
use crate::sys::bpf::{Hook, Name};
use Register::{FP, R0, R1, R2, R3, R4, R6, R7, R8, R9};

bitflags::bitflags! {
    /// The limits that a program can enforce.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Features: u8 {
        /// `net.allow` and `net.deny`, but not their rules for binding.
        const RULES = 0x01;
        /// `net.connects.max`.
        const CONNECTS = 0x02;
        /// `net.accepts.max`.
        const ACCEPTS = 0x04;
        /// `net.packets.max`.
        const PACKETS = 0x08;
        /// The rules for binding.
        const BINDS = 0x10;
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
        let mut rules = limits.allow.iter().chain(&limits.deny);
        features.set(Self::RULES, rules.clone().any(|rule| rule.direction != Some(Direction::Bind)));
        features.set(Self::BINDS, rules.any(|rule| rule.direction == Some(Direction::Bind)));
        features.set(Self::CONNECTS, limits.connects_max.is_some());
        features.set(Self::ACCEPTS, limits.accepts_max.is_some());
        features.set(Self::PACKETS, limits.packets_max.is_some());
        features.set(Self::SOCKETS, limits.sockets_max.is_some());
        features.set(Self::EGRESS, limits.egress_max.is_some());
        features.set(Self::INGRESS, limits.ingress_max.is_some());
        features
    }
}

/// A program: the start of its name, its hook, and its kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    stem: &'static str,
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
///
/// `sendmsg` of a datagram needs no program of its own: it fails with `EPERM` if the packet is dropped.
#[rustfmt::skip]
pub(super) const PROGRAMS: [Program; 6] = [
    program("nspod_net", PACKET, 1, Kind::Packet(Side::Egress)),
    program("nspod_net", PACKET, INGRESS, Kind::Packet(Side::Ingress)),
    program("nspod_connect", CALL, 10, Kind::Call(Call::Connect, Family::V4)),
    program("nspod_connect", CALL, 11, Kind::Call(Call::Connect, Family::V6)),
    program("nspod_bind", CALL, 8, Kind::Call(Call::Bind, Family::V4)),
    program("nspod_bind", CALL, 9, Kind::Call(Call::Bind, Family::V6)),
];

/// The programs that count. They are attached with any limit.
pub(super) const COUNTING: usize = 2;
/// `BPF_CGROUP_INET_INGRESS`.
const INGRESS: u32 = 0;

const fn program(stem: &'static str, program_type: u32, attach_type: u32, kind: Kind) -> Program {
    Program { stem, hook: Hook { program_type, attach_type }, kind }
}

impl Program {
    /// Returns those of the features that the program needs.
    ///
    /// One program is loaded for both directions of the packets, because a load costs more than the rest.
    /// Only `net.egress.max` requires a program for one direction: the kernel accepts its verdict
    /// [`DROP_CONGESTED`] for packets that leave, and refuses to attach a program with it elsewhere.
    pub(super) fn needed(&self, features: Features) -> Features {
        let packets = Features::RULES | Features::PACKETS;
        let own = match self.kind {
            Kind::Packet(Side::Egress) if features.contains(Features::EGRESS) => packets | Features::EGRESS,
            Kind::Packet(_) => packets | Features::ACCEPTS | Features::INGRESS,
            Kind::Call(Call::Connect, _) => Features::RULES | Features::CONNECTS,
            Kind::Call(Call::Bind, _) => Features::BINDS,
        };
        features & own
    }

    /// Returns the hook for which the program is loaded.
    pub(super) fn loaded_for(&self, features: Features) -> Hook {
        match self.kind {
            Kind::Packet(_) if !features.contains(Features::EGRESS) => {
                Hook { attach_type: INGRESS, ..self.hook }
            }
            _ => self.hook,
        }
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
            Kind::Packet(_) => packet(maps, features),
            Kind::Call(call, family) => address(maps, call, family, features),
        }
    }
}

// The stack. KEY is a key of the table: the length, the kind and number, and 16 bytes.
const KEY: i16 = -28;
const KEY_TAG: i16 = KEY + 4;
const KEY_DATA: i16 = KEY_TAG + 8;
const CLASS: i16 = -32;
const VERDICTS: i16 = -40;
/// The start of the transport header: the ports of the source and the destination, and the flags of TCP.
const PORTS: i16 = -56;
const FLAGS: i16 = PORTS + 13;
/// The network header, with both addresses in the form of IPv6.
const HEADER: i16 = -96;
const SOURCE: i16 = HEADER + 8;
const DESTINATION: i16 = HEADER + 24;
const EXTENSION: i16 = -100;
/// The protocol of a packet. The verifier knows nothing about a byte that it finds here. So it checks the code
/// after this only once, and not for each value that an earlier jump has told it.
const PROTOCOL: i16 = -101;
/// The [`Side`] of a packet.
const SIDE: i16 = -102;

// struct bpf_sock_addr.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const SOCKET_TYPE: i16 = 32;
const SOCKET_PROTOCOL: i16 = 36;
// struct __sk_buff.
const PACKET_LENGTH: i16 = 0;
const PACKET_MARK: i16 = 8;
const PACKET_PROTOCOL: i16 = 16;
/// The interface at which the packet arrived, and 0 for a packet that leaves.
const PACKET_ARRIVED_AT: i16 = 36;
const PACKET_SEGMENTS: i16 = 164;

const SOCK_STREAM: i32 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// A reserved protocol: the transport header cannot be found.
const UNKNOWN: i32 = 255;

const MAPPED: u32 = 0xffff_u32.to_be();
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
const LOOPBACK6: u32 = 1_u32.to_be();

/// Assembles the program of a call with an address. R6: context, R7: block of the side, R8: port,
/// R9: protocol.
fn address(maps: &Maps, call: Call, family: Family, features: Features) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, denied, open] = [a.label(), a.label(), a.label()];
    let side = if call == Call::Bind { Side::Ingress } else { Side::Egress };
    a.set(R6, R1);
    limits_of_cgroup(&mut a, maps);
    a.alu(Operation::Add, R7, BLOCKS + block(side));
    if features.intersects(Features::RULES | Features::BINDS) {
        rules_of_call(&mut a, maps, call, family, [open, denied]);
    }
    a.place(open);
    if call == Call::Connect && features.contains(Features::CONNECTS) {
        a.load(Size::Word, R1, R6, SOCKET_TYPE);
        a.jump_if(Condition::NotEqual, R1, SOCK_STREAM, passed);
        rate(&mut a, CONNECTS, passed, denied);
    }
    a.place(passed);
    a.set(R0, 1);
    a.exit();
    a.place(denied);
    count(&mut a, CALLS_DENIED, 1);
    a.set(R0, 0);
    a.exit();
    a.finish()
}

/// Checks the rules for a call. Jumps to a label if they do not apply or deny, else continues.
fn rules_of_call(a: &mut Assembler, maps: &Maps, call: Call, family: Family, [open, denied]: [Label; 2]) {
    let direction = if call == Call::Bind { Direction::Bind } else { Direction::Out };
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
    if call == Call::Connect {
        unspecified_is_loopback(a, family);
    }
    a.load(Size::Word, R9, R6, SOCKET_PROTOCOL);
    // IPPROTO_MPTCP is 256 more than TCP.
    a.alu(Operation::And, R9, 0xff);
    a.load(Size::Word, R8, R6, USER_PORT);
    let with_ports = a.label();
    if_with_ports(a, R9, with_ports);
    a.set(R8, 0);
    a.place(with_ports);
    class(a, maps, open);
    verdict(a, maps, direction as i32, [R9, R8]);
    decide(a, denied);
    if call == Call::Bind && family == Family::V6 {
        // A socket that is bound to :: receives IPv4 too.
        a.set(R1, 0);
        for word in 0..4 {
            a.load(Size::Word, R2, R6, USER_IP6 + 4 * word);
            a.alu(Operation::Or, R1, R2);
        }
        a.jump_if(Condition::NotEqual, R1, 0, open);
        key_of_v4(a, R1);
        class(a, maps, open);
        verdict(a, maps, direction as i32, [R9, R8]);
        decide(a, denied);
    }
}

/// Jumps if the protocol in the register has ports. R2 and R3 are overwritten.
fn if_with_ports(a: &mut Assembler, protocol: Register, to: Label) {
    let [tcp, udp, others @ ..] = Protocol::WITH_PORTS;
    for protocol_with in [tcp, udp] {
        a.jump_if(Condition::Equal, protocol, i32::from(protocol_with.0), to);
    }
    // One jump for all the others: the product is 0 for one of them.
    a.set(R2, 1);
    for other in others {
        a.set(R3, protocol);
        a.alu(Operation::Subtract, R3, i32::from(other.0));
        a.alu(Operation::Multiply, R2, R3);
    }
    a.jump_if(Condition::Equal, R2, 0, to);
}

/// Assembles the program for packets, for both directions unless the features require one. R6: context, R7:
/// block of the side.
fn packet(maps: &Maps, features: Features) -> Vec<u64> {
    let mut a = Assembler::default();
    let [passed, dropped, congested, below] = [a.label(), a.label(), a.label(), a.label()];
    let both = !features.contains(Features::EGRESS);
    a.set(R6, R1);
    a.load(Size::Word, R1, R6, PACKET_MARK);
    a.set_word(R2, DROPPED_BELOW);
    a.jump_if(Condition::Equal, R1, R2, below);
    limits_of_cgroup(&mut a, maps);
    block_of_packet(&mut a, both);
    let rules = features.contains(Features::RULES);
    let accepts = both && features.contains(Features::ACCEPTS);
    if rules || accepts {
        network_header(&mut a, dropped);
        transport_header(&mut a);
    }
    if rules {
        rules_of_packet(&mut a, maps, both, dropped);
    }
    if accepts {
        let [accepted, opened] = [a.label(), a.label()];
        if_opens(&mut a, opened);
        a.jump(accepted);
        a.place(opened);
        rate(&mut a, ACCEPTS, accepted, dropped);
        a.place(accepted);
    }
    if features.contains(Features::PACKETS) {
        let counted = a.label();
        rate(&mut a, PACKETS, counted, dropped);
        a.place(counted);
    }
    if features.intersects(Features::EGRESS | Features::INGRESS) {
        rate(&mut a, BYTES, passed, congested);
    }
    a.place(passed);
    a.load(Size::Word, R2, R6, PACKET_LENGTH);
    count(&mut a, BYTES_PASSED, R2);
    count(&mut a, PACKETS_PASSED, 1);
    a.set(R0, 1);
    a.exit();
    for (label, verdict) in [(congested, if both { DROP } else { DROP_CONGESTED }), (dropped, DROP)] {
        if a.is_used(label) {
            a.place(label);
            count(&mut a, DROPPED, 1);
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

/// Stores the [`Side`] of the packet, and moves R7 to its block.
fn block_of_packet(a: &mut Assembler, both: bool) {
    if both {
        // R2: 1 for a packet that has arrived at an interface, else 0.
        a.load(Size::Word, R1, R6, PACKET_ARRIVED_AT);
        a.alu(Operation::Subtract, R1, 1);
        a.alu(Operation::ShiftRight, R1, 63);
        a.set(R2, 1);
        a.alu(Operation::Subtract, R2, R1);
        a.store(Size::Byte, FP, SIDE, R2);
        a.alu(Operation::Multiply, R2, BLOCK_SIZE);
        a.alu(Operation::Add, R7, R2);
    } else {
        a.store(Size::Byte, FP, SIDE, Side::Egress as i32);
    }
    a.alu(Operation::Add, R7, BLOCKS);
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
fn rules_of_packet(a: &mut Assembler, maps: &Maps, both: bool, dropped: Label) {
    let [arriving, keyed, opened, checked] = [a.label(), a.label(), a.label(), a.label()];
    // The address of the peer is the source of what arrives.
    let peer = |a: &mut Assembler, address: i16| {
        for half in [0, 8] {
            a.load(Size::Double, R1, FP, address + half);
            a.store(Size::Double, FP, KEY_DATA + half, R1);
        }
    };
    if both {
        a.load(Size::Byte, R1, FP, SIDE);
        a.jump_if(Condition::NotEqual, R1, 0, arriving);
    }
    peer(a, DESTINATION);
    if both {
        a.jump(keyed);
        a.place(arriving);
        peer(a, SOURCE);
        a.place(keyed);
    }
    class(a, maps, checked);
    a.load(Size::Byte, R1, FP, PROTOCOL);
    a.jump_if(Condition::Equal, R1, UNKNOWN, dropped);
    // The port of a rule is the destination of what has its direction, and the source of an answer.
    let about = |a: &mut Assembler, of_answers: i32, port: i16| {
        a.load(Size::Byte, R1, FP, PROTOCOL);
        a.load(Size::Half, R2, FP, port);
        a.load(Size::Byte, R3, FP, SIDE);
        a.alu(Operation::ExclusiveOr, R3, of_answers);
        verdict(a, maps, R3, [R1, R2]);
    };
    about(a, 0, PORTS + 2);
    // A packet that opens a connection has one direction; any other can have either.
    if_opens(a, opened);
    about(a, 1, PORTS);
    a.place(opened);
    decide(a, dropped);
    a.place(checked);
}

/// Jumps if the packet is a TCP SYN without ACK.
fn if_opens(a: &mut Assembler, to: Label) {
    a.load(Size::Byte, R1, FP, FLAGS);
    a.alu(Operation::And, R1, SYN | ACK);
    a.jump_if(Condition::Equal, R1, SYN, to);
}

/// Sets R7 to the [`State`](super::state::State) of the cgroup, and stores the number of its rules in the key.
/// Without rules the number is 0, and the table has no entries for it.
fn limits_of_cgroup(a: &mut Assembler, maps: &Maps) {
    // All maps are found through any program.
    a.map(R1, &maps.table);
    a.map(R1, &maps.state);
    a.set(R2, 0);
    a.call(Function::GetLocalStorage);
    a.set(R7, R0);
    a.load(Size::Double, R1, R7, 0);
    a.store(Size::Double, FP, KEY_TAG, R1);
}

/// Puts an IPv4 address into the key.
fn key_of_v4(a: &mut Assembler, address: Register) {
    a.store(Size::Double, FP, KEY_DATA, 0);
    a.store(Size::Word, FP, KEY_DATA + 8, MAPPED as i32);
    a.store(Size::Word, FP, KEY_DATA + 12, address);
}

/// Replaces `0.0.0.0` and `::` in the key by the loopback address.
fn unspecified_is_loopback(a: &mut Assembler, family: Family) {
    let [done, v4] = [a.label(), a.label()];
    if family == Family::V6 {
        a.load(Size::Double, R1, FP, KEY_DATA);
        a.load(Size::Word, R2, FP, KEY_DATA + 12);
        a.alu(Operation::Or, R1, R2);
        a.jump_if(Condition::NotEqual, R1, 0, done);
        a.load(Size::Word, R1, FP, KEY_DATA + 8);
        a.set_word(R2, MAPPED);
        a.jump_if(Condition::Equal, R1, R2, v4);
        a.jump_if(Condition::NotEqual, R1, 0, done);
        a.store(Size::Word, FP, KEY_DATA + 12, LOOPBACK6 as i32);
        a.jump(done);
        a.place(v4);
    } else {
        a.load(Size::Word, R1, FP, KEY_DATA + 12);
        a.jump_if(Condition::NotEqual, R1, 0, done);
    }
    a.store(Size::Word, FP, KEY_DATA + 12, LOOPBACK4 as i32);
    a.place(done);
}

/// Looks up the key in the table.
fn lookup(a: &mut Assembler, maps: &Maps, tag: u8) {
    a.store(Size::Word, FP, KEY, KEY_BITS as i32);
    a.store(Size::Byte, FP, KEY_TAG, i32::from(tag));
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

/// Adds the verdict about the stored class, the direction, and the protocol and port in two registers. R4 is
/// overwritten.
fn verdict(a: &mut Assembler, maps: &Maps, direction: impl Into<Operand>, [protocol, port]: [Register; 2]) {
    a.load(Size::Word, R4, FP, CLASS);
    a.store(Size::Word, FP, KEY_DATA, R4);
    a.store(Size::Byte, FP, KEY_DATA + 2, direction);
    a.store(Size::Byte, FP, KEY_DATA + 3, protocol);
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
    a.load(Size::Double, R1, FP, VERDICTS);
    // An allow rule clears UNLISTED.
    a.set(R2, R1);
    a.alu(Operation::And, R2, ALLOWED as i32);
    a.alu(Operation::Multiply, R2, (UNLISTED / ALLOWED) as i32);
    a.alu(Operation::Or, R1, R2);
    a.alu(Operation::Subtract, R1, R2);
    a.jump_if(Condition::AnyBit, R1, (DENIED | UNLISTED) as i32, denied);
}

/// Stores both addresses and the protocol, and sets R8 to the offset of the transport header.
fn network_header(a: &mut Assembler, malformed: Label) {
    let [v6, done, unknown] = [a.label(), a.label(), a.label()];
    a.load(Size::Word, R1, R6, PACKET_PROTOCOL);
    a.jump_if(Condition::Equal, R1, i32::from(ETH_P_IPV6.to_be()), v6);
    a.jump_if(Condition::NotEqual, R1, i32::from(ETH_P_IP.to_be()), malformed);

    load_bytes(a, 0, HEADER, 20, malformed);
    a.load(Size::Byte, R8, FP, HEADER);
    a.alu(Operation::And, R8, 15);
    a.alu(Operation::ShiftLeft, R8, 2);
    a.load(Size::Byte, R1, FP, HEADER + 9);
    a.store(Size::Byte, FP, PROTOCOL, R1);
    a.load(Size::Half, R3, FP, HEADER + 6);
    a.load(Size::Word, R1, FP, HEADER + 12);
    a.load(Size::Word, R2, FP, HEADER + 16);
    for (address, bits) in [(SOURCE, R1), (DESTINATION, R2)] {
        a.store(Size::Double, FP, address, 0);
        a.store(Size::Word, FP, address + 8, MAPPED as i32);
        a.store(Size::Word, FP, address + 12, bits);
    }
    // Only the first fragment has the ports. The kernel divides packets after this program and joins
    // them before it; so only a raw socket sends a fragment.
    a.jump_if(Condition::AnyBit, R3, i32::from(0x1fff_u16.to_be()), unknown);
    a.jump(done);

    a.place(v6);
    load_bytes(a, 0, HEADER, 40, malformed);
    a.load(Size::Byte, R9, FP, HEADER + 6);
    a.set(R8, 40);
    extension_headers(a, done, unknown);

    a.place(unknown);
    a.store(Size::Byte, FP, PROTOCOL, UNKNOWN);
    a.place(done);
}

/// The greatest number of IPv6 extension headers. A packet with more has an unknown protocol.
const EXTENSIONS: usize = 6;
const FRAGMENT: u64 = 44;
/// The extension headers, each a bit. Hop-by-hop options, routing and destination options begin with the next
/// protocol and a length in 8 bytes, without the first 8. A fragment header has 8 bytes.
const WITH_LENGTH: u64 = 1 | 1 << 43 | 1 << 60;

/// Advances R8 over the extension headers, and stores the protocol, which is R9 before.
fn extension_headers(a: &mut Assembler, done: Label, unknown: Label) {
    let last = a.label();
    let unless_extension = |a: &mut Assembler| {
        a.jump_if(Condition::Greater, R9, 63, last);
        a.set_double(R1, WITH_LENGTH | 1 << FRAGMENT);
        a.alu(Operation::ShiftRight, R1, R9);
        a.alu(Operation::And, R1, 1);
        a.jump_if(Condition::Equal, R1, 0, last);
    };
    for _ in 0..EXTENSIONS {
        unless_extension(a);
        load_bytes(a, R8, EXTENSION, 4, unknown);
        // R3: 1 for a fragment, else 0. Arithmetic costs the verifier less than jumps.
        a.set_double(R3, 1 << FRAGMENT);
        a.alu(Operation::ShiftRight, R3, R9);
        a.alu(Operation::And, R3, 1);
        a.load(Size::Byte, R1, FP, EXTENSION + 1);
        a.load(Size::Half, R2, FP, EXTENSION + 2);
        a.alu(Operation::Multiply, R2, R3);
        a.alu(Operation::Subtract, R3, 1);
        a.alu(Operation::And, R1, R3);
        a.alu(Operation::Add, R1, 1);
        a.alu(Operation::ShiftLeft, R1, 3);
        a.alu(Operation::Add, R8, R1);
        a.load(Size::Byte, R9, FP, EXTENSION);
        // Only the first fragment has the ports.
        a.jump_if(Condition::AnyBit, R2, i32::from(0xfff8_u16.to_be()), unknown);
    }
    unless_extension(a);
    a.jump(unknown);
    a.place(last);
    a.store(Size::Byte, FP, PROTOCOL, R9);
    a.jump(done);
}

/// Loads the ports, and the flags of TCP. For other protocols the flags are not those of a SYN.
fn transport_header(a: &mut Assembler) {
    let [other, with_ports, unknown, done] = [a.label(), a.label(), a.label(), a.label()];
    a.store(Size::Double, FP, PORTS, 0);
    a.store(Size::Double, FP, PORTS + 8, 0);
    a.load(Size::Byte, R1, FP, PROTOCOL);
    a.jump_if(Condition::NotEqual, R1, i32::from(Protocol::TCP.0), other);
    load_bytes(a, R8, PORTS, 14, unknown);
    a.jump(done);
    a.place(other);
    a.store(Size::Byte, FP, FLAGS, ACK);
    if_with_ports(a, R1, with_ports);
    a.jump(done);
    a.place(with_ports);
    load_bytes(a, R8, PORTS, 4, unknown);
    a.jump(done);
    a.place(unknown);
    a.store(Size::Byte, FP, PROTOCOL, UNKNOWN);
    a.store(Size::Byte, FP, FLAGS, ACK);
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
/// The greatest length of a packet that may use the bytes of another burst: a TCP packet without
/// data. Else one connection with much data would prevent all new ones.
const SHORT: i32 = 128;

/// Jumps to `denied` if the rate is reached, else to `passed`. R8 and R9 are overwritten. This is the
/// generic cell rate algorithm: each connection, packet or byte advances the stored time, which may be
/// ahead of the clock when the last one passes. A long packet thus passes whole, and the next ones wait
/// longer.
fn rate(a: &mut Assembler, of: Rate, passed: Label, denied: Label) {
    a.call(Function::KtimeGetNs);
    // R8: now. R9: the time that this uses. R3: the latest time at which it passes.
    a.set(R8, R0);
    a.set(R3, R0);
    a.load(Size::Double, R9, R7, of.limit);
    if of == BYTES {
        bytes_of_packet(a);
    } else {
        a.alu(Operation::Add, R3, SECOND);
        a.alu(Operation::Subtract, R3, R9);
    }
    if of == PACKETS {
        // A packet that is not divided has 0 segments, and counts as one.
        a.load(Size::Word, R1, R6, PACKET_SEGMENTS);
        a.set(R2, R1);
        a.alu(Operation::Subtract, R2, 1);
        a.alu(Operation::ShiftRight, R2, 63);
        a.alu(Operation::Add, R1, R2);
        a.alu(Operation::Multiply, R9, R1);
    }
    let [ahead, taken] = [a.label(), a.label()];
    a.load(Size::Double, R0, R7, of.time);
    a.jump_if(Condition::Greater, R0, R8, ahead);
    // If another processor changes the time first, it is close enough.
    a.compare_exchange(R7, of.time, R8);
    a.place(ahead);
    a.set(R1, R9);
    a.fetch_add(R7, of.time, R1);
    a.alu(Operation::Subtract, R1, R3);
    a.jump_if(Condition::SignedGreater, R1, 0, taken);
    if of == BYTES {
        // The second half of the burst is in use.
        a.alu(Operation::Add, R1, R4);
        let marked = a.label();
        a.jump_if(Condition::SignedGreater, R1, 0, marked);
        a.jump(passed);
        a.place(marked);
        a.set(R1, R6);
        a.call(Function::SkbEcnSetCe);
        // 1 if the packet is marked, else 0.
        count(a, MARKED, R0);
    }
    a.jump(passed);
    a.place(taken);
    a.set(R1, 0);
    a.alu(Operation::Subtract, R1, R9);
    a.atomic_add(R7, of.time, R1);
    a.jump(denied);
}

/// Divides the length of the packet by the bytes per second in R9, adds the burst to R3, and sets R4 to half of
/// the burst. The result of a division by 0 is 0, so everything passes without a limit.
fn bytes_of_packet(a: &mut Assembler) {
    a.load(Size::Double, R4, R7, BURST);
    a.alu(Operation::Add, R3, R4);
    a.load(Size::Word, R1, R6, PACKET_LENGTH);
    // R2: 1 if the packet is short, else 0.
    a.set(R2, R1);
    a.alu(Operation::Subtract, R2, SHORT + 1);
    a.alu(Operation::ShiftRight, R2, 63);
    a.alu(Operation::Multiply, R2, R4);
    a.alu(Operation::Add, R3, R2);
    a.alu(Operation::Multiply, R1, SECOND / RATE_UNIT as i32);
    a.alu(Operation::Divide, R1, R9);
    a.set(R9, R1);
    a.alu(Operation::ShiftRight, R4, 1);
}

/// Adds to a counter of the side.
fn count(a: &mut Assembler, place: i16, value: impl Into<Operand>) {
    a.set(R2, value);
    a.atomic_add(R7, place, R2);
}
