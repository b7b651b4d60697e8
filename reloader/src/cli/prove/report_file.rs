//! Writes the report's file, completely or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Checks before the load begins that the report can be written, so that no run is wasted on a bad path. The check leaves no file behind.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn check(path: &Path) -> Result<(), String> {
    // The rename would replace a device or a pipe by a regular file.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(format!("--report {}: it exists and is not a regular file; name another path", path.display()));
    }
    let directory = directory(path);
    create_draft(directory)
        .map(drop)
        .map_err(|error| format!("--report {}: cannot write to {}: {error}", path.display(), directory.display()))
}

/// Writes the file, and replaces an existing one.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    replace(path, text).map_err(|error| format!("--report {}: {error}", path.display()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = create_draft(directory(path))?;
    draft.write_all(text.as_bytes())?;
    // A network file system may report only now that it cannot store the data.
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    Ok(())
}

/// A temporary file in the directory of the report, to be renamed to it.
fn create_draft(directory: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".reloader-prove-").permissions(Permissions::from_mode(0o666)).tempfile_in(directory)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_replaces_a_regular_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let path = directory.path().join("report.html");
        check(&path).unwrap();
        assert_eq!(files(), 0, "the check leaves nothing behind");
        std::fs::write(&path, "old").unwrap();
        check(&path).unwrap();
        write(&path, "new").unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), files()), ("new", 1));
        // The umask applies as to the files of any other program.
        std::fs::write(directory.path().join("other"), "").unwrap();
        let mode = |name: &str| directory.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("report.html"), mode("other"));
        for (path, reason) in [
            (Path::new("/dev/null"), "not a regular file"),
            (directory.path(), "not a regular file"),
            (&directory.path().join("missing/report.html"), "No such file"),
        ] {
            let message = check(path).unwrap_err();
            assert!(message.contains(reason) && message.contains("--report"), "{message}");
        }
    }
}
