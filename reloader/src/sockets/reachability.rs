//! Judges whether a client that connects to a listener's address reaches the listener's socket.
//!
//! A socket is bound to a device, a file or a network namespace, not to its name. When another device, file or namespace gets the name, the
//! socket listens on, and no client reaches it. The same holds for an address that is taken from the host.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{fstat, major, minor, statfs};

use crate::kernel::sock_diag::{BoundFile, ListenSocket};
use crate::kernel::{addresses, devices};
use crate::model::listener::{Address, Endpoint, Listener, Owned};
use crate::sockets::custody::Custody;
use crate::sys;

/// Why no client reaches a socket by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreachable {
    /// The device that the socket is bound to has gone.
    DeviceGone(String),
    /// The device that the socket is bound to has gone, and another one has its name.
    DeviceReplaced(String),
    /// The path of the socket is gone.
    PathGone(PathBuf),
    /// The path leads to another file.
    PathReplaced(PathBuf),
    /// The network namespace of this name is gone.
    NamespaceGone(String),
    /// Another network namespace has the name.
    NamespaceReplaced(String),
    /// The host does not have the address any more.
    AddressGone(IpAddr),
}

impl Unreachable {
    /// Whether the next generation can bind a socket that clients reach. An address that is gone would only make it fail.
    pub fn is_healed_by_binding(&self) -> bool {
        !matches!(self, Unreachable::AddressGone(_))
    }

    /// What makes clients reach the address again, as the end of a sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            Unreachable::DeviceGone(_) | Unreachable::NamespaceGone(_) => {
                "once that is there again, a reload binds it again"
            }
            Unreachable::AddressGone(_) => {
                "give the address back to a device, or take it out of the configuration: a server that is not passed the socket cannot start"
            }
            _ => "a reload binds it again",
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreachable::DeviceGone(name) => write!(f, "it is bound to the device {name}, which is gone"),
            Unreachable::DeviceReplaced(name) => {
                write!(f, "it is bound to a device that is gone, and another device is called {name} now")
            }
            Unreachable::PathGone(path) => write!(f, "the path {} is gone", path.display()),
            Unreachable::PathReplaced(path) => write!(f, "the path {} leads to another file now", path.display()),
            Unreachable::NamespaceGone(name) => write!(f, "the network namespace {name} is gone"),
            Unreachable::NamespaceReplaced(name) => {
                write!(f, "it is in a network namespace that has lost its name: another one is called {name} now")
            }
            Unreachable::AddressGone(address) => write!(f, "this host does not have the address {address} any more"),
        }
    }
}

/// A listener to be judged.
#[derive(Debug, Clone)]
pub struct Subject {
    listener: Listener,
    /// A duplicate of the socket.
    fd: Option<Arc<OwnedFd>>,
    /// A process that has the socket. Its root directory may be another one than the daemon's.
    holder: Option<u32>,
}

impl Subject {
    /// Those of the listeners that may be unreachable at all. `custody` has duplicates of them.
    pub fn among(owned: &[Owned], custody: &Custody) -> Vec<Subject> {
        let may_be =
            |listener: &&Listener| depends_on_a_name(&listener.endpoint) || own_address(&listener.endpoint).is_some();
        let mut named = owned.iter().map(|owned| &owned.listener).filter(may_be).peekable();
        if named.peek().is_none() {
            return Vec::new();
        }
        let fds: HashMap<u64, &Arc<OwnedFd>> =
            custody.kept().iter().map(|kept| (kept.listener.inode, &kept.fd)).collect();
        let subject = |listener: &Listener| Subject {
            listener: listener.clone(),
            fd: fds.get(&listener.inode).map(|fd| Arc::clone(fd)),
            holder: custody.owner(listener.inode).map(|owner| owner.pid),
        };
        named.map(subject).collect()
    }

    /// Whether the kernel's list of listeners tells more of it.
    pub(crate) fn needs_the_list(&self) -> bool {
        depends_on_a_name(&self.listener.endpoint)
    }
}

fn depends_on_a_name(endpoint: &Endpoint) -> bool {
    matches!(endpoint.address, Address::Unix(_)) || endpoint.interface.is_some() || endpoint.netns.is_some()
}

/// The address that the host must have for clients to reach the listener. `None` if any address will do.
fn own_address(endpoint: &Endpoint) -> Option<IpAddr> {
    let address = endpoint.inet().filter(|_| endpoint.is_here())?.ip().to_canonical();
    (!address.is_unspecified()).then_some(address)
}

