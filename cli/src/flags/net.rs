//! The network limits of the command line.

use cgroup_core::Max;
use cgroup_core::net::{Limits, Rule};

/// A value of `--allow-net` or `--deny-net`.
#[derive(Debug, Clone)]
pub(crate) enum Listed {
    /// `none`: an empty list.
    Nothing,
    Rule(Rule),
}

/// Parses a network rule, or `none`.
pub(crate) fn listed(text: &str) -> Result<Listed, String> {
    match text {
        "none" => Ok(Listed::Nothing),
        _ => text.parse().map(Listed::Rule).map_err(|e: cgroup_core::Error| e.to_string()),
    }
}

/// Returns the limits before, changed by the flags: the lists, the counts, and a rate of bytes with its burst for
/// each direction. Returns `None` without a flag.
pub(crate) fn resolve(
    before: Option<&Limits>,
    [allow, deny]: [&[Listed]; 2],
    counts: [Option<Max>; 4],
    bytes: [(Option<Max>, Option<Max>); 2],
) -> Option<Limits> {
    let of_bytes = bytes.iter().flat_map(|(rate, burst)| [rate, burst]);
    let mut maxima = counts.iter().chain(of_bytes);
    if allow.is_empty() && deny.is_empty() && maxima.all(Option::is_none) {
        return None;
    }
    let mut limits = before.cloned().unwrap_or_default();
    for (list, given) in [(&mut limits.allow, allow), (&mut limits.deny, deny)] {
        if !given.is_empty() {
            *list = given.iter().filter_map(Listed::rule).cloned().collect();
        }
    }
    let [connects, accepts, packets, sockets] = counts;
    for (limit, given) in [
        (&mut limits.connects_max, connects),
        (&mut limits.accepts_max, accepts),
        (&mut limits.packets_max, packets),
        (&mut limits.sockets_max, sockets),
    ] {
        set(limit, given, |count| u32::try_from(count).unwrap_or(u32::MAX));
    }
    let of_limits = [
        (&mut limits.egress_max, &mut limits.egress_burst),
        (&mut limits.ingress_max, &mut limits.ingress_burst),
    ];
    for ((rate, burst), (given_rate, given_burst)) in of_limits.into_iter().zip(bytes) {
        set(rate, given_rate, |bytes| bytes);
        if given_rate == Some(Max::Max) {
            *burst = None;
        }
        set(burst, given_burst, |bytes| bytes);
    }
    Some(limits)
}

/// Sets a limit to the given value. `max` removes it.
fn set<T>(limit: &mut Option<T>, given: Option<Max>, convert: impl FnOnce(u64) -> T) {
    match given {
        Some(Max::Value(value)) => *limit = Some(convert(value)),
        Some(Max::Max) => *limit = None,
        None => {}
    }
}

impl Listed {
    fn rule(&self) -> Option<&Rule> {
        match self {
            Self::Nothing => None,
            Self::Rule(rule) => Some(rule),
        }
    }
}
