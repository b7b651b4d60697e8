//! Keeps custody: the daemon's own duplicates of the serving generation's listeners.
//!
//! If only the daemon has a listening socket, its clients hang: the kernel completes their handshakes, but no process accepts them.
//! So custody follows the serving generation: it drops each listener that the generation closes. It drops all listeners when no
//! generation has served for a long time.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use socket2::SockRef;

use crate::kernel::sock_diag::ListenSocket;
use crate::model::SocketMetadata;
use crate::model::listener::{Address, Endpoint, Listener, Role};
use crate::process::{self, DescriptorTables, Handle, SocketOwner};
use crate::sockets::description::describe;
use crate::sys;

/// At most this many listeners are asked for an option that only explains a doubt.
const MAX_ASKED: usize = 512;

/// A socket that the broker offers to the next generation, and the metadata that is sent with it.
pub type OfferedSocket = (Arc<OwnedFd>, SocketMetadata);

/// One listener in custody.
#[derive(Debug, Clone)]
pub struct KeptSocket {
    /// The listener's endpoint and inode.
    pub listener: Listener,
    /// The role of the listener.
    pub role: Role,
    /// The daemon's duplicate of the listener.
    pub fd: Arc<OwnedFd>,
    /// The metadata that is sent with the descriptor.
    pub metadata: SocketMetadata,
}

impl KeptSocket {
    /// True if the listener has SO_REUSEPORT, so that other sockets may be bound to the same address.
    pub fn shares_its_address(&self) -> bool {
        SockRef::from(&*self.fd).reuse_port().is_ok_and(|shares| shares)
    }
}

/// All listeners in custody, and the owner (process and descriptor) of each listener of the serving generation. The owners include those
/// of listeners that are not in custody.
#[derive(Debug, Clone, Default)]
pub struct Custody {
    kept: Vec<KeptSocket>,
    owners: HashMap<u64, SocketOwner>,
}

impl Custody {
    /// Custody of `kept`. `owners` has all listeners of the serving generation, by inode. It includes listeners that could not be duplicated.
    pub fn new(kept: Vec<KeptSocket>, owners: HashMap<u64, SocketOwner>) -> Custody {
        Custody { kept, owners }
    }

    /// The listeners in custody.
    pub fn kept(&self) -> &[KeptSocket] {
        &self.kept
    }

    /// True if no listener is in custody.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The sockets that the broker offers to the next generation.
    pub fn offer(&self) -> Vec<OfferedSocket> {
        self.kept.iter().map(|held| (held.fd.clone(), held.metadata.clone())).collect()
    }

    /// The process and descriptor by which the serving generation owns this listener.
    pub fn owner(&self, inode: u64) -> Option<SocketOwner> {
        self.owners.get(&inode).copied()
    }

    /// The duplicate of a listener of the serving generation: that in custody, or one that is made now.
    ///
    /// # Errors
    /// A sentence.
    pub fn socket_of(&self, inode: u64) -> Result<Arc<OwnedFd>, String> {
        if let Some(kept) = self.kept.iter().find(|kept| kept.listener.inode == inode) {
            return Ok(kept.fd.clone());
        }
        let owner = self.owner(inode).ok_or("the old generation's socket cannot be found")?;
        Handle::duplicate(owner, inode).map(Arc::new).map_err(|error| error.to_string())
    }

    /// Which of these listeners of the serving generation wait with accept(2) until the client has sent data. Those that are not in custody are
    /// duplicated for the question.
    pub fn deferring(&self, inodes: impl Iterator<Item = u64>) -> HashSet<u64> {
        let defers =
            |inode: &u64| self.socket_of(*inode).is_ok_and(|socket| !sys::accept_deferral(socket.as_fd()).is_zero());
        inodes.take(MAX_ASKED).filter(defers).collect()
    }

    /// True if at least one owner still has its listener at the same descriptor.
    pub fn is_still_owned(&self) -> bool {
        DescriptorTables::default().has_any(&self.owners)
    }

    /// Adds each listener of `others` that `sockets` lists and that is not in this custody yet.
    pub fn complete_from(&mut self, others: &[KeptSocket], sockets: &HashMap<u64, SocketOwner>) {
        let own: HashSet<u64> = self.kept.iter().map(|held| held.listener.inode).collect();
        for held in others.iter().filter(|held| !own.contains(&held.listener.inode)) {
            if let Some(owner) = sockets.get(&held.listener.inode) {
                self.owners.insert(held.listener.inode, *owner);
                self.kept.push(held.clone());
            }
        }
    }

