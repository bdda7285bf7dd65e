//! The OCI configuration: samples of the specification, each field, each option, each invalid value.

mod any;
mod bad;
mod fields;
mod json;
mod mounts;
mod resources;

use std::path::Path;

use nspod_oci_runtime::Error;
use nspod_oci_runtime::config::{self as oci, ContainerSpec, Context, example};
use nspod_sandbox::{Handles, Host, Plan};
use serde_json::Value;

fn context() -> Context<'static> {
    Context { bundle: "/bundle".as_ref(), id: "web", ..Context::default() }
}

fn container(document: &Value) -> Result<ContainerSpec, Error> {
    oci::parse(&serde_json::to_vec(document).unwrap())?.container_spec(&context())
}

/// Does the same, and checks that the container can be planned.
fn planned(document: &Value) -> Result<ContainerSpec, Error> {
    let container = container(document)?;
    Plan::on(&container.spec, &host(), Handles::default())?;
    Ok(container)
}

/// Returns a host on which the caller is root.
fn host() -> Host {
    Host { capabilities: u64::MAX, apparmor: true, selinux: true, kernel: (6, 1), ..Host::default() }
}

/// Returns the samples of the specification, by name.
fn samples(kind: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/data/config").join(kind);
    let files = directory.read_dir().unwrap().map(|entry| entry.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), std::fs::read(f.path()).unwrap())).collect()
}

#[test]
fn every_good_sample_for_linux_is_accepted_and_others_are_refused_with_their_platform() {
    let samples = samples("good");
    assert_eq!(samples.len(), 9);
    for (name, json) in samples {
        let result = oci::parse(&json);
        match ["freebsd", "zos"].iter().find(|platform| name == format!("{platform}-example.json")) {
            None => assert!(result.is_ok(), "{name}: {result:?}"),
            Some(platform) => {
                let error = result.unwrap_err().to_string();
                assert_eq!(error, format!("{platform}: this runtime runs only Linux containers"));
            }
        }
    }
}

#[test]
fn every_bad_sample_is_refused_with_the_path_of_the_fault() {
    let expected = [
        ("freebsd-vnet-disable.json", "freebsd: "),
        ("invalid-json.json", "this is not JSON: "),
        ("linux-hugepage.json", "linux.resources.hugepageLimits[0].pageSize: "),
        ("linux-netdevice.json", "linux.netDevices.eth0.name: "),
        ("linux-rdma.json", "linux.resources.rdma.mlx5_1.hcaHandles: "),
    ];
    let samples = samples("bad");
    assert_eq!(samples.len(), expected.len());
    for (name, json) in samples {
        let error = oci::parse(&json).unwrap_err().to_string();
        let (_, path) = expected.iter().find(|(other, _)| *other == name).unwrap();
        assert!(error.starts_with(path), "{name}: {error}");
    }
}

#[test]
fn the_example_and_the_full_configuration_are_planned() {
    for rootless in [false, true] {
        let config = oci::parse(&serde_json::to_vec(&example(rootless)).unwrap()).unwrap();
        let container = config.container_spec(&Context { rootless, ..context() }).unwrap();
        assert_eq!(container.warnings, Vec::<String>::new());
        assert_eq!(container.spec.devices.is_none(), rootless);
        Plan::on(&container.spec, &host(), Handles::default()).unwrap();
    }
    let full = container(&json::plannable()).unwrap();
    assert_eq!(full.warnings, Vec::<String>::new());
    Plan::on(&full.spec, &host(), Handles::default()).map_err(Error::from).unwrap();
}
