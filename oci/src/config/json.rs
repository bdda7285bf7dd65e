//! Converts bytes to the types of `oci-spec`. Differences between these types and the specification are
//! resolved first: values that the types reject or lose, and required fields that they do not require.

use cgroup_core::CpuList;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Error;
use crate::ErrorKind;
use nspod_sandbox::spec::Capabilities;

/// Required fields by the path of their object: `[]` matches each item, `*` each value.
const REQUIRED: &[(&str, &[&str])] = &[
    ("", &["ociVersion"]),
    ("root", &["path"]),
    ("process", &["cwd"]),
    ("process.consoleSize", &["height", "width"]),
    ("process.ioPriority", &["class"]),
    ("process.scheduler", &["policy"]),
    ("process.rlimits[]", &["type", "soft", "hard"]),
    ("mounts[]", &["destination"]),
    ("mounts[].uidMappings[]", MAPPING),
    ("mounts[].gidMappings[]", MAPPING),
    ("hooks.*[]", &["path"]),
    ("linux.uidMappings[]", MAPPING),
    ("linux.gidMappings[]", MAPPING),
    ("linux.namespaces[]", &["type"]),
    ("linux.devices[]", &["type", "path"]),
    ("linux.memoryPolicy", &["mode"]),
    ("linux.personality", &["domain"]),
    ("linux.seccomp", &["defaultAction"]),
    ("linux.seccomp.syscalls[]", &["names", "action"]),
    ("linux.seccomp.syscalls[].args[]", &["index", "value", "op"]),
    ("linux.resources.devices[]", &["allow"]),
    ("linux.resources.hugepageLimits[]", &["pageSize", "limit"]),
    ("linux.resources.network.priorities[]", &["name", "priority"]),
    ("linux.resources.blockIO.weightDevice[]", DEVICE),
    ("linux.resources.blockIO.throttleReadBpsDevice[]", DEVICE),
    ("linux.resources.blockIO.throttleWriteBpsDevice[]", DEVICE),
    ("linux.resources.blockIO.throttleReadIOPSDevice[]", DEVICE),
    ("linux.resources.blockIO.throttleWriteIOPSDevice[]", DEVICE),
];
const MAPPING: &[&str] = &["containerID", "hostID", "size"];
const DEVICE: &[&str] = &["major", "minor"];

/// Parses a JSON object, without the members that are `null`.
pub(super) fn document(json: &[u8]) -> Result<Value, Error> {
    let not = |e: serde_json::Error| {
        let error = Error::new(ErrorKind::InvalidConfig, "config", format!("this is not JSON: {e}"));
        error.with_source(e)
    };
    let mut document = serde_json::from_slice(json).map_err(not)?;
    strip_nulls(&mut document);
    match document {
        Value::Object(_) => Ok(document),
        _ => Err(Error::new(ErrorKind::InvalidConfig, "config", "this is not a JSON object")),
    }
}

/// Removes members that are `null`: Go writes these for unset fields.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Checks that all required fields below `below` exist.
pub(super) fn check_required(document: &Value, below: &str) -> Result<(), Error> {
    let rules = REQUIRED.iter().filter(|(path, _)| path.starts_with(below));
    rules.copied().try_for_each(|(path, names)| required(document, path, "", names))?;
    // A device requires numbers unless it is a FIFO.
    let devices = document.pointer("/linux/devices").and_then(Value::as_array);
    for (index, device) in devices.into_iter().flatten().enumerate() {
        if device["type"].as_str().is_some_and(|typ| typ != "p") {
            required(device, "", &format!("linux.devices[{index}]"), DEVICE)?;
        }
    }
    Ok(())
}

fn required(value: &Value, path: &str, at: &str, names: &[&str]) -> Result<(), Error> {
    let Some(part) = path.split(['.', '[']).find(|part| !part.is_empty()) else {
        let missing = names.iter().find(|name| value.as_object().is_some_and(|o| !o.contains_key(**name)));
        return missing
            .map_or(Ok(()), |name| Err(Error::invalid(&join(at, name), "required field is missing")));
    };
    let rest = &path[path.find(part).unwrap_or(0) + part.len()..];
    match (part, value) {
        ("]", Value::Array(items)) => (items.iter().enumerate())
            .try_for_each(|(index, item)| required(item, rest, &format!("{at}[{index}]"), names)),
        ("*", Value::Object(members)) => {
            members.iter().try_for_each(|(name, member)| required(member, rest, &join(at, name), names))
        }
        (name, Value::Object(members)) => {
            members.get(name).map_or(Ok(()), |member| required(member, rest, &join(at, name), names))
        }
        _ => Ok(()),
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// Converts a value to a type of `oci-spec`. The error has the path of the invalid field.
pub(super) fn typed<T: DeserializeOwned>(value: Value, prefix: &str) -> Result<T, Error> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = match (prefix, e.path().to_string()) {
            (_, path) if path == "." => prefix.to_owned(),
            (prefix, path) => join(prefix, &path),
        };
        Error::invalid(&path, e.into_inner())
    })
}

/// Converts `process` from the form of the specification to that of `oci-spec`.
pub(super) fn fit_process(process: &mut Value, warnings: &mut Vec<String>) -> Result<(), Error> {
    let Some(process) = process.as_object_mut() else { return Ok(()) };
    process.entry("user").or_insert_with(|| Map::new().into());
    for (set, names) in members(process.get_mut("capabilities")) {
        let Some(names) = names.as_array_mut() else { continue };
        names.retain(|name| {
            let known = name.as_str().is_none_or(|name| Capabilities::bit(name).is_some());
            if !known {
                warnings
                    .push(format!("process.capabilities.{set}: {name} is not a capability of this kernel"));
            }
            known
        });
    }
    for (key, list) in members(process.get_mut("execCPUAffinity")) {
        let Some(text) = list.as_str() else { continue };
        let cpus: CpuList =
            text.parse().map_err(|e| Error::invalid(&format!("process.execCPUAffinity.{key}"), e))?;
        *list = if cpus.is_empty() { Value::Null } else { cpus.to_string().into() };
    }
    let flags = process.get_mut("scheduler").and_then(|s| s.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        match flag.as_str() {
            Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
            Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
            _ => {}
        }
    }
    Ok(())
}

/// Converts `linux.resources` from the form of the specification to that of `oci-spec`.
pub(super) fn fit_resources(resources: &mut Value) {
    // The types represent a missing limit as 0, but 0 is a valid limit.
    if let Some(resources) = resources.as_object_mut()
        && resources.get("pids").and_then(Value::as_object).is_some_and(|pids| !pids.contains_key("limit"))
    {
        resources.remove("pids");
    }
    let limits = resources.get_mut("hugepageLimits").and_then(Value::as_array_mut);
    for limit in limits.into_iter().flatten().filter_map(|l| l.get_mut("limit")) {
        if limit.as_u64().is_some_and(|bytes| i64::try_from(bytes).is_err()) {
            *limit = i64::MAX.into();
        }
    }
}

/// Converts the rules of `linux.seccomp` from Docker's old form, in which each rule has the `name` of one
/// call, to the form of the specification.
pub(super) fn fit_seccomp(rules: &mut Value) {
    let rules = rules.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    for rule in rules.filter(|rule| !rule.contains_key("names")) {
        if let Some(name) = rule.remove("name") {
            rule.insert("names".into(), Value::Array(vec![name]));
        }
    }
}

fn members(value: Option<&mut Value>) -> impl Iterator<Item = (&String, &mut Value)> {
    value.and_then(Value::as_object_mut).into_iter().flatten()
}
