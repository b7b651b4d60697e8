//! Finds a network namespace through anything in `/proc` that keeps it alive, and compares pid namespaces.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::pids;

/// Opens the network namespace with this inode. It is looked for at `path`, and then among all that keeps a namespace alive:
/// threads, open files, and mounts (`ip netns`, a container engine). `None` if it no longer exists.
///
/// # Errors
/// The namespace exists and cannot be opened.
pub fn network_namespace(inode: u64, path: Option<&Path>) -> io::Result<Option<fs::File>> {
    let mut refused = Ok(None);
    let mut opened = |path: &Path| match fs::File::open(path) {
        Ok(file) => file.metadata().is_ok_and(|found| found.ino() == inode).then_some(file),
        Err(error) => {
            // A process that has just ended keeps no namespace.
            if error.kind() != io::ErrorKind::NotFound {
                refused = Err(error);
            }
            None
        }
    };
    let named =
        ["/run/netns", "/var/run/netns"].iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
    let named = path.map(Path::to_owned).into_iter().chain(named.flatten().map(|entry| entry.path()));
    for path in named.filter(|path| fs::metadata(path).is_ok_and(|found| found.ino() == inode)) {
        if let Some(file) = opened(&path) {
            return Ok(Some(file));
        }
    }
    let name = format!("net:[{inode}]");
    let mut looked_at = HashSet::new();
    for pid in pids() {
        let of = |what: &str| PathBuf::from(format!("/proc/{pid}/{what}"));
        let links = links(&of("task"), Some("ns/net")).chain(links(&of("fd"), None));
        let kept = links.filter(|link| fs::read_link(link).is_ok_and(|target| target.as_os_str() == name.as_str()));
        // Most processes share a mount namespace. Each is read once.
        let mounts = fs::read_link(of("ns/mnt")).is_ok_and(|mounts| looked_at.insert(mounts));
        let mounted = mounts.then(|| mounted_at(&of("mountinfo"), &of("root"), &name)).into_iter().flatten();
        if let Some(file) = kept.chain(mounted).find_map(|path| opened(&path)) {
            return Ok(Some(file));
        }
    }
    refused
}

/// Whether the process is in the same pid namespace as this process, and not in one below it. False if that cannot be read.
pub fn shares_processes(pid: u32) -> bool {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    namespace(pid).is_some_and(|found| Some(found) == namespace(std::process::id()))
}

/// The paths of a directory's entries, each with `below` appended.
fn links(directory: &Path, below: Option<&'static str>) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(move |entry| below.map_or_else(|| entry.path(), |below| entry.path().join(below)))
}

/// Where a process has this file of nsfs mounted. In a line of mountinfo the fourth word is what is mounted, the fifth is where
/// (proc_pid_mountinfo(5)).
fn mounted_at(mountinfo: &Path, root: &Path, name: &str) -> Vec<PathBuf> {
    let text = fs::read(mountinfo).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let places = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(3);
        (words.next()? == name).then(|| words.next())?
    });
    places.map(|place| root.join(place.trim_start_matches('/'))).collect()
}
