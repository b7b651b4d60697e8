//! Finds listeners of other servers on our addresses. SO_REUSEPORT lets another server in without an error, and the kernel then shares the
//! connections out.

use std::collections::{HashMap, HashSet};

use crate::kernel::sock_diag::{self, ListenSocket};
use crate::model::listener::{Address, Endpoint, Owned, SocketType};
use crate::process;

/// Listening sockets on the address of one of `ours` that are not in `known`. Sockets bound to different interfaces share nothing. Pure.
pub fn among(sockets: &[ListenSocket], ours: &[Owned], known: &HashSet<u64>) -> Vec<ListenSocket> {
    let addresses: HashSet<&Address> = ours
        .iter()
        .map(|owned| &owned.listener.endpoint)
        .filter(|endpoint| endpoint.socket_type == SocketType::Stream && endpoint.netns.is_none())
        .map(|endpoint| &endpoint.address)
        .filter(|address| matches!(address, Address::Inet(_)))
        .collect();
    let inodes: HashSet<u64> = ours.iter().map(|owned| owned.listener.inode).collect();
    let mut interfaces: HashMap<&Address, Vec<u32>> = HashMap::new();
    for own in sockets.iter().filter(|own| inodes.contains(&own.inode)) {
        interfaces.entry(&own.address).or_default().push(own.interface);
    }
    let shares = |found: &&ListenSocket| {
        let apart = |own: &u32| *own != found.interface && *own != 0 && found.interface != 0;
        interfaces.get(&found.address).is_none_or(|own| !own.iter().all(apart))
    };
    let unknown = |found: &&ListenSocket| addresses.contains(&found.address) && !known.contains(&found.inode);
    sockets.iter().filter(unknown).filter(shares).cloned().collect()
}

/// Listening sockets that are not in `known` and take a part of the connections to one of `ours`, because their address is a part of its address:
/// 127.0.0.1:80 of 0.0.0.0:80, or IPv4 of a socket for both families. The kernel prefers the narrower one (`compute_score` of
/// inet_hashtables.c). With each is the address of ours. Pure.
pub fn inside<'a>(
    sockets: &[ListenSocket],
    ours: &'a [Owned],
    known: &HashSet<u64>,
) -> Vec<(ListenSocket, &'a Address)> {
    let wide: Vec<&Endpoint> = ours
        .iter()
        .map(|owned| &owned.listener.endpoint)
        .filter(|endpoint| endpoint.socket_type == SocketType::Stream && endpoint.is_here())
        .filter(|endpoint| endpoint.inet().is_some_and(|address| address.ip().is_unspecified()))
        .collect();
    let of = |found: &ListenSocket| {
        let Address::Inet(address) = found.address else { return None };
        wide.iter().find(|own| own.address != found.address && own.covers(address)).map(|own| &own.address)
    };
    let unknown = sockets.iter().filter(|found| !known.contains(&found.inode));
    unknown.filter_map(|found| Some((found.clone(), of(found)?))).collect()
}

/// The process that holds this socket, for people. This process may have a duplicate of what another of its services listens on.
pub fn holder_of(socket: &ListenSocket) -> String {
    let holders = process::holders_of(&HashSet::from([socket.inode])).remove(&socket.inode).unwrap_or_default();
    let own = std::process::id();
    match holders.iter().filter(|pid| **pid != own).min().or(holders.get(&own)) {
        Some(pid) => describe(*pid),
        None => {
            "a process whose descriptors could not be read (see the daemon's capabilities and its view of /proc)".into()
        }
    }
}

fn describe(pid: u32) -> String {
    let name = process::executable(pid).map_or_else(String::new, |path| format!(" ({})", path.display()));
    format!("process {pid}{name}")
}

/// The first listener on one of our addresses, or on a part of one, that belongs to another server now, as a sentence. `ours` are the listeners that serve, and `roots` the
/// first processes of our servers. What this process itself holds is ours too. A socket that no process holds is about to be
/// closed. It blocks.
pub fn find(ours: &[Owned], roots: &[u32]) -> Option<String> {
    let known: HashSet<u64> = ours.iter().map(|owned| owned.listener.inode).collect();
    let machine = sock_diag::tcp_listeners().ok()?;
    let equal = among(&machine, ours, &known).into_iter().map(|found| (found, None));
    let narrower = inside(&machine, ours, &known).into_iter().map(|(found, own)| (found, Some(own)));
    let suspects: Vec<(ListenSocket, Option<&Address>)> = equal.chain(narrower).collect();
    if suspects.is_empty() {
        return None;
    }
    let holders = process::holders_of(&suspects.iter().map(|(found, _)| found.inode).collect());
    let own = std::process::id();
    // Other processes that this one has started are of other services.
    let is_ours = |pid: &u32| *pid == own || roots.iter().any(|root| process::is_descendant(*pid, *root));
    // The service manager keeps sockets for the next daemon, and serves no client.
    let keepers = [Some(1), process::parent(own)];
    suspects.iter().find_map(|(found, own)| {
        let holders = holders.get(&found.inode).filter(|holders| !holders.iter().any(is_ours))?;
        if !process::is_init() && holders.iter().all(|pid| keepers.contains(&Some(*pid))) {
            return None;
        }
        let pid = holders.iter().min()?;
        Some(match own {
            None => sentence(&describe(*pid), found),
            Some(own) => format!(
                "foreign listener: {} listens on {}, a part of {own}: clients of that address reach it and not the server",
                describe(*pid),
                found.address
            ),
        })
    })
}

