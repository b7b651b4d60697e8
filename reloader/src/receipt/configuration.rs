//! Identifies the configuration that a generation was started from, by a digest of each file.

use std::path::Path;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// A file of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileDigest {
    /// Its path.
    pub path: String,
    /// The SHA-256 of its bytes, in hexadecimal digits. `None` if it could not be read.
    pub sha256: Option<String>,
    /// Its size in bytes.
    pub bytes: Option<u64>,
}

impl FileDigest {
    /// The digest of a file with these bytes.
    pub(crate) fn new(path: &Path, bytes: &[u8]) -> FileDigest {
        let hash = digest(&SHA256, bytes);
        let hexadecimal = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        FileDigest { path: path.display().to_string(), sha256: Some(hexadecimal), bytes: Some(bytes.len() as u64) }
    }

    /// A file that could not be read.
    pub(crate) fn unreadable(path: &Path) -> FileDigest {
        FileDigest { path: path.display().to_string(), sha256: None, bytes: None }
    }
}

/// What changed between two configurations. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// Only the later configuration has it.
    Added,
    /// Only the earlier configuration has it.
    Removed,
    /// Its bytes differ.
    Changed,
}

/// The files in which two configurations differ, by path.
pub fn changes<'a>(before: &'a [FileDigest], after: &'a [FileDigest]) -> Vec<(&'a str, FileChange)> {
    let find = |files: &'a [FileDigest], path: &str| files.iter().find(|file| file.path == path);
    let mut found: Vec<(&str, FileChange)> = Vec::new();
    for file in after {
        match find(before, &file.path) {
            None => found.push((&file.path, FileChange::Added)),
            // A file that could not be read may have changed.
            Some(earlier) if earlier.sha256 != file.sha256 || file.sha256.is_none() => {
                found.push((&file.path, FileChange::Changed));
            }
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|file| find(after, &file.path).is_none());
    found.extend(removed.map(|file| (file.path.as_str(), FileChange::Removed)));
    found.sort_by_key(|(path, _)| *path);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_compared_by_their_bytes() {
        let file = |path: &str, text: &str| FileDigest::new(Path::new(path), text.as_bytes());
        let before = [file("/a", "1"), file("/b", "2"), file("/c", "3")];
        let after = [file("/a", "1"), file("/b", "x"), file("/d", "4")];
        let found = changes(&before, &after);
        assert_eq!(found, [("/b", FileChange::Changed), ("/c", FileChange::Removed), ("/d", FileChange::Added)]);
        assert!(changes(&before, &before).is_empty());
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(file("/e", "").sha256.as_deref(), Some(empty));
    }
}
