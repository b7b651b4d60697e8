//! Lets the service manager keep custody while no daemon runs: systemd's file descriptor store (sd_notify(3), `FDSTORE=1`).
//!
//! HAProxy keeps its listeners while the daemon is restarted. If HAProxy dies in that time, the store still keeps the
//! listeners, and the next daemon starts a generation from them. systemd empties the store when the unit stops for good.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::notify;
use crate::model::SocketMetadata;
use crate::model::listener::{Listener, Role};
use crate::sockets::custody::{Custody, KeptSocket, KnownListeners, take_in};

/// The longest name that systemd takes (`fdname_is_valid`).
const LONGEST_NAME: usize = 255;

/// The variable that says how many sockets the store takes (`FileDescriptorStoreMax=`). systemd sets it from version 254 on; for earlier versions
/// the unit does.
pub(crate) const CAPACITY: &str = "FDSTORE";

/// One service's share of the store.
#[derive(Debug, Default)]
pub(crate) struct FdStore {
    service: String,
    /// The room in the store, shared by all services. `None` if there is no store.
    room: Option<Arc<Room>>,
    /// Names by inode.
    stored: BTreeMap<u64, String>,
    /// True if a socket was taken out that systemd may not have closed yet.
    unsettled: bool,
    /// True once the log says that there is no room.
    is_full: bool,
}

/// How many sockets may be in the store.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

impl Room {
    /// The room that the unit allows. `None` if there is no store.
    pub(crate) fn from_environment() -> Option<Arc<Room>> {
        let room = std::env::var(CAPACITY).ok()?.parse().ok().filter(|room| *room > 0)?;
        Some(Arc::new(Room(AtomicUsize::new(room))))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1)).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl FdStore {
    /// Opens the share of one service. Returns it with the sockets that an earlier daemon stored for the service. Sockets
    /// with the service's name are removed from `received`.
    pub(crate) fn open(
        service: &str,
        room: Option<Arc<Room>>,
        received: &mut Vec<(String, OwnedFd)>,
    ) -> (FdStore, Vec<KeptSocket>) {
        let mut store = FdStore { service: service.into(), room, ..FdStore::default() };
        let (own, others) = std::mem::take(received)
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| Label::parse(name).is_some_and(|label| label.service == service));
        *received = others;
        let mut found = Vec::new();
        for (name, fd) in own {
            let Some(label) = Label::parse(&name) else { continue };
            if !store.room.as_ref().is_some_and(|room| room.take()) {
                notify::forget(&name);
                continue;
            }
            store.stored.insert(label.inode, name);
            let is_it = |listener: &Listener| listener.inode == label.inode;
            found.extend(take_in(vec![(fd, label.record)], &KnownListeners::default(), is_it, |_| label.role));
        }
        (store, found)
    }

    /// Makes the service's share of the store equal to custody.
    pub(crate) fn follow(&mut self, custody: &Custody) {
        let Some(room) = &self.room else { return };
        let kept: HashSet<u64> = custody.kept().iter().map(|held| held.listener.inode).collect();
        let is_held = |inode: &u64| kept.contains(inode);
        let gone: Vec<u64> = self.stored.keys().copied().filter(|inode| !is_held(inode)).collect();
        for name in gone.iter().filter_map(|inode| self.stored.remove(inode)) {
            notify::forget(&name);
            room.give_back();
            self.unsettled = true;
        }
        for held in custody.kept() {
            if self.stored.contains_key(&held.listener.inode) {
                continue;
            }
            let Some(name) = Label::from_kept(&self.service, held).name() else { continue };
            if !room.take() {
                if !std::mem::replace(&mut self.is_full, true) {
                    log::warn!(
                        "{}: {} has no room in the fd store: raise FileDescriptorStoreMax= and FDSTORE in the unit",
                        self.service,
                        held.listener.endpoint
                    );
                }
                return;
            }
            notify::store(&name, &held.fd);
            self.stored.insert(held.listener.inode, name);
        }
        self.is_full = false;
    }

    /// Waits until systemd has closed the sockets that were taken out. A socket that systemd still has would take
    /// connections that no process accepts. It would also prevent a bind to its address.
    pub(crate) async fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            notify::barrier().await;
        }
    }
}

