//! `linux.resources`, of a configuration and of an update.

use std::collections::BTreeMap;

use cgroup_core::device::{self, Rule};
use cgroup_core::{Limits, Max};
use nspod_oci_runtime::config as oci;
use serde_json::{Value, json};

fn update(resources: &Value) -> Result<(Limits, Option<Vec<Rule>>), String> {
    let json = serde_json::to_vec(resources).unwrap();
    oci::parse_resources(&json).and_then(|r| oci::resources(&r)).map_err(|e| e.to_string())
}

/// Returns the cgroup files and values that result from these resources.
fn written(resources: Value) -> Vec<(String, String)> {
    let (limits, _) = update(&resources).unwrap_or_else(|e| panic!("{resources}: {e}"));
    limits.validate().unwrap();
    limits.writes()
}

#[test]
fn every_limit_of_the_full_configuration_is_written_in_v2s_units() {
    let full = crate::container(&crate::json::full()).unwrap();
    let written: Vec<String> =
        full.spec.limits.writes().iter().map(|(file, value)| format!("{file} {value}")).collect();
    let expected = [
        "cpu.max.burst 0",
        "cpu.max 50000 100000",
        "cpu.max.burst 1000",
        "cpu.idle 0",
        "cpu.weight 59",
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
        "memory.swap.max 33554432",
        "memory.low 33554432",
        "memory.max 67108864",
        "pids.max 32",
        "io.max 8:0 rbps=600 wbps=700",
        "io.max 8:16 riops=800 wiops=max",
        "io.weight default 4950",
        "io.weight 8:0 10000",
        "io.bfq.weight default 500",
        "io.bfq.weight 8:0 1000",
        "hugetlb.2MB.max 4194304",
        "hugetlb.2MB.rsvd.max 4194304",
        "rdma.max mlx5_1 hca_handle=3 hca_object=10000",
        "memory.high 1000000",
    ];
    assert_eq!(written, expected);
}

#[test]
fn the_default_device_rules_come_last() {
    let full = crate::container(&crate::json::full()).unwrap();
    let rules = full.spec.devices.unwrap();
    let own: Vec<String> = rules[..3].iter().map(Rule::to_string).collect();
    assert_eq!(own, ["deny a *:* rwm", "allow c 10:229 rw", "allow b 8:* r"]);
    assert_eq!(rules[3..], device::DEFAULT);
    // Without a list the default rules apply. An update without a list changes no rules.
    let mut document = crate::json::full();
    document["linux"]["resources"] = Value::Null;
    assert_eq!(crate::container(&document).unwrap().spec.devices.unwrap(), device::DEFAULT);
    assert_eq!(update(&json!({})).unwrap(), (Limits::default(), None));
    let (_, updated) = update(&json!({ "devices": [{ "allow": false, "access": "rwm" }] })).unwrap();
    assert_eq!(updated.unwrap()[1..], device::DEFAULT);
}

#[test]
fn totals_and_unlimited_values_of_v1_are_converted_to_v2() {
    let one = |file: &str, value: &str| vec![(file.to_owned(), value.to_owned())];
    let two = |a, b, c, d| [one(a, b), one(c, d)].concat();
    let cases = [
        (
            json!({ "memory": { "limit": 100, "swap": 100 } }),
            two("memory.swap.max", "0", "memory.max", "100"),
        ),
        (json!({ "memory": { "limit": -1 } }), two("memory.swap.max", "max", "memory.max", "max")),
        (
            json!({ "memory": { "limit": 100, "swap": -1 } }),
            two("memory.swap.max", "max", "memory.max", "100"),
        ),
        (json!({ "memory": { "limit": 0, "swap": 0, "reservation": -1 } }), one("memory.low", "max")),
        (json!({ "pids": { "limit": 0 } }), one("pids.max", "1")),
        (json!({ "pids": {} }), Vec::new()),
        (json!({ "pids": { "limit": null } }), Vec::new()),
        (json!({ "pids": { "limit": -1 } }), one("pids.max", "max")),
        (json!({ "cpu": { "shares": 0, "quota": 0, "period": 0, "cpus": "", "mems": "" } }), Vec::new()),
        (json!({ "cpu": { "quota": -1 } }), one("cpu.max", "max 100000")),
        (json!({ "cpu": { "quota": -2, "period": 5000 } }), one("cpu.max", "max 5000")),
        (json!({ "cpu": { "shares": 22_000 } }), one("cpu.weight", "1204")),
        (json!({ "cpu": { "shares": 1024, "idle": 1 } }), one("cpu.idle", "1")),
        (json!({ "blockIO": { "weight": 0, "leafWeight": 0 } }), Vec::new()),
        (
            json!({ "hugepageLimits": [{ "pageSize": "1GB", "limit": u64::MAX }] }),
            two("hugetlb.1GB.max", &i64::MAX.to_string(), "hugetlb.1GB.rsvd.max", &i64::MAX.to_string()),
        ),
        (json!({ "devices": null, "memory": null, "unified": null }), Vec::new()),
        (json!({ "memory": { "disableOOMKiller": false, "swappiness": null, "kernel": 0 } }), Vec::new()),
    ];
    for (resources, expected) in cases {
        assert_eq!(written(resources.clone()), expected, "{resources}");
    }
}

