//! Resolves a path to the module that defines what it names, through imports and re-exports.

use std::collections::BTreeSet;

use super::tree::Tree;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Module(usize),
    /// An item: the number of the module that defines it, and its name.
    Item(usize, String),
}

impl Target {
    pub(super) fn module(&self) -> usize {
        match self {
            Target::Module(module) | Target::Item(module, _) => *module,
        }
    }
}

/// The result of resolving a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The path leads out of the crate, or begins with a local name.
    Outside,
    /// The path is in this crate, but this program cannot follow it.
    Unknown,
    /// What the path names. Usually this is one target, but a name can stand for a module and for a function at the same time.
    Targets(Vec<Target>),
}

/// The names that are being looked up, so that re-exports that go in a circle come to an end.
type Pending = BTreeSet<(usize, String)>;

impl Tree {
    /// What the path means in the module `from`.
    pub(super) fn resolve(&self, from: usize, path: &[String]) -> Resolved {
        self.resolve_with(from, path, &mut Pending::new())
    }

    fn resolve_with(&self, from: usize, path: &[String], pending: &mut Pending) -> Resolved {
        let (start, rest) = match path.first().map(String::as_str) {
            Some("crate") => (vec![Target::Module(self.root(from))], &path[1..]),
            Some("self") => (vec![Target::Module(from)], &path[1..]),
            Some("super") => {
                let ups = path.iter().take_while(|name| *name == "super").count();
                let above = (0..ups).try_fold(from, |module, _| self.modules[module].parent);
                let Some(above) = above else { return Resolved::Unknown };
                (vec![Target::Module(above)], &path[ups..])
            }
            // In `main.rs`, the library is another crate.
            Some("reloader") if self.root(from) != 0 => (vec![Target::Module(0)], &path[1..]),
            Some(name) => (self.look_up(from, name, pending), &path[1..]),
            None => return Resolved::Outside,
        };
        if start.is_empty() {
            return Resolved::Outside;
        }
        let mut targets = start;
        for name in rest {
            targets = targets.iter().flat_map(|target| self.step(target, name, pending)).collect();
        }
        targets.sort();
        targets.dedup();
        if targets.is_empty() { Resolved::Unknown } else { Resolved::Targets(targets) }
    }

    fn root(&self, from: usize) -> usize {
        let mut module = from;
        while let Some(parent) = self.modules[module].parent {
            module = parent;
        }
        module
    }

    fn step(&self, target: &Target, name: &str, pending: &mut Pending) -> Vec<Target> {
        match target {
            Target::Item(..) => vec![target.clone()],
            Target::Module(module) => {
                let found = self.look_up(*module, name, pending);
                if found.is_empty() && self.modules[*module].opaque {
                    return vec![Target::Item(*module, name.to_owned())];
                }
                found
            }
        }
    }

    /// Everything of this crate that the name stands for in the module. Empty if the name is local or belongs to another crate.
    fn look_up(&self, module: usize, name: &str, pending: &mut Pending) -> Vec<Target> {
        if !pending.insert((module, name.to_owned())) {
            return Vec::new();
        }
        let here = &self.modules[module];
        let mut found: Vec<Target> = here.children.get(name).map(|child| Target::Module(*child)).into_iter().collect();
        if here.defined.contains(name) {
            found.push(Target::Item(module, name.to_owned()));
        }
        for import in here.imports.iter().filter(|import| import.name.as_deref() == Some(name)) {
            if let Resolved::Targets(targets) = self.resolve_with(module, &import.path, pending) {
                found.extend(targets);
            }
        }
        if found.is_empty() {
            for glob in here.imports.iter().filter(|import| import.name.is_none()) {
                let Resolved::Targets(targets) = self.resolve_with(module, &glob.path, pending) else { continue };
                found.extend(targets.iter().flat_map(|target| match target {
                    Target::Module(of) => self.look_up(*of, name, pending),
                    Target::Item(..) => Vec::new(),
                }));
            }
        }
        pending.remove(&(module, name.to_owned()));
        found
    }
}
