//! Tests the check: on small trees with planted mistakes, and on the real tree.

use std::path::Path;

use super::check::Picture;
use super::table::Table;
use super::{draw, picture, violations};

const TABLE: &str = "
[[layer]]
rooms = ['top']
[[layer]]
rooms = ['left', 'right']
[[layer]]
rooms = ['base']
[[confined]]
room = 'base'
crates = ['netlink_*']
";

const ROOT: &str = "mod base; mod left; mod right; mod top;";

/// Draws a tree of the given files; the rooms that are not given are empty.
fn plant(files: &[(&str, &str)]) -> Picture {
    let source = |path: &Path| {
        let given = files.iter().find(|(name, _)| Path::new(name) == path);
        let room = || ["base.rs", "left.rs", "right.rs", "top.rs"].map(Path::new).contains(&path);
        let folder = || files.iter().any(|(name, _)| Path::new(name) == path.with_extension("").join("mod.rs"));
        match given {
            Some((_, text)) => Some((*text).to_owned()),
            None if path == Path::new("lib.rs") => Some(ROOT.to_owned()),
            None => (room() && !folder()).then(String::new),
        }
    };
    draw(&source, Table::parse(TABLE).expect("this is a table")).expect("these are modules")
}

/// What is wrong with the planted tree, a line for each.
fn wrong(files: &[(&str, &str)]) -> Vec<String> {
    plant(files).violations()
}

#[test]
fn room_may_use_rooms_of_its_own_and_lower_layers() {
    let files =
        [("top.rs", "use crate::left::x;"), ("left.rs", "pub use crate::right::x;"), ("right.rs", "pub fn x() {}")];
    assert!(wrong(&files).is_empty());
}

#[test]
fn an_upward_import_is_found() {
    let up = "upward arrow: base -> top: Name";
    let top = ("top.rs", "pub struct Name;");
    for import in ["use crate::top::Name;", "use super::top::{self, Name as N};", "fn f() { use crate::{top::Name}; }"]
    {
        assert!(wrong(&[("base.rs", import), top]).contains(&up.to_owned()), "{import}");
    }
}

#[test]
fn an_upward_import_of_a_module_is_found() {
    assert_eq!(wrong(&[("base.rs", "use super::top as t;")]), ["upward arrow: base -> top: mod top"]);
    let glob = wrong(&[("base.rs", "use super::top::*; fn f() { x() }"), ("top.rs", "pub fn x() {}")]);
    assert!(glob.contains(&"upward arrow: base -> top: x".to_owned()), "{glob:?}");
}

#[test]
fn an_upward_full_path_is_found() {
    let top = ("top.rs", "pub struct Name; impl Name { pub const ONE: u8 = 1; } pub mod deep { pub fn f() {} }");
    for (text, name) in [
        ("fn f(_: crate::top::Name) {}", "Name"),
        ("const ONE: u8 = super::top::Name::ONE;", "Name"),
        ("fn f() { log::info!(\"{}\", crate::top::Name::ONE); }", "Name"),
        ("fn f() { assert!(matches!(x, super::top::Name { .. }), \"no\"); }", "Name"),
        ("#[serde(with = \"crate::top::Name\")] struct S;", "Name"),
        ("mod inner { fn f() { super::super::top::deep::f(); } }", "f"),
    ] {
        assert_eq!(wrong(&[("base.rs", text), top]), [format!("upward arrow: base -> top: {name}")], "{text}");
    }
}

#[test]
fn a_reexport_does_not_hide_where_a_name_is_from() {
    let files = [
        ("base.rs", "use crate::left::Name;"),
        ("left.rs", "pub use crate::top::Name;"),
        ("top.rs", "pub struct Name;"),
    ];
    assert_eq!(wrong(&files), ["upward arrow: base -> top: Name", "upward arrow: left -> top: Name"]);
}

#[test]
fn the_reexport_of_a_name_from_below_is_no_arrow_to_the_reexporter() {
    let files = [
        ("left.rs", "use crate::top::Name;"),
        ("top.rs", "pub use crate::base::Name;"),
        ("base.rs", "pub struct Name;"),
    ];
    assert!(wrong(&files).is_empty());
}

#[test]
fn a_circle_of_rooms_beside_each_other_is_found() {
    let files = [("left.rs", "use crate::right::R; pub struct L;"), ("right.rs", "pub struct R(crate::left::L);")];
    assert_eq!(wrong(&files), ["circle of rooms: left right"]);
}

#[test]
fn a_circle_of_files_in_a_room_is_found() {
    let files = [
        ("base/mod.rs", "mod one; mod two; mod three;"),
        ("base/one.rs", "use super::two::b; pub fn a() {}"),
        ("base/two.rs", "pub fn b() { super::three::c() }"),
        ("base/three.rs", "pub fn c() { println!(\"{}\", super::one::a()) }"),
    ];
    assert_eq!(wrong(&files), ["circle of files: base/one.rs base/three.rs base/two.rs"]);
}