/// The name of an entry. It contains the properties that the socket itself does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Label {
    service: String,
    inode: u64,
    role: Role,
    record: SocketMetadata,
}

impl Label {
    fn from_kept(service: &str, held: &KeptSocket) -> Label {
        // The interface is left out: it can be read from the socket again.
        let record = SocketMetadata { interface: Vec::new(), ..held.metadata.clone() };
        Label { service: service.into(), inode: held.listener.inode, role: held.role, record }
    }

    /// The text of the name. `None` if systemd would not accept it.
    fn name(&self) -> Option<String> {
        let role = match self.role {
            Role::Traffic => "traffic",
            Role::Control => "control",
        };
        let netns = std::str::from_utf8(&self.record.netns).ok()?;
        let name = format!("reloader/{}/{}/{role}/{}/{netns}", self.service, self.inode, self.record.options);
        let is_taken = |byte: u8| (b' '..127).contains(&byte) && byte != b':';
        (name.len() <= LONGEST_NAME && name.bytes().all(is_taken)).then_some(name)
    }

    fn parse(name: &str) -> Option<Label> {
        let mut parts = name.strip_prefix("reloader/")?.splitn(5, '/');
        let service = parts.next()?.to_owned();
        let inode = parts.next()?.parse().ok()?;
        let role = match parts.next()? {
            "traffic" => Role::Traffic,
            "control" => Role::Control,
            _ => return None,
        };
        let options = parts.next()?.parse().ok()?;
        let netns = parts.next()?.as_bytes().to_vec();
        Some(Label { service, inode, role, record: SocketMetadata { netns, interface: Vec::new(), options } })
    }
}

/// Removes the sockets from the store that belong to no service of this daemon.
pub(crate) fn forget(received: Vec<(String, OwnedFd)>) {
    for (name, _) in received.iter().filter(|(name, _)| name.starts_with("reloader/")) {
        log::warn!("{name} was in the fd store, and no service of that name is configured: it is closed");
        notify::forget(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(netns: &str) -> Label {
        let record = SocketMetadata { netns: netns.into(), interface: Vec::new(), options: -3 };
        Label { service: "haproxy".into(), inode: 38164, role: Role::Control, record }
    }

    #[test]
    fn entry_name_round_trips_through_parse() {
        for netns in ["", "blue", "a/b"] {
            assert_eq!(Label::parse(&label(netns).name().unwrap()), Some(label(netns)));
        }
        assert_eq!(label("blue").name().unwrap(), "reloader/haproxy/38164/control/-3/blue");
    }

    #[test]
    fn name_that_systemd_refuses_is_not_stored() {
        assert_eq!(label("a:b").name(), None);
        assert_eq!(label("ä").name(), None);
        assert_eq!(label(&"n".repeat(250)).name(), None);
    }

    #[test]
    fn names_of_others_are_not_read() {
        for name in ["", "http", "reloader/haproxy", "reloader/haproxy/x/traffic/0/", "reloader/haproxy/1/other/0/"] {
            assert_eq!(Label::parse(name), None, "{name}");
        }
    }

    #[test]
    fn stored_socket_is_found_again_by_its_own_service() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
        let name = Label { inode, role: Role::Traffic, ..label("") }.name().unwrap();
        let mut received = vec![(name, OwnedFd::from(listener)), ("http".into(), std::io::pipe().unwrap().0.into())];
        let room = Some(Arc::new(Room(2.into())));
        let (_, others) = FdStore::open("web", room.clone(), &mut received);
        assert!(others.is_empty() && received.len() == 2);
        let (store, found) = FdStore::open("haproxy", room, &mut received);
        assert_eq!((found.len(), received.len(), store.stored.len()), (1, 1, 1));
        assert_eq!((found[0].listener.inode, found[0].metadata.options), (inode, -3));
    }
}
