//! Reads a crate's modules: follows `mod` declarations, and notes the names that each module defines and imports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::visit::Visit;
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

use super::attributes;

/// The text of a file below the crate's `src`, if there is one. The tests put small trees of their own here.
pub(super) type Source<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// All modules of a crate.
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

/// A module, whether it has a file of its own or stands inside one.
pub(super) struct Module {
    /// Its path below the crate's root: `gate`, `hold`.
    pub(super) path: Vec<String>,
    /// Its file, below `src`.
    pub(super) file: PathBuf,
    pub(super) parent: Option<usize>,
    pub(super) children: BTreeMap<String, usize>,
    /// Only compiled for unit tests.
    pub(super) test: bool,
    /// The names of its own items.
    pub(super) defined: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// Whether a macro defines items in this module. Then the module may have names that are not in `defined`.
    pub(super) opaque: bool,
    pub(super) items: Vec<Item>,
}

/// One name of a `use` item.
#[derive(Debug)]
pub(super) struct Import {
    /// The name that the import has in this module. `None` for a glob.
    pub(super) name: Option<String>,
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// Whether the import has any visibility: `pub use`, `pub(crate) use`, and so on.
    pub(super) reexport: bool,
}

/// Where a module's files are.
struct Place {
    file: PathBuf,
    /// The folder of its child modules.
    folder: PathBuf,
}

impl Tree {
    /// Reads the crate whose root is `lib.rs`, and `main.rs` as a second root if there is one.
    ///
    /// # Errors
    /// When a declared module has no file, or a file is not Rust.
    pub(super) fn read(source: Source) -> Result<Tree> {
        let mut tree = Tree { modules: Vec::new() };
        for root in ["lib.rs", "main.rs"] {
            if let Some(text) = source(Path::new(root)) {
                let place = Place { file: root.into(), folder: PathBuf::new() };
                tree.add_file(source, &text, place, None)?;
            }
        }
        Ok(tree)
    }

    /// The files of all modules.
    pub(super) fn files(&self) -> BTreeSet<&Path> {
        self.modules.iter().map(|module| module.file.as_path()).collect()
    }

    fn add_file(
        &mut self,
        source: Source,
        text: &str,
        place: Place,
        declared: Option<(usize, &ItemMod)>,
    ) -> Result<usize> {
        let file = syn::parse_file(text).with_context(|| format!("{} is not Rust", place.file.display()))?;
        self.add(source, file.items, place, declared)
    }

    fn add(
        &mut self,
        source: Source,
        items: Vec<Item>,
        place: Place,
        declared: Option<(usize, &ItemMod)>,
    ) -> Result<usize> {
        let id = self.modules.len();
        let parent = declared.map(|(parent, _)| parent);
        let mut path = parent.map(|parent| self.modules[parent].path.clone()).unwrap_or_default();
        path.extend(declared.map(|(_, item)| item.ident.to_string()));
        let in_tests = parent.is_some_and(|parent| self.modules[parent].test);
        let test = in_tests || declared.is_some_and(|(_, item)| attributes::is_test(&item.attrs));
        let (imports, opaque) = (Imports::of(&items), items.iter().any(makes_items));
        let defined = items.iter().filter_map(name).collect();
        let file = place.file.clone();
        let children = BTreeMap::new();
        self.modules.push(Module { path, file, parent, children, test, defined, imports, opaque, items: Vec::new() });
        for item in items.iter().filter_map(|item| if let Item::Mod(item) = item { Some(item) } else { None }) {
            let child = self.add_child(source, &place, (id, item))?;
            self.modules[id].children.insert(item.ident.to_string(), child);
        }
        self.modules[id].items = items;
        Ok(id)
    }

    fn add_child(&mut self, source: Source, parent: &Place, (id, item): (usize, &ItemMod)) -> Result<usize> {
        let name = item.ident.to_string();
        let given = attributes::path(&item.attrs);
        if let Some((_, items)) = &item.content {
            let folder = parent.folder.join(given.unwrap_or(name));
            return self.add(source, items.clone(), Place { file: parent.file.clone(), folder }, Some((id, item)));
        }
        let candidates = match given {
            Some(given) => {
                let inline = self.modules[id].parent.is_some_and(|above| self.modules[above].file == parent.file);
                let beside = if inline { &parent.folder } else { parent.file.parent().unwrap_or(Path::new("")) };
                let file = tidy(&beside.join(given));
                vec![Place { folder: file.parent().unwrap_or(Path::new("")).to_path_buf(), file }]
            }
            None => ["", "/mod"]
                .map(|end| parent.folder.join(format!("{name}{end}.rs")))
                .map(|file| Place { folder: parent.folder.join(&name), file })
                .into(),
        };
        for place in candidates {
            if let Some(text) = source(&place.file) {
                return self.add_file(source, &text, place, Some((id, item)));
            }
        }
        bail!("{}: `mod {name}` has no file", parent.file.display())
    }
}

/// The path without `..`.
fn tidy(path: &Path) -> PathBuf {
    let mut tidied = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            tidied.pop();
        } else {
            tidied.push(part);
        }
    }
    tidied
}

fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn makes_items(item: &Item) -> bool {
    matches!(item, Item::Macro(item) if item.ident.is_none()) || matches!(item, Item::Verbatim(_))
}

/// Collects the imports of a module, including those inside functions. A name that a function imports is visible only there. It is looked
/// up in the whole module all the same, which finds at worst one arrow too many.
struct Imports {
    found: Vec<Import>,
}

impl Imports {
    fn of(items: &[Item]) -> Vec<Import> {
        let mut imports = Imports { found: Vec::new() };
        items.iter().for_each(|item| imports.visit_item(item));
        imports.found
    }
}

impl<'ast> Visit<'ast> for Imports {
    /// Skips a nested module, which has its own imports.
    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.found.extend(imports(item));
    }
}

/// The names that a `use` item imports.
pub(super) fn imports(item: &ItemUse) -> Vec<Import> {
    if item.leading_colon.is_some() {
        return Vec::new();
    }
    let reexport = !matches!(item.vis, Visibility::Inherited);
    let mut found = Vec::new();
    flatten(&item.tree, &[], &mut |name, path, line| found.push(Import { name, path, line, reexport }));
    found
}

fn flatten(tree: &UseTree, prefix: &[String], add: &mut dyn FnMut(Option<String>, Vec<String>, usize)) {
    let joined = |ident: &syn::Ident| {
        let mut path = prefix.to_vec();
        if ident != "self" || path.is_empty() {
            path.push(ident.to_string());
        }
        path
    };
    match tree {
        UseTree::Path(path) => flatten(&path.tree, &joined(&path.ident), add),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, add)),
        UseTree::Name(name) => {
            let path = joined(&name.ident);
            add(path.last().cloned(), path, name.ident.span().start().line);
        }
        UseTree::Rename(rename) => {
            add(Some(rename.rename.to_string()), joined(&rename.ident), rename.ident.span().start().line);
        }
        UseTree::Glob(glob) => add(None, prefix.to_vec(), glob.star_token.spans[0].start().line),
    }
}
