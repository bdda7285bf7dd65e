//! The example of the life cycle works, and the library returns the documented errors. As root.

use std::fs;
use std::path::Path;

use nspod_oci_runtime::{Bundle, Container, CreateOptions, ErrorKind, Runtime, Status, config};
use serde_json::json;

#[path = "../examples/lifecycle.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod example;

const BUSYBOX: &str = "/bin/busybox";

/// Writes a bundle with busybox that runs this command line.
fn bundle(dir: &Path, args: &[&str]) {
    fs::create_dir_all(dir.join("rootfs")).unwrap();
    nspod_testkit::copy_program(BUSYBOX, dir.join("rootfs/busybox"));
    let mut document = serde_json::to_value(config::example(false)).unwrap();
    document["process"]["terminal"] = json!(false);
    document["process"]["args"] = json!(args);
    fs::write(dir.join("config.json"), document.to_string()).unwrap();
}

#[test]
fn the_example_runs_the_whole_life_cycle() {
    if !nspod_testkit::root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    bundle(temp.path(), &["/busybox", "sleep", "1000"]);
    let state = temp.path().join("state");
    let lines = example::lifecycle(temp.path(), &state).unwrap();
    assert_eq!(lines, ["created", "running", "exec: exited with code 7", "stopped", "deleted"]);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

#[test]
fn the_kind_of_an_error_says_what_happened() {
    if !nspod_testkit::root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(temp.path().join("state"));
    let container = Container::new(&runtime, "a");
    assert_eq!(container.state().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Container::new(&runtime, "a/b").state().unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(Bundle::open(temp.path()).unwrap_err().kind(), ErrorKind::NotFound);

    bundle(temp.path(), &["/missing"]);
    let opened = Bundle::open(temp.path()).unwrap();
    let create = || Container::create(&runtime, "a", &opened, CreateOptions::default());
    assert_eq!(create().unwrap_err().kind(), ErrorKind::ProgramNotFound);
    assert!(Container::ids(&runtime).unwrap().is_empty());

    bundle(temp.path(), &["/busybox", "sleep", "1000"]);
    let opened = Bundle::open(temp.path()).unwrap();
    let create = || Container::create(&runtime, "a", &opened, CreateOptions::default());
    let created = create().unwrap();
    assert_eq!(create().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(created.state().unwrap().status, Status::Created);
    assert_eq!(created.resume().unwrap_err().kind(), ErrorKind::State);
    created.start().unwrap();
    assert_eq!(created.start().unwrap_err().kind(), ErrorKind::State);
    assert_eq!(created.delete(false).unwrap_err().kind(), ErrorKind::State);
    created.delete(true).unwrap();
    created.delete(true).unwrap();
    assert_eq!(created.delete(false).unwrap_err().kind(), ErrorKind::NotFound);
}
