//! Compiles the baseline in C.
fn main() {
    println!("cargo::rerun-if-changed=src/floor.c");
    // Always `cc -O2`: the profile of the build must not change the baseline.
    cc::Build::new().file("src/floor.c").opt_level(2).warnings_into_errors(true).compile("floor");
}
