//! Compiles the baseline that is written in C.
fn main() {
    println!("cargo::rerun-if-changed=src/floor.c");
    // What `cc -O2` makes of it in every profile: a yardstick does not change with ours.
    cc::Build::new().file("src/floor.c").opt_level(2).warnings_into_errors(true).compile("floor");
}
