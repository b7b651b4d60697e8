//! Checks the layers of the product: which room of `reloader/src` may use which other one.
//!
//! A room is a top-level module. `reloader/layers.toml` lists the layers from the top down. The check reads the syntax tree of
//! every file and resolves each path: imports, full paths, the arguments of macros, and names that another module re-exports. It
//! does not see method calls. For them it demands that a type's methods stand in the type's own room, where a call of them can
//! go no further up than the type itself.
//!
//! Unit tests count for upward arrows: a room whose tests need a room above cannot be tested, or moved, without it. They do
//! not count for circles.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

mod arrows;
mod attributes;
mod check;
mod graph;
mod report;
mod resolve;
mod table;
#[cfg(test)]
mod tests;
mod tokens;
mod tree;

use arrows::Arrows;
use check::Picture;
use table::Table;
use tree::{Source, Tree};

/// The arguments of `cargo xtask layers`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the arrows from this room, line by line
    from: Option<String>,
    /// Of those, only the arrows to this room
    to: Option<String>,
}

/// Prints the arrows between the rooms, and what is wrong with them.
///
/// # Errors
/// A file cannot be read, or an arrow is wrong.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let picture = picture()?;
    if let Some(from) = &arguments.from {
        print!("{}", report::between(&picture, from, arguments.to.as_deref()));
        return Ok(());
    }
    let violations = violations(&picture)?;
    print!("{}\n{}", report::matrix(&picture), report::details(&picture));
    ensure!(violations.is_empty(), "{}", violations.join("\n"));
    Ok(())
}

/// The product as it is in the repository.
fn picture() -> Result<Picture> {
    let source = source_folder();
    let table = fs::read_to_string(crate::repository().join(table::FILE)).context(table::FILE)?;
    draw(&|file: &Path| fs::read_to_string(source.join(file)).ok(), Table::parse(&table)?)
}

fn source_folder() -> PathBuf {
    crate::repository().join("reloader/src")
}

fn draw(source: Source, table: Table) -> Result<Picture> {
    let tree = Tree::read(source)?;
    let arrows = Arrows::collect(&tree);
    Ok(Picture { tree, arrows, table })
}

/// What is wrong with the picture, and the files that it leaves out.
fn violations(picture: &Picture) -> Result<Vec<String>> {
    let mut violations = picture.violations();
    let read = picture.tree.files();
    let folder = source_folder();
    let unread =
        files_below(&folder)?.into_iter().filter(|file| !read.contains(file.strip_prefix(&folder).unwrap_or(file)));
    violations.extend(unread.map(|file| format!("no module declares {}", file.display())));
    Ok(violations)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
