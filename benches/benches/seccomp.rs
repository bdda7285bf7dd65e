//! The cost of compiling a profile at each start, for three ABIs (two on aarch64): the library's default profile,
//! and the default profile of podman and CRI-O, if it is at the path of Debian's golang-github-containers-common.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use nspod_sandbox::seccomp::Profile;

const PODMANS: &str = "/usr/share/containers/seccomp.json";
const ABIS: [&str; 5] =
    ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
/// The default profile of podman.
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
