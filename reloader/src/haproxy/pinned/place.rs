//! Where the copy of a file is. Pure.

use std::path::{Component, Path, PathBuf};

/// The path by which the digest of a file is found: `/a/./b` is `/a/b`.
pub(crate) fn key_of(file: &Path) -> String {
    file.components().collect::<PathBuf>().display().to_string()
}

/// The place of a file's copy, relative to the directory of the copies. `None` if it is outside.
pub(crate) fn place_of(file: &Path) -> Option<PathBuf> {
    let mut place = PathBuf::new();
    for component in file.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::ParentDir if !place.pop() => return None,
            Component::Prefix(_) => return None,
            Component::ParentDir | Component::RootDir | Component::CurDir => {}
        }
    }
    (!place.as_os_str().is_empty()).then_some(place)
}

/// Whether HAProxy reads the path as one word, or as part of one, wherever it stands.
pub(super) fn is_plain(path: &Path) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+=@:~".contains(byte);
    path.is_absolute() && path.as_os_str().as_encoded_bytes().iter().all(is_plain)
}
