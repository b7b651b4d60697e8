//! Reads the repository's documents: their fenced blocks, and the commands in them with the output that they show.

mod output;
mod steps;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

pub use output::{difference, shape};
pub use steps::Step;
pub use table::table;

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// The page, by its path from the repository's root.
    pub page: String,
    /// The line of its fence, from 1.
    pub line: usize,
    /// The word after the opening fence. Empty if there is none.
    pub language: String,
    /// What stands between the fences.
    pub text: String,
}

impl Block {
    /// By which a test names it.
    pub fn first_line(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// The commands of a `console` or `sh` block.
    pub fn steps(&self) -> Vec<Step> {
        match self.language.as_str() {
            "console" => steps::of_console(&self.text),
            _ => vec![Step { command: self.text.clone(), status: 0, shown: Vec::new() }],
        }
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// The documents, by their paths from the repository's root.
pub fn pages() -> Vec<String> {
    let mut found: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).into();
    collect("docs", &mut found);
    found
}

fn collect(directory: &str, found: &mut Vec<String>) {
    let entries = fs::read_dir(repository().join(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    let mut names: Vec<_> = entries.flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&path, found),
            _ if path.ends_with(".md") => found.push(path),
            _ => {}
        }
    }
}

/// The text of a page.
pub fn text(page: &str) -> String {
    fs::read_to_string(repository().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// All blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text(page).lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(language), None) => {
                let (page, language) = (page.to_owned(), language.trim().to_owned());
                open = Some(Block { page, line: number + 1, language, text: String::new() });
            }
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block has no end");
    found
}

/// The block of a page that begins so. Panics unless there is exactly one.
#[track_caller]
pub fn block(page: &str, beginning: &str) -> Block {
    let mut found = blocks(page).into_iter().filter(|block| block.text.starts_with(beginning));
    let block = found.next().unwrap_or_else(|| panic!("{page} has no block that begins with {beginning:?}"));
    assert!(found.next().is_none(), "{page} has two blocks that begin with {beginning:?}");
    block
}