#[test]
fn a_limit_that_v2_lacks_is_refused_with_its_path() {
    let cases = [
        (json!({ "memory": { "kernel": 100 } }), "memory.kernel"),
        (json!({ "memory": { "kernelTCP": 100 } }), "memory.kernelTCP"),
        (json!({ "memory": { "swappiness": 60 } }), "memory.swappiness"),
        (json!({ "memory": { "disableOOMKiller": true } }), "memory.disableOOMKiller"),
        (json!({ "memory": { "limit": -2 } }), "memory.limit"),
        (json!({ "memory": { "reservation": -2 } }), "memory.reservation"),
        (json!({ "memory": { "swap": 100 } }), "memory.swap"),
        (json!({ "memory": { "limit": 100, "swap": 99 } }), "memory.swap"),
        (json!({ "cpu": { "realtimeRuntime": 1 } }), "cpu.realtimeRuntime"),
        (json!({ "cpu": { "realtimePeriod": 1 } }), "cpu.realtimePeriod"),
        (json!({ "cpu": { "period": 999 } }), "cpu.period"),
        (json!({ "cpu": { "quota": 999 } }), "cpu.quota"),
        (json!({ "cpu": { "quota": 5000, "burst": 5001 } }), "cpu.burst"),
        (json!({ "cpu": { "idle": 2 } }), "cpu.idle"),
        (json!({ "cpu": { "cpus": "3-1" } }), "cpu.cpus"),
        (json!({ "cpu": { "mems": "all" } }), "cpu.mems"),
        (json!({ "pids": { "limit": -2 } }), "pids.limit"),
        (json!({ "blockIO": { "weight": 9 } }), "blockIO.weight"),
        (json!({ "blockIO": { "leafWeight": 100 } }), "blockIO.leafWeight"),
        (
            json!({ "blockIO": { "weightDevice": [{ "major": 8, "minor": 0, "weight": 1001 }] } }),
            "blockIO.weightDevice[0].weight",
        ),
        (
            json!({ "blockIO": { "weightDevice": [{ "major": 8, "minor": 0, "leafWeight": 10 }] } }),
            "blockIO.weightDevice[0].leafWeight",
        ),
        (
            json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": -1, "minor": 0, "rate": 1 }] } }),
            "blockIO.throttleReadBpsDevice[0].major",
        ),
        (
            json!({ "blockIO": { "throttleWriteIOPSDevice": [{ "major": 8, "rate": 1 }] } }),
            "blockIO.throttleWriteIOPSDevice[0].minor",
        ),
        (json!({ "hugepageLimits": [{ "pageSize": "02MB", "limit": 1 }] }), "hugepageLimits[0].pageSize"),
        (json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": -1 }] }), "hugepageLimits[0].limit"),
        (json!({ "hugepageLimits": [{ "pageSize": "2MB" }] }), "hugepageLimits[0].limit"),
        (json!({ "network": { "classID": 1 } }), "network.classID"),
        (json!({ "network": { "priorities": [{ "name": "eth0", "priority": 1 }] } }), "network.priorities"),
        (json!({ "rdma": { "a b": { "hcaHandles": 1 } } }), "rdma.a b"),
        (json!({ "rdma": { "mlx5": {} } }), "rdma.mlx5"),
        (json!({ "rdma": { "mlx5": { "hcaHandles": u32::MAX } } }), "rdma.mlx5"),
        (json!({ "unified": { "../memory.max": "1" } }), "unified.../memory.max"),
        (json!({ "unified": { "cgroup.procs": "1" } }), "unified.cgroup.procs"),
        (json!({ "devices": [{ "allow": true, "type": "p" }] }), "devices[0].type"),
        (json!({ "devices": [{ "allow": true, "type": "x" }] }), "devices[0].type"),
        (json!({ "devices": [{ "allow": true, "major": -2 }] }), "devices[0].major"),
        (json!({ "devices": [{ "allow": true, "minor": 1_u64 << 32 }] }), "devices[0].minor"),
        (json!({ "devices": [{ "allow": true, "access": "rx" }] }), "devices[0].access"),
        (json!({ "devices": [{ "access": "r" }] }), "devices[0].allow"),
    ];
    for (resources, path) in cases {
        let error = update(&resources).unwrap_err();
        assert!(error.starts_with(&format!("linux.resources.{path}: ")), "{resources}: {error}");
        // A configuration with these resources is rejected with the same error.
        let whole = crate::container(&crate::json::with("linux.resources", resources)).unwrap_err();
        assert_eq!(whole.to_string(), error);
    }
}

#[test]
fn a_zero_rate_lifts_the_throttle() {
    let resources =
        json!({ "blockIO": { "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 0 }] } });
    let (limits, _) = update(&resources).unwrap();
    let rates: BTreeMap<_, _> =
        limits.io_max.iter().map(|(device, max)| (device.to_string(), max.rbps)).collect();
    assert_eq!(rates, [("8:0".to_owned(), Some(Max::Max))].into());
}
