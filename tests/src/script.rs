//! Writes executable scripts.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Writes a script that every user may run.
pub fn write_script(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("chmod");
}

/// Writes such a script into a directory, and returns its path.
pub fn script_in(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    write_script(&path, text);
    path
}
