//! Refuses directories that other users may write to: such a user could have root signal any process.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Refuses a directory that others own or may write to. One that is not there yet is made by us.
///
/// # Errors
/// Where other users may write there, as the end of a sentence that begins with its name; and where it cannot be looked at.
pub(crate) fn refuse_others_writing(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if is_own && metadata.permissions().mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::other(
        "it is there, and others own it or may write to it: give it to root with mode 0755, or name another directory",
    ))
}
