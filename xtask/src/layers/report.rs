//! Formats the arrows: a count for each pair of rooms, and a line for each arrow that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::arrows::Arrow;
use super::check::Picture;

/// A table that shows how often each room uses each other room, from the top layer down. Counts that the layers forbid are marked.
pub(super) fn matrix(picture: &Picture) -> String {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for arrow in picture.between_rooms().filter(|arrow| !arrow.test) {
        *counts.entry((picture.room(arrow.from), picture.room(arrow.to))).or_default() += 1;
    }
    let rooms = rooms(picture);
    let width = rooms.iter().map(String::len).max().unwrap_or(0);
    let mut text =
        format!("    {:width$}  uses (by number of column); `!` marks what the layers forbid\n    {:width$} ", "", "");
    (1..=rooms.len()).for_each(|column| text.push_str(&format!("{column:>5}")));
    for (row, from) in (1..).zip(&rooms) {
        let cells = rooms.iter().map(|to| match counts.get(&(from.clone(), to.clone())) {
            Some(count) if picture.table.allows(from, to) => format!("{count:>5}"),
            Some(count) => format!("{:>5}", format!("!{count}")),
            None => format!("{:>5}", if from == to { "=" } else { "." }),
        });
        let _ = write!(text, "\n{row:>3} {from:width$} {}", cells.collect::<String>());
    }
    text + "\n"
}

/// The existing rooms: first those in the table, in its order, then those that are not in it.
fn rooms(picture: &Picture) -> Vec<String> {
    let real: BTreeSet<String> =
        picture.tree.modules.iter().filter_map(|module| module.path.first().cloned()).collect();
    let listed: Vec<String> = picture.table.rooms().filter(|room| real.contains(*room)).map(str::to_owned).collect();
    let rest: Vec<String> = real.iter().filter(|room| !listed.contains(room)).cloned().collect();
    [listed, rest].concat()
}

/// Every arrow from the room `from`. If `to` is given, only the arrows to that room.
pub(super) fn between(picture: &Picture, from: &str, to: Option<&str>) -> String {
    let arrows = picture.between_rooms().filter(|arrow| picture.room(arrow.from) == from);
    lines(picture, arrows.filter(|arrow| to.is_none_or(|to| picture.room(arrow.to) == to)))
}

/// The upward arrows one by one, and the arrows that make each circle of files.
pub(super) fn details(picture: &Picture) -> String {
    let mut text = String::new();
    let upward = lines(picture, picture.between_rooms().filter(|arrow| picture.is_upward(arrow)));
    if !upward.is_empty() {
        let _ = write!(text, "Upward arrows:\n{upward}\n");
    }
    for circle in picture.circles_of_files() {
        let names: Vec<&str> = circle.iter().map(String::as_str).collect();
        let _ = writeln!(text, "Circle of files: {}", names.join(" "));
        let inside =
            |arrow: &&Arrow| circle.contains(&picture.file(arrow.from)) && circle.contains(&picture.file(arrow.to));
        let _ = writeln!(text, "{}", by_files(picture, picture.between_files().filter(inside)));
    }
    text
}

fn lines<'a>(picture: &Picture, arrows: impl Iterator<Item = &'a Arrow>) -> String {
    let mut names: BTreeMap<(String, usize, String, String), BTreeSet<String>> = BTreeMap::new();
    for arrow in arrows {
        let tests = if arrow.test { " (tests)" } else { "" };
        let key = (picture.file(arrow.from), arrow.line, picture.room(arrow.from), picture.room(arrow.to) + tests);
        names.entry(key).or_default().insert(format!("{} in {}", arrow.name, picture.file(arrow.to)));
    }
    let mut text = String::new();
    for ((file, line, from, to), names) in names {
        let names: Vec<String> = names.into_iter().collect();
        let _ = writeln!(text, "  reloader/src/{file}:{line}: {from} -> {to}: {}", names.join(", "));
    }
    text
}

/// The lines of a file that use another file, and the names that they use.
type Uses<'a> = (BTreeSet<usize>, BTreeSet<&'a str>);

fn by_files<'a>(picture: &Picture, arrows: impl Iterator<Item = &'a Arrow>) -> String {
    let mut uses: BTreeMap<(String, String), Uses> = BTreeMap::new();
    for arrow in arrows {
        let (lines, names) = uses.entry((picture.file(arrow.from), picture.file(arrow.to))).or_default();
        lines.insert(arrow.line);
        names.insert(&arrow.name);
    }
    let mut text = String::new();
    for ((from, to), (lines, names)) in uses {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let _ = writeln!(text, "  {from} -> {to}: {} (lines {})", names.join(", "), lines.join(", "));
    }
    text
}
