//! Every configuration is either rejected with a field path or results in a plan.

use nspod_oci_runtime::config::{self as oci, Context};
use nspod_oci_runtime::{Error, ErrorKind};
use nspod_sandbox::{Handles, Host, Plan};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use crate::host;
use crate::json::{Part, at, paths, plannable, remove};

/// Values that are valid for some field, and values that are valid for none.
fn value() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "",
        "/",
        ".",
        "..",
        "a",
        "/dev/null",
        "/a/../b",
        "a\0b",
        "a\nb",
        "0",
        "0-3",
        "4294967295",
        "tmpfs",
        "bind",
        "rbind",
        "remount",
        "ro",
        "rro",
        "noatime",
        "idmap",
        "tmpcopyup",
        "shared",
        "runbindable",
        "size=1",
        "c",
        "p",
        "CAP_KILL",
        "CAP_NONE",
        "RLIMIT_CPU",
        "SCHED_FIFO",
        "SCHED_DEADLINE",
        "MPOL_LOCAL",
        "MPOL_DEFAULT",
        "mount",
        "network",
        "user",
        "SCMP_ACT_KILL",
        "SCMP_ACT_TRAP",
        "rwm",
        "1.2.0",
        "x=y",
        "=",
        "LINUX",
        "2MB",
        "é",
    ];
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-2_i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        prop::sample::select(WORDS).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z.]{0,4}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[derive(Debug, Clone)]
enum Change {
    /// Sets another value.
    Put(Index, Value),
    /// Copies the value of another place, which may be valid here too.
    Copy(Index, Index),
    Remove(Index),
    /// Repeats an item of a list.
    Again(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    prop_oneof![
        (place(), value()).prop_map(|(to, value)| Change::Put(to, value)),
        (place(), place()).prop_map(|(to, from)| Change::Copy(to, from)),
        place().prop_map(Change::Remove),
        place().prop_map(Change::Again),
    ]
}

fn apply(document: &mut Value, change: &Change) {
    let all: Vec<_> = paths(document).into_iter().skip(1).collect();
    if all.is_empty() {
        return;
    }
    let place = |index: &Index| index.get::<Vec<Part>>(&all);
    match change {
        Change::Put(to, value) => *at(document, place(to)) = value.clone(),
        Change::Copy(to, from) => {
            let value = at(document, place(from)).clone();
            *at(document, place(to)) = value;
        }
        Change::Remove(from) => remove(document, place(from)),
        Change::Again(of) => {
            if let Value::Array(items) = at(document, place(of))
                && let Some(item) = items.last().cloned()
            {
                items.push(item);
            }
        }
    }
}

const FIELDS: [&str; 13] = [
    "ociVersion",
    "root",
    "process",
    "hostname",
    "domainname",
    "mounts",
    "hooks",
    "annotations",
    "linux",
    "solaris",
    "windows",
    "vm",
    "zos",
];

fn is_refused_by_a_path(error: &Error) -> bool {
    let text = error.to_string();
    let end = text.find(['.', '[', ':']).unwrap_or(text.len());
    error.kind() == ErrorKind::InvalidConfig && text.contains(": ") && FIELDS.contains(&&text[..end])
}

/// Returns whether the configuration results in a plan.
fn comes_to_a_plan(document: &Value, rootless: bool) -> bool {
    let json = serde_json::to_vec(document).unwrap();
    let context = Context { rootless, systemd_cgroup: rootless, ..crate::context() };
    let container = match oci::parse(&json).and_then(|config| config.container_spec(&context)) {
        Ok(container) => container,
        Err(error) => {
            assert!(is_refused_by_a_path(&error), "{error}: {document}");
            return false;
        }
    };
    let user =
        Host { uid: 1000, gid: 1000, newidmap: true, apparmor: true, selinux: true, ..Host::default() };
    let host = if rootless { user } else { host() };
    match Plan::on(&container.spec, &host, Handles::default()) {
        Ok(plan) => !plan.to_string().is_empty(),
        // The plan opens joined namespaces, which may not exist.
        Err(error) if error.step() == "namespace" => false,
        Err(error) => {
            let error = Error::from(error);
            assert!(is_refused_by_a_path(&error), "{error}: {document}");
            false
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_configuration_is_refused_with_a_path_or_planned(
        changes in prop::collection::vec(change(), 1..5), rootless in any::<bool>(),
    ) {
        let mut document = plannable();
        if rootless {
            document["linux"]["cgroupsPath"] = json!("a.slice:b:c");
            document["mounts"].as_array_mut().unwrap().truncate(6);
        }
        changes.iter().for_each(|change| apply(&mut document, change));
        comes_to_a_plan(&document, rootless);
    }
}

#[test]
fn some_changes_are_planned() {
    assert!(comes_to_a_plan(&plannable(), false));
    let mut document = plannable();
    document["mounts"].as_array_mut().unwrap().truncate(6);
    document["linux"]["cgroupsPath"] = json!("a.slice:b:c");
    assert!(comes_to_a_plan(&document, true));
}