    /// The inodes of the listeners in custody that have O_NONBLOCK. The flag belongs to the open file, which the server and the daemon share.
    pub fn nonblocking(&self) -> Vec<u64> {
        self.kept.iter().filter(|held| is_nonblocking(&held.fd)).map(|held| held.listener.inode).collect()
    }

    /// Drops the listeners that are not `wanted`. Their owners stay known.
    pub fn retain(&mut self, wanted: impl FnMut(&KeptSocket) -> bool) {
        self.kept.retain(wanted);
    }

    /// Drops all listeners and forgets their owners.
    pub fn drop_all(&mut self) {
        *self = Custody::default();
    }

    /// Compares custody with the listeners that the serving generation owns now. Drops each listener that the generation closed by itself.
    ///
    /// `sentinel` is the inode of the sentinel listener, which the generation closes only when it stops. With `None`, the generation serves as
    /// long as it owns any listener. `tree` lists the generation's processes. It is called only if an owner no longer has its listener at the
    /// same descriptor. So the usual cost is one readlink for each listener, not one for each connection.
    pub fn follow(&mut self, sentinel: Option<u64>, tree: impl FnOnce() -> Vec<u32>) -> Followed {
        let mut tables = DescriptorTables::default();
        if self.owners.iter().all(|(inode, owner)| tables.socket_at(*owner) == Some(*inode)) {
            return Followed::Unchanged;
        }
        let sockets = process::sockets_of(&tree());
        let owners: HashSet<u32> = self.owners.values().map(|owner| owner.pid).collect();
        let owners_show_nothing = !sockets.values().any(|owner| owners.contains(&owner.pid));
        let inodes: Vec<u64> = self.owners.keys().copied().collect();
        match followed(&inodes, &sockets.keys().copied().collect(), sentinel, owners_show_nothing) {
            Followed::Closed(_) => Followed::Closed(self.let_go(&sockets)),
            Followed::Unchanged => {
                // Another process of the tree owns the listeners now: a master started a new worker.
                let found = inodes.iter().map(|inode| (*inode, sockets[inode]));
                self.owners = found.collect();
                Followed::Unchanged
            }
            other => other,
        }
    }

    fn let_go(&mut self, sockets: &HashMap<u64, SocketOwner>) -> Vec<u64> {
        let closed = self.owners.keys().copied().filter(|inode| !sockets.contains_key(inode)).collect();
        self.kept.retain(|held| sockets.contains_key(&held.listener.inode));
        self.owners.retain(|inode, _| sockets.contains_key(inode));
        self.owners.iter_mut().for_each(|(inode, owner)| *owner = sockets[inode]);
        closed
    }
}

fn is_nonblocking(socket: &OwnedFd) -> bool {
    fcntl_getfl(socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// Sets O_NONBLOCK, which applies to all processes that have the socket. True if this call changed the flag.
pub fn make_nonblocking(socket: &OwnedFd) -> bool {
    let Ok(flags) = fcntl_getfl(socket) else { return false };
    !flags.contains(OFlags::NONBLOCK) && fcntl_setfl(socket, flags | OFlags::NONBLOCK).is_ok()
}

/// The result of [`Custody::follow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The generation still owns all its listeners.
    Unchanged,
    /// The owners' descriptors are gone: the generation is ending. The kernel empties a process's descriptor table before it closes the
    /// sockets, and long before it reports the end of the process (`exit_files` in `do_exit`). So custody must drop nothing now.
    Ending,
    /// The generation closed its sentinel listener, or without a sentinel all its listeners: another process told it to stop.
    StoppedListening,
    /// The generation closed these listeners (inodes) by itself, and continues to serve.
    Closed(Vec<u64>),
}

/// Decides for [`Custody::follow`]. The list in `Closed` is empty; the caller fills it. Pure.
fn followed(held: &[u64], owned: &HashSet<u64>, sentinel: Option<u64>, owners_show_nothing: bool) -> Followed {
    if held.iter().all(|inode| owned.contains(inode)) {
        return Followed::Unchanged;
    }
    if owners_show_nothing {
        return Followed::Ending;
    }
    match sentinel {
        None if !held.iter().any(|inode| owned.contains(inode)) => Followed::StoppedListening,
        Some(sentinel) if !owned.contains(&sentinel) => Followed::StoppedListening,
        _ => Followed::Closed(Vec::new()),
    }
}

/// Listeners in custody that the kernel has just listed. A duplicate of one of them is described without a question to the kernel.
///
/// The inode, the address and the kind of a listening socket stay the same for as long as a process has it open, and custody has it open. The
/// kernel's list says that it still listens, and that no device was set since.
#[derive(Debug, Default)]
pub struct KnownListeners<'a>(HashMap<u64, &'a Listener>);

