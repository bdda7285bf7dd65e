//! Compiling rules to the entries of a map that the programs look up: a pure function.
//!
//! The map is a trie for the longest prefix (`BPF_MAP_TYPE_LPM_TRIE`) with two kinds of keys:
//! - the class of an address: all addresses to which the same rules apply are one class;
//! - the verdict about a class, direction, protocol and port.
//!
//! The other limits are in `state.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::limits::{Limits, Verdict};
use super::rule::{Direction, Prefix, Protocol, Rule};
use crate::error::{Error, Result};

/// The length of the data of a key in bits. A program looks up with this length.
pub(super) const KEY_BITS: u32 = 192;

/// A key as the kernel's `struct bpf_lpm_trie_key`: the length of the prefix in bits, and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    length: u32,
    data: [u8; KEY_BITS as usize / 8],
}

/// The entries of rules.
pub(super) type Table = BTreeMap<Key, u32>;

/// The first byte of a key. The seven bytes after it are the number of the rules.
pub(super) const ADDRESS: u8 = 0;
pub(super) const PORT: u8 = 1;

/// Bits of the values of `PORT` keys.
pub(super) const ALLOWED: u32 = 1;
pub(super) const DENIED: u32 = 2;
/// No rule applies, and the direction is restricted.
pub(super) const UNLISTED: u32 = 4;

const TAG_BITS: u32 = 64;
const DIRECTION_BITS: u32 = TAG_BITS + 24;
const PROTOCOL_BITS: u32 = DIRECTION_BITS + 8;

/// The number of the rules of a cgroup. Every update has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number([u8; 7]);

impl Number {
    /// Returns a number. It is random, so no two rules in a table have the same: each of 55 bits is, and a table
    /// contains the rules of some hundred cgroups.
    pub(super) fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // A copy that fork(2) makes has the same table and the same random state. Its pid or the time differs.
        let place = (std::process::id(), std::time::SystemTime::now());
        let [number @ .., _] = (RandomState::new().hash_one(place) | 1).to_le_bytes();
        Self(number)
    }

    /// Returns the start of the data of a key with this number and the tag 0. It is not 0.
    pub(super) fn word(self) -> u64 {
        let [a, b, c, d, e, f, g] = self.0;
        u64::from_ne_bytes([0, a, b, c, d, e, f, g])
    }

    /// Returns the number in a word, unless the word is 0.
    pub(super) fn from_word(word: u64) -> Option<Self> {
        let [_, number @ ..] = word.to_ne_bytes();
        (word != 0).then_some(Self(number))
    }
}

impl Key {
    /// The size of the bytes.
    pub(super) const SIZE: usize = 4 + KEY_BITS as usize / 8;

    /// Returns the bytes of `struct bpf_lpm_trie_key` with the number of the limits in it.
    pub(super) fn to_bytes(self, number: Number) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.length.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.data);
        bytes[5..12].copy_from_slice(&number.0);
        bytes
    }

    /// Returns the number of the limits to which the bytes of a key belong.
    pub(super) fn number(bytes: &[u8; Self::SIZE]) -> Number {
        let [_, _, _, _, _, a, b, c, d, e, f, g, ..] = *bytes;
        Number([a, b, c, d, e, f, g])
    }

    fn new(length: u32, tag: u8, parts: &[&[u8]]) -> Self {
        let mut data = [0; KEY_BITS as usize / 8];
        data[0] = tag;
        for (to, from) in data[8..].iter_mut().zip(parts.concat()) {
            *to = from;
        }
        Self { length, data }
    }

    pub(super) fn address(prefix: Prefix) -> Self {
        Self::new(TAG_BITS + u32::from(prefix.length), ADDRESS, &[&prefix.bits.to_be_bytes()])
    }

    fn port(class: u16, direction: Direction, protocol: Protocol, port: u16, length: u32) -> Self {
        let class = class.to_be_bytes();
        Self::new(
            PROTOCOL_BITS + length,
            PORT,
            &[&class, &[direction as u8, protocol.0], &port.to_be_bytes()],
        )
    }

    fn any_protocol(class: u16, direction: Direction) -> Self {
        Self::new(DIRECTION_BITS, PORT, &[&class.to_be_bytes(), &[direction as u8]])
    }
}

