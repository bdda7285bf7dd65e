//! `cargo xtask cycles`: cycles between the modules of a crate.
//!
//! A module is a file here. A file depends on another file of its crate when it names an item that the other file
//! defines, in a `use` or in a path. A re-export refers to the file that defines the item, so that the re-exports
//! of a `lib.rs` create no dependencies. A glob import names all items of its module. A bare `mod x;` and anything
//! under `#[cfg(test)]` are not dependencies. Method calls are not seen, because resolving them requires types.

mod graph;
mod read;
mod tree;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::guest::repository;
use crate::sh;

/// List the cycles between the modules of each crate
///
/// Each line of a cycle is a file, a file that it depends on, and the names that it takes from there. The exit
/// code is 1 if there is a cycle.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check only these packages
    packages: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let cycles = find(&args.packages)?;
    for cycle in &cycles {
        println!("{cycle}");
    }
    Ok(if cycles.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Fails if a crate of the workspace has a cycle.
pub(crate) fn check() -> Result<()> {
    let cycles = find(&[])?;
    for cycle in &cycles {
        eprintln!("{cycle}");
    }
    if !cycles.is_empty() {
        bail!("modules depend on each other in a cycle");
    }
    Ok(())
}

/// Describes each cycle in the crates of these packages, or of all packages.
fn find(packages: &[String]) -> Result<Vec<String>> {
    let mut roots = Vec::new();
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"].map(|path| repository().join(path)) {
        if manifest.exists() {
            roots.extend(crate_roots(&manifest, packages)?);
        }
    }
    let mut cycles: Vec<String> = Vec::new();
    for root in roots {
        for cycle in describe(&root)? {
            // Test crates share modules.
            if !cycles.contains(&cycle) {
                cycles.push(cycle);
            }
        }
    }
    Ok(cycles)
}

/// Returns the first file of each crate that the workspace of the manifest builds.
fn crate_roots(manifest: &Path, packages: &[String]) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"]).arg(manifest);
    let metadata: serde_json::Value = serde_json::from_str(&sh::read(&mut command)?)?;
    let mut roots = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        if packages.is_empty() || packages.iter().any(|wanted| wanted == name) {
            let targets = package["targets"].as_array().into_iter().flatten();
            roots.extend(targets.filter_map(|target| target["src_path"].as_str()).map(PathBuf::from));
        }
    }
    Ok(roots)
}

