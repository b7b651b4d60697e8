//! Keeps hard links to unix sockets, so that their paths can be put back when a server has taken them away.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::model::listener::{Address, Endpoint, Owned};

/// A hard link to each socket, beside its path. They are removed with this value.
#[derive(Debug, Default)]
pub(crate) struct PathLinks(Vec<PathLink>);

#[derive(Debug)]
struct PathLink {
    /// The inode of the socket, not of the file.
    socket: u64,
    path: PathBuf,
    /// `None` once another value owns the link.
    link: Option<PathBuf>,
}

impl Drop for PathLink {
    fn drop(&mut self) {
        let Some(link) = &self.link else { return };
        match fs::remove_file(link) {
            Err(error) if error.kind() != ErrorKind::NotFound => log::warn!("{}: {error}", link.display()),
            _ => {}
        }
    }
}

impl PathLinks {
    /// Links the unix sockets among `listeners`. The second value has a sentence for each that could not be linked.
    pub(crate) fn new(listeners: &[Owned]) -> (PathLinks, Vec<String>) {
        let (mut links, mut notes) = (Vec::new(), Vec::new());
        for owned in listeners {
            let Address::Unix(path) = &owned.listener.endpoint.address else { continue };
            let link = beside(path);
            let _ = fs::remove_file(&link);
            match fs::hard_link(path, &link) {
                Ok(()) => {
                    links.push(PathLink { socket: owned.listener.inode, path: path.clone(), link: Some(link) });
                }
                // There is no path that could be given back.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => notes.push(format!(
                    "{} could not be linked, and will refuse every client if a server takes the path away: {error}",
                    path.display()
                )),
            }
        }
        (PathLinks(links), notes)
    }

    /// Adds links that were made later. Those to the same path have the same name.
    pub(super) fn absorb(&mut self, later: PathLinks) {
        for link in &mut self.0 {
            if later.0.iter().any(|later| later.path == link.path) {
                link.link = None;
            }
        }
        self.0.retain(|link| link.link.is_some());
        self.0.extend(later.0);
    }

    /// Keeps the links of these sockets, and removes the others.
    pub(crate) fn retain(&mut self, sockets: &HashSet<u64>) {
        self.0.retain(|link| sockets.contains(&link.socket));
    }

    /// Gives all paths back to the linked sockets, in one step each. What is there now is replaced.
    pub(crate) fn put_back(&self) {
        for PathLink { path, link, .. } in &self.0 {
            let Some(link) = link else { continue };
            if let Err(error) = fs::rename(link, path) {
                log::error!("{} could not be given back to the old socket: {error}", path.display());
            }
        }
    }

    /// Each link, and the path that it is for.
    pub(super) fn pairs(&self) -> Vec<(PathBuf, PathBuf)> {
        self.0.iter().filter_map(|link| Some((link.link.clone()?, link.path.clone()))).collect()
    }
}

/// Puts the paths back that are gone, by these links. Returns them. It blocks as long as file systems do.
pub(super) fn mend(pairs: &[(PathBuf, PathBuf)]) -> Vec<PathBuf> {
    // An existing file is left alone: link(2) fails.
    pairs.iter().filter(|(link, path)| fs::hard_link(link, path).is_ok()).map(|(_, path)| path.clone()).collect()
}

/// Removes what a daemon that was killed has left beside the paths of these endpoints. A path that is gone is put back first.
pub(crate) fn clean_up(endpoints: impl IntoIterator<Item = Endpoint>) {
    for endpoint in endpoints {
        let Address::Unix(path) = endpoint.address else { continue };
        let link = beside(&path);
        if fs::symlink_metadata(&link).is_ok_and(|found| found.file_type().is_socket()) {
            log::warn!("{}: an earlier daemon left it", link.display());
            let _ = fs::hard_link(&link, path);
            let _ = fs::remove_file(&link);
        }
    }
}

/// Gives a path back to the socket whose file has this inode (its lower 32 bits, as the kernel tells it), if an earlier daemon's link leads
/// to that socket. Returns whether it did.
pub(crate) fn give_back(path: &Path, file: u32) -> bool {
    let link = beside(path);
    let is_its_link =
        fs::symlink_metadata(&link).is_ok_and(|found| found.file_type().is_socket() && found.ino() as u32 == file);
    is_its_link && fs::rename(&link, path).is_ok()
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".reloader");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::model::listener::{Listener, Role};

    fn owned(path: &Path, inode: u64) -> Owned {
        Owned {
            listener: Listener { endpoint: Endpoint::stream(Address::Unix(path.into())), inode },
            role: Role::Traffic,
        }
    }

    #[test]
    fn lost_path_is_put_back_and_other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _first = UnixListener::bind(&path).unwrap();
        let (mut links, notes) = PathLinks::new(&[owned(&path, 1)]);
        let mend = |links: &PathLinks| super::mend(&links.pairs());
        assert!(notes.is_empty() && mend(&links).is_empty());
        fs::remove_file(&path).unwrap();
        assert_eq!(mend(&links), std::slice::from_ref(&path));
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(mend(&links).is_empty());
        fs::remove_file(&path).unwrap();
        assert_eq!(mend(&links), std::slice::from_ref(&path));
        // The links of the next reload have the same names.
        links.absorb(PathLinks::new(&[owned(&path, 1)]).0);
        assert_eq!((links.0.len(), fs::read_dir(directory.path()).unwrap().count()), (1, 2));
        links.retain(&HashSet::from([2]));
        assert!(links.0.is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn path_goes_back_to_the_socket_of_the_link_only() {
        let directory = tempfile::tempdir().unwrap();
        let (path, temporary) = (directory.path().join("socket"), directory.path().join("socket.tmp"));
        let old = UnixListener::bind(&path).unwrap();
        let file = fs::metadata(&path).unwrap().ino() as u32;
        std::mem::forget(PathLinks::new(&[owned(&path, 1)]));
        let new = UnixListener::bind(&temporary).unwrap();
        fs::rename(&temporary, &path).unwrap();
        drop(new);
        assert!(!give_back(&path, file + 1) && UnixStream::connect(&path).is_err());
        assert!(give_back(&path, file));
        UnixStream::connect(&path).unwrap();
        old.accept().unwrap();
        assert!(!give_back(&path, file), "the link is gone");
    }

    #[test]
    fn link_of_a_dead_daemon_puts_the_path_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _first = UnixListener::bind(&path).unwrap();
        std::mem::forget(PathLinks::new(&[owned(&path, 1)]));
        fs::remove_file(&path).unwrap();
        clean_up([Endpoint::stream(Address::Unix(path.clone()))]);
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