impl<'a> KnownListeners<'a> {
    /// Those of `kept` that `machine` lists. The names of devices, files and network namespaces can change: such listeners are left out.
    pub fn new(kept: &'a [KeptSocket], machine: &[ListenSocket]) -> KnownListeners<'a> {
        let listed: HashMap<u64, &ListenSocket> = machine.iter().map(|found| (found.inode, found)).collect();
        let is_listed = |listener: &&Listener| {
            let Endpoint { address, interface, netns, .. } = &listener.endpoint;
            let is_nameless = matches!(address, Address::Inet(_)) && interface.is_none() && netns.is_none();
            let found = listed.get(&listener.inode).filter(|_| is_nameless);
            found.is_some_and(|found| found.interface == 0 && found.address == *address)
        };
        let known = kept.iter().map(|kept| &kept.listener).filter(is_listed);
        KnownListeners(known.map(|listener| (listener.inode, listener)).collect())
    }

    fn listener(&self, fd: BorrowedFd<'_>, record: &SocketMetadata) -> Option<Listener> {
        if self.0.is_empty() || !record.netns.is_empty() || !record.interface.is_empty() {
            return None;
        }
        let inode = rustix::fs::fstat(fd).ok()?.st_ino;
        self.0.get(&inode).map(|listener| (*listener).clone())
    }
}

/// Makes kept sockets of received sockets. Closes a socket that is not a listener or is not `wanted`.
pub fn take_in(
    sockets: Vec<(OwnedFd, SocketMetadata)>,
    known: &KnownListeners<'_>,
    wanted: impl Fn(&Listener) -> bool,
    role: impl Fn(&Address) -> Role,
) -> Vec<KeptSocket> {
    let described = sockets.into_iter().filter_map(|(fd, mut record)| {
        let listener = known.listener(fd.as_fd(), &record).or_else(|| describe(fd.as_fd(), &record));
        let listener = listener.filter(&wanted)?;
        // HAProxy sends the interface of its TCP sockets only, but the new HAProxy compares it for QUIC sockets too. Without the name it
        // would bind a QUIC listener with an unchanged `interface` again. A listener whose `interface` was removed would keep its socket,
        // which is still bound to the interface.
        if record.interface.is_empty() {
            record.interface = listener.endpoint.interface.clone().unwrap_or_default().into_bytes();
        }
        let role = role(&listener.endpoint.address);
        Some(KeptSocket { listener, role, fd: Arc::new(fd), metadata: record })
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::sock_diag;

    fn held(socket: impl Into<OwnedFd>) -> KeptSocket {
        let sockets = vec![(socket.into(), SocketMetadata::default())];
        take_in(sockets, &KnownListeners::default(), |_| true, |_| Role::Traffic).remove(0)
    }

    #[test]
    fn a_listener_is_described_from_its_descriptor() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let held = held(socket);
        assert_eq!(held.listener.endpoint, Endpoint::stream(Address::Inet(address)));
        assert_eq!(rustix::fs::fstat(&*held.fd).unwrap().st_ino, held.listener.inode);
    }

    #[test]
    fn socket_that_does_not_listen_is_not_kept() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let sockets = vec![(one.into(), SocketMetadata::default())];
        assert!(take_in(sockets, &KnownListeners::default(), |_| true, |_| Role::Traffic).is_empty());
    }

    #[test]
    fn listener_in_custody_is_known_only_while_the_kernel_lists_it_as_it_was() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let kept = [held(socket.try_clone().unwrap())];
        let listed = sock_diag::tcp_listeners().unwrap();
        let known = |machine: &[ListenSocket], record: &SocketMetadata| {
            KnownListeners::new(&kept, machine).listener(socket.as_fd(), record)
        };
        let plain = SocketMetadata::default();
        assert_eq!(known(&listed, &plain).as_ref(), Some(&kept[0].listener));
        assert_eq!(known(&[], &plain), None);
        let changed = |change: fn(&mut ListenSocket)| {
            let mut changed = listed.clone();
            changed.iter_mut().for_each(change);
            known(&changed, &plain)
        };
        assert_eq!(changed(|found| found.interface = 1), None);
        assert_eq!(changed(|found| found.address = Address::Inet("127.0.0.1:1".parse().unwrap())), None);
        assert_eq!(changed(|found| found.inode += 1 << 40), None);
        assert_eq!(known(&listed, &SocketMetadata { netns: b"blue".to_vec(), ..plain.clone() }), None);
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(KnownListeners::new(&kept, &listed).listener(other.as_fd(), &plain), None);
    }

