//! Rules of the network limits, as plain data.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};

/// The direction of a connection, or of a packet without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// A process of the cgroup connects or sends: `out`. The address and port are those of the peer.
    Out,
    /// A peer connects or sends to the cgroup: `in`. The address is that of the peer, and the port is
    /// the local one.
    In,
    /// A process of the cgroup binds a socket: `bind`. The address and port are the local ones.
    Bind,
}

/// An IP protocol, by its number in the IP header.
/// <https://www.iana.org/assignments/protocol-numbers>
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv4.
    pub const ICMP: Self = Self(1);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// The protocols whose header begins with the two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
    pub(super) const WITH_PORTS: [Self; 5] = [Self::TCP, Self::UDP, Self(33), Self::SCTP, Self(136)];

    const NAMES: [(&'static str, Self); 5] = [
        ("tcp", Self::TCP),
        ("udp", Self::UDP),
        ("icmp", Self::ICMP),
        ("icmpv6", Self::ICMPV6),
        ("sctp", Self::SCTP),
    ];

    /// Returns whether the protocol has ports.
    pub fn has_ports(self) -> bool {
        Self::WITH_PORTS.contains(&self)
    }
}

/// The addresses of a rule. `FromStr` and `Display` use the forms `*`, `192.0.2.0/24` and
/// `2001:db8::/32`. An address without a length is that address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(Addresses);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Addresses {
    Any,
    Prefix(Prefix),
}

/// A prefix of IPv4 or IPv6 addresses. Those of IPv4 are in the form `::ffff:192.0.2.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Prefix {
    /// The address, with zeros after the prefix.
    pub(super) bits: u128,
    /// Length in bits, at most 128. Not less than [`Prefix::V4`]'s for an IPv4 prefix.
    pub(super) length: u8,
    /// Whether the prefix is one of IPv4.
    pub(super) v4: bool,
}

impl Prefix {
    /// All addresses of IPv4.
    pub(super) const V4: Self = Self { bits: 0xffff_0000_0000, length: 96, v4: true };
    /// All addresses of IPv6.
    pub(super) const V6: Self = Self { bits: 0, length: 0, v4: false };

    fn new(address: u128, length: u8) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let v4 = length >= Self::V4.length && address >> 32 == Self::V4.bits >> 32;
        Self { bits: address & mask, length, v4 }
    }

    /// Returns the prefix that contains only this address.
    pub(super) fn of(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        Self::new(address.to_bits(), 128)
    }

    /// Returns whether all addresses of `other` are in this prefix.
    pub(super) fn contains(self, other: Self) -> bool {
        self.v4 == other.v4
            && self.length <= other.length
            && Self::new(other.bits, self.length).bits == self.bits
    }
}

impl Network {
    /// All addresses of IPv4 and IPv6: `*`.
    pub const ANY: Self = Self(Addresses::Any);

    /// Returns the network of this address and length. Bits after the prefix are cleared. A network
    /// below `::ffff:0:0/96` is one of IPv4.
    /// [RFC 4632](https://www.rfc-editor.org/rfc/rfc4632), [RFC 4291](https://www.rfc-editor.org/rfc/rfc4291).
    ///
    /// # Errors
    /// `InvalidText`: the length is greater than 32 for IPv4 or 128 for IPv6.
    pub fn new(address: IpAddr, length: u8) -> Result<Self> {
        let (bits, most, before) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 32, Prefix::V4.length),
            IpAddr::V6(address) => (address.to_bits(), 128, 0),
        };
        if length > most {
            let text = format!("{address}/{length}");
            return Err(Error::text(
                "a network",
                &text,
                "its length is at most 32 for IPv4 and 128 for IPv6",
            ));
        }
        Ok(Self(Addresses::Prefix(Prefix::new(bits, before + length))))
    }

    /// Returns whether the address is in the network. An IPv4 address in IPv6 form is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(Prefix::of(address))
    }

    /// Returns whether all addresses of the prefix are in the network.
    pub(super) fn covers(&self, prefix: Prefix) -> bool {
        match self.0 {
            Addresses::Any => true,
            Addresses::Prefix(own) => own.contains(prefix),
        }
    }

    /// Returns the prefix, unless the network is `*`.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        match self.0 {
            Addresses::Any => None,
            Addresses::Prefix(prefix) => Some(prefix),
        }
    }
}

/// A rule: the connections and packets that it applies to. `FromStr` and `Display` use the form
/// `[DIRECTION ]NETWORK[:PORTS][/PROTOCOL]`, with brackets around an IPv6 network before ports.
///
/// ```
/// use cgroup_core::net::Rule;
/// for text in ["*", "192.0.2.1/32", "out 10.0.0.0/8:443/tcp", "[2001:db8::/32]:8000-8080", "bind *:1-1023"] {
///     assert_eq!(text.parse::<Rule>()?.to_string(), text);
/// }
/// # Ok::<(), cgroup_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Direction; `None` for [`Direction::Out`] and [`Direction::In`].
    pub direction: Option<Direction>,
    /// Addresses.
    pub network: Network,
    /// Ports; `None` for any, and for protocols without ports.
    pub ports: Option<RangeInclusive<u16>>,
    /// Protocol; `None` for any.
    pub protocol: Option<Protocol>,
}

