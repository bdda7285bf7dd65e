//! Pressure files survive printing in the kernel's format.
#![no_main]

use cgroup_core::{Pressure, PressureLine};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(pressure) = Pressure::parse(text) else { return };
    let line = |kind: &str, line: &PressureLine| {
        let PressureLine { avg10, avg60, avg300, total, .. } = line;
        format!("{kind} avg10={avg10} avg60={avg60} avg300={avg300} total={total}\n")
    };
    let mut printed = line("some", &pressure.some);
    if let Some(full) = &pressure.full {
        printed += &line("full", full);
    }
    assert_eq!(Pressure::parse(&printed).unwrap(), pressure);
});