    #[test]
    fn owned_listeners_missing_from_custody_are_added_from_another_custody() {
        let listening = || held(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let inode = |held: &KeptSocket| held.listener.inode;
        let (own, lacking, not_owned) = (listening(), listening(), listening());
        let owner = SocketOwner::of_process(std::process::id(), 3);
        let sockets = HashMap::from([(inode(&own), owner), (inode(&lacking), owner)]);
        let mut custody = Custody::new(vec![own.clone()], HashMap::from([(inode(&own), owner)]));
        custody.complete_from(&[own.clone(), lacking.clone(), not_owned], &sockets);
        assert_eq!(custody.kept().iter().map(inode).collect::<Vec<_>>(), [inode(&own), inode(&lacking)]);
        assert_eq!(custody.owner(inode(&lacking)), Some(owner));
    }

    #[test]
    fn cleared_flag_is_seen_and_set_again() {
        let [waits, does_not] = [0, 1].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        does_not.set_nonblocking(true).unwrap();
        let sockets = [&waits, &does_not].map(|socket| held(socket.try_clone().unwrap()));
        let custody = Custody::new(sockets.into(), HashMap::new());
        let [_, second] = custody.kept() else { panic!() };
        assert_eq!(custody.nonblocking(), [second.listener.inode]);
        assert!(!make_nonblocking(&second.fd));
        does_not.set_nonblocking(false).unwrap();
        assert_eq!(custody.nonblocking(), [0; 0]);
        assert!(make_nonblocking(&second.fd));
        assert_eq!(custody.nonblocking(), [second.listener.inode]);
    }

    #[test]
    fn missing_listener_of_a_serving_generation_was_closed() {
        let owned = |inodes: &[u64]| inodes.iter().copied().collect::<HashSet<u64>>();
        assert_eq!(followed(&[1, 2], &owned(&[1, 2, 9]), Some(9), false), Followed::Unchanged);
        assert_eq!(followed(&[1, 2], &owned(&[1, 9]), Some(9), false), Followed::Closed(vec![]));
        assert_eq!(followed(&[1, 2], &owned(&[9]), Some(9), false), Followed::Closed(vec![]));
        assert_eq!(followed(&[1, 2], &owned(&[2, 5]), None, false), Followed::Closed(vec![]));
        assert_eq!(followed(&[1, 2], &owned(&[5]), None, false), Followed::StoppedListening);
    }

    #[test]
    fn ending_or_stopped_generation_closes_no_listener_by_itself() {
        assert_eq!(followed(&[1, 2], &HashSet::new(), Some(9), true), Followed::Ending);
        // A worker ends while its master lives: the master still has other sockets.
        assert_eq!(followed(&[1, 2], &HashSet::from([5]), Some(9), true), Followed::Ending);
        assert_eq!(followed(&[1, 2], &HashSet::from([5]), Some(9), false), Followed::StoppedListening);
    }

    #[test]
    fn ended_process_takes_nothing_out_of_custody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = held(listener.try_clone().unwrap());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let owner = SocketOwner::of_process(child.id(), 3);
        child.wait().unwrap();
        let inode = held.listener.inode;
        let mut custody = Custody::new(vec![held], HashMap::from([(inode, owner)]));
        assert_eq!(custody.follow(Some(1), || vec![owner.pid]), Followed::Ending);
        assert_eq!(custody.kept().len(), 1);
    }

    #[test]
    fn sockets_that_moved_to_another_process_are_followed_there() {
        use std::os::fd::AsRawFd;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let copy = held(listener.try_clone().unwrap());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (inode, own) = (copy.listener.inode, std::process::id());
        let mut custody = Custody::new(vec![copy], HashMap::from([(inode, SocketOwner::of_process(child.id(), 3))]));
        assert_eq!(custody.follow(Some(1), || vec![own]), Followed::Unchanged);
        assert_eq!(custody.owners[&inode].pid, own);
        assert!([listener.as_raw_fd(), custody.kept[0].fd.as_raw_fd()].contains(&(custody.owners[&inode].fd as i32)));
        assert_eq!(custody.follow(Some(1), || panic!("it is where it was seen last")), Followed::Unchanged);
    }
}