/// The greatest number of entries for the rules of a cgroup. Each has about 100 bytes in the kernel.
const ENTRIES_MAX: usize = 1 << 17;

/// Compiles rules to the entries of the map.
///
/// # Errors
/// `InvalidLimit`: the rules divide the addresses into more than 65535 classes, or require more than
/// 131072 entries.
pub(super) fn compile(limits: &Limits) -> Result<Table> {
    let mut table = BTreeMap::new();
    let rules: Vec<Listed<'_>> =
        listed(&limits.deny, Verdict::Denied).chain(listed(&limits.allow, Verdict::Allowed)).collect();
    if rules.is_empty() {
        return Ok(table);
    }
    let mut prefixes: BTreeSet<Prefix> = rules.iter().filter_map(|(rule, _)| rule.network.prefix()).collect();
    prefixes.extend([Prefix::V4, Prefix::V6]);
    let mut classes: HashMap<Vec<Shape>, (u16, Vec<Listed<'_>>)> = HashMap::new();
    for prefix in prefixes {
        let applying: Vec<Listed<'_>> =
            rules.iter().filter(|(rule, _)| rule.network.covers(prefix)).copied().collect();
        let shapes: BTreeSet<Shape> = applying.iter().map(shape).collect();
        let next = u16::try_from(classes.len()).map_err(|_| {
            Error::limit("net.allow", format!("{} rules", rules.len()), "it has too many networks")
        })?;
        let (class, _) = classes.entry(shapes.into_iter().collect()).or_insert((next, applying));
        table.insert(Key::address(prefix), class_value(*class));
    }
    for (class, rules) in classes.into_values() {
        for direction in [Direction::Out, Direction::In, Direction::Bind] {
            insert_ports(&mut table, limits, class, direction, &rules);
            if table.len() > ENTRIES_MAX {
                return Err(Error::limit(
                    "net.allow",
                    format!("{} rules", limits.allow.len() + limits.deny.len()),
                    "with net.deny it requires more than 131072 entries in the kernel; join networks and port ranges",
                ));
            }
        }
    }
    Ok(table)
}

/// A rule and the list that it is in.
type Listed<'a> = (&'a Rule, Verdict);

/// A rule without its network.
type Shape = (Option<Direction>, Option<(u16, u16)>, Option<Protocol>, Verdict);

fn shape(&(rule, verdict): &Listed<'_>) -> Shape {
    let ports = rule.ports.as_ref().map(|ports| (*ports.start(), *ports.end()));
    (rule.direction, ports, rule.protocol, verdict)
}

fn listed(rules: &[Rule], verdict: Verdict) -> impl Iterator<Item = Listed<'_>> {
    rules.iter().map(move |rule| (rule, verdict))
}

/// Returns the value of a class: in memory it is the class in the byte order of a key, and two zeros.
fn class_value(class: u16) -> u32 {
    let [high, low] = class.to_be_bytes();
    u32::from_ne_bytes([high, low, 0, 0])
}

