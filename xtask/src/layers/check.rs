//! Compares the arrows with the table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::arrows::{Arrow, Arrows, Need};
use super::graph::{self, Graph};
use super::table::Table;
use super::tree::Tree;

/// The violations that the tree still has. The check fails when one is not here, and when one that is here is gone.
pub(super) const KNOWN: &str = "reloader/layers-known.toml";

/// What is wrong with a tree, in texts that do not change with every edit: rooms, files and names, without numbers of lines.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Violations {
    /// Each kind of violation, except circles of files.
    pub(super) violations: BTreeMap<Kind, BTreeSet<String>>,
    /// How many files of a room are in circles. While they are being taken apart they change with every step, so that a
    /// list of their names would be old at once; the number may go down.
    pub(super) files_in_circles: BTreeMap<String, usize>,
}

/// A kind of violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A room that is not in the table, or only there.
    Room,
    /// `server -> supervision: Ending`.
    UpwardArrow,
    /// The same in a unit test.
    UpwardArrowOfTests,
    /// Rooms that need each other.
    CircleOfRooms,
    /// A crate that only another room may use.
    CrateOfAnotherRoom,
    /// Methods for a type of another room.
    MethodsElsewhere,
    /// A path that cannot be followed, or a file that no module declares.
    NotRead,
    /// A circle that the table allows and that is gone.
    CircleGone,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Room => "room",
            Kind::UpwardArrow => "upward arrow",
            Kind::UpwardArrowOfTests => "upward arrow of unit tests",
            Kind::CircleOfRooms => "circle of rooms",
            Kind::CrateOfAnotherRoom => "crate of another room",
            Kind::MethodsElsewhere => "methods for a type of another room",
            Kind::NotRead => "not read",
            Kind::CircleGone => "allowed circle that is gone",
        }
    }
}

impl Violations {
    /// # Errors
    /// When the text is no list of violations.
    pub(super) fn parse(text: &str) -> Result<Violations> {
        toml::from_str(text).context(KNOWN)
    }

    pub(super) fn add(&mut self, kind: Kind, texts: impl IntoIterator<Item = String>) {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_some() {
            self.violations.entry(kind).or_default().extend(texts);
        }
    }

    /// What is here and not in `known`, and what is in `known` and no longer here.
    pub(super) fn differences(&self, known: &Violations) -> Vec<String> {
        let gone = format!("gone, so take it out of {KNOWN}");
        let mut found: Vec<String> = self.lines_not_in(known).map(|line| format!("new {line}")).collect();
        found.extend(known.lines_not_in(self).map(|line| format!("{gone}: {line}")));
        for (room, files) in &self.files_in_circles {
            let limit = known.files_in_circles.get(room).copied().unwrap_or(0);
            if *files > limit {
                found.push(format!("{files} files of {room} are in circles, {limit} were"));
            }
        }
        let clean = known.files_in_circles.keys().filter(|room| !self.files_in_circles.contains_key(*room));
        found.extend(clean.map(|room| format!("{gone}: circles of files in {room}")));
        found
    }

    fn lines_not_in(&self, other: &Violations) -> impl Iterator<Item = String> {
        let without =
            |kind: &Kind, text: &String| !other.violations.get(kind).is_some_and(|texts| texts.contains(text));
        self.violations.iter().flat_map(move |(kind, texts)| {
            texts.iter().filter(move |text| without(kind, text)).map(|text| format!("{}: {text}", kind.word()))
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines_not_in(&Violations::default()).collect()
    }
}

/// A tree with its arrows and the table.
pub(super) struct Picture {
    pub(super) tree: Tree,
    pub(super) arrows: Arrows,
    pub(super) table: Table,
}

impl Picture {
    /// The top-level module that the module is in. The crate's roots are rooms of their own: they may use everything.
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

    /// The arrows between two rooms. A module at the root is in no room.
    pub(super) fn between_rooms(&self) -> impl Iterator<Item = &Arrow> {
        self.arrows
            .arrows
            .iter()
            .filter(|arrow| !self.is_root(arrow.from) && self.room(arrow.from) != self.room(arrow.to))
    }

    /// The arrows that say that one file of a room needs another one of it. Unit tests are left out: a module's tests may use
    /// whatever its room has, and what they need makes the product no harder to take apart.
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

    /// Everything that is wrong.
    pub(super) fn violations(&self) -> Violations {
        let (tests, product): (Vec<&Arrow>, Vec<&Arrow>) =
            self.between_rooms().filter(|arrow| self.is_upward(arrow)).partition(|arrow| arrow.test);
        let rooms =
            self.between_rooms().filter(|arrow| !arrow.test).map(|arrow| (self.room(arrow.from), self.room(arrow.to)));
        let lost = self.arrows.lost.iter().map(|lost| format!("{}: {}", self.file(lost.module), lost.path));
        let mut found = Violations::default();
        found.add(Kind::Room, self.rooms_only_in_one_place());
        found.add(Kind::UpwardArrow, self.by_rooms(&product));
        found.add(Kind::UpwardArrowOfTests, self.by_rooms(&tests));
        found.add(Kind::CircleOfRooms, graph::circles(&graph(rooms)).iter().map(joined));
        found.add(Kind::CrateOfAnotherRoom, self.confined());
        found.add(Kind::MethodsElsewhere, self.methods_elsewhere());
        found.add(Kind::NotRead, lost);
        found.add(Kind::CircleGone, self.allowed_circles_that_are_gone());
        for file in self.circles_of_files().iter().flatten() {
            let room = file.split(['/', '.']).next().unwrap_or(file);
            *found.files_in_circles.entry(room.to_owned()).or_default() += 1;
        }
        found
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

    fn allowed_circles_that_are_gone(&self) -> Vec<String> {
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
