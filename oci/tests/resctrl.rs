//! The kernel's resctrl file system, which few machines have. The tests check the kernel's refusal, and the
//! files written in a directory that stands in for the mount.

use std::fs;
use std::path::Path;

use nspod_oci_runtime::ErrorKind;
use nspod_oci_runtime::resctrl::{Resctrl, remove};

/// Creates a class with its schemata, as the kernel would.
fn class(root: &Path, name: &str, schemata: &str) {
    fs::create_dir_all(root.join(name).join("mon_groups")).unwrap();
    fs::write(root.join(name).join("schemata"), schemata).unwrap();
    fs::write(root.join(name).join("tasks"), "").unwrap();
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

#[test]
fn a_class_without_resctrl_is_refused_with_the_reason() {
    if Path::new("/sys/fs/resctrl/schemata").exists() {
        return nspod_testkit::skip("this machine has resctrl");
    }
    let error = Resctrl::default().apply("box", 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().starts_with("resctrl: /sys/fs/resctrl is not mounted"), "{error}");
}

#[test]
fn a_named_class_receives_the_process_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    class(dir.path(), "gold", "    L3:0=00f;1=0f0\n    MB:0= 50\n");
    let mut gold = Resctrl { clos_id: Some("gold".into()), ..Resctrl::default() };
    assert!(gold.apply_at(dir.path(), "box", 42).unwrap().is_empty());
    assert_eq!(read(dir.path(), "gold/tasks"), "42\n");
    // The same lines in the kernel's format, and in another format.
    gold.schemata = vec!["L3:1=f0;0=F".into(), "MB:0=50".into()];
    assert!(gold.apply_at(dir.path(), "box", 43).unwrap().is_empty());
    gold.schemata = vec!["L3:0=1f;1=f0".into()];
    let error = gold.apply_at(dir.path(), "box", 44).unwrap_err().to_string();
    assert!(error.contains("does not have \"L3:0=1f;1=f0\""), "{error}");
    assert!(read(dir.path(), "gold/schemata").contains("0=00f"), "it was changed");
    assert!(read(dir.path(), "gold/tasks").starts_with("43"), "the process was moved nevertheless");
}

#[test]
fn a_missing_class_requires_schema_lines() {
    let dir = tempfile::tempdir().unwrap();
    let gold = Resctrl { clos_id: Some("gold".into()), ..Resctrl::default() };
    let error = gold.apply_at(dir.path(), "box", 42).unwrap_err().to_string();
    assert!(error.starts_with("linux.intelRdt.closID: the class"), "{error}");
    for name in ["..", "a/b", "info", ""] {
        let wrong = Resctrl { clos_id: Some(name.into()), ..Resctrl::default() };
        let error = wrong.apply_at(dir.path(), "box", 42).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?}: {error}");
    }
    // No kernel creates the files in the new directory, so the write fails and the directory is removed.
    let lines = Resctrl { schemata: vec!["L3:0=f".into()], ..gold };
    let error = lines.apply_at(dir.path(), "box", 42).unwrap_err().to_string();
    assert!(error.contains("gold/schemata"), "{error}");
    assert!(!dir.path().join("gold").exists());
}

#[test]
fn only_a_created_class_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    class(dir.path(), "gold", "L3:0=f\n");
    fs::create_dir(dir.path().join("gold/mon_groups/box")).unwrap();
    fs::create_dir(dir.path().join("own")).unwrap();
    let made = [dir.path().join("gold/mon_groups/box"), dir.path().join("own")];
    remove(&made).unwrap();
    remove(&made).unwrap();
    assert!(!dir.path().join("own").exists() && !made[0].exists());
    assert!(dir.path().join("gold/mon_groups").exists());
}
