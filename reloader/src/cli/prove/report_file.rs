//! The report's file: there whole, or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Before the load: what cannot be written should not cost a run. Nothing is left of it: whoever kills the load finds nothing behind.
///
/// # Errors
/// A sentence.
pub(super) fn check(path: &Path) -> Result<(), String> {
    // A device or a pipe would be replaced by a file.
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(format!("--report {}: it is there already, and is no file; name another", path.display()));
    }
    let directory = directory(path);
    draft(directory)
        .map(drop)
        .map_err(|error| format!("--report {}: cannot write to {}: {error}", path.display(), directory.display()))
}

/// Writes it, in place of what was there.
///
/// # Errors
/// A sentence.
pub(super) fn write(path: &Path, text: &str) -> Result<(), String> {
    replace(path, text).map_err(|error| format!("--report {}: {error}", path.display()))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut draft = draft(directory(path))?;
    draft.write_all(text.as_bytes())?;
    // What a network's file system cannot store it may say only now.
    draft.as_file().sync_all()?;
    draft.persist(path)?;
    Ok(())
}

/// A file beside the one that it will become.
fn draft(directory: &Path) -> io::Result<NamedTempFile> {
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
    fn a_report_replaces_a_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let path = directory.path().join("report.html");
        check(&path).unwrap();
        assert_eq!(files(), 0, "nothing is left of the check");
        std::fs::write(&path, "old").unwrap();
        check(&path).unwrap();
        write(&path, "new").unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), files()), ("new", 1));
        // As the umask has it, which a file of any other program has too.
        std::fs::write(directory.path().join("other"), "").unwrap();
        let mode = |name: &str| directory.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("report.html"), mode("other"));
        for (path, reason) in [
            (Path::new("/dev/null"), "no file"),
            (directory.path(), "no file"),
            (&directory.path().join("missing/report.html"), "No such file"),
        ] {
            let told = check(path).unwrap_err();
            assert!(told.contains(reason) && told.contains("--report"), "{told}");
        }
    }
}
