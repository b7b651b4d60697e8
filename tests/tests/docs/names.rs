//! Links lead somewhere; files, tests and messages that are named are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use reloader_tests::documents::{self, repository};

/// Headings as GitHub makes anchors of them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let heading = |line: &str| {
        let text = line.trim_start_matches('#');
        (text.len() < line.len() && text.starts_with(' ')).then(|| text.trim().to_lowercase())
    };
    let anchor = |text: String| {
        let kept = text.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    let lines = documents::text(page);
    let outside = lines.lines().filter(|line| {
        fenced ^= line.starts_with("```");
        !fenced
    });
    outside.filter_map(heading).map(anchor).collect()
}

/// The targets of links, in prose and in tables.
fn links(text: &str) -> Vec<String> {
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    for page in documents::pages() {
        for link in links(&documents::text(&page)).iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let directory = Path::new(&page).parent().expect("a file is in a directory");
            let target = if file.is_empty() { page.clone() } else { normal(&directory.join(file)) };
            assert!(repository().join(&target).exists(), "{page}: {link} leads to nothing");
            if target.ends_with(".md") && !anchor.is_empty() {
                assert!(anchors(&target).contains(anchor), "{page}: {target} has no heading for {link}");
            }
        }
    }
}

/// Without `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().expect("UTF-8").split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

const ROOMS: [&str; 6] = ["docs/", "packaging/", "reloader/src/", "reloader-ebpf/src/", "tests/", "xtask/src/"];

#[test]
fn every_file_that_is_named_is_there() {
    for page in documents::pages() {
        let text = documents::text(&page);
        let is_path = |word: &&str| ROOMS.iter().any(|room| word.starts_with(room)) && !word.contains([' ', '*', '{']);
        for path in quoted(&text).into_iter().filter(is_path) {
            assert!(repository().join(path).exists(), "{page}: there is no {path}");
        }
    }
}

/// Names of tests by their modules, as `cargo xtask test` prints them.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(&repository().join("tests/tests"), "", &mut found);
    found
}

fn collect(directory: &Path, module: &str, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let own = if name == "mod" { module.to_owned() } else { format!("{module}{name}::") };
        if path.is_dir() {
            collect(&path, &own, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let behind = text.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn "));
            found.extend(behind.filter_map(|(_, rest)| rest.split_once('(')).map(|(test, _)| format!("{own}{test}")));
        }
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let tests = tests();
    let modules: BTreeSet<&str> = tests.iter().filter_map(|test| test.split("::").next()).collect();
    let mut named = 0;
    for page in documents::pages() {
        let text = documents::text(&page);
        for name in quoted(&text)
            .into_iter()
            .filter(|name| name.split_once("::").is_some_and(|(module, _)| modules.contains(module)))
        {
            let is_there = tests.iter().any(|test| test == name || test.starts_with(&format!("{name}::")));
            assert!(is_there, "{page}: there is no test {name}");
            named += 1;
        }
    }
    assert!(named > 20, "the README names the tests that measure what it says");
}

/// In its tables of messages each cell begins with one, with `…` for what differs.
#[test]
fn every_message_in_troubleshooting_is_one_of_the_product() {
    let product = messages();
    let text = documents::text(super::TROUBLESHOOTING);
    let (_, tables) = text.split_once("## By message").expect("its heading");
    let (tables, _) = tables.split_once("## By exit status").expect("the next heading");
    assert!(count_messages(tables, &product) > 20);
}

/// The table of messages against the states in which they are printed.
#[test]
fn every_message_in_the_reviewed_table_is_one_of_the_product() {
    assert!(count_messages(&documents::text(super::MESSAGES), &messages()) > 60);
}

/// The number of messages in these tables. Panics at one that the product does not have.
fn count_messages(tables: &str, product: &str) -> usize {
    let mut count = 0;
    for line in tables.lines().filter(|line| line.starts_with("| `")) {
        let cell = line[3..].split("` |").next().expect("a cell");
        for part in cell.split('…').map(str::trim).filter(|part| !part.is_empty()) {
            assert!(product.contains(part), "the product has no message {part:?}, of: {cell}");
        }
        count += 1;
    }
    count
}

/// The sources of the product with each string on one line.
fn messages() -> String {
    let mut all = String::new();
    let mut directories = vec![repository().join("reloader/src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            match entry.path() {
                path if path.is_dir() => directories.push(path),
                path if path.extension().is_some_and(|extension| extension == "rs") => {
                    all += &fs::read_to_string(path).expect("a source file");
                }
                _ => {}
            }
        }
    }
    let lines = all.replace("\\\"", "\"");
    lines.split("\\\n").map(str::trim_start).collect()
}
