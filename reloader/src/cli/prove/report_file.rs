//! The report's file: there whole, or not at all.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile, TempPath};

const PREFIX: &str = ".reloader-prove-";

/// What becomes a file only when it is written.
pub(super) struct ReportFile {
    path: PathBuf,
    draft: Draft,
}

/// The load may take long, and whoever kills it then should find nothing left behind.
enum Draft {
    Nameless(std::fs::File),
    /// Where the file system has no nameless files (O_TMPFILE), as NFS, or /proc is not there to give one a name.
    Named(NamedTempFile),
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
        let directory = directory(path);
        let draft = Draft::begin(directory)
            .map_err(|error| failed(&format!("cannot write to {}: {error}", directory.display())))?;
        Ok(ReportFile { path: path.to_owned(), draft })
    }

    /// Writes it, in place of what was there.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn write(self, text: &str) -> Result<(), String> {
        let written = self.draft.persist(text, &self.path);
        written.map_err(|error| format!("--report {}: {error}", self.path.display()))
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Draft {
    fn begin(directory: &Path) -> io::Result<Draft> {
        let mode = Mode::from_raw_mode(0o666);
        match rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(file) if by_proc(&file).exists() => Ok(Draft::Nameless(file.into())),
            // EISDIR before Linux 3.11, which takes O_TMPFILE for O_DIRECTORY.
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::ISDIR) => Ok(Draft::Named(
                Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(0o666)).tempfile_in(directory)?,
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// A link does not replace a file: it has a name of its own for as long as a rename takes.
    fn persist(self, text: &str, path: &Path) -> io::Result<()> {
        let named: TempPath = match self {
            Draft::Nameless(mut file) => {
                file.write_all(text.as_bytes())?;
                let link = |name: &Path| link(&file, name);
                Builder::new().prefix(PREFIX).make_in(directory(path), link)?.into_temp_path()
            }
            Draft::Named(mut file) => {
                file.write_all(text.as_bytes())?;
                file.into_temp_path()
            }
        };
        Ok(named.persist(path)?)
    }
}

fn link(file: impl AsFd, name: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(CWD, by_proc(file), CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// What takes no capability to be linked; AT_EMPTY_PATH takes one (open(2), O_TMPFILE).
fn by_proc(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_report_replaces_a_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        std::fs::write(&path, "old").unwrap();
        ReportFile::prepare(&path).unwrap().write("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        for (path, reason) in [
            (Path::new("/dev/null"), "no file"),
            (directory.path(), "no file"),
            (&directory.path().join("missing/report.html"), "No such file"),
        ] {
            let told = ReportFile::prepare(path).err().unwrap();
            assert!(told.contains(reason) && told.contains("--report"), "{told}");
        }
        assert_eq!(files(directory.path()), 1);
    }

    #[test]
    fn a_report_that_is_not_written_leaves_nothing_even_of_one_that_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let prepared = ReportFile::prepare(&directory.path().join("report.html")).unwrap();
        assert_eq!(files(directory.path()), 0);
        drop(prepared);
        assert_eq!(files(directory.path()), 0);
    }

    #[test]
    fn without_nameless_files_it_has_a_name_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        let draft = || Draft::Named(Builder::new().prefix(PREFIX).tempfile_in(directory.path()).unwrap());
        drop(draft());
        assert_eq!(files(directory.path()), 0);
        draft().persist("new", &path).unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), files(directory.path())), ("new", 1));
    }
}