/// The listeners that no client reaches, by inode. `machine` has the listeners that sock_diag lists. It blocks as long as file systems do.
///
/// What cannot be looked at is not called unreachable.
pub fn unreachable(subjects: &[Subject], machine: &[ListenSocket]) -> HashMap<u64, Unreachable> {
    let by_inode: HashMap<u64, &ListenSocket> = machine.iter().map(|found| (found.inode, found)).collect();
    let names = subjects.iter().any(|subject| subject.listener.endpoint.interface.is_some());
    let devices: Option<HashMap<String, u32>> = names.then(device_numbers).flatten();
    let absent = absent_addresses(subjects);
    let judged = subjects.iter().filter_map(|subject| {
        let listed = by_inode.get(&subject.listener.inode).copied();
        let why = namespace(subject)
            .or_else(|| device(subject, listed, devices.as_ref()?))
            .or_else(|| address(subject, &absent))
            .or_else(|| path(subject, listed?.file?))?;
        Some((subject.listener.inode, why))
    });
    judged.collect()
}

/// The addresses of listeners that this host does not have, and that nothing on this host says may come and go. Empty where the kernel does not
/// list its addresses. Whether a listener itself may be bound to an absent address is asked only of those that this is about ([`address`]).
fn absent_addresses(subjects: &[Subject]) -> HashSet<IpAddr> {
    let known = subjects.iter().filter(|subject| subject.fd.is_some());
    let mut all: HashSet<IpAddr> = known.filter_map(|subject| own_address(&subject.listener.endpoint)).collect();
    for any_of_family in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let is_of_family = |address: &IpAddr| address.is_ipv4() == any_of_family.is_ipv4();
        if all.iter().any(is_of_family) && addresses::are_bound_before_they_exist(any_of_family) {
            all.retain(|address| !is_of_family(address));
        }
    }
    if all.is_empty() {
        return all;
    }
    addresses::absent(&all).unwrap_or_default()
}

fn address(subject: &Subject, absent: &HashSet<IpAddr>) -> Option<Unreachable> {
    let address = own_address(&subject.listener.endpoint).filter(|address| absent.contains(address))?;
    // Where the socket may be bound to an absent address, the address may come and go, as that of VRRP does.
    let is_meant = subject.fd.as_ref().is_none_or(|fd| sys::binds_absent_addresses(fd.as_fd()));
    (!is_meant).then_some(Unreachable::AddressGone(address))
}

fn device_numbers() -> Option<HashMap<String, u32>> {
    Some(devices::list().ok()?.into_iter().map(|device| (device.name, device.index)).collect())
}

fn namespace(subject: &Subject) -> Option<Unreachable> {
    let name = subject.listener.endpoint.netns.as_ref()?;
    let own = sys::network_namespace_of(subject.fd.as_ref()?.as_fd()).ok()?;
    // HAProxy opens it there too (`my_socketat` in HAProxy's `namespace.c`).
    match fs::metadata(Path::new("/var/run/netns").join(name)) {
        Ok(named) if named.ino() == fstat(own).ok()?.st_ino => None,
        Ok(_) => Some(Unreachable::NamespaceReplaced(name.clone())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Unreachable::NamespaceGone(name.clone())),
        Err(_) => None,
    }
}

fn device(subject: &Subject, listed: Option<&ListenSocket>, devices: &HashMap<String, u32>) -> Option<Unreachable> {
    let endpoint = &subject.listener.endpoint;
    let name = endpoint.interface.as_ref().filter(|_| endpoint.is_here())?;
    let asked = subject.fd.as_ref().and_then(|fd| sys::bound_device(fd.as_fd()).ok());
    let bound = asked.or_else(|| listed.map(|found| found.interface)).filter(|bound| *bound != 0)?;
    judge_device(name, bound, devices)
}

/// A device that was renamed still gets its packets. Pure.
fn judge_device(name: &str, bound: u32, devices: &HashMap<String, u32>) -> Option<Unreachable> {
    match devices.get(name) {
        Some(number) if *number == bound => None,
        Some(_) => Some(Unreachable::DeviceReplaced(name.to_owned())),
        None if devices.values().any(|number| *number == bound) => None,
        None => Some(Unreachable::DeviceGone(name.to_owned())),
    }
}