/// The first listener in the way of a bind at one of `endpoints` that a process has which does not descend from `roots`, as a sentence. With
/// `parts` it may also be on a part of one, or one of `endpoints` on a part of it. What is in `known` is ours. SO_REUSEPORT lets both bind where
/// otherwise the later one is refused. It blocks.
pub fn in_the_way(endpoints: &[Endpoint], known: &HashSet<u64>, roots: &[u32], parts: bool) -> Option<String> {
    let is_in_the_way = |found: &&ListenSocket| {
        let there = Endpoint { v6only: found.v6only, ..Endpoint::stream(found.address.clone()) };
        endpoints.iter().any(|own| own.address == found.address || (parts && own.overlaps(&there)))
    };
    let machine = sock_diag::tcp_listeners().ok()?;
    let suspects: Vec<&ListenSocket> = machine.iter().filter(|found| !known.contains(&found.inode)).collect();
    let suspects: Vec<&ListenSocket> = suspects.into_iter().filter(is_in_the_way).collect();
    if suspects.is_empty() {
        return None;
    }
    let holders = process::holders_of(&suspects.iter().map(|found| found.inode).collect());
    let own = std::process::id();
    let keepers = [Some(1), process::parent(own)];
    suspects.into_iter().find_map(|found| {
        let holders = holders.get(&found.inode)?;
        let is_ours = |pid: &u32| roots.iter().any(|root| process::is_descendant(*pid, *root));
        let is_kept = |pid: &u32| !process::is_init() && keepers.contains(&Some(*pid));
        if holders.iter().any(is_ours) || holders.iter().all(is_kept) {
            return None;
        }
        // This process has duplicates of what its other services listen on.
        let pid = holders.iter().filter(|pid| **pid != own).min().or(holders.get(&own))?;
        Some(format!("foreign listener: {} listens on {}", describe(*pid), found.address))
    })
}

/// What a listener of another server means. `holder` is its process, for people.
pub fn sentence(holder: &str, found: &ListenSocket) -> String {
    format!(
        "foreign listener: {holder} also listens on {}, so the kernel shares new connections out between it and the server",
        found.address
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::listener::{Listener, Role};

    fn owned(address: &str, inode: u64) -> Owned {
        let endpoint = Endpoint::stream(Address::Inet(address.parse().unwrap()));
        Owned { listener: Listener { endpoint, inode }, role: Role::Traffic }
    }

    #[test]
    fn foreign_listener_on_our_address_is_found_and_others_are_not() {
        let socket = |address: &str, inode| ListenSocket {
            inode,
            address: Address::Inet(address.parse().unwrap()),
            interface: 0,
            v6only: false,
            file: None,
            queued: 0,
            backlog: 0,
        };
        let sockets = [socket("127.0.0.1:80", 1), socket("127.0.0.1:80", 66), socket("127.0.0.1:99", 67)];
        let found = among(&sockets, &[owned("127.0.0.1:80", 1)], &HashSet::from([1]));
        assert_eq!(found.iter().map(|socket| socket.inode).collect::<Vec<_>>(), [66]);
    }

    #[test]
    fn narrower_socket_takes_connections_of_a_wider_one() {
        let takes = |ours: &str, v6only: bool, theirs: &str| {
            let mut wide = owned(ours, 1);
            wide.listener.endpoint.v6only = v6only;
            let theirs = ListenSocket {
                inode: 66,
                address: Address::Inet(theirs.parse().unwrap()),
                interface: 0,
                v6only: false,
                file: None,
                queued: 0,
                backlog: 0,
            };
            inside(&[theirs], &[wide], &HashSet::from([1])).len() == 1
        };
        assert!(takes("0.0.0.0:80", false, "127.0.0.1:80"));
        assert!(takes("[::]:80", false, "127.0.0.1:80") && takes("[::]:80", false, "0.0.0.0:80"));
        assert!(takes("[::]:80", true, "[::1]:80"));
        assert!(!takes("[::]:80", true, "0.0.0.0:80") && !takes("0.0.0.0:80", false, "127.0.0.1:81"));
        assert!(!takes("0.0.0.0:80", false, "[::]:80") && !takes("127.0.0.1:80", false, "0.0.0.0:80"));
        assert!(!takes("0.0.0.0:80", false, "0.0.0.0:80"), "that is found by `among`");
    }

    #[test]
    fn socket_on_another_interface_is_not_foreign() {
        let socket = |inode, interface| ListenSocket {
            inode,
            address: Address::Inet("0.0.0.0:443".parse().unwrap()),
            interface,
            v6only: false,
            file: None,
            queued: 0,
            backlog: 0,
        };
        let found = |ours: u32, theirs: u32| {
            let sockets = [socket(1, ours), socket(66, theirs)];
            among(&sockets, &[owned("0.0.0.0:443", 1)], &HashSet::from([1])).len()
        };
        assert_eq!((found(2, 3), found(2, 2), found(0, 3), found(2, 0)), (0, 1, 1, 1));
    }

    #[test]
    fn socket_of_another_process_is_foreign_and_one_of_ours_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ours = [owned(&address, 1)];
        assert_eq!(find(&ours, &[]), None, "this process holds it");
        let stdin = std::process::Stdio::from(std::os::fd::OwnedFd::from(listener));
        // The child of a shell that ends does not descend from this process any more.
        let script = "exec 3<&0; sleep 1000 >/dev/null 2>&1 & echo $!";
        // The command holds the socket as long as it lives.
        let output = std::process::Command::new("/bin/sh").args(["-c", script]).stdin(stdin).output().unwrap();
        let pid: u32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let found = find(&ours, &[]);
        assert_eq!(find(&ours, &[pid]), None, "it is the root of one of our servers");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        assert!(found.unwrap().contains(&format!("process {pid} ")));
    }
}