/// Adds the verdicts about a class and direction. The rules are those that apply to the class, the
/// denying ones first.
fn insert_ports(table: &mut Table, limits: &Limits, class: u16, direction: Direction, rules: &[Listed<'_>]) {
    let unlisted = if limits.restricts(direction) { UNLISTED } else { 0 };
    let rules: Vec<Listed<'_>> = rules.iter().filter(|(rule, _)| rule.is_about(direction)).copied().collect();
    let value = |applies: &dyn Fn(&Rule) -> bool| match rules.iter().find(|(rule, _)| applies(rule)) {
        Some((_, Verdict::Denied)) => DENIED,
        Some((_, Verdict::Allowed)) => ALLOWED,
        Some((_, Verdict::Unlisted)) | None => unlisted,
    };
    let other = value(&|rule| rule.protocol.is_none() && rule.ports.is_none());
    if other != 0 {
        table.insert(Key::any_protocol(class, direction), other);
    }
    let mut protocols: BTreeSet<Protocol> = rules.iter().filter_map(|(rule, _)| rule.protocol).collect();
    if rules.iter().any(|(rule, _)| rule.protocol.is_none() && rule.ports.is_some()) {
        protocols.extend(Protocol::WITH_PORTS);
    }
    for protocol in protocols {
        let mut starts = BTreeSet::from([0_u32]);
        for ports in rules.iter().filter_map(|(rule, _)| rule.ports.as_ref()) {
            starts.extend([u32::from(*ports.start()), u32::from(*ports.end()) + 1]);
        }
        starts.remove(&PORTS_END);
        let ends = starts.iter().skip(1).copied().chain([PORTS_END]);
        let ranges: Vec<(u32, u32, u32)> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| (start, end, value(&|rule| rule.admits(protocol, start as u16))))
            .collect();
        // A longer prefix has precedence, so the value that needs the most prefixes has only the shortest.
        let entries = |base: u32| {
            let others = ranges.iter().filter(|(.., value)| *value != base);
            others.map(|(start, end, _)| port_prefixes(*start, *end).len()).sum::<usize>()
        };
        let values: BTreeSet<u32> = ranges.iter().map(|(.., value)| *value).collect();
        let base = values.into_iter().min_by_key(|base| entries(*base)).unwrap_or(other);
        if base != other {
            table.insert(Key::port(class, direction, protocol, 0, 0), base);
        }
        for (start, end, value) in ranges.into_iter().filter(|(.., value)| *value != base) {
            for (port, length) in port_prefixes(start, end) {
                table.insert(Key::port(class, direction, protocol, port, length), value);
            }
        }
    }
}

const PORTS_END: u32 = 1 << 16;

