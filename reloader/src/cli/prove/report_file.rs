//! The report's file: there whole, or not at all.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// A file beside the one that it will become.
pub(super) struct ReportFile {
    path: PathBuf,
    file: NamedTempFile,
}

impl ReportFile {
    /// Before the load: what cannot be written should not cost a run.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn prepare(path: &Path) -> Result<ReportFile, String> {
        let failed = |reason: &dyn std::fmt::Display| format!("--report {}: {reason}", path.display());
        // A device or a pipe would be replaced by a file.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(failed(&"it is there already, and is no file; name another"));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = Builder::new()
            .prefix(".reloader-prove-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(directory)
            .map_err(|error| failed(&format!("cannot write to {}: {error}", directory.display())))?;
        Ok(ReportFile { path: path.to_owned(), file })
    }

    /// Writes it, in place of what was there.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn write(mut self, text: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("--report {}: {error}", self.path.display());
        self.file.write_all(text.as_bytes()).map_err(failed)?;
        self.file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_a_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        std::fs::write(&path, "old").unwrap();
        ReportFile::prepare(&path).unwrap().write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        drop(ReportFile::prepare(&path).unwrap());
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left of one that was not written"
        );
        for (path, reason) in [
            (Path::new("/dev/null"), "no file"),
            (directory.path(), "no file"),
            (&directory.path().join("missing/report.html"), "No such file"),
        ] {
            let told = ReportFile::prepare(path).err().unwrap();
            assert!(told.contains(reason) && told.contains("--report"), "{told}");
        }
    }
}