fn path(subject: &Subject, bound: BoundFile) -> Option<Unreachable> {
    let Address::Unix(path) = &subject.listener.endpoint.address else { return None };
    let mut found = None;
    for view in views(path, subject.holder) {
        match fs::metadata(&view) {
            Ok(metadata) if leads_to(&metadata, &view, bound) => return None,
            Ok(_) => found = Some(Unreachable::PathReplaced(path.clone())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.get_or_insert_with(|| Unreachable::PathGone(path.clone()));
            }
            // A directory that may not be searched, or a link that leads in a circle.
            Err(_) => return None,
        }
    }
    found
}

/// The path as the daemon sees it, and as the process that has the socket does: its unit may have a directory of its own there.
fn views(path: &Path, holder: Option<u32>) -> Vec<PathBuf> {
    let mut views = vec![path.to_owned()];
    if let Some(pid) = holder {
        views.push(match path.strip_prefix("/") {
            Ok(relative) => Path::new(&format!("/proc/{pid}/root")).join(relative),
            Err(_) => Path::new(&format!("/proc/{pid}/cwd")).join(path),
        });
    }
    views
}

fn leads_to(metadata: &Metadata, view: &Path, bound: BoundFile) -> bool {
    let device = metadata.dev();
    if metadata.ino() as u32 != bound.inode {
        return false;
    }
    (major(device), minor(device)) == bound.device || shows_another_device(view)
}

/// An overlay shows the device of one of its layers (`ovl_getattr`), and btrfs that of a subvolume (`btrfs_getattr`).
fn shows_another_device(path: &Path) -> bool {
    const OVERLAYFS_SUPER_MAGIC: rustix::fs::FsWord = 0x794c_7630;
    const BTRFS_SUPER_MAGIC: rustix::fs::FsWord = 0x9123_683e;
    statfs(path).is_ok_and(|found| [OVERLAYFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&found.f_type))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::kernel::sock_diag::unix_listeners;
    use crate::model::SocketMetadata;
    use crate::model::listener::Role;
    use crate::sockets::custody::{KnownListeners, take_in};

    #[test]
    fn device_is_known_by_its_number() {
        let devices = HashMap::from([("lo".to_owned(), 1), ("d0".to_owned(), 7), ("lan0".to_owned(), 9)]);
        assert_eq!(judge_device("d0", 7, &devices), None);
        assert_eq!(judge_device("d0", 5, &devices), Some(Unreachable::DeviceReplaced("d0".into())));
        assert_eq!(judge_device("d1", 5, &devices), Some(Unreachable::DeviceGone("d1".into())));
        assert_eq!(judge_device("eth0", 9, &devices), None, "renamed");
    }

    #[test]
    fn unix_socket_is_reached_only_by_its_own_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let kept = |listener: UnixListener| {
            take_in(
                vec![(listener.into(), SocketMetadata::default())],
                &KnownListeners::default(),
                |_| true,
                |_| Role::Traffic,
            )
            .remove(0)
        };
        let first = kept(UnixListener::bind(&path).unwrap());
        let owned = Owned { listener: first.listener.clone(), role: Role::Traffic };
        let inode = first.listener.inode;
        let custody = Custody::new(vec![first], HashMap::new());
        let subjects = Subject::among(&[owned], &custody);
        let judged = || unreachable(&subjects, &unix_listeners().unwrap()).remove(&inode);
        assert_eq!(judged(), None);
        let link = directory.path().join("link");
        fs::hard_link(&path, &link).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(judged(), Some(Unreachable::PathGone(path.clone())));
        let _second = UnixListener::bind(&path).unwrap();
        assert_eq!(judged(), Some(Unreachable::PathReplaced(path.clone())));
        fs::rename(&link, &path).unwrap();
        assert_eq!(judged(), None);
        // Clients may come by a symbolic link.
        fs::rename(&path, &link).unwrap();
        std::os::unix::fs::symlink(&link, &path).unwrap();
        assert_eq!(judged(), None);
    }

    #[test]
    fn listeners_that_depend_on_no_name_and_no_address_are_not_looked_at() {
        let subjects = |text: &str| {
            let endpoint = Endpoint::stream(Address::Inet(text.parse().unwrap()));
            let owned = Owned { listener: Listener { endpoint, inode: 1 }, role: Role::Traffic };
            Subject::among(&[owned], &Custody::default()).len()
        };
        assert_eq!((subjects("0.0.0.0:80"), subjects("[::]:80"), subjects("127.0.0.1:80")), (0, 0, 1));
    }
}