/// Divides the ports from `start` up to and without `end` into prefixes of 16 bits.
fn port_prefixes(mut start: u32, end: u32) -> Vec<(u16, u32)> {
    let mut prefixes = Vec::new();
    while start < end {
        let aligned = if start == 0 { 16 } else { start.trailing_zeros() };
        let fits = (end - start).ilog2();
        let free = aligned.min(fits);
        prefixes.push((start as u16, 16 - free));
        start += 1 << free;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::super::rule::Network;
    use super::*;

    /// Looks up like the kernel's trie: the entry with the longest prefix.
    fn lookup(table: &Table, key: Key) -> Option<u32> {
        let bit = |data: &[u8], i: u32| data[i as usize / 8] >> (7 - i % 8) & 1;
        let matches = |entry: &Key| (0..entry.length).all(|i| bit(&entry.data, i) == bit(&key.data, i));
        table
            .iter()
            .filter(|(entry, _)| matches(entry))
            .max_by_key(|(entry, _)| entry.length)
            .map(|(_, v)| *v)
    }

    fn allows(table: &Table, direction: Direction, to: SocketAddr, protocol: Protocol) -> bool {
        let Some(class) = lookup(table, Key::address(Prefix::of(to.ip()))) else { return true };
        let [high, low, 0, 0] = class.to_ne_bytes() else { panic!("{class:x}") };
        let class = u16::from_be_bytes([high, low]);
        let port = if protocol.has_ports() { to.port() } else { 0 };
        let value = lookup(table, Key::port(class, direction, protocol, port, 16)).unwrap_or(0);
        value == 0 || value == ALLOWED
    }

    /// Addresses that are often equal or neighbours.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4_u32).prop_map(|low| IpAddr::V4((0x0a00_0000 + low).into())),
            any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
            (0..4_u128).prop_map(|low| IpAddr::V6((0x2001_0db8 << 96 | low).into())),
            (1..4_u128).prop_map(|low| IpAddr::V6((0xffff_0a00_0000 | low).into())),
        ]
    }

    fn network() -> impl Strategy<Value = Network> {
        let lengths =
            prop_oneof![Just(0), Just(8), Just(30), Just(31), Just(32), Just(96), Just(127), 0..=128_u8];
        prop_oneof![
            Just(Network::ANY),
            (address(), lengths).prop_map(|(address, length)| {
                Network::new(address, if address.is_ipv4() { length.min(32) } else { length }).unwrap()
            }),
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let direction =
            prop::option::of(prop_oneof![Just(Direction::Out), Just(Direction::In), Just(Direction::Bind)]);
        let port = || prop_oneof![0..4_u16, Just(443), Just(u16::MAX), any::<u16>()];
        let ports = prop::option::of((port(), port()).prop_map(|(a, b)| a.min(b)..=a.max(b)));
        let protocol =
            prop::option::of(prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP)]);
        (direction, network(), ports, protocol)
            .prop_map(|(direction, network, ports, protocol)| Rule { direction, network, ports, protocol })
            .prop_filter("ports of a protocol without ports", |rule| rule.flaw().is_none())
    }

    fn limits() -> impl Strategy<Value = Limits> {
        (proptest::collection::vec(rule(), 0..5), proptest::collection::vec(rule(), 0..5))
            .prop_map(|(allow, deny)| Limits { allow, deny, ..Limits::default() })
    }

    proptest! {
        #[test]
        fn the_table_decides_as_the_rules_say(
            limits in limits(),
            ip in address(),
            port in prop_oneof![0..5_u16, Just(443), Just(u16::MAX), any::<u16>()],
            protocol in prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::ICMP), Just(Protocol(50))],
        ) {
            let table = compile(&limits).unwrap();
            for direction in [Direction::Out, Direction::In, Direction::Bind] {
                let to = SocketAddr::new(ip, if protocol.has_ports() { port } else { 0 });
                let expected = limits.allows(direction, to, protocol);
                prop_assert_eq!(allows(&table, direction, to, protocol), expected, "{} {}", direction, to);
            }
        }

        #[test]
        fn a_rule_survives_being_printed_and_read(rule in rule()) {
            prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[a-z ]{0,4}[0-9.:*/\\[\\]-]{0,12}.*") {
            let _ = text.parse::<Rule>();
        }

        #[test]
        fn port_prefixes_are_the_range(start in 0..=PORTS_END, end in 0..=PORTS_END) {
            let size: u32 = port_prefixes(start, end).iter().map(|(_, length)| 1 << (16 - length)).sum();
            prop_assert_eq!(size, end.saturating_sub(start));
            for (port, length) in port_prefixes(start, end) {
                prop_assert!(u32::from(port) >= start && u32::from(port) + (1 << (16 - length)) <= end);
            }
        }
    }

    #[test]
    fn networks_with_the_same_rules_are_one_class() {
        let allow = (0..200).map(|i| format!("10.0.{i}.0/24:443/tcp").parse().unwrap()).collect::<Vec<_>>();
        let table = compile(&Limits { allow, ..Limits::default() }).unwrap();
        // Entries for the networks and for both families, and the ports of one class.
        assert!(table.len() < 202 + 2 * 40, "{}", table.len());
    }

    #[test]
    fn a_port_needs_few_entries() {
        let limits = Limits { deny: vec!["*:80".parse().unwrap()], ..Limits::default() };
        // Both families, and the port for each protocol with ports and both directions.
        assert_eq!(compile(&limits).unwrap().len(), 2 + 2 * Protocol::WITH_PORTS.len());
    }

    #[test]
    fn a_table_that_is_too_large_is_refused() {
        // Each network has 30 port prefixes for each protocol of its own.
        let rule =
            |i: u32| format!("out 10.{}.{}.0/24:{}-65534", i / 256, i % 256, 1 + i % 2000).parse().unwrap();
        let deny: Vec<Rule> = (0..4096).map(rule).collect();
        let allow = vec!["*:3/tcp".parse().unwrap()];
        let error = compile(&Limits { deny, allow, ..Limits::default() }).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidLimit);
        assert!(error.to_string().contains("131072 entries"), "{error}");
    }

    #[test]
    fn mistakes_in_a_rule_are_named() {
        for (text, why) in [
            ("10.0.0.0/33", "at most 32"),
            ("10.0.0.0/8:80-70", "greater than the last"),
            ("10.0.0.0/8:80/icmp", "has no ports"),
            ("10.0.0.0/8:80/tpc", "tcp, udp"),
            ("up 10.0.0.0/8", "out, in or bind"),
            ("10.0.0.0/8:http", "number from 0"),
            ("example.org", "IPv4 or IPv6 address"),
            ("[2001:db8::/32", "not closed"),
            ("[2001:db8::/32]443", "of the form"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
