//! Writes the archive that a kernel unpacks as its first file system, in cpio's "newc" format.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{major, minor};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_666;

/// An archive under construction.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a file. A path that the archive already has is kept unchanged, here and below.
    pub(super) fn file(&mut self, path: &Path, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, (0, 0), content);
    }

    /// Adds a file of this machine under its own path.
    pub(super) fn copy(&mut self, path: &Path) -> Result<()> {
        // /lib may be a symlink to /usr/lib, as it is in the archive.
        let folder = path.parent().context("a file has a folder")?;
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let target = folder.join(path.file_name().context("a file has a name")?);
        self.copy_to(path, &target)
    }

    /// Adds a file of this machine under another path.
    pub(super) fn copy_to(&mut self, path: &Path, target: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| path.display().to_string())?;
        let permissions = fs::metadata(path)?.permissions().mode() & 0o777;
        self.file(target, permissions, &content);
        Ok(())
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) {
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// Adds a character device with its major and minor number.
    pub(super) fn device(&mut self, path: &Path, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE, number, &[]);
    }

    /// Adds an empty folder.
    pub(super) fn folder(&mut self, path: &Path) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    /// Adds a folder of this machine with its content, except for the paths in the archive that `is_wanted` refuses. Everything belongs to
    /// root.
    pub(super) fn tree(&mut self, folder: &Path, target: &Path, is_wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        self.folder(target);
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let (path, inside) = (entry.path(), target.join(entry.file_name()));
            let (kind, metadata) = (entry.file_type()?, entry.metadata()?);
            if !is_wanted(&inside) {
                continue;
            }
            if kind.is_dir() {
                self.tree(&path, &inside, is_wanted)?;
            } else if kind.is_symlink() {
                self.link(&inside, &fs::read_link(&path)?.to_string_lossy());
            } else if kind.is_char_device() {
                self.device(&inside, (major(metadata.rdev()), minor(metadata.rdev())));
            } else if kind.is_file() {
                self.copy_to(&path, &inside)?;
            }
        }
        Ok(())
    }

    /// Ends the archive and gives its bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.append("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) {
        let name: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if name.as_os_str().is_empty() || self.names.contains(&name) {
            return;
        }
        if let Some(parent) = name.parent() {
            self.folder(parent);
        }
        self.append(&name.to_string_lossy(), mode, device, content);
        self.names.insert(name);
    }

    fn append(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let inode = self.names.len() as u32 + 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        self.bytes.extend(b"070701");
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_precede_their_content_and_no_path_repeats() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b"), 0o644, b"content");
        archive.file(Path::new("/a/b"), 0o644, b"other");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let headers: Vec<_> = text.match_indices("070701").map(|(at, _)| &text[at + 14..at + 22]).collect();
        assert_eq!(headers, ["000041ed", "000081a4", "00000000"]);
        assert!(text.contains("content") && !text.contains("other"));
    }

    #[test]
    fn tree_is_packed_with_links_and_without_unwanted_paths() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("etc/doc")).unwrap();
        fs::write(folder.path().join("etc/file"), "the content").unwrap();
        fs::write(folder.path().join("etc/doc/text"), "unwanted").unwrap();
        std::os::unix::fs::symlink("etc/file", folder.path().join("link")).unwrap();
        let mut archive = Archive::default();
        archive.tree(folder.path(), Path::new("/root"), &|path| !path.ends_with("doc")).unwrap();
        let text = String::from_utf8(archive.finish()).unwrap();
        assert!(text.contains("root/etc/file\0") && text.contains("the content") && text.contains("root/link\0"));
        assert!(!text.contains("unwanted") && !text.contains("doc"));
    }
}
