//! Checks that public functions of the library crates refer to a man page or a specification.
//!
//! Clippy checks the sections on errors, panics and safety (`missing_errors_doc` and others). A function that
//! returns a `Result` also names its source: by a link, by a section of cgroup-v2.rst, or by a file of the kernel's
//! documentation.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::visit::{self, Visit};
use syn::{Attribute, ReturnType, Signature, Type, Visibility};

use crate::guest::repository;

/// Directories of the crates.
const CRATES: [&str; 5] = ["ns-core", "cgroup-core", "census", "sandbox", "oci"];

/// Parts of a reference. A man page has a section from 1 to 8.
const MARKS: [&str; 11] = [
    "](http",
    "<http",
    "Section \"",
    "Sections \"",
    "Documentation/",
    "(1)",
    "(2)",
    "(3)",
    "(5)",
    "(7)",
    "(8)",
];

/// Fails if a function has no reference.
pub(crate) fn check() -> Result<()> {
    let mut found = Vec::new();
    for name in CRATES {
        read(&repository().join(name).join("src"), &mut found)?;
    }
    for function in &found {
        eprintln!("{function}: the documentation refers to no man page and no specification");
    }
    if !found.is_empty() {
        bail!("functions have no reference in their documentation");
    }
    Ok(())
}

/// Adds the functions without a reference in the files of a directory.
fn read(directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let name = path.strip_prefix(repository()).unwrap_or(&path).display().to_string();
            found.extend(without(&text)?.into_iter().map(|function| format!("{name}: {function}")));
        }
    }
    Ok(())
}

/// Returns the public functions in a text that return a `Result` and have no reference.
fn without(text: &str) -> Result<Vec<String>> {
    let mut functions = Functions::default();
    functions.visit_file(&syn::parse_file(text)?);
    Ok(functions.0)
}

#[derive(Default)]
struct Functions(Vec<String>);

impl Functions {
    fn add(&mut self, visibility: &Visibility, signature: &Signature, attributes: &[Attribute]) {
        let is_public = matches!(visibility, Visibility::Public(_));
        if is_public && returns_result(signature) && !MARKS.iter().any(|mark| doc(attributes).contains(mark))
        {
            self.0.push(signature.ident.to_string());
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.vis, &item.sig, &item.attrs);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.vis, &item.sig, &item.attrs);
        visit::visit_impl_item_fn(self, item);
    }
}

fn returns_result(signature: &Signature) -> bool {
    let ReturnType::Type(_, returned) = &signature.output else { return false };
    matches!(&**returned, Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Result"))
}

/// Returns the documentation, with one space between words.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(line), .. }) => Some(line.value()),
            _ => None,
        },
        _ => None,
    });
    let text = lines.collect::<Vec<_>>().join(" ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_function_that_returns_a_result_needs_a_reference() {
        let text = "/// Does it.\npub fn a() -> Result<()> {}\n\
            struct S;\nimpl S {\n    /// Does it.\n    pub fn b(&self) -> crate::Result<u8, E> {}\n}\n";
        assert_eq!(without(text).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_reference_is_a_link_a_section_a_file_or_a_man_page() {
        let references = [
            "[open(2)](https://man7.org/linux/man-pages/man2/open.2.html)",
            "<https://docs.kernel.org>",
            "Since Linux 4.5. Section \"Format\".",
            "Since Linux 4.5. Section\n/// \"Format\".",
            "Documentation/accounting/psi.rst.",
            "See systemd.scope(5).",
        ];
        for reference in references {
            let text = format!("/// Does it.\n///\n/// {reference}\npub fn a() -> Result<()> {{}}");
            assert!(without(&text).unwrap().is_empty(), "{reference}");
        }
    }

    #[test]
    fn private_functions_and_functions_without_a_result_need_none() {
        let text = "pub fn a() {}\nfn b() -> Result<()> {}\npub(crate) fn c() -> Result<()> {}";
        assert!(without(text).unwrap().is_empty());
    }
}