/// Describes each cycle between the files of one crate.
fn describe(root: &Path) -> Result<Vec<String>> {
    let tree = read::read(root)?;
    let edges = tree.edges();
    let files = tree.files();
    let name = |file: usize| {
        let path: &Path = &files[file];
        path.strip_prefix(repository()).unwrap_or(path).display().to_string()
    };
    let mut texts = Vec::new();
    for cycle in graph::cycles(files.len(), edges.keys().copied()) {
        let mut lines = vec![format!("cycle of {} files:", cycle.len())];
        for ((from, to), names) in &edges {
            if cycle.contains(from) && cycle.contains(to) {
                let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                lines.push(format!("  {} -> {}: {names}", name(*from), name(*to)));
            }
        }
        lines[1..].sort();
        texts.push(lines.join("\n"));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Returns the arrows of all cycles in a crate with these files; the first one is its root.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let prefix = format!("{}/", directory.path().display());
        let texts = describe(&directory.path().join(files[0].0)).unwrap();
        let lines = texts.iter().flat_map(|text| text.lines().skip(1));
        lines.map(|line| line.trim().replace(&prefix, "").replace(".rs", "")).collect()
    }

    #[test]
    fn two_files_that_import_from_each_other_are_a_cycle_and_a_third_is_not_in_it() {
        let a = "use crate::b::B; use crate::c::C; pub struct A;";
        let b = "pub struct B; fn f() { super::a::A; }";
        let files = [("lib.rs", "mod a; mod b; mod c;"), ("a.rs", a), ("b.rs", b), ("c.rs", "pub struct C;")];
        assert_eq!(arrows(&files), ["a -> b: B", "b -> a: A"]);
    }

    #[test]
    fn a_parent_and_its_child_are_a_cycle_when_each_names_items_of_the_other() {
        let child = "use super::P; pub struct C;";
        let cycle = ["p -> p/c: C", "p/c -> p: P"];
        assert_eq!(
            arrows(&[("lib.rs", "mod p;"), ("p.rs", "mod c; pub use c::C; struct P;"), ("p/c.rs", child)]),
            cycle
        );
        assert_eq!(
            arrows(&[
                ("lib.rs", "mod p;"),
                ("p.rs", "mod c; struct P; fn f() -> c::C {}"),
                ("p/c.rs", child)
            ]),
            cycle
        );
        let none: [&str; 0] = [];
        assert_eq!(arrows(&[("lib.rs", "mod p;"), ("p.rs", "mod c; struct P;"), ("p/c.rs", child)]), none);
        let parent = "mod c; use c::C; struct P;";
        assert_eq!(arrows(&[("lib.rs", "mod p;"), ("p.rs", parent), ("p/c.rs", "pub struct C;")]), none);
    }

    #[test]
    fn a_reexport_leads_to_the_file_that_defines_the_item() {
        let root = "mod a; mod b; mod error; pub use a::A; pub use b::B; pub use error::Error as E;";
        let none: [&str; 0] = [];
        let (a, b) = ("use crate::{B, E}; pub struct A;", "use crate::E; pub struct B;");
        let error = ("error.rs", "pub struct Error;");
        assert_eq!(arrows(&[("lib.rs", root), ("a.rs", a), ("b.rs", b), error]), none);
        let b = "pub struct B; impl From<crate::A> for B {}";
        assert_eq!(arrows(&[("lib.rs", root), ("a.rs", a), ("b.rs", b), error]), ["a -> b: B", "b -> a: A"]);
    }

    #[test]
    fn a_name_is_followed_through_groups_globs_and_imported_modules() {
        let root = ("lib.rs", "mod a; mod b; mod all { pub use crate::b::*; }");
        let b = ("b.rs", "use crate::a; pub struct B; fn f(x: a::A) {}");
        for a in [
            "use crate::{all, b::{B as Other}}; pub struct A;",
            "use crate::b::*; pub struct A;",
            "use super::b::{self}; pub struct A(b::B);",
            "use crate::all; pub struct A(all::B);",
            "use crate::*; pub struct A(b::B);",
            "pub struct A; fn f() { use crate::b as c; println!(\"{}\", [c::B]) }",
            "pub struct A; impl crate::b::B {}",
            "pub struct A { #[serde(with = \"crate::b::B\")] field: u8 }",
            "pub struct A; macro_rules! m { () => { $crate::b::B } }",
        ] {
            let arrows = arrows(&[root, b, ("a.rs", a)]);
            assert_eq!(arrows.len(), 2, "{a}: {arrows:?}");
            assert!(arrows[0].starts_with("a -> b: ") && arrows[1] == "b -> a: A", "{a}: {arrows:?}");
        }
    }

    #[test]
    fn an_associated_function_and_a_macro_lead_to_their_own_files() {
        let root = ("lib.rs", "#[macro_use] mod b; mod a; mod t;");
        let t = ("t.rs", "pub struct T;");
        let b = "use crate::t::T; use crate::a::A; impl T { pub fn new() {} } macro_rules! call { () => {} }";
        for a in ["pub struct A; fn f() { crate::t::T::new() }", "pub struct A; fn f() { call!() }"] {
            let arrows = arrows(&[root, ("a.rs", a), ("b.rs", b), t]);
            assert_eq!(arrows.len(), 2, "{a}: {arrows:?}");
        }
    }

    #[test]
    fn a_reexport_from_another_crate_belongs_to_no_file() {
        let none: [&str; 0] = [];
        let root = "mod a; use other::{error, output as out}; fn main() { a::a() }";
        for a in
            ["use crate::error::Error;", "use crate::error;", "use crate::out;", "fn f() { crate::out::x() }"]
        {
            let a = format!("{a} pub fn a() {{}}");
            assert_eq!(arrows(&[("main.rs", root), ("a.rs", &a)]), none, "{a}");
        }
    }

    #[test]
    fn an_item_that_a_macro_creates_belongs_to_the_file_with_the_macro_call() {
        let b = "use crate::a::A; bitflags! { pub struct Flags: u8 {} }";
        let files =
            [("lib.rs", "mod a; mod b;"), ("a.rs", "use crate::b::Flags; pub struct A;"), ("b.rs", b)];
        assert_eq!(arrows(&files), ["a -> b: Flags", "b -> a: A"]);
    }

    #[test]
    fn tests_other_crates_and_module_names_alone_are_not_dependencies() {
        let none: [&str; 0] = [];
        let a = "use crate::b::B; pub struct A;";
        for b in [
            "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
            "pub struct B; #[cfg(all(test, unix))] use crate::a::A;",
            "pub struct B; impl B { #[cfg(test)] fn f() { crate::a::A } }",
            "pub struct B; use ::a::A;",
            "pub struct B; use a::A;",
            "pub struct B; use crate::a;",
            "pub struct B; fn f<T: std::iter::Iterator>() -> T::Item {}",
        ] {
            assert_eq!(arrows(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)]), none, "{b}");
        }
    }

    #[test]
    fn modules_are_found_in_the_compilers_places() {
        let root = "mod a; mod inline { pub mod deep; } #[path = \"elsewhere/x.rs\"] mod b;";
        let a = "mod kid; use crate::b::X; pub struct A(crate::inline::deep::D);";
        let deep = "pub struct D(crate::a::A);";
        let x = "use crate::inline::deep::D; pub struct X;";
        let files = [
            ("main.rs", root),
            ("a/mod.rs", a),
            ("a/kid.rs", ""),
            ("inline/deep.rs", deep),
            ("elsewhere/x.rs", x),
        ];
        assert_eq!(
            arrows(&files),
            [
                "a/mod -> elsewhere/x: X",
                "a/mod -> inline/deep: D",
                "elsewhere/x -> inline/deep: D",
                "inline/deep -> a/mod: A"
            ]
        );
    }
}
