//! Collects the arrows. An arrow says that a module uses a name of another module, and in which line.

use std::collections::BTreeSet;

use syn::visit::Visit;
use syn::{Attribute, Item, ItemImpl, ItemMod, ItemUse, Macro, Meta, Path, Type, VisRestricted};

use super::attributes;
use super::resolve::{Resolved, Target};
use super::tokens::{self, Written};
use super::tree::{self, Tree};

/// One use of a name, by the numbers of the modules.
#[derive(Debug)]
pub(super) struct Arrow {
    pub(super) from: usize,
    pub(super) line: usize,
    /// The module that defines the name, not one that re-exports it.
    pub(super) to: usize,
    pub(super) name: String,
    pub(super) kind: Need,
    /// Whether the use is in code that is compiled only for unit tests.
    pub(super) test: bool,
}

/// What a use of a name says about the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// The file needs the other one.
    Use,
    /// The file re-exports a name of one of its own modules. This is not counted as a need. Otherwise every file that defines a type
    /// and re-exports from modules that use this type would be a circle.
    OwnReexport,
    /// The file names a module. Each use of something in it is an arrow of its own.
    OnlyModule,
}

/// A path of this crate that could not be followed.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) module: usize,
    pub(super) path: String,
}

/// All arrows between modules, and the paths that lead nowhere or outside.
#[derive(Default)]
pub(super) struct Arrows {
    pub(super) arrows: Vec<Arrow>,
    pub(super) lost: Vec<Lost>,
    /// The first names of paths that lead out of the crate, by module. Local names are among them.
    pub(super) outside: BTreeSet<(usize, String)>,
    /// Modules with methods for a type of another room, and the type. Calls of these methods would be arrows that cannot be seen.
    pub(super) methods_elsewhere: BTreeSet<(usize, String)>,
}

impl Arrows {
    /// Reads all modules of the tree.
    pub(super) fn collect(tree: &Tree) -> Arrows {
        let mut arrows = Arrows::default();
        for (id, module) in tree.modules.iter().enumerate() {
            let mut reader = Reader { tree, id, test: module.test, found: &mut arrows };
            module.items.iter().for_each(|item| reader.visit_item(item));
        }
        arrows
    }
}

/// Walks through the items of one module.
struct Reader<'a> {
    tree: &'a Tree,
    id: usize,
    test: bool,
    found: &'a mut Arrows,
}

impl Reader<'_> {
    fn add(&mut self, written: &Written, reexport: bool) {
        let targets = match self.tree.resolve(self.id, &written.path) {
            Resolved::Outside => {
                self.found.outside.insert((self.id, written.path[0].clone()));
                return;
            }
            Resolved::Unknown => {
                let path = written.path.join("::");
                self.found.lost.push(Lost { module: self.id, path });
                return;
            }
            Resolved::Targets(targets) => targets,
        };
        let items = targets.iter().any(|target| matches!(target, Target::Item(..)));
        for target in targets {
            let kind = match &target {
                // The name is both an item and a module: the arrow to the item is enough.
                Target::Module(_) if items => continue,
                Target::Module(_) => Need::OnlyModule,
                Target::Item(module, _) if reexport && self.is_below(*module) => Need::OwnReexport,
                Target::Item(..) => Need::Use,
            };
            let to = target.module();
            let name = match target {
                Target::Item(_, name) => name,
                Target::Module(_) => format!("mod {}", self.tree.modules[to].path.join("::")),
            };
            if to != self.id {
                self.found.arrows.push(Arrow { from: self.id, line: written.line, to, name, kind, test: self.test });
            }
        }
    }

    fn is_below(&self, module: usize) -> bool {
        let mut above = self.tree.modules[module].parent;
        while let Some(parent) = above {
            if parent == self.id {
                return true;
            }
            above = self.tree.modules[parent].parent;
        }
        false
    }

    fn add_methods(&mut self, of: &[String]) {
        let Resolved::Targets(targets) = self.tree.resolve(self.id, of) else { return };
        let room = |module: usize| self.tree.modules[module].path.first();
        for target in targets {
            if let Target::Item(module, name) = target
                && room(module) != room(self.id)
            {
                self.found.methods_elsewhere.insert((self.id, name));
            }
        }
    }

    fn add_single_names_as_items_only(&mut self, written: &Written) {
        let single = written.path.len() == 1;
        let keyword = matches!(written.path[0].as_str(), "self" | "super" | "crate" | "Self");
        if single && (keyword || self.is_only_module(&written.path)) {
            return;
        }
        self.add(written, false);
    }

    /// Whether the path names nothing but a module, or nothing of this crate. A single such name in code can only be a local variable or
    /// another local name, because a module is never a value or a type.
    fn is_only_module(&self, path: &[String]) -> bool {
        match self.tree.resolve(self.id, path) {
            Resolved::Targets(targets) => targets.iter().all(|target| matches!(target, Target::Module(_))),
            _ => true,
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let before = self.test;
        self.test |= attributes::is_test(item_attributes(item));
        syn::visit::visit_item(self, item);
        self.test = before;
    }

    /// Skips an inline module: `collect` reads it as a module of its own.
    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if let (None, Type::Path(of)) = (&item.trait_, &*item.self_ty) {
            let names: Vec<String> = of.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add_methods(&names);
        }
        syn::visit::visit_item_impl(self, item);
    }

    /// Skips the path in `pub(in crate::gate)`, because it does not use a name of `gate`.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in tree::imports(item) {
            self.add(&Written { path: import.path, line: import.line }, import.reexport);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if let (None, Some(first)) = (path.leading_colon, path.segments.first()) {
            let line = first.ident.span().start().line;
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.add_single_names_as_items_only(&Written { path: names, line });
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        self.visit_path(&called.path);
        for written in tokens::paths(called.tokens.clone()) {
            self.add_single_names_as_items_only(&written);
        }
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            for written in
                tokens::paths_and_strings(list.tokens.clone()).iter().filter(|written| written.path.len() > 1)
            {
                self.add(written, false);
            }
        }
    }
}

fn item_attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
