//! Annotations with the network limits of a container or pod.

use std::collections::BTreeMap;

use cgroup_core::net::{Limits, bytes_per_second};
use serde_json::{Map, Value};

use crate::Error;

/// The prefix before the names of [`Limits`]: `org.nspod.net.allow`, `org.nspod.net.egress.max`.
const PREFIX: &str = "org.nspod.net.";
/// The annotations of Kubernetes: bits per second as a quantity.
const KUBERNETES: [(&str, &str); 2] =
    [("kubernetes.io/egress-bandwidth", "egress.max"), ("kubernetes.io/ingress-bandwidth", "ingress.max")];
/// The annotations that containerd and CRI-O add to a container of a pod: `sandbox` or `container`.
const TYPES: [&str; 2] = ["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"];

/// The limits of the annotations.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Network {
    pub(super) container: Option<Limits>,
    pub(super) pod: Option<Limits>,
}

/// Reads the annotations. The bandwidth of Kubernetes is that of the pod. A container of the pod has the
/// annotation too, and is below the pod's limit. Without a pod it is the limit of the container.
pub(super) fn limits(annotations: &BTreeMap<String, String>) -> Result<Network, Error> {
    let mut own = Map::new();
    let mut of_pod = Map::new();
    let kind = TYPES.iter().find_map(|key| annotations.get(*key)).map(String::as_str);
    for (key, name) in KUBERNETES {
        let Some(text) = annotations.get(key) else { continue };
        let value = quantity(text).map_err(|problem| wrong(key, problem))?;
        match kind {
            Some("sandbox") => of_pod.insert(name.to_owned(), value.into()),
            Some(_) => None,
            None => own.insert(name.to_owned(), value.into()),
        };
    }
    for (key, text) in annotations {
        if let Some(name) = key.strip_prefix(PREFIX) {
            let value = match name {
                "allow" | "deny" => text.split(',').map(|rule| Value::from(rule.trim())).collect(),
                "egress.max" | "ingress.max" => bytes_per_second(text).map_err(|e| wrong(key, e))?.into(),
                _ => text.parse::<u64>().map_or_else(|_| Value::from(text.as_str()), Value::from),
            };
            let alone = Map::from_iter([(name.to_owned(), value.clone())]);
            let limits: Limits = serde_json::from_value(alone.into()).map_err(|e| wrong(key, e))?;
            // A burst alone is not valid.
            if !name.ends_with(".burst") {
                limits.validate().map_err(|e| wrong(key, e))?;
            }
            own.insert(name.to_owned(), value);
        }
    }
    let all = |given: Map<String, Value>| match given.is_empty() {
        true => Ok(None),
        false => typed(given).map(Some).map_err(|e| Error::invalid("annotations", e)),
    };
    Ok(Network { container: all(own)?, pod: all(of_pod)? })
}

fn wrong(key: &str, problem: impl std::fmt::Display) -> Error {
    Error::invalid(&format!("annotations.{key}"), problem)
}

fn typed(given: Map<String, Value>) -> Result<Limits, String> {
    let limits: Limits = serde_json::from_value(given.into()).map_err(|e| e.to_string())?;
    limits.validate().map_err(|e| e.to_string())?;
    Ok(limits)
}

/// Parses a quantity of Kubernetes in bits per second, and returns bytes per second. As in the
/// [bandwidth plugin](https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/),
/// it is at least 1k and at most 1P.
fn quantity(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a quantity of bits per second from 1k to 1P, such as 10M");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: f64 = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<u8>().ok());
            10_f64.powi(i32::from(exponent.ok_or_else(wrong)?))
        }
    };
    let bits = number.parse::<f64>().map_err(|_| wrong())? * unit;
    match (1e3..=1e15).contains(&bits) {
        true => Ok((bits / 8.0).ceil() as u64),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Network, Error> {
        limits(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn each_limit_has_an_annotation() {
        let network = read(&[
            ("org.nspod.net.allow", "10.0.0.0/8:443/tcp, in *:80/tcp"),
            ("org.nspod.net.deny", "10.1.0.0/16"),
            ("org.nspod.net.connects.max", "5"),
            ("org.nspod.net.accepts.max", "6"),
            ("org.nspod.net.packets.max", "7"),
            ("org.nspod.net.sockets.max", "8"),
            ("org.nspod.net.egress.max", "10mbit"),
            ("org.nspod.net.ingress.max", "1gbit"),
            ("org.nspod.net.egress.burst", "65536"),
            ("org.nspod.net.ingress.burst", "5000000000"),
            ("other", "x"),
        ]);
        let want = Limits {
            allow: vec!["10.0.0.0/8:443/tcp".parse().unwrap(), "in *:80/tcp".parse().unwrap()],
            deny: vec!["10.1.0.0/16".parse().unwrap()],
            connects_max: Some(5),
            accepts_max: Some(6),
            packets_max: Some(7),
            sockets_max: Some(8),
            egress_max: Some(1_250_000),
            ingress_max: Some(125_000_000),
            egress_burst: Some(65536),
            ingress_burst: Some(5_000_000_000),
        };
        assert_eq!(network.unwrap(), Network { container: Some(want), pod: None });
        assert_eq!(read(&[("other", "x")]).unwrap(), Network::default());
    }

    #[test]
    fn the_bandwidth_of_kubernetes_belongs_to_the_pod() {
        let bandwidth = ("kubernetes.io/egress-bandwidth", "10M");
        let want = Some(Limits { egress_max: Some(1_250_000), ..Limits::default() });
        for key in TYPES {
            let sandbox = read(&[bandwidth, (key, "sandbox")]).unwrap();
            assert_eq!((sandbox.container, &sandbox.pod), (None, &want));
            assert_eq!(read(&[bandwidth, (key, "container")]).unwrap(), Network::default());
        }
        assert_eq!(read(&[bandwidth]).unwrap().container, want);
        for (text, bytes) in
            [("1k", 125), ("1.5G", 187_500_000), ("8Ki", 1024), ("1e6", 125_000), ("8000", 1000)]
        {
            assert_eq!(quantity(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn a_burst_requires_a_rate() {
        let error = read(&[("org.nspod.net.egress.burst", "65536")]).unwrap_err();
        assert!(error.to_string().contains("net.egress.max"), "{error}");
    }

    #[test]
    fn a_wrong_annotation_is_named() {
        for (key, text, problem) in [
            ("org.nspod.net.egress.max", "10", "10mbit"),
            ("org.nspod.net.egress.max", "1tbit", "at most 34359738360"),
            ("org.nspod.net.allow", "10.0.0.0/33", "at most 32"),
            ("org.nspod.net.connects.max", "many", "many"),
            ("org.nspod.net.egress.burst", "64k", "64k"),
            ("org.nspod.net.none", "1", "unknown field"),
            ("kubernetes.io/ingress-bandwidth", "10mbit", "such as 10M"),
            ("kubernetes.io/ingress-bandwidth", "999", "from 1k to 1P"),
        ] {
            let error = read(&[(key, text)]).unwrap_err();
            assert_eq!(error.field(), Some(format!("annotations.{key}").as_str()));
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
