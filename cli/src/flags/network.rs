//! Flags of a network that leads out of a container: `--network pasta`, `--network cni:NAME` and `-p`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::network::{Port, Wanted, Way};
use crate::value;

/// Parses `pasta` and `cni:NAME`. Returns `None` for another text.
pub(crate) fn way(text: &str) -> Option<std::result::Result<Way, String>> {
    match text {
        "pasta" => Some(Ok(Way::Pasta)),
        _ => text.strip_prefix("cni:").map(|name| value::name(name).map(Way::Cni)),
    }
}

/// Returns the network of the flags; `None` without one.
pub(crate) fn wanted(way: Option<&Way>, published: &[Vec<Port>]) -> Result<Option<Wanted>> {
    match way {
        Some(way) => Ok(Some(Wanted { way: way.clone(), ports: published.concat() })),
        None => match published.iter().flatten().next() {
            None => Ok(None),
            Some(port) => {
                let port = port.to_string();
                let port = port.trim_end_matches("/tcp");
                let problem = format!(
                    "-p requires a network that leads out: `--network pasta -p {port}`, or `--network cni:NAME -p {port}`"
                );
                Err(Error::usage("--publish", problem))
            }
        },
    }
}

/// Parses docker's `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`. HOST and CONTAINER are ports, or ranges of the same length.
pub(crate) fn ports(text: &str) -> std::result::Result<Vec<Port>, String> {
    let form = || format!("{text:?} must have the form [ADDRESS:]HOST:CONTAINER[/tcp|/udp]");
    let (places, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        other => return Err(format!("protocol {other:?} must be tcp or udp")),
    };
    let (rest, container) = places.rsplit_once(':').ok_or_else(form)?;
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (Some(address), host),
        None => (None, rest),
    };
    let address = address.map(|text| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        match bare.unwrap_or(text).parse::<IpAddr>() {
            // docker requires brackets too: `::1:80` would be ambiguous.
            Ok(address) if address.is_ipv6() == bare.is_some() => Ok(address),
            _ => Err(format!("{text:?} must be an IPv4 address, or an IPv6 address in brackets")),
        }
    });
    let address = address.transpose()?;
    let (host, container) = (range(host).ok_or_else(form)?, range(container).ok_or_else(form)?);
    if host.clone().count() != container.clone().count() {
        return Err(format!("the ranges of ports in {text:?} must have the same length"));
    }
    Ok(host.zip(container).map(|(host, container)| Port { address, host, container, udp }).collect())
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok()?..=last.parse().ok()?;
    (*range.start() > 0 && !range.is_empty()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match ports(text) {
            Ok(ports) => ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(e) => e,
        }
    }

    #[test]
    fn ports_are_written_as_in_docker() {
        for (text, expected) in [
            ("8080:80", "8080:80/tcp"),
            ("8080:80/udp", "8080:80/udp"),
            ("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp"),
            ("[::1]:8080:80/tcp", "[::1]:8080:80/tcp"),
            ("8000-8001:80-81", "8000:80/tcp 8001:81/tcp"),
        ] {
            assert_eq!(shown(text), expected);
        }
        for (text, why) in [
            ("80", "must have the form"),
            ("0:80", "must have the form"),
            ("80:70000", "must have the form"),
            ("x:80:80", "must be an IPv4 address"),
            ("::1:80:80", "must be an IPv4 address"),
            ("80:80/icmp", "must be tcp or udp"),
            ("80-82:80", "the same length"),
        ] {
            assert!(shown(text).contains(why), "{text}: {}", shown(text));
        }
    }

    #[test]
    fn ports_require_a_network() {
        let port = ports("80:80").unwrap();
        let error = wanted(None, std::slice::from_ref(&port)).unwrap_err();
        let want = "-p requires a network that leads out: `--network pasta -p 80:80`, or `--network cni:NAME -p 80:80`";
        assert_eq!(error.to_string(), want);
        assert_eq!(wanted(Some(&Way::Pasta), &[port.clone(), port]).unwrap().unwrap().ports.len(), 2);
        assert_eq!(wanted(None, &[]).unwrap(), None);
        assert_eq!(way("cni:front"), Some(Ok(Way::Cni("front".into()))));
        assert!(way("cni:../x").unwrap().is_err() && way("host").is_none());
    }
}
