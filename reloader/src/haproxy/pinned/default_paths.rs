//! Keeps relative names true in the copies: where `default-path` leads. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::edit::Edit;
use super::place::place_of;
use crate::haproxy::named_files::Names;
use crate::haproxy::overlay::quoted;

/// Keeps relative names true.
pub(super) struct DefaultPaths<'a> {
    /// The directory of the copies, where no relative name leads out of it.
    pub(super) moved_to: Option<&'a Path>,
    /// The directory that the texts before have set.
    pub(super) default_path: Option<PathBuf>,
    /// The originals of the directories that are named.
    pub(super) directories: BTreeSet<PathBuf>,
}

impl DefaultPaths<'_> {
    pub(super) fn edits(&mut self, names: &Names) -> Vec<Edit> {
        let mut edits = Vec::new();
        if let Some(directory) =
            names.begins_in.as_ref().filter(|directory| self.default_path.as_ref() != Some(directory))
        {
            let line = format!("global\n    default-path {}\n", self.origin(directory));
            edits.push(Edit { range: 0..0, text: line.into_bytes() });
        }
        for (range, directory) in &names.default_paths {
            edits.push(Edit { range: range.clone(), text: self.origin(directory).into_bytes() });
        }
        edits
    }

    fn origin(&mut self, directory: &Path) -> String {
        self.default_path = Some(directory.to_owned());
        match self.moved_to.and_then(|copies| Some(copies.join(place_of(directory)?))) {
            Some(moved) => {
                self.directories.insert(directory.to_owned());
                origin(&moved)
            }
            None => origin(directory),
        }
    }
}

fn origin(directory: &Path) -> String {
    format!("origin {}", quoted(&directory.display().to_string()))
}
