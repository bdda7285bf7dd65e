//! Compiles the container's process 1, `init/init.rs`, to `OUT_DIR/nspod-init`. The library embeds
//! the result.
//!
//! It is a static program without the standard library, for the same target, and compiled with the
//! same rustc and linker as the library. The flags of the library's own build (sanitizers,
//! coverage, profiles) are for hosted programs, so they are not passed on.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "init/init.rs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=init");
    println!("cargo::rerun-if-changed=src/watch/layout.rs");
    println!("cargo::rerun-if-changed=src/arch");
    // The files in src/arch contain items for the library only.
    println!("cargo::rustc-check-cfg=cfg(nspod_init)");
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let (target, arch) = (var("TARGET"), var("CARGO_CFG_TARGET_ARCH"));
    if !matches!(arch.as_str(), "x86_64" | "aarch64") || var("CARGO_CFG_TARGET_OS") != "linux" {
        panic!("nspod-sandbox's init is written for Linux on x86_64 and aarch64, not for {target}");
    }
    let image = PathBuf::from(var("OUT_DIR")).join("nspod-init");

    let mut rustc = Command::new(var("RUSTC"));
    rustc.arg(SOURCE).arg("-o").arg(&image).args(["--target", &target]);
    rustc.args(["--crate-name", "nspod_init", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--cfg", "nspod_init", "--cap-lints", "warn"]);
    for option in [
        "panic=abort",
        "opt-level=s",
        "overflow-checks=no",
        "codegen-units=1",
        "relocation-model=static",
        "relro-level=off",
        "target-feature=+crt-static",
        "force-unwind-tables=no",
        "strip=symbols",
        "link-arg=-nostdlib",
    ] {
        rustc.args(["-C", option]);
    }
    if var("CARGO_CFG_TARGET_ENV") == "musl" {
        // Do not use the start files of the C library that rustc ships for musl.
        rustc.args(["-C", "link-self-contained=no"]);
    }
    let linker = env::var("RUSTC_LINKER").ok();
    if let Some(linker) = &linker {
        rustc.arg("-C").arg(format!("linker={linker}"));
    }
    // A C compiler passes these options to the linker. They are the defaults of lld.
    if !linker.is_some_and(|linker| linker.ends_with("lld")) {
        rustc.args(["-C", "link-arg=-Wl,--build-id=none,-z,noseparate-code"]);
    }
    // The flags of the library's build must not reach this rustc or a wrapper of it.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        rustc.env_remove(name);
    }
    let status = rustc.status().unwrap_or_else(|e| panic!("{rustc:?} could not be started: {e}"));
    assert!(status.success(), "{SOURCE} did not compile ({status}): {rustc:?}");
}
