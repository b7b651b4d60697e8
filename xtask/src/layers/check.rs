//! Compares the arrows with the table of the layers.

use std::collections::{BTreeMap, BTreeSet};

use super::arrows::{Arrow, Arrows, Need};
use super::graph::{self, Graph};
use super::table::Table;
use super::tree::Tree;

/// A tree with its arrows and the table.
pub(super) struct Picture {
    pub(super) tree: Tree,
    pub(super) arrows: Arrows,
    pub(super) table: Table,
}

impl Picture {
    /// The room of the module, which is its top-level module. For a root of the crate it is the root's file: a root may use every room.
    pub(super) fn room(&self, module: usize) -> String {
        let module = &self.tree.modules[module];
        module.path.first().cloned().unwrap_or_else(|| module.file.display().to_string())
    }

    pub(super) fn file(&self, module: usize) -> String {
        self.tree.modules[module].file.display().to_string()
    }

    fn is_root(&self, module: usize) -> bool {
        self.tree.modules[module].parent.is_none()
    }

    /// The arrows from one room to another room. Arrows from a root of the crate are left out.
    pub(super) fn between_rooms(&self) -> impl Iterator<Item = &Arrow> {
        self.arrows
            .arrows
            .iter()
            .filter(|arrow| !self.is_root(arrow.from) && self.room(arrow.from) != self.room(arrow.to))
    }

    /// The arrows by which one file of a room needs another file of the same room. Unit tests are left out: they may use all of their
    /// room, and their needs do not make it harder to split the product.
    pub(super) fn between_files(&self) -> impl Iterator<Item = &Arrow> {
        let arrows = self.arrows.arrows.iter().filter(|arrow| arrow.kind == Need::Use && !arrow.test);
        arrows.filter(|arrow| {
            self.room(arrow.from) == self.room(arrow.to) && self.file(arrow.from) != self.file(arrow.to)
        })
    }

    pub(super) fn is_upward(&self, arrow: &Arrow) -> bool {
        self.is_root(arrow.to) || !self.table.allows(&self.room(arrow.from), &self.room(arrow.to))
    }

    /// The circles of files that the table does not allow.
    pub(super) fn circles_of_files(&self) -> Vec<BTreeSet<String>> {
        let allowed = |circle: &BTreeSet<String>| self.table.circles.iter().any(|allowed| allowed.files == *circle);
        self.all_circles_of_files().into_iter().filter(|circle| !allowed(circle)).collect()
    }

    fn all_circles_of_files(&self) -> Vec<BTreeSet<String>> {
        let arrows = self.between_files().map(|arrow| (self.file(arrow.from), self.file(arrow.to)));
        graph::circles(&graph(arrows))
    }

    /// Everything that is wrong with the tree, in one line each.
    pub(super) fn violations(&self) -> Vec<String> {
        let (tests, product): (Vec<&Arrow>, Vec<&Arrow>) =
            self.between_rooms().filter(|arrow| self.is_upward(arrow)).partition(|arrow| arrow.test);
        let product_arrows = self.between_rooms().filter(|arrow| !arrow.test);
        let rooms = graph::circles(&graph(product_arrows.map(|arrow| (self.room(arrow.from), self.room(arrow.to)))));
        let lost = self.arrows.lost.iter().map(|lost| format!("{}: {}", self.file(lost.module), lost.path));
        [
            ("room", self.rooms_only_in_one_place()),
            ("upward arrow", self.by_rooms(&product)),
            ("upward arrow of unit tests", self.by_rooms(&tests)),
            ("circle of rooms", rooms.iter().map(joined).collect()),
            ("crate of another room", self.confined()),
            ("methods for a type of another room", self.methods_elsewhere()),
            ("circle of files", self.circles_of_files().iter().map(joined).collect()),
            ("allowed circle that is gone", self.allowed_circles_that_are_gone()),
            ("path that leads nowhere", lost.collect()),
        ]
        .into_iter()
        .flat_map(|(kind, texts)| texts.into_iter().map(move |text| format!("{kind}: {text}")))
        .collect()
    }

    fn rooms_only_in_one_place(&self) -> BTreeSet<String> {
        let modules = 0..self.tree.modules.len();
        let real: BTreeSet<String> =
            modules.filter(|module| !self.is_root(*module)).map(|module| self.room(module)).collect();
        let listed: BTreeSet<String> = self.table.rooms().map(str::to_owned).collect();
        let unlisted = real.difference(&listed).map(|room| format!("{room} is not in the table"));
        unlisted.chain(listed.difference(&real).map(|room| format!("{room} is only in the table"))).collect()
    }

    fn confined(&self) -> BTreeSet<String> {
        let others = |(module, name): &&(usize, String)| {
            let room = self.room(*module);
            self.table.confined.iter().any(|confined| confined.room != room && confined.names(name))
        };
        let found = self.arrows.outside.iter().filter(others);
        found.map(|(module, name)| format!("{}: {name}", self.file(*module))).collect()
    }

    fn methods_elsewhere(&self) -> BTreeSet<String> {
        let found = self.arrows.methods_elsewhere.iter();
        found.map(|(module, name)| format!("{}: {name}", self.file(*module))).collect()
    }

    fn allowed_circles_that_are_gone(&self) -> BTreeSet<String> {
        let found = self.all_circles_of_files();
        let gone = self.table.circles.iter().filter(|allowed| !found.contains(&allowed.files));
        gone.map(|allowed| joined(&allowed.files)).collect()
    }

    fn by_rooms(&self, arrows: &[&Arrow]) -> BTreeSet<String> {
        let mut names: BTreeMap<(String, String), BTreeSet<&str>> = BTreeMap::new();
        for arrow in arrows {
            names.entry((self.room(arrow.from), self.room(arrow.to))).or_default().insert(&arrow.name);
        }
        let each = |((from, to), names): ((String, String), BTreeSet<&str>)| {
            names.into_iter().map(move |name| format!("{from} -> {to}: {name}")).collect::<Vec<_>>()
        };
        names.into_iter().flat_map(each).collect()
    }
}

fn graph(arrows: impl Iterator<Item = (String, String)>) -> Graph {
    let mut graph = Graph::new();
    for (from, to) in arrows {
        graph.entry(from).or_default().insert(to);
    }
    graph
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}