impl Rule {
    /// Returns whether the rule applies to the direction.
    pub fn is_about(&self, direction: Direction) -> bool {
        self.direction.map_or(direction != Direction::Bind, |own| own == direction)
    }

    /// Returns whether the rule applies to the protocol and port. A rule with ports does not apply to
    /// protocols without ports.
    pub(super) fn admits(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
            && self.ports.as_ref().is_none_or(|ports| protocol.has_ports() && ports.contains(&port))
    }

    /// Checks the ports. Makes no system call.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let ports = self.ports.as_ref()?;
        if ports.is_empty() {
            return Some("the first port is greater than the last");
        }
        self.protocol.is_some_and(|protocol| !protocol.has_ports()).then_some("the protocol has no ports")
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Out => "out",
            Self::In => "in",
            Self::Bind => "bind",
        })
    }
}

impl FromStr for Direction {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "out" => Ok(Self::Out),
            "in" => Ok(Self::In),
            "bind" => Ok(Self::Bind),
            _ => Err(Error::text("a direction", text, "it is out, in or bind")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
        named.or_else(|| text.parse().ok().map(Self)).ok_or_else(|| {
            Error::text("a protocol", text, "it is tcp, udp, icmp, icmpv6, sctp or a number to 255")
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Addresses::Any => f.write_str("*"),
            Addresses::Prefix(Prefix { bits, length, v4: true }) => {
                let address = IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical();
                write!(f, "{address}/{}", length - Prefix::V4.length)
            }
            Addresses::Prefix(Prefix { bits, length, .. }) => {
                write!(f, "{}/{length}", Ipv6Addr::from_bits(bits))
            }
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why| Error::text("a network", text, why);
        if text == "*" {
            return Ok(Self::ANY);
        }
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| wrong("it is *, or an IPv4 or IPv6 address with a length: 10.0.0.0/8"))?;
        let length = match length {
            Some(length) => length.parse().map_err(|_| wrong("the length is a decimal number"))?,
            None => {
                if address.is_ipv4() {
                    32
                } else {
                    128
                }
            }
        };
        Self::new(address, length)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(direction) = self.direction {
            write!(f, "{direction} ")?;
        }
        match (&self.ports, self.network.prefix()) {
            (Some(_), Some(Prefix { v4: false, .. })) => write!(f, "[{}]", self.network)?,
            _ => write!(f, "{}", self.network)?,
        }
        match &self.ports {
            Some(ports) if ports.start() == ports.end() => write!(f, ":{}", ports.start())?,
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end())?,
            None => {}
        }
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{protocol}"))
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        const FORM: &str = "it is of the form: [out|in|bind ]NETWORK[:PORT[-PORT]][/PROTOCOL]";
        let wrong = |why| Error::text("a network rule", text, why);
        let (direction, rest) = match text.split_once(' ') {
            Some((direction, rest)) => (Some(direction.parse()?), rest),
            None => (None, text),
        };
        // The network ends at its bracket, at the colon of an IPv4 network, or at the protocol.
        let (network, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?,
            None => rest.split_at(end_of_network(rest)),
        };
        let (ports, protocol) = rest.split_once('/').map_or((rest, None), |(p, name)| (p, Some(name)));
        let ports = match ports.strip_prefix(':') {
            Some(ports) => Some(range(ports).ok_or_else(|| wrong("a port is a number from 0 to 65535"))?),
            None if ports.is_empty() => None,
            None => return Err(wrong(FORM)),
        };
        let network = network.parse()?;
        let protocol = protocol.map(str::parse).transpose()?;
        let rule = Self { direction, network, ports, protocol };
        rule.flaw().map_or(Ok(rule), |flaw| Err(wrong(flaw)))
    }
}

/// Returns the length of the network at the start of the text, which has no brackets. A slash after
/// the address begins the length of the prefix if a digit follows and no port was before it.
fn end_of_network(text: &str) -> usize {
    let is_v6 = text.matches(':').count() > 1;
    let length_at = text.find('/').filter(|&at| {
        let address = &text[..at];
        (is_v6 || !address.contains(':'))
            && address != "*"
            && text[at + 1..].starts_with(|c: char| c.is_ascii_digit())
    });
    let from = length_at.map_or(0, |at| at + 1);
    let stops: &[char] = if is_v6 && from == 0 { &['/'] } else { &[':', '/'] };
    text[from..].find(stops).map_or(text.len(), |at| from + at)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(feature = "serde")]
crate::serde_text::as_text!(Rule);
#[cfg(feature = "serde")]
crate::serde_text::as_text!(Network);
#[cfg(feature = "serde")]
crate::serde_text::as_text!(Protocol);
#[cfg(feature = "serde")]
crate::serde_text::as_text!(Direction);
