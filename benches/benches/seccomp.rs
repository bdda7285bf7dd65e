//! What it costs to compile a profile at each start: the library's own, and the one that
//! podman and CRI-O give every container where Debian's golang-github-containers-common has
//! put it, for three ABIs each (two on aarch64).

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nspod_sandbox::seccomp::Profile;

const PODMANS: &str = "/usr/share/containers/seccomp.json";
const ABIS: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
/// What podman grants by default.
const CAPABILITIES: u64 = 0x8000_05fb;

fn compile(c: &mut Criterion) {
    let mut profiles = vec![("standard", Profile::standard(CAPABILITIES))];
    match std::fs::read(PODMANS) {
        Ok(json) => {
            let profile: Profile = serde_json::from_slice(&json).unwrap();
            profiles.push(("podman", profile.resolve(CAPABILITIES, (6, 1))));
        }
        Err(e) => eprintln!("SKIP podman's profile: {PODMANS}: {e}"),
    }
    for (name, mut profile) in profiles {
        profile.architectures = ABIS.map(str::to_owned).to_vec();
        let length = profile.compile().unwrap().len();
        c.bench_function(&format!("compile {name}, {length} instructions"), |b| {
            b.iter(|| black_box(&profile).compile().unwrap());
        });
    }
}

criterion_group!(seccomp, compile);
criterion_main!(seccomp);
