//! Reads the files of a crate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

use super::tree::{Mention, Method, Module, Name, Tree, What};

/// Reads a crate from its first file.
pub(super) fn read(root: &Path) -> Result<Tree> {
    let directory = root.parent().unwrap_or(Path::new("."));
    let mut reader = Reader {
        tree: Tree::default(),
        module: 0,
        directory: directory.to_owned(),
        blocks: 0,
        result: Ok(()),
    };
    reader.file(root, None, directory.to_owned())?;
    reader.tree.associate();
    Ok(reader.tree)
}

/// Reads one module after the other.
struct Reader {
    tree: Tree,
    /// The module that is being read.
    module: usize,
    /// Where the files of its child modules are.
    directory: PathBuf,
    /// The depth of blocks: items in a block are not items of the module.
    blocks: u32,
    /// The first error.
    result: Result<()>,
}

impl Reader {
    /// Reads a file, which is a module, and returns the module.
    fn file(&mut self, path: &Path, parent: Option<usize>, directory: PathBuf) -> Result<usize> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file = syn::parse_file(&text).with_context(|| format!("parsing {}", path.display()))?;
        self.tree.files.push(path.to_owned());
        let module = Module { file: self.tree.files.len() - 1, parent, ..Module::default() };
        let module = self.inside(module, directory, |reader| reader.visit_file(&file));
        std::mem::replace(&mut self.result, Ok(())).map(|()| module)
    }

    /// Reads the contents of a module.
    fn inside(&mut self, module: Module, directory: PathBuf, read: impl FnOnce(&mut Self)) -> usize {
        self.tree.modules.push(module);
        let module = self.tree.modules.len() - 1;
        let outer = (
            std::mem::replace(&mut self.module, module),
            std::mem::replace(&mut self.directory, directory),
            std::mem::replace(&mut self.blocks, 0),
        );
        read(self);
        (self.module, self.directory, self.blocks) = outer;
        module
    }

    /// Reads a child module from its file.
    fn child(&mut self, item: &syn::ItemMod) -> Result<usize> {
        let name = item.ident.unraw().to_string();
        let (path, directory) = match path_attribute(&item.attrs) {
            Some(path) => {
                // Next to the file of the module, not where its children are.
                let here = &self.tree.files[self.tree.modules[self.module].file];
                let path = here.parent().unwrap_or(Path::new(".")).join(path);
                let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
                (path, directory)
            }
            None => {
                let directory = self.directory.join(&name);
                let short = directory.with_extension("rs");
                (if short.exists() { short } else { directory.join("mod.rs") }, directory)
            }
        };
        self.file(&path, Some(self.module), directory)
    }

    fn define(&mut self, name: &syn::Ident, meaning: Name) {
        let names = &mut self.tree.modules[self.module].names;
        names.entry(name.unraw().to_string()).or_default().push(meaning);
    }

    fn mention(&mut self, what: What) {
        self.tree.mentions.push(Mention { module: self.module, what });
    }

    /// Reads a `use`, from the path that leads to this part of it.
    fn import(&mut self, tree: &UseTree, path: &[String]) {
        let join = |name: &syn::Ident| {
            let mut path = path.to_vec();
            if name != "self" || path.is_empty() {
                path.push(name.unraw().to_string());
            }
            path
        };
        match tree {
            UseTree::Path(part) => self.import(&part.tree, &join(&part.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|part| self.import(part, path)),
            UseTree::Glob(_) => {
                self.tree.modules[self.module].globs.push(path.to_vec());
                self.mention(What::Glob(path.to_vec()));
            }
            UseTree::Name(name) => {
                let path = join(&name.ident);
                if let Some(last) = path.last() {
                    self.imported(last.clone(), path.clone());
                }
            }
            UseTree::Rename(name) => self.imported(name.rename.unraw().to_string(), join(&name.ident)),
        }
    }

    fn imported(&mut self, name: String, path: Vec<String>) {
        self.mention(What::Path(path.clone()));
        self.tree.modules[self.module].names.entry(name).or_default().push(Name::Import(path));
    }

    /// Reads the paths of two or more names in tokens that are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    let follows = colons == 2;
                    if !follows || path.is_empty() {
                        self.path(std::mem::take(&mut path));
                    }
                    // Without a name before the colons the path leads to another crate.
                    if !follows || !path.is_empty() {
                        path.push(ident.unraw().to_string());
                    }
                    colons = 0;
                }
                other => {
                    self.path(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(path);
    }

    /// Notes a path. A single name is an item of the module, or a `use` has named it already.
    fn path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.mention(What::Path(path));
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = parts(item);
        if is_test(attributes) {
            return;
        }
        if let Some(name) = name.filter(|_| self.blocks == 0) {
            self.define(name, Name::Item);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let module = match &item.content {
            Some((_, items)) => {
                let file = self.tree.modules[self.module].file;
                let module = Module { file, parent: Some(self.module), ..Module::default() };
                let directory = self.directory.join(item.ident.unraw().to_string());
                self.inside(module, directory, |reader| items.iter().for_each(|item| reader.visit_item(item)))
            }
            None => match self.child(item) {
                Ok(module) => module,
                Err(error) => {
                    self.result = Err(error);
                    return;
                }
            },
        };
        self.define(&item.ident, Name::Module(module));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&item.tree, &[]);
        }
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if let Some(name) = &item.ident {
            let file = self.tree.modules[self.module].file;
            self.tree.macros.insert(name.to_string(), file);
        }
        visit::visit_item_macro(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let (None, syn::Type::Path(of)) = (&item.trait_, &*item.self_ty) {
            for part in &item.items {
                if let syn::ImplItem::Fn(method) = part {
                    let name = method.sig.ident.unraw().to_string();
                    self.tree.methods.push(Method { module: self.module, of: names(&of.path), name });
                }
            }
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.blocks += 1;
        visit::visit_block(self, block);
        self.blocks -= 1;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.path(names(path));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(name) = call.path.get_ident() {
            self.mention(What::Macro(name.to_string()));
        }
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
            self.strings(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }
}

impl Reader {
    /// Reads the paths in the strings of an attribute, such as `#[serde(with = "path")]`.
    fn strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.strings(group.stream()),
                TokenTree::Literal(literal) => {
                    let string = syn::parse_str::<syn::LitStr>(&literal.to_string());
                    if let Ok(path) = string.and_then(|string| string.parse::<syn::Path>()) {
                        self.visit_path(&path);
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

/// Returns the names of a path.
fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect()
}

/// Returns the attributes of an item, and its name if the item is not a module.
fn parts(item: &Item) -> (&[Attribute], Option<&syn::Ident>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::TraitAlias(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::Impl(item) => (&item.attrs, None),
        Item::Mod(item) => (&item.attrs, None),
        Item::Use(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}

/// Returns whether the attributes leave an item out of a build without tests.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let mut tokens = list.tokens.clone().into_iter();
            match (tokens.next(), tokens.next()) {
                (Some(TokenTree::Ident(word)), None) => word == "test",
                (Some(TokenTree::Ident(word)), Some(TokenTree::Group(group))) if word == "all" => group
                    .stream()
                    .into_iter()
                    .any(|token| matches!(token, TokenTree::Ident(word) if word == "test")),
                _ => false,
            }
        }
        _ => false,
    })
}

/// Returns the value of `#[path = "…"]`.
fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        },
        _ => None,
    })
}
