//! What a new generation binds beside the old one gets no connection before it is proven: one that exits while it starts, because
//! it cannot bind the next address, would take with it what it was given.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::receipt::Rung;
use crate::gate::reserve::{reserve, unreserve};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::process::{Handle, SocketOwner};
use crate::server::Prepared;
use crate::supervision::Supervisor;

/// The lease outlives a start by this time.
const SPARE: Duration = Duration::from_secs(5);

/// Reserved reuseport groups: where the serving generation has one socket of each. No duplicate is kept: with nobody behind it, it
/// would swallow what the group gets.
#[derive(Default)]
pub(crate) struct Reserved {
    groups: Vec<(u64, SocketOwner)>,
    /// What the last reload left to be steered is steered to the serving generation again.
    renewed: bool,
}

impl Reserved {
    /// Reserves for the serving generation what the plan says will not be passed. Where that is not possible (Linux before 5.6,
    /// CAP_SYS_PTRACE missing, another server in the group) the kernel shares connections out between the two generations.
    pub(crate) fn begin(supervisor: &mut Supervisor, prepared: &Prepared) -> Reserved {
        let mut reserved = Reserved::default();
        // A program of a dead daemon that is still there waits for handshakes of its own.
        if supervisor.serving.is_none() || supervisor.inherits_steering {
            return reserved;
        }
        let plan = supervisor.plan(&prepared.abilities);
        let bound_anew: HashSet<u64> =
            plan.iter().filter(|planned| planned.rung != Rung::Passed).map(|planned| planned.inode).collect();
        let lease = supervisor.config.reload.start_timeout + SPARE;
        if let Some(steer) = supervisor.steer.as_mut().filter(|steer| steer.is_in_force() && !bound_anew.is_empty()) {
            reserved.renewed = steer.renew(lease).is_ok();
        }
        let sockets = sock_diag::tcp_listeners().unwrap_or_default();
        for (socket, count) in groups(&sockets, &bound_anew) {
            if supervisor.steer.as_ref().is_some_and(|steer| steer.stands_at(&socket.address)) {
                continue;
            }
            let Some(owner) = supervisor.custody.owner(socket.inode) else { continue };
            match with_duplicate(owner, socket.inode, |duplicate| reserve(duplicate, count)) {
                Ok(()) => reserved.groups.push((socket.inode, owner)),
                Err(error) => log::debug!("{} is not reserved for the serving generation: {error}", socket.address),
            }
        }
        reserved
    }

    /// The kernel shares out again. A group whose sockets are all closed is free by itself.
    pub(crate) fn end(&mut self, supervisor: &mut Supervisor) {
        if let Some(steer) = supervisor.steer.as_mut().filter(|_| std::mem::take(&mut self.renewed))
            && let Err(error) = steer.renew(Duration::ZERO)
        {
            log::warn!("{error}");
        }
        free(std::mem::take(&mut self.groups));
    }
}

/// Frees what a daemon that was killed during a start may have left reserved. HAProxy has no program of its own on a TCP listener.
pub(crate) fn free_inherited(supervisor: &Supervisor) {
    let Some(serving) = supervisor.serving.as_ref().filter(|_| supervisor.server.haproxy().is_some()) else { return };
    if supervisor.inherits_steering {
        return;
    }
    let tcp = serving.listeners.iter().filter(|owned| owned.listener.endpoint.is_tcp_here());
    let owner = |inode| Some((inode, supervisor.custody.owner(inode)?));
    free(tcp.filter_map(|owned| owner(owned.listener.inode)));
}

fn free(groups: impl IntoIterator<Item = (u64, SocketOwner)>) {
    for (inode, owner) in groups {
        match with_duplicate(owner, inode, unreserve) {
            // Nothing is reserved; or the socket was bound without SO_REUSEPORT.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
            Err(error) => log::debug!("the listener {inode} of process {} may stay reserved: {error}", owner.pid),
            Ok(()) => {}
        }
    }
}

fn with_duplicate(owner: SocketOwner, inode: u64, act: impl FnOnce(OwnedFd) -> io::Result<()>) -> io::Result<()> {
    act(Handle::duplicate(owner, inode).map_err(io::Error::other)?)
}

/// One socket of each group, and how many the group has, where all of them are in `bound_anew`: among others the first ones need not be
/// ours. Pure.
fn groups<'a>(sockets: &'a [ListenSocket], bound_anew: &HashSet<u64>) -> Vec<(&'a ListenSocket, u32)> {
    let place = |socket: &ListenSocket| (socket.address.clone(), socket.interface, socket.v6only);
    let mut groups: Vec<(&ListenSocket, u32)> = Vec::new();
    for socket in sockets {
        match groups.iter_mut().find(|(first, _)| place(first) == place(socket)) {
            Some((_, count)) => *count += 1,
            None => groups.push((socket, 1)),
        }
    }
    let strange: Vec<_> = sockets.iter().filter(|socket| !bound_anew.contains(&socket.inode)).map(place).collect();
    groups.retain(|(first, _)| !strange.contains(&place(first)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::Address;

    #[test]
    fn a_group_is_reserved_where_all_of_it_is_bound_anew() {
        let socket = |inode, address: &str, interface| ListenSocket {
            inode,
            address: Address::Inet(address.parse().unwrap()),
            interface,
            v6only: false,
            queued: 0,
            backlog: 128,
        };
        let sockets = [
            socket(1, "127.0.0.1:80", 0),
            socket(2, "127.0.0.1:80", 0),
            socket(3, "127.0.0.1:80", 2),
            socket(4, "127.0.0.1:81", 0),
            socket(5, "127.0.0.1:81", 0),
            socket(6, "127.0.0.1:82", 0),
        ];
        let found = groups(&sockets, &HashSet::from([1, 2, 3, 4]));
        let found: Vec<_> = found.into_iter().map(|(socket, count)| (socket.inode, count)).collect();
        // Of port 81 another server has one, port 82 is not ours at all.
        assert_eq!(found, [(1, 2), (3, 1)]);
    }
}
