//! The network limits and their decisions.

use std::net::{IpAddr, SocketAddr};

use super::rule::{Direction, Prefix, Protocol, Rule};
use crate::error::{Error, Result};

/// The network limits of a cgroup. The default limits nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct Limits {
    /// `net.allow`: the only connections and packets that are allowed. A rule for `bind` restricts
    /// binding; any other rule restricts both [`Direction::Out`] and [`Direction::In`]. If no rule
    /// restricts a direction, everything in it is allowed.
    #[cfg_attr(feature = "serde", serde(rename = "allow", skip_serializing_if = "Vec::is_empty"))]
    pub allow: Vec<Rule>,
    /// `net.deny`: the connections and packets that are denied, also if a rule of `allow` applies to
    /// them.
    #[cfg_attr(feature = "serde", serde(rename = "deny", skip_serializing_if = "Vec::is_empty"))]
    pub deny: Vec<Rule>,
    /// `net.connects.max`: maximum number of TCP connections that processes of the cgroup open in a
    /// second. As many are allowed at once. A further `connect` fails with `EPERM`.
    #[cfg_attr(feature = "serde", serde(rename = "connects.max", skip_serializing_if = "Option::is_none"))]
    pub connects_max: Option<u32>,
    /// `net.accepts.max`: maximum number of TCP connections that peers open to sockets of the cgroup
    /// in a second. As many are allowed at once. A further SYN is dropped, and the peer's kernel
    /// sends it again after a second.
    #[cfg_attr(feature = "serde", serde(rename = "accepts.max", skip_serializing_if = "Option::is_none"))]
    pub accepts_max: Option<u32>,
    /// `net.packets.max`: maximum number of packets in a second, in each direction. As many are allowed
    /// at once. Further packets are dropped: TCP sends them again, and `sendmsg` of a datagram fails
    /// with `EPERM`. The TCP segments that the kernel or the device joins count one by one.
    #[cfg_attr(feature = "serde", serde(rename = "packets.max", skip_serializing_if = "Option::is_none"))]
    pub packets_max: Option<u32>,
    /// `net.egress.max`: maximum number of bytes that leave in a second, with IP headers. After a pause the
    /// bytes of [`egress_burst`](Self::egress_burst) may leave at once. Further packets are dropped as by a full
    /// queue of a network device: TCP sends them again, and a datagram is lost. At most 34,359,738,360.
    #[cfg_attr(feature = "serde", serde(rename = "egress.max", skip_serializing_if = "Option::is_none"))]
    pub egress_max: Option<u64>,
    /// `net.ingress.max`: maximum number of bytes that arrive in a second, as `net.egress.max`.
    #[cfg_attr(feature = "serde", serde(rename = "ingress.max", skip_serializing_if = "Option::is_none"))]
    pub ingress_max: Option<u64>,
    /// `net.egress.burst`: number of bytes that may leave at once after a pause, with IP headers. `None` for the
    /// bytes of 220 ms: TCP does not reach the rate with fewer than those of its shortest timer, 200 ms. Requires
    /// `net.egress.max`. At least 1, and at most the bytes of an hour. Packets of at most 128 bytes, such as those
    /// that open and confirm a TCP connection, may use as many bytes again.
    #[cfg_attr(feature = "serde", serde(rename = "egress.burst", skip_serializing_if = "Option::is_none"))]
    pub egress_burst: Option<u64>,
    /// `net.ingress.burst`: number of bytes that may arrive at once, as `net.egress.burst`. Requires
    /// `net.ingress.max`.
    #[cfg_attr(feature = "serde", serde(rename = "ingress.burst", skip_serializing_if = "Option::is_none"))]
    pub ingress_burst: Option<u64>,
    /// `net.sockets.max`: maximum number of sockets of AF_INET and AF_INET6 that processes of the cgroup
    /// created and that are not closed. A further `socket` fails with `EPERM`. A socket that `accept`
    /// returns does not count, nor does one that was created before this limit was first set.
    #[cfg_attr(feature = "serde", serde(rename = "sockets.max", skip_serializing_if = "Option::is_none"))]
    pub sockets_max: Option<u32>,
}

/// The greatest number of rules.
const RULES_MAX: usize = 4096;
/// The programs calculate with the bytes per second as a number of [`RATE_UNIT`] in 32 bits.
pub(super) const RATE_UNIT: u64 = 8;
const RATE_MAX: u64 = RATE_UNIT * u32::MAX as u64;
/// The greatest burst in seconds.
const BURST_MAX: u64 = 3600;

impl Limits {
    /// Returns whether the rules allow a new connection, or a packet of a protocol without
    /// connections. A protocol without ports has port 0.
    pub fn allows(&self, direction: Direction, address: SocketAddr, protocol: Protocol) -> bool {
        let ip = as_connected(direction, address.ip());
        match self.verdict(direction, Prefix::of(ip), protocol, address.port()) {
            Verdict::Allowed => true,
            Verdict::Denied => false,
            Verdict::Unlisted => !self.restricts(direction),
        }
    }

