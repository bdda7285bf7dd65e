//! The modules of one crate, their items, and what a path in them names.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

/// The modules of one crate.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<PathBuf>,
    /// The root comes first.
    pub(super) modules: Vec<Module>,
    pub(super) mentions: Vec<Mention>,
    /// The file of each `macro_rules!`.
    pub(super) macros: HashMap<String, usize>,
    pub(super) methods: Vec<Method>,
    /// The files that define an associated function, by the file and name of the type, and the name.
    associated: HashMap<(usize, String, String), Vec<usize>>,
}

/// A module, in a file of its own or inside one.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) file: usize,
    pub(super) parent: Option<usize>,
    pub(super) names: HashMap<String, Vec<Name>>,
    /// The paths before the stars.
    pub(super) globs: Vec<Vec<String>>,
}

/// A meaning of a name in a module.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Item,
    Module(usize),
    Import(Vec<String>),
}

/// A place where code of a module names something.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) module: usize,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Path(Vec<String>),
    /// The path before the star.
    Glob(Vec<String>),
    Macro(String),
}

/// A function in an `impl` block.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) module: usize,
    pub(super) of: Vec<String>,
    pub(super) name: String,
}

/// The meaning of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Item {
        file: usize,
        name: String,
    },
    Module(usize),
    /// Something of another crate, or a type parameter.
    Foreign,
}

/// The names, by module, that are being followed.
type Followed = HashSet<(usize, String)>;

impl Tree {
    /// Finds the type of each associated function. Call this when all modules are read.
    pub(super) fn associate(&mut self) {
        for method in std::mem::take(&mut self.methods) {
            for found in self.resolve(method.module, &method.of, &mut Followed::new()) {
                if let Found::Item { file, name } = found {
                    let here = self.modules[method.module].file;
                    self.associated.entry((file, name, method.name.clone())).or_default().push(here);
                }
            }
        }
    }

    /// Returns the files of the crate.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Returns the dependencies between files, each with the names that make it.
    pub(super) fn edges(&self) -> BTreeMap<(usize, usize), BTreeSet<String>> {
        let mut edges = BTreeMap::<_, BTreeSet<String>>::new();
        for mention in &self.mentions {
            let from = self.modules[mention.module].file;
            for (to, name) in self.named(mention) {
                if to != from {
                    edges.entry((from, to)).or_default().insert(name);
                }
            }
        }
        edges
    }

    /// Returns the items that a mention names: the file of each, and its name.
    fn named(&self, mention: &Mention) -> Vec<(usize, String)> {
        match &mention.what {
            What::Macro(name) => {
                self.macros.get(name).map(|file| (*file, format!("{name}!"))).into_iter().collect()
            }
            What::Path(path) => {
                let found = self.resolve(mention.module, path, &mut Followed::new()).into_iter();
                found
                    .filter_map(|found| {
                        if let Found::Item { file, name } = found { Some((file, name)) } else { None }
                    })
                    .collect()
            }
            What::Glob(path) => {
                let found = self.resolve(mention.module, path, &mut Followed::new()).into_iter();
                found.flat_map(|found| self.all_of(&found)).collect()
            }
        }
    }

    /// Returns what a star after a module or an enum names.
    fn all_of(&self, found: &Found) -> Vec<(usize, String)> {
        match found {
            Found::Item { file, name } => vec![(*file, format!("{name}::*"))],
            Found::Foreign => Vec::new(),
            Found::Module(module) => {
                let module = &self.modules[*module];
                let mut names = module.names.values().flatten();
                let has_items = names.any(|name| matches!(name, Name::Item));
                has_items.then(|| (module.file, "*".to_owned())).into_iter().collect()
            }
        }
    }

    /// Returns the meanings of a path in a module.
    fn resolve(&self, module: usize, path: &[String], followed: &mut Followed) -> Vec<Found> {
        let Some((first, mut rest)) = path.split_first() else { return Vec::new() };
        let mut found = match first.as_str() {
            "crate" => vec![Found::Module(0)],
            "self" => vec![Found::Module(module)],
            "super" => self.modules[module].parent.map(Found::Module).into_iter().collect(),
            name => {
                let found = self.look_up(module, name, followed);
                if found.is_empty() { vec![Found::Foreign] } else { found }
            }
        };
        while let Some((name, after)) = rest.split_first() {
            found = self.step(&found, name, followed);
            rest = after;
        }
        found
    }

    /// Returns the meanings of a name inside one of these items.
    fn step(&self, outer: &[Found], name: &str, followed: &mut Followed) -> Vec<Found> {
        let has_module = outer.iter().any(|found| matches!(found, Found::Module(_)));
        let mut inner = Vec::new();
        for outer in outer {
            match outer {
                // A function may have the name of the module, but contains no names.
                Found::Item { .. } if has_module => {}
                Found::Foreign => inner.push(Found::Foreign),
                Found::Item { file, name: outer } => {
                    let key = (*file, outer.clone(), name.to_owned());
                    let files = self.associated.get(&key).into_iter().flatten();
                    inner.push(Found::Item { file: *file, name: outer.clone() });
                    inner.extend(files.map(|&file| Found::Item { file, name: format!("{outer}::{name}") }));
                }
                Found::Module(module) if name == "super" => {
                    inner.extend(self.modules[*module].parent.map(Found::Module));
                }
                Found::Module(module) if name == "self" => inner.push(Found::Module(*module)),
                Found::Module(module) => {
                    let found = self.look_up(*module, name, followed);
                    if found.is_empty() {
                        // A macro defines it, or a glob import from another crate.
                        let file = self.modules[*module].file;
                        inner.push(Found::Item { file, name: name.to_owned() });
                    }
                    inner.extend(found);
                }
            }
        }
        inner
    }

    /// Returns the meanings of a name in the scope of a module.
    fn look_up(&self, module: usize, name: &str, followed: &mut Followed) -> Vec<Found> {
        let Module { file, names, globs, .. } = &self.modules[module];
        let is_new = followed.insert((module, name.to_owned()));
        let mut found = Vec::new();
        for meaning in names.get(name).into_iter().flatten() {
            match meaning {
                Name::Item => found.push(Found::Item { file: *file, name: name.to_owned() }),
                Name::Module(module) => found.push(Found::Module(*module)),
                Name::Import(path) if is_new => found.extend(self.resolve(module, path, followed)),
                Name::Import(_) => {}
            }
        }
        if found.is_empty() && is_new {
            for path in globs {
                for outer in self.resolve(module, path, followed) {
                    if let Found::Module(outer) = outer {
                        found.extend(self.look_up(outer, name, followed));
                    }
                }
            }
        }
        if is_new {
            followed.remove(&(module, name.to_owned()));
        }
        found
    }
}