#[test]
fn a_parent_that_uses_a_child_that_uses_the_parent_is_a_circle() {
    let child = ("base/child.rs", "pub fn c(_: super::Parent) {}");
    let circle = ["circle of files: base/child.rs base/mod.rs"];
    assert_eq!(wrong(&[("base/mod.rs", "mod child; pub struct Parent; fn f() { child::c(Parent) }"), child]), circle);
    assert_eq!(
        wrong(&[("base/mod.rs", "mod child; pub use child::c; pub struct Parent; fn f() { c(Parent) }"), child]),
        circle
    );
    assert!(wrong(&[("base/mod.rs", "mod child; pub use child::c; pub struct Parent;"), child]).is_empty());
}

#[test]
fn unit_tests_count_for_upward_arrows_and_not_for_circles() {
    let tests = "#[cfg(test)] mod tests { use crate::top::Name; use crate::right::R; }";
    let files = [("left.rs", tests), ("right.rs", "pub struct R; use crate::left;"), ("top.rs", "pub struct Name;")];
    assert_eq!(wrong(&files), ["upward arrow of unit tests: left -> top: Name"]);
}

#[test]
fn a_module_at_another_path_is_read() {
    let files = [
        ("base.rs", "#[path = \"../elsewhere.rs\"] mod x;"),
        ("elsewhere.rs", "use crate::top::Name;"),
        ("top.rs", "pub struct Name;"),
    ];
    let below = [
        ("base/mod.rs", "#[path = \"y.rs\"] mod x;"),
        ("base/y.rs", "use crate::top::Name;"),
        ("top.rs", "pub struct Name;"),
    ];
    assert_eq!(wrong(&files), ["upward arrow: base -> top: Name"]);
    assert_eq!(wrong(&below), ["upward arrow: base -> top: Name"]);
}

#[test]
fn a_path_that_cannot_be_followed_is_reported() {
    assert_eq!(
        wrong(&[("base.rs", "use crate::left::gone;")]),
        ["path that leads nowhere: base.rs: crate::left::gone"]
    );
}

#[test]
fn a_crate_of_another_room_is_found() {
    let text = "use netlink_sys::Socket; fn f() { netlink_sys::g() }";
    assert_eq!(wrong(&[("left.rs", text), ("base.rs", text)]), ["crate of another room: left.rs: netlink_sys"]);
}

#[test]
fn methods_for_a_type_of_another_room_are_found() {
    let files = [
        ("top.rs", "use crate::base::Name; impl Name { fn f(&self) {} } impl Clone for Name {}"),
        ("base.rs", "pub struct Name;"),
    ];
    assert_eq!(wrong(&files), ["methods for a type of another room: top.rs: Name"]);
}

#[test]
fn a_room_that_the_table_does_not_know_is_reported() {
    let files = [("lib.rs", "mod base; mod left; mod top; mod new;"), ("new.rs", "")];
    assert_eq!(wrong(&files), ["room: new is not in the table", "room: right is only in the table"]);
}

#[test]
fn an_item_at_the_root_is_above_every_room() {
    let files =
        [("lib.rs", "mod base; mod left; mod right; mod top; pub const N: u8 = 0;"), ("top.rs", "use crate::N;")];
    assert_eq!(wrong(&files), ["upward arrow: top -> lib.rs: N"]);
}

#[test]
fn a_circle_may_stay_if_the_table_gives_a_reason_and_it_exists() {
    let base = [
        ("base/mod.rs", "mod one; mod two;"),
        ("base/one.rs", "use super::two::b; pub fn a() {}"),
        ("base/two.rs", "use super::one::a; pub fn b() {}"),
    ];
    let mut picture = plant(&base);
    let allowed = "[[circle]]\nfiles = ['base/one.rs', 'base/two.rs']\nreason = 'both halves of one automaton'\n";
    picture.table = Table::parse(&format!("{TABLE}{allowed}")).expect("this is a table");
    assert!(picture.violations().is_empty());
    let mut gone = plant(&[]);
    gone.table = picture.table;
    assert_eq!(gone.violations(), ["allowed circle that is gone: base/one.rs base/two.rs"]);
    assert!(Table::parse(&format!("{TABLE}{}", allowed.replace("both halves of one automaton", " "))).is_err());
}

#[test]
fn the_product_keeps_to_its_layers() {
    let violations = violations(&picture().expect("the sources can be read")).expect("the folder can be read");
    assert!(violations.is_empty(), "`cargo xtask layers` shows the arrows\n{}", violations.join("\n"));
}

#[test]
fn the_architecture_shows_the_layers_of_the_table() {
    let document =
        std::fs::read_to_string(crate::repository().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let shown = Table::rooms_in_picture(&document).expect("the picture can be read");
    let table = picture().expect("the sources can be read").table;
    let layers: Vec<_> = table.layers.iter().map(|layer| layer.rooms.iter().cloned().collect()).collect();
    assert_eq!(shown, layers);
}
