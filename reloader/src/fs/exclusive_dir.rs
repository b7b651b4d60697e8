//! Refuses directories that other users may write to. Such a user could make root send a signal to any process.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Refuses a directory that other users own or may write to. Accepts a path that does not exist yet: reloader creates that directory itself.
///
/// # Errors
/// Where other users own the directory or may write to it. The error text is the end of a sentence that begins with the name of the
/// directory. Also where the metadata of the directory cannot be read.
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
        "it exists, and other users own it or may write to it: give it to root with mode 0755, or name another directory",
    ))
}
