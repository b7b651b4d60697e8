//! Describes the copies of a last-known-good configuration, for the daemon that finds them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs::read_plain;
use crate::haproxy::pinned::key_of;
use crate::receipt::FileDigest;

/// The name of the description among the copies.
pub(super) const NAME: &str = "contents.json";

/// The longest description that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// What the copies are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Contents {
    pub(super) source: CopiedFrom,
    /// Files that were too large to be copied.
    pub(super) too_large: Vec<String>,
    /// Names that HAProxy still finds outside of the copies.
    pub(super) not_pinned: Vec<String>,
}

/// What the copies were made from. Equal ones make equal copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CopiedFrom {
    /// The directory of the copies, which their texts name.
    pub(super) directory: PathBuf,
    /// Whether the files that the configuration names are copied too.
    pub(super) with_files: bool,
    /// The originals.
    pub(super) configuration: Vec<FileDigest>,
}

impl Contents {
    /// Reads the description in `directory`. `None` if there is none, or an earlier version made the copies.
    pub(super) fn read(directory: &Path) -> Option<Contents> {
        serde_json::from_slice(&read_plain(&directory.join(NAME), LONGEST).ok()?).ok()
    }
}

impl CopiedFrom {
    /// The digests of the originals, by path.
    pub(super) fn digests(&self) -> HashMap<String, FileDigest> {
        self.configuration.iter().map(|file| (key_of(Path::new(&file.path)), file.clone())).collect()
    }
}
