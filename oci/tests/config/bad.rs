//! A bad value for each field of the specification's schema.

use nspod_oci_runtime::config as oci;
use serde_json::{Value, json};

use crate::json::{at, full, parts, path, paths, remove, with};

fn refused(document: &Value) -> String {
    let json = serde_json::to_vec(document).unwrap();
    oci::parse(&json).map(|_| "it is accepted".to_owned()).unwrap_or_else(|e| e.to_string())
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_path() {
    let document = full();
    for place in paths(&document) {
        let path = path(&place);
        if path.is_empty() {
            continue;
        }
        let mut changed = document.clone();
        let value = at(&mut changed, &place);
        *value = match value {
            Value::Array(_) | Value::Object(_) => json!("text"),
            Value::String(_) => json!({ "an": "object" }),
            _ => json!(["a", "list"]),
        };
        let error = refused(&changed);
        // The error may name the list instead of its item.
        let found = error.split(": ").next().unwrap_or_default();
        assert!(!found.is_empty() && path.starts_with(found), "{path}: {error}");
    }
}

#[test]
fn a_missing_required_field_is_refused_with_its_path() {
    let required = [
        "ociVersion",
        "root.path",
        "process.cwd",
        "process.consoleSize.height",
        "process.consoleSize.width",
        "process.ioPriority.class",
        "process.scheduler.policy",
        "process.rlimits[1].type",
        "process.rlimits[1].soft",
        "process.rlimits[1].hard",
        "mounts[0].destination",
        "mounts[6].uidMappings[0].containerID",
        "mounts[6].uidMappings[0].hostID",
        "mounts[6].gidMappings[0].size",
        "hooks.prestart[0].path",
        "hooks.createRuntime[0].path",
        "hooks.createContainer[0].path",
        "hooks.startContainer[0].path",
        "hooks.poststart[0].path",
        "hooks.poststop[0].path",
        "linux.uidMappings[0].containerID",
        "linux.uidMappings[0].hostID",
        "linux.uidMappings[0].size",
        "linux.gidMappings[0].containerID",
        "linux.gidMappings[0].hostID",
        "linux.gidMappings[0].size",
        "linux.namespaces[3].type",
        "linux.devices[0].type",
        "linux.devices[0].path",
        "linux.memoryPolicy.mode",
        "linux.personality.domain",
        "linux.seccomp.defaultAction",
        "linux.seccomp.syscalls[1].names",
        "linux.seccomp.syscalls[1].action",
        "linux.seccomp.syscalls[1].args[0].index",
        "linux.seccomp.syscalls[1].args[0].value",
        "linux.seccomp.syscalls[1].args[0].op",
        "linux.resources.devices[1].allow",
        "linux.resources.hugepageLimits[0].pageSize",
        "linux.resources.hugepageLimits[0].limit",
        "linux.resources.blockIO.weightDevice[0].major",
        "linux.resources.blockIO.throttleReadBpsDevice[0].minor",
        "linux.resources.blockIO.throttleWriteBpsDevice[0].major",
        "linux.resources.blockIO.throttleReadIOPSDevice[0].minor",
        "linux.resources.blockIO.throttleWriteIOPSDevice[0].major",
    ];
    for path in required {
        let mut document = full();
        remove(&mut document, &parts(path));
        assert_eq!(refused(&document), format!("{path}: required field is missing"));
    }
    // Required by the text of the specification, but not by the schema.
    for field in ["major", "minor"] {
        let mut document = full();
        remove(&mut document, &parts(&format!("linux.devices[0].{field}")));
        assert_eq!(refused(&document), format!("linux.devices[0].{field}: required field is missing"));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table with one line a case")]
fn a_value_that_the_schema_excludes_is_refused_with_its_path() {
    let too_long = "x".repeat(65);
    let cases = [
        ("process.consoleSize.height", json!(-1)),
        ("process.consoleSize.width", json!(1.5)),
        ("process.user.uid", json!(-1)),
        ("process.user.gid", json!(4_294_967_296_u64)),
        ("process.user.umask", json!(-1)),
        ("process.user.additionalGids[1]", json!(-1)),
        ("process.ioPriority.class", json!("IOPRIO_CLASS_NONE")),
        ("process.ioPriority.priority", json!(2_147_483_648_u64)),
        ("process.oomScoreAdj", json!(1.5)),
        ("process.scheduler.policy", json!("SCHED_NONE")),
        ("process.scheduler.nice", json!(2_147_483_648_u64)),
        ("process.scheduler.priority", json!(-2_147_483_649_i64)),
        ("process.scheduler.flags[0]", json!("SCHED_FLAG_NONE")),
        ("process.scheduler.runtime", json!(-1)),
        ("process.rlimits[0].type", json!("RLIMIT_nofile")),
        ("process.rlimits[0].type", json!("RLIMIT_NONE")),
        ("process.rlimits[0].soft", json!(-1)),
        ("process.rlimits[0].hard", json!(1e30)),
        ("process.execCPUAffinity.initial", json!("0-x")),
        ("process.execCPUAffinity.final", json!("all")),
        ("hooks.poststop[0].timeout", json!(0)),
        ("hooks.prestart[0].timeout", json!(-1)),
        ("linux.uidMappings[0].size", json!(-1)),
        ("linux.gidMappings[0].hostID", json!(4_294_967_296_u64)),
        ("linux.namespaces[0].type", json!("mnt")),
        ("linux.devices[0].type", json!("a")),
        ("linux.devices[0].type", json!("cc")),
        ("linux.devices[0].fileMode", json!(0o200000)),
        ("linux.devices[0].fileMode", json!(-1)),
        ("linux.devices[0].major", json!(-1)),
        ("linux.devices[0].minor", json!(1 << 20)),
        ("linux.devices[0].uid", json!(-1)),
        ("linux.rootfsPropagation", json!("none")),
        ("linux.personality.domain", json!("LINUX64")),
        ("linux.memoryPolicy.mode", json!("MPOL_NONE")),
        ("linux.memoryPolicy.flags[0]", json!("MPOL_F_NONE")),
        ("linux.timeOffsets.monotonic.secs", json!(1e300)),
        ("linux.timeOffsets.boottime.nanosecs", json!(-1)),
        ("linux.intelRdt.memBwSchema", json!("L3:0=f")),
        ("linux.intelRdt.memBwSchema", json!("MB:0=1\nMB:1=2")),
        ("linux.seccomp.defaultAction", json!("SCMP_ACT_NONE")),
        ("linux.seccomp.defaultErrnoRet", json!(-1)),
        ("linux.seccomp.flags[0]", json!("SECCOMP_FILTER_FLAG_NONE")),
        ("linux.seccomp.architectures[0]", json!("SCMP_ARCH_NONE")),
        ("linux.seccomp.syscalls[0].names", json!([])),
        ("linux.seccomp.syscalls[0].action", json!("ALLOW")),
        ("linux.seccomp.syscalls[1].errnoRet", json!(-1)),
        ("linux.seccomp.syscalls[1].args[0].index", json!(-1)),
        ("linux.seccomp.syscalls[1].args[0].value", json!(-1)),
        ("linux.seccomp.syscalls[1].args[0].op", json!("SCMP_CMP_NONE")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("2mB")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("0MB")),
        ("linux.resources.hugepageLimits[0].pageSize", json!("2TB")),
        ("linux.resources.hugepageLimits[0].limit", json!(-1)),
        ("linux.resources.blockIO.weight", json!(65536)),
        ("linux.resources.blockIO.weightDevice[0].weight", json!(-1)),
        ("linux.resources.blockIO.throttleReadBpsDevice[0].rate", json!(-1)),
        ("linux.resources.cpu.shares", json!(-1)),
        ("linux.resources.cpu.quota", json!(1e30)),
        ("linux.resources.cpu.burst", json!(-1)),
        ("linux.resources.memory.limit", json!(1e30)),
        ("linux.resources.memory.swappiness", json!(-1)),
        ("linux.resources.network.classID", json!(-1)),
        ("linux.resources.rdma.mlx5_1.hcaObjects", json!(-1)),
    ];
    for (path, value) in cases {
        let error = refused(&with(path, value.clone()));
        assert!(error.starts_with(&format!("{path}: ")), "{path} = {value}: {error}");
    }
    // Fields that require another field.
    let mut document = full();
    document["linux"]["seccomp"]["listenerMetadata"] = json!("for whom?");
    assert!(refused(&document).starts_with("linux.seccomp.listenerMetadata: "));
    document["linux"]["seccomp"]["listenerMetadata"] = Value::Null;
    document["linux"]["seccomp"]["defaultAction"] = json!("SCMP_ACT_KILL_PROCESS");
    document["linux"]["seccomp"]["defaultErrnoRet"] = json!(38);
    assert!(refused(&document).starts_with("linux.seccomp.defaultErrnoRet: "));
    // Values that the kernel or this runtime does not support. The conversion to a spec rejects them.
    let cases = [
        ("process.user.umask", json!(0o1000)),
        ("process.args", json!([])),
        ("process.args", json!([""])),
        ("process.args[1]", json!("a\0b")),
        ("process.cwd", json!("relative")),
        ("process.cwd", json!("")),
        ("process.oomScoreAdj", json!(1001)),
        ("process.oomScoreAdj", json!(-1001)),
        ("process.user.uid", json!(u32::MAX)),
        ("process.user.gid", json!(u32::MAX)),
        ("process.user.additionalGids[1]", json!(u32::MAX)),
        ("process.consoleSize.height", json!(65536)),
        ("process.capabilities.effective", json!(["CAP_SYS_ADMIN"])),
        ("process.rlimits[1]", json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 })),
        ("process.rlimits[1]", json!({ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 })),
        ("process.ioPriority.priority", json!(8)),
        ("process.scheduler.nice", json!(20)),
        ("process.scheduler.priority", json!(1)),
        ("process.scheduler.priority", json!(-1)),
        ("process.scheduler.runtime", json!(1)),
        ("process.scheduler.policy", json!("SCHED_ISO")),
        ("hooks.prestart[0].path", json!("bin/hook")),
        ("hooks.createContainer[0].path", json!("relative")),
        ("hooks.startContainer[0].timeout", json!(0)),
        ("root.path", json!("")),
        ("hostname", json!(too_long)),
        ("domainname", json!(too_long)),
        ("hostname", json!("a\0b")),
        ("linux.uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 0 }])),
        ("linux.maskedPaths[0]", json!("proc/../kcore")),
        ("linux.readonlyPaths[0]", json!("/proc/../x")),
        ("linux.netDevices.eth0.name", json!("a/b")),
        ("linux.netDevices.eth0123456789abc", json!({})),
        ("linux.memoryPolicy.nodes", json!("")),
        ("linux.memoryPolicy.nodes", json!("1024")),
        ("linux.memoryPolicy.flags", json!(["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"])),
        ("linux.personality.flags", json!(["ADDR_NO_RANDOMIZE"])),
        ("linux.timeOffsets.realtime", json!({ "secs": 1 })),
        ("linux.timeOffsets.boottime.nanosecs", json!(1_000_000_000)),
        ("linux.intelRdt.closID", json!("..")),
        ("linux.sysctl.kernel.panic", json!("1")),
        ("linux.sysctl.kernel.hostname", json!("box")),
        ("linux.sysctl.kernel/hostname", json!("box")),
        ("linux.sysctl.kernel.domainname", json!("not the field's")),
        ("linux.sysctl.net..x", json!("1")),
    ];
    for (path, value) in cases {
        let mut document = if path.starts_with("linux.sysctl.") {
            let mut document = full();
            document["linux"]["sysctl"][path.trim_start_matches("linux.sysctl.")] = value.clone();
            document
        } else {
            with(path, value.clone())
        };
        document["process"]["selinuxLabel"] = Value::Null;
        let error = crate::planned(&document).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{path}: ")), "{path} = {value}: {error}");
    }
}

#[test]
fn text_that_is_not_a_document_is_refused() {
    for json in ["", "{", "[]", "3", "null", "\"text\"", "{}{}"] {
        let error = oci::parse(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("this is not "), "{json}: {error}");
    }
    assert_eq!(oci::parse(b"{}").unwrap_err().to_string(), "ociVersion: required field is missing");
    assert!(oci::parse_process(b"{}").unwrap_err().to_string().starts_with("process.cwd: "));
    let error = oci::parse_resources(br#"{ "cpu": { "period": "long" } }"#).unwrap_err().to_string();
    assert!(error.starts_with("linux.resources.cpu.period: "), "{error}");
}
