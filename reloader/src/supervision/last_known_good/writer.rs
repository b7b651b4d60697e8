//! Writes the copies of a last-known-good configuration whole or not at all.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::syncfs;

use super::contents::{self, Contents, CopiedFrom};
use crate::fs::read_plain;
use crate::haproxy::pinned::{Copies, Originals, key_of, place_of};
use crate::haproxy::scan::Source;
use crate::receipt::FileDigest;

/// The configuration as HAProxy starts from it, in the directory of the copies.
pub(super) const START: &str = "start";
/// Copies of the files that the configuration names.
const FILES: &str = "files";
/// What the copies are called while new ones take their place.
const OLD: &str = "old";
/// What new copies are called while they are written.
const NEW: &str = "new";
/// Up to this many files are written to the disk one by one, more of them all at once.
const MAX_SINGLE_SYNCS: usize = 64;

/// Copies that are being written.
struct Writer {
    /// Where they are to be.
    directory: PathBuf,
    /// Where they are written first.
    fresh: PathBuf,
    /// The digests of the originals, by path.
    originals: HashMap<String, FileDigest>,
    /// Those of an earlier save, whose copies are there.
    earlier: HashMap<String, FileDigest>,
    /// The digest behind each copy of a file that the configuration names.
    places: HashMap<PathBuf, FileDigest>,
    written: usize,
}

/// Makes `from.directory` the copies of `sources`, unless it has them. Returns what it has then, and whether that is new. With `writes_all` nothing
/// of the earlier copies is kept: they may be damaged. It blocks.
///
/// # Errors
/// The file system's, or that a file changed since its digest was made.
pub(super) fn save(
    sources: &[Source],
    working_dir: &Path,
    from: CopiedFrom,
    writes_all: bool,
) -> io::Result<(Contents, bool)> {
    let directory = from.directory.clone();
    let earlier = Contents::read(&directory).filter(|_| !writes_all);
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.source == from) {
        return Ok((earlier.clone(), false));
    }
    let files = from.with_files.then(|| directory.join(FILES));
    let originals = from.digests();
    let copies = Copies::plan(&Originals { sources, working_dir, digests: &originals }, files.as_deref());
    let fresh = directory.with_extension(NEW);
    remove(&fresh)?;
    let earlier = earlier.map(|earlier| earlier.source.digests()).unwrap_or_default();
    let mut writer = Writer { directory, fresh, originals, earlier, places: HashMap::new(), written: 0 };
    writer.write(sources, &copies)?;
    let contents = Contents { source: from, too_large: copies.too_large, not_pinned: copies.not_pinned };
    writer.write_file(contents::NAME.as_ref(), &serde_json::to_vec_pretty(&contents)?)?;
    writer.publish()?;
    Ok((contents, true))
}

/// Puts back what a daemon that was killed between two renames has left under another name, and removes other leftovers: they have private keys.
///
/// # Errors
/// The file system's.
pub(super) fn restore(directory: &Path) -> io::Result<()> {
    let old = directory.with_extension(OLD);
    match (directory.is_dir(), old.is_dir()) {
        (true, true) => remove(&old)?,
        (false, true) => fs::rename(old, directory)?,
        (_, false) => {}
    }
    remove(&directory.with_extension(NEW))
}

impl Writer {
    fn write(&mut self, sources: &[Source], copies: &Copies) -> io::Result<()> {
        private_dir(&self.fresh.join(START))?;
        for (number, ((path, original), text)) in sources.iter().zip(&copies.configuration).enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // The number keeps the order of the files. HAProxy also reads the files of a directory in the order of their
            // names.
            let name = format!("{number:04}-{}.cfg", name.trim_end_matches(".cfg"));
            self.write_file(name.as_ref(), original)?;
            self.write_file(&Path::new(START).join(name), text)?;
        }
        let files = self.fresh.join(FILES);
        copies.directories.iter().try_for_each(|directory| make_way(&files, &directory.join("file")))?;
        copies.files.iter().try_for_each(|(original, text)| self.copy(original, text.as_deref()))
    }

    /// Copies a file. `text` is what the copy has instead.
    fn copy(&mut self, original: &Path, text: Option<&[u8]>) -> io::Result<()> {
        let changed = || io::Error::other(format!("{} changed while HAProxy read it", original.display()));
        let place = place_of(original).ok_or_else(changed)?;
        make_way(&self.fresh.join(FILES), original)?;
        let path = key_of(original);
        let wanted = self.originals.get(&path).cloned().ok_or_else(changed)?;
        match self.places.insert(place.clone(), wanted.clone()) {
            Some(known) if known.sha256 == wanted.sha256 => return Ok(()),
            Some(known) => {
                let message = format!("{} and {} would have the same copy", known.path, original.display());
                return Err(io::Error::other(message));
            }
            None => {}
        }
        let place = Path::new(FILES).join(place);
        let is_known = self.earlier.get(&path) == Some(&wanted);
        if text.is_none() && is_known && fs::hard_link(self.directory.join(&place), self.fresh.join(&place)).is_ok() {
            return Ok(());
        }
        let bytes = read_plain(original, wanted.bytes.unwrap_or_default())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", original.display())))?;
        if FileDigest::new(original, &bytes) != wanted {
            return Err(changed());
        }
        self.write_file(&place, text.unwrap_or(&bytes))
    }

    /// Writes a new file.
    fn write_file(&mut self, place: &Path, bytes: &[u8]) -> io::Result<()> {
        // The originals may be readable by root only: they hold passwords and keys.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.fresh.join(place))?;
        file.write_all(bytes)?;
        self.written += 1;
        // A power cut after the renames must not leave empty copies under the good name.
        if self.written <= MAX_SINGLE_SYNCS { file.sync_all() } else { Ok(()) }
    }

    /// Puts the copies in the place of the earlier ones.
    fn publish(&self) -> io::Result<()> {
        if self.written > MAX_SINGLE_SYNCS {
            syncfs(File::open(&self.fresh)?)?;
        }
        let old = self.directory.with_extension(OLD);
        if self.directory.is_dir() {
            remove(&old)?;
            fs::rename(&self.directory, &old)?;
        }
        if let Err(error) = fs::rename(&self.fresh, &self.directory) {
            restore(&self.directory)?;
            return Err(error);
        }
        remove(&old)
    }
}

/// Makes the directories on the way to a file's copy, also those that the name of the file leaves again.
fn make_way(files: &Path, original: &Path) -> io::Result<()> {
    let mut way = PathBuf::new();
    private_dir(files)?;
    for component in original.parent().into_iter().flat_map(Path::components) {
        match component {
            Component::Normal(name) => {
                way.push(name);
                private_dir(&files.join(&way))?;
            }
            Component::ParentDir => {
                way.pop();
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    Ok(())
}

fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
