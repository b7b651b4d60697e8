//! Gives unix paths back to the generation that serves, where an earlier daemon was killed while the next generation had bound them again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::Address;
use crate::process::{SocketOwner, run_blocking};
use crate::reload::protection::replaced::until_accepted;
use crate::supervision::give_path_back;

/// The sockets of a generation's processes, by inode.
type Sockets = HashMap<u64, SocketOwner>;

/// Gives the paths of the `serving` generation back, where they lead to a socket of another generation, which is about to be asked to end, or to
/// one that no process has. Waits until the other generation has accepted what came to it meanwhile, no longer than `timeout`.
pub(super) async fn give_back(serving: Sockets, others: Sockets, machine: Vec<ListenSocket>, timeout: Duration) {
    let given = run_blocking(move || {
        let taken = taken(&serving, &others, &machine);
        let given = taken.into_iter().filter(|taken| give_path_back(taken.path, taken.file));
        given.filter_map(|taken| taken.noted().by).collect()
    });
    let given: HashSet<u64> = given.await;
    for socket in given {
        until_accepted(socket, timeout).await;
    }
}

/// A path that leads away from the socket that has served it.
#[derive(Debug, PartialEq)]
struct Taken<'a> {
    path: &'a Path,
    /// The inode of the file of the socket that has served it.
    file: u32,
    /// The socket of another generation to which it leads. `None` where no process listens there.
    by: Option<u64>,
}

impl Taken<'_> {
    fn noted(self) -> Self {
        log::warn!(
            "{}: an earlier daemon was killed while the next generation bound it again; it is given back to the serving generation",
            self.path.display()
        );
        self
    }
}

fn taken<'a>(serving: &Sockets, others: &Sockets, machine: &'a [ListenSocket]) -> Vec<Taken<'a>> {
    let served = machine.iter().filter(|socket| serving.contains_key(&socket.inode));
    let found = served.filter_map(|socket| {
        let (Address::Unix(path), Some(file)) = (&socket.address, &socket.file) else { return None };
        let there = fs::metadata(path).ok()?.ino() as u32;
        let leads_there = |other: &&ListenSocket| other.file.as_ref().is_some_and(|file| file.inode == there);
        let by = machine.iter().find(leads_there).map(|other| other.inode);
        // Another server has the path now, or it leads where it did.
        if by.is_some_and(|by| !others.contains_key(&by)) {
            return None;
        }
        Some(Taken { path, file: file.inode, by })
    });
    found.collect()
}