    /// Checks the rules. Makes no system call. Ports and protocols are those of
    /// [ip(7)](https://man7.org/linux/man-pages/man7/ip.7.html).
    ///
    /// # Errors
    /// `InvalidLimit`: there are more than 4096 rules, a port range is empty, a rule has ports and
    /// a protocol without ports, or a number of bytes per second is too great; or a burst has no rate, is 0, or
    /// is greater than the bytes of an hour.
    pub fn validate(&self) -> Result<()> {
        for (name, rules) in [("net.allow", &self.allow), ("net.deny", &self.deny)] {
            if rules.len() > RULES_MAX {
                return Err(Error::limit(name, format!("{} rules", rules.len()), "there are at most 4096"));
            }
            for rule in rules {
                if let Some(flaw) = rule.flaw() {
                    return Err(Error::limit(name, rule, flaw));
                }
            }
        }
        for (name, rate) in [("net.egress.max", self.egress_max), ("net.ingress.max", self.ingress_max)] {
            if let Some(rate) = rate.filter(|rate| *rate > RATE_MAX) {
                return Err(Error::limit(name, rate, "it is at most 34359738360 bytes per second"));
            }
        }
        for (name, burst, rate, rate_is_missing) in [
            (
                "net.egress.burst",
                self.egress_burst,
                self.egress_max,
                "it requires a rate: set net.egress.max too",
            ),
            (
                "net.ingress.burst",
                self.ingress_burst,
                self.ingress_max,
                "it requires a rate: set net.ingress.max too",
            ),
        ] {
            let problem = match (burst, rate) {
                (None, _) => continue,
                (Some(_), None) => rate_is_missing,
                (Some(0), _) => "it is at least 1 byte",
                (Some(burst), Some(rate)) if burst > rate.saturating_mul(BURST_MAX) => {
                    "it is at most the bytes that the rate lets pass in an hour: reduce it, or raise the rate"
                }
                _ => continue,
            };
            return Err(Error::limit(name, burst.unwrap_or_default(), problem));
        }
        Ok(())
    }

    /// Returns the names and values of the limits, for messages: `net.allow` and a rule, and so on.
    ///
    /// ```
    /// use cgroup_core::net::Limits;
    /// let limits = Limits { deny: vec!["10.0.0.0/8".parse()?], connects_max: Some(5), ..Limits::default() };
    /// let expected = [("net.deny", "10.0.0.0/8"), ("net.connects.max", "5")];
    /// assert_eq!(limits.settings(), expected.map(|(name, value)| (name.into(), value.into())));
    /// # Ok::<(), cgroup_core::Error>(())
    /// ```
    pub fn settings(&self) -> Vec<(String, String)> {
        let rules = [("net.allow", &self.allow), ("net.deny", &self.deny)];
        let rules =
            rules.into_iter().flat_map(|(name, rules)| rules.iter().map(move |r| (name, r.to_string())));
        let rates = [
            ("net.connects.max", self.connects_max.map(u64::from)),
            ("net.accepts.max", self.accepts_max.map(u64::from)),
            ("net.packets.max", self.packets_max.map(u64::from)),
            ("net.egress.max", self.egress_max),
            ("net.ingress.max", self.ingress_max),
            ("net.egress.burst", self.egress_burst),
            ("net.ingress.burst", self.ingress_burst),
            ("net.sockets.max", self.sockets_max.map(u64::from)),
        ];
        let rates = rates.into_iter().filter_map(|(name, rate)| Some((name, rate?.to_string())));
        rules.chain(rates).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Returns whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the direction allows only packets to which an allow rule applies.
    pub(super) fn restricts(&self, direction: Direction) -> bool {
        let binds = |rule: &Rule| rule.direction == Some(Direction::Bind);
        self.allow.iter().any(|rule| binds(rule) == (direction == Direction::Bind))
    }

    fn verdict(&self, direction: Direction, prefix: Prefix, protocol: Protocol, port: u16) -> Verdict {
        let applies = |rule: &Rule| {
            rule.is_about(direction) && rule.network.covers(prefix) && rule.admits(protocol, port)
        };
        if self.deny.iter().any(applies) {
            Verdict::Denied
        } else if self.allow.iter().any(applies) {
            Verdict::Allowed
        } else {
            Verdict::Unlisted
        }
    }
}

/// Decision of the rules about an address, protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// A deny rule applies.
    Denied,
    /// An allow rule applies.
    Allowed,
    /// No rule applies.
    Unlisted,
}

/// Returns the address that the kernel connects to. The unspecified address stands for the loopback
/// address.
fn as_connected(direction: Direction, address: IpAddr) -> IpAddr {
    match (direction, address.to_canonical()) {
        (Direction::Out, IpAddr::V4(address)) if address.is_unspecified() => {
            std::net::Ipv4Addr::LOCALHOST.into()
        }
        (Direction::Out, IpAddr::V6(address)) if address.is_unspecified() => {
            std::net::Ipv6Addr::LOCALHOST.into()
        }
        (_, address) => address,
    }
}
