//! Checks that the code that `ARCHITECTURE.md` and `docs/internals` name exists: files by their paths, and names of Rust.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use reloader_tests::documents;

/// Where a path may begin, from the repository.
const ROOTS: [&str; 6] = ["", "reloader/src", "reloader/src/kernel", "reloader-ebpf/src", "xtask/src", "tests"];

/// Before the name of an item.
const KEYWORDS: [&str; 9] = ["fn", "struct", "enum", "trait", "mod", "const", "static", "type", "macro_rules!"];

#[test]
fn every_file_and_name_of_the_code_exists() {
    let code = Code::read(&documents::repository());
    let mut missing = Vec::new();
    for page in documents::pages().iter().filter(|page| is_about_the_code(page)) {
        let text = documents::text(page);
        for path in paths(&text).filter(|path| !code.has_path(path)) {
            missing.push(format!("{page}: there is no file {path}"));
        }
        for name in names(&text).filter(|name| !code.has_name(name)) {
            missing.push(format!("{page}: nothing is called {name}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

fn is_about_the_code(page: &str) -> bool {
    page == "ARCHITECTURE.md" || page.starts_with("docs/internals/")
}

/// Words that are paths of Rust files, in fenced blocks too.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '/' | '_' | '-' | '.');
    text.split(move |letter| !is_part(letter)).filter(|word| word.ends_with(".rs") && word.len() > 3)
}

/// What is in code font and looks like a name of Rust: `a::b`, or one word of capitals and small letters.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_fence = |line: &&str| line.trim_start().starts_with("```");
    let prose = text.lines().filter(move |line| !is_fence(line));
    let spans = prose.flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| {
        let is_name = span.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':'));
        let is_type = span.starts_with(|letter: char| letter.is_ascii_uppercase())
            && span.contains(|letter: char| letter.is_ascii_lowercase());
        is_name && (span.contains("::") || is_type)
    })
}

/// The files of the workspace, and the names of what they define.
struct Code {
    files: HashSet<PathBuf>,
    items: HashSet<String>,
}

impl Code {
    fn read(repository: &Path) -> Code {
        let mut code = Code { files: HashSet::new(), items: HashSet::new() };
        for folder in ["reloader/src", "reloader-ebpf/src", "xtask/src", "tests"] {
            code.add_folder(repository, &repository.join(folder));
        }
        code
    }

    fn add_folder(&mut self, repository: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.add_folder(repository, &path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.add_items(&fs::read_to_string(&path).expect("a file of Rust is text"));
                self.files.insert(path.strip_prefix(repository).expect("it is in the repository").to_owned());
            }
        }
    }

    /// Every word behind a keyword, and every word that begins a line with a capital: a variant of an enum.
    fn add_items(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split(|letter: char| !letter.is_alphanumeric() && !matches!(letter, '_' | '!'));
            let variant = words.clone().find(|word| !word.is_empty());
            while let Some(word) = words.next() {
                if KEYWORDS.contains(&word) {
                    self.items.extend(words.next().map(str::to_owned));
                }
            }
            self.items.extend(variant.filter(|word| word.starts_with(char::is_uppercase)).map(str::to_owned));
        }
    }

    fn has_path(&self, path: &str) -> bool {
        ROOTS.iter().any(|root| self.files.contains(&Path::new(root).join(path)))
    }

    /// Whether the code defines the name. A module may have no item but a file. Names of other crates are not looked for.
    fn has_name(&self, name: &str) -> bool {
        let is_module = |part: &str| {
            let file = format!("{part}.rs");
            self.files
                .iter()
                .any(|path| path.ends_with(&file) || path.parent().is_some_and(|folder| folder.ends_with(part)))
        };
        let is_foreign = ["std", "rtnetlink"].iter().any(|crate_name| name.starts_with(&format!("{crate_name}::")));
        is_foreign || name.split("::").all(|part| self.items.contains(part) || is_module(part))
    }
}

#[test]
fn paths_and_names_are_found_where_they_are() {
    let text = "`a/b.rs` and\n```text\nc.rs   what\n```\n`Type` `module::name` `WORD` `plain` `one two`\n";
    assert_eq!(paths(text).collect::<Vec<_>>(), ["a/b.rs", "c.rs"]);
    assert_eq!(names(text).collect::<Vec<_>>(), ["Type", "module::name"]);
    let mut code = Code { files: HashSet::from(["reloader/src/gate/hold/mod.rs".into()]), items: HashSet::new() };
    code.add_items("pub(crate) struct Type {\nfn name() {}\n    Variant(u8),\n");
    assert!(code.has_path("gate/hold/mod.rs") && !code.has_path("hold/mod.rs"));
    assert!(code.has_name("Type::Variant") && code.has_name("hold::name") && !code.has_name("Type::other"));
}
