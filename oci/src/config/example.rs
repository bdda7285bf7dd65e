//! An example configuration.

use oci_spec::runtime;
use serde_json::json;

/// Returns the configuration that `runc spec` writes: a shell on a terminal, with the usual mounts,
/// capabilities and masked paths. With `rootless`, it has a user namespace in which the caller is root,
/// and neither a network namespace nor limits.
///
/// ```
/// let spec = nspod_oci_runtime::config::example(true);
/// assert!(spec.linux().as_ref().unwrap().uid_mappings().is_some());
/// ```
#[expect(clippy::missing_panics_doc, reason = "the document is constant, and a test converts it")]
pub fn example(rootless: bool) -> runtime::Spec {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mount = |destination: &str, typ: &str, source: &str, options: &[&str]| match options {
        [] => json!({ "destination": destination, "type": typ, "source": source }),
        _ => json!({ "destination": destination, "type": typ, "source": source, "options": options }),
    };
    let strict = ["nosuid", "noexec", "nodev"];
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        // A user namespace with one id has no group 5.
        mount("/dev/pts", "devpts", "devpts", if rootless { &pts[..5] } else { &pts }),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &strict),
    ];
    mounts.push(match rootless {
        false => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        true => mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]),
    });
    let cgroup = ["nosuid", "noexec", "nodev", "relatime", "ro"];
    mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup));
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", "user"];
    let namespaces: Vec<_> = (kinds.into_iter())
        .filter(|kind| *kind != if rootless { "network" } else { "user" })
        .map(|kind| json!({ "type": kind }))
        .collect();
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
        ],
        "readonlyPaths": nspod_sandbox::spec::READONLY_PATHS,
    });
    if rootless {
        let map = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        linux["uidMappings"] = map(nix::unistd::geteuid().as_raw());
        linux["gidMappings"] = map(nix::unistd::getegid().as_raw());
    } else {
        linux["resources"] = json!({ "devices": [{ "allow": false, "access": "rwm" }] });
    }
    let spec = json!({
        "ociVersion": super::types::VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [format!("PATH={}", nspod_sandbox::spec::PATH), "TERM=xterm".to_owned()],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "nspod",
        "mounts": mounts,
        "linux": linux,
    });
    serde_json::from_value(spec).expect("the example is a configuration")
}
