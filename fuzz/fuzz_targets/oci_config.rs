//! Converts any bytes to a plan through an OCI configuration. The conversion never panics, and each rejection names
//! a field.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ns_core::Kind;
use nspod_oci_runtime::ErrorKind;
use nspod_oci_runtime::config::{self as oci, Context};
use nspod_sandbox::spec::{NamespaceMode, Spec};
use nspod_sandbox::{Handles, Host, Plan};

fuzz_target!(|data: &[u8]| {
    let config = match oci::parse(data) {
        Ok(config) => config,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}"),
    };
    // The parsed configuration survives writing and reading.
    let again = serde_json::to_vec(config.spec()).unwrap();
    oci::parse(&again).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&again)));
    for rootless in [false, true] {
        let context = Context {
            bundle: "/bundle".as_ref(),
            id: "fuzz",
            systemd_cgroup: rootless,
            rootless,
            ..Context::default()
        };
        match config.container_spec(&context) {
            Ok(container) => plan(&container.spec, rootless),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
                assert!(error.to_string().contains(": "), "{error}");
            }
        }
    }
});

fn plan(spec: &Spec, rootless: bool) {
    // A plan would open the namespaces that it joins.
    let joins = |kind| matches!(spec.namespaces.get(kind), NamespaceMode::Join(_));
    if Kind::ALL.into_iter().any(joins) {
        return;
    }
    let user =
        Host { uid: 1000, gid: 1000, newidmap: true, apparmor: true, selinux: true, ..Host::default() };
    let root =
        Host { capabilities: u64::MAX, apparmor: true, selinux: true, kernel: (6, 1), ..Host::default() };
    let host = if rootless { user } else { root };
    match Plan::on(spec, &host, Handles::default()).map_err(nspod_oci_runtime::Error::from) {
        Ok(plan) => assert!(!plan.to_string().is_empty()),
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}"),
    }
}
