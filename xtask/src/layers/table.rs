//! Reads the table of the layers, `reloader/layers.toml`, and its copy in `ARCHITECTURE.md`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The path of the table, relative to the repository's root.
pub(super) const FILE: &str = "reloader/layers.toml";

#[cfg(test)]
/// The line of `ARCHITECTURE.md` that stands before the picture, which is a fenced block.
pub(super) const MARK: &str = "<!-- layers: repeats reloader/layers.toml -->";

/// The layers from the top down, and the circles that may stay.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Table {
    #[serde(rename = "layer")]
    pub(super) layers: Vec<Layer>,
    /// Crates that one room keeps to itself.
    #[serde(default)]
    pub(super) confined: Vec<Confined>,
    /// Circles of files inside one room that may stay.
    #[serde(default, rename = "circle")]
    pub(super) circles: Vec<Circle>,
}

/// Rooms at the same height. They may use each other as long as that makes no circle.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Layer {
    pub(super) rooms: Vec<String>,
    /// If this list is not empty, only these rooms of the layers above may use this layer.
    #[serde(default)]
    pub(super) only_for: Vec<String>,
}

/// Crates that one room keeps to itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Confined {
    pub(super) room: String,
    /// The names of the crates in Rust. A name that ends in `*` stands for all crates whose names begin with the part before it.
    pub(super) crates: Vec<String>,
}

impl Confined {
    pub(super) fn names(&self, name: &str) -> bool {
        self.crates.iter().any(|given| match given.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == given,
        })
    }
}

/// Files that need each other.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Circle {
    pub(super) files: BTreeSet<String>,
    /// Why the circle may stay.
    pub(super) reason: String,
}

impl Table {
    /// # Errors
    /// When the text is no such table, names a room twice, or lacks a circle's reason.
    pub(super) fn parse(text: &str) -> Result<Table> {
        let table: Table = toml::from_str(text).context(FILE)?;
        let mut names = BTreeSet::new();
        for room in table.rooms() {
            ensure!(names.insert(room), "{FILE} names the room {room} twice");
        }
        ensure!(table.circles.iter().all(|circle| !circle.reason.trim().is_empty()), "{FILE}: a circle has no reason");
        Ok(table)
    }

    pub(super) fn rooms(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().flat_map(|layer| &layer.rooms).map(String::as_str)
    }

    /// Whether a module of the room `from` may use a module of the room `to`. True if a room is not in the table, because the check reports
    /// that separately.
    pub(super) fn allows(&self, from: &str, to: &str) -> bool {
        let (Some(above), Some(below)) = (self.height(from), self.height(to)) else { return true };
        let wing = &self.layers[below].only_for;
        above == below || above < below && (wing.is_empty() || wing.iter().any(|room| room == from))
    }

    fn height(&self, room: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.rooms.iter().any(|name| name == room))
    }

    #[cfg(test)]
    /// The layers in the picture of `ARCHITECTURE.md`: one line for each layer, with explanations in parentheses.
    ///
    /// # Errors
    /// When the picture is missing.
    pub(super) fn rooms_in_picture(document: &str) -> Result<Vec<BTreeSet<String>>> {
        let (_, after) = document.split_once(MARK).with_context(|| format!("ARCHITECTURE.md has no line `{MARK}`"))?;
        let block =
            after.split("```").nth(1).context("ARCHITECTURE.md has no fenced block below the mark of the layers")?;
        let lines = block.lines().skip(1).map(rooms_in_line);
        Ok(lines.filter(|rooms| !rooms.is_empty()).collect())
    }
}

#[cfg(test)]
fn rooms_in_line(line: &str) -> BTreeSet<String> {
    let mut depth = 0;
    let outside = |character: &char| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => return depth == 0,
        }
        false
    };
    let text: String = line.chars().filter(outside).collect();
    text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{MARK, Table};

    fn table() -> Table {
        Table::parse(
            "[[layer]]\nrooms = ['top', 'beside']\n[[layer]]\nrooms = ['wing']\nonly-for = ['top']\n[[layer]]\nrooms = ['base']\n",
        )
        .expect("this is a table")
    }

    #[test]
    fn rooms_use_rooms_below_and_beside() {
        let table = table();
        assert!(table.allows("top", "base") && table.allows("top", "beside") && table.allows("wing", "base"));
        assert!(!table.allows("base", "top") && !table.allows("base", "wing"));
    }

    #[test]
    fn a_wing_is_open_only_to_the_rooms_that_it_names() {
        assert!(table().allows("top", "wing") && !table().allows("beside", "wing"));
    }

    #[test]
    fn a_room_may_not_be_named_twice() {
        let error = Table::parse("[[layer]]\nrooms = ['a']\n[[layer]]\nrooms = ['a']\n").expect_err("twice");
        assert!(error.to_string().contains("the room a twice"), "{error}");
    }

    #[test]
    fn the_picture_is_read_without_its_explanations() {
        let document = format!("# A\n{MARK}\n```text\ntop  beside\nwing (only for (top), x)\n\nbase, floor\n```\n");
        let rooms = Table::rooms_in_picture(&document).expect("there is a picture");
        let lines: Vec<String> =
            rooms.iter().map(|line| line.iter().map(String::as_str).collect::<Vec<_>>().join("+")).collect();
        assert_eq!(lines, ["beside+top", "wing", "base+floor"]);
    }
}
