//! Computes digests of files and folders. What was built from the same content need not be built again.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ring::digest::Context;

/// Adds a file, or all files of a folder in the order of their names, each with its name and length.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn add(context: &mut Context, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    if path.is_dir() {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<_> = entries.with_context(|| path.display().to_string())?;
        paths.sort_by_key(fs::DirEntry::file_name);
        context.update(name);
        return paths.iter().try_for_each(|entry| add(context, &entry.path()));
    }
    let content = fs::read(path).with_context(|| path.display().to_string())?;
    context.update(name);
    context.update(&(content.len() as u64).to_le_bytes());
    context.update(&content);
    Ok(())
}

/// The digest in hexadecimal digits.
pub(crate) fn hexadecimal(context: Context) -> String {
    context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use ring::digest::SHA256;

    use super::*;

    fn digest(path: &Path) -> String {
        let mut context = Context::new(&SHA256);
        add(&mut context, path).unwrap();
        hexadecimal(context)
    }

    #[test]
    fn digest_of_a_folder_depends_on_names_and_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("a", "one");
        file("b", "two");
        let first = digest(folder.path());
        assert_eq!(digest(folder.path()), first);
        file("b", "three");
        let second = digest(folder.path());
        file("b", "two");
        fs::rename(folder.path().join("b"), folder.path().join("c")).unwrap();
        assert!(second != first && digest(folder.path()) != first);
        assert!(add(&mut Context::new(&SHA256), Path::new("/absent")).is_err());
    }
}
