//! `/proc/cgroups`, `/proc/PID/cgroup` and the small files of a cgroup.
#![no_main]

use cgroup_core::{Max, parse};
use libfuzzer_sys::fuzz_target;
use ns_core::proc;

fuzz_target!(|text: &str| {
    if let Ok(all) = parse::proc_cgroups(text) {
        let print =
            |s: &parse::Subsystem| format!(" {}\t{}\t1\t{}\n", s.name, s.hierarchy, u8::from(s.enabled));
        let printed: String = all.iter().map(print).collect();
        assert_eq!(parse::proc_cgroups(&printed).unwrap(), all);
    }
    // ns-core has a parser of its own, because the two crates do not depend on each other.
    if !text.contains('\r') {
        assert_eq!(parse::proc_self_cgroup(text), proc::cgroup(text.as_bytes()));
    }
    if let Some(path) = parse::proc_self_cgroup(text) {
        assert!(text.contains(&format!("0::{path}")) && !path.contains('\n'));
        assert_eq!(parse::proc_self_cgroup(&format!("3:cpu:/0::x\n0::{path}")), Some(path));
    }
    let controllers = parse::controllers(text);
    assert_eq!(parse::controllers(&controllers.to_string()), controllers);
    for controller in controllers.members() {
        assert!(text.split_ascii_whitespace().any(|word| word == controller.name()));
    }
    if let Ok(pids) = parse::pids(text) {
        let printed: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        assert_eq!(parse::pids(&printed).unwrap(), pids);
    }
    if let Ok(max) = text.parse::<Max>() {
        assert_eq!(max.to_string().parse::<Max>().unwrap(), max);
    }
});
