//! Keeps connections from sockets that a new generation binds beside the old one, until it is proven. A generation that exits while it starts,
//! because it cannot bind the next address, would reset the connections that it had got.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::gate::reserve::{reserve, unreserve};
use crate::kernel::sock_diag::{self, ListenSocket};
use crate::plan::Planned;
use crate::process::{Handle, SocketOwner};
use crate::receipt::Rung;
use crate::reload::timing::LEASE_MARGIN;
use crate::server::Prepared;
use crate::sockets::custody::{Custody, KeptSocket};
use crate::supervision::Supervisor;

/// Reserved reuseport groups: where the serving generation has one socket of each. No duplicate is kept beyond custody: one that no process
/// accepts on would swallow what the group gets.
#[derive(Default)]
pub(crate) struct ReservedGroups {
    groups: Vec<(u64, SocketOwner)>,
    /// What the last reload left to be steered is steered to the serving generation again.
    renewed: bool,
}

impl ReservedGroups {
    /// Reserves for the serving generation what the plan says may not be passed. Where that is not possible (another server in the group;
    /// Linux before 5.3; no duplicate in custody, and Linux before 5.6 or no CAP_SYS_PTRACE) the kernel shares connections out between the
    /// two generations.
    pub(crate) fn begin(supervisor: &mut Supervisor, prepared: &Prepared) -> ReservedGroups {
        let mut reserved = ReservedGroups::default();
        // The program of a daemon that was killed still waits for handshakes.
        if supervisor.serving().is_none() || supervisor.steering().is_left_behind() {
            return reserved;
        }
        let bound_again = may_be_bound_again(&supervisor.plan(&prepared.capabilities));
        if bound_again.is_empty() {
            return reserved;
        }
        reserved.renewed = supervisor.renew_steering(supervisor.config().reload.start_timeout + LEASE_MARGIN);
        let sockets = sock_diag::tcp_listeners().unwrap_or_default();
        let held = by_inode(supervisor.custody());
        for (socket, count) in groups(&sockets, &bound_again) {
            if supervisor.steering().is_attached_at(&socket.address) {
                continue;
            }
            let Some(owner) = supervisor.custody().owner(socket.inode) else { continue };
            match with_socket(&held, owner, socket.inode, |socket| reserve(socket, count)) {
                Ok(()) => reserved.groups.push((socket.inode, owner)),
                Err(error) => log::debug!("{} is not reserved for the serving generation: {error}", socket.address),
            }
        }
        reserved
    }

    /// The kernel distributes connections again. A group whose sockets are all closed is free by itself.
    pub(crate) fn end(&mut self, supervisor: &mut Supervisor) {
        // Where a reload steers again, that has ended already.
        if std::mem::take(&mut self.renewed) {
            supervisor.end_steering_renewal();
        }
        free(supervisor.custody(), std::mem::take(&mut self.groups));
    }
}

/// Frees what a daemon that was killed during a start may have left reserved. HAProxy has no program of its own on a TCP listener.
pub(crate) fn free_left_behind(supervisor: &Supervisor) {
    let Some(serving) = supervisor.serving().filter(|_| supervisor.server().attaches_no_program()) else { return };
    if supervisor.steering().is_left_behind() {
        return;
    }
    let tcp = serving.listeners.iter().filter(|owned| owned.listener.endpoint.is_tcp_here());
    let owner = |inode| Some((inode, supervisor.custody().owner(inode)?));
    free(supervisor.custody(), tcp.filter_map(|owned| owner(owned.listener.inode)));
}

fn free(custody: &Custody, groups: impl IntoIterator<Item = (u64, SocketOwner)>) {
    let held = by_inode(custody);
    for (inode, owner) in groups {
        match with_socket(&held, owner, inode, |socket| unreserve(socket)) {
            // Nothing is reserved; or the socket was bound without SO_REUSEPORT.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {}
            Err(error) => log::debug!("the listener {inode} of process {} may stay reserved: {error}", owner.pid),
            Ok(()) => {}
        }
    }
}

fn by_inode(custody: &Custody) -> HashMap<u64, &KeptSocket> {
    custody.kept().iter().map(|held| (held.listener.inode, held)).collect()
}

/// Acts on the duplicate in custody. Of a socket that HAProxy does not give out, or that is kept back, a duplicate is made for this moment.
fn with_socket(
    held: &HashMap<u64, &KeptSocket>,
    owner: SocketOwner,
    inode: u64,
    act: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    match held.get(&inode) {
        Some(held) => act(held.fd.as_fd()),
        None => act(Handle::duplicate(owner, inode).map_err(io::Error::other)?.as_fd()),
    }
}

/// The inodes of what is not passed, or passed under a condition only: whether a bind to a single IPv6 address says `v6only` is not known.
/// Pure.
fn may_be_bound_again(plan: &[Planned]) -> HashSet<u64> {
    let may_be = |planned: &&Planned| planned.rung != Rung::Passed || planned.why.is_some();
    plan.iter().filter(may_be).map(|planned| planned.inode).collect()
}

/// One socket of each group, and how many the group has, where all of them are in `bound_again`. In a group with foreign sockets the first
/// ones need not be ours. Pure.
fn groups<'a>(sockets: &'a [ListenSocket], bound_again: &HashSet<u64>) -> Vec<(&'a ListenSocket, u32)> {
    let mut groups: HashMap<_, Vec<&ListenSocket>> = HashMap::new();
    for socket in sockets {
        groups.entry((&socket.address, socket.interface, socket.v6only)).or_default().push(socket);
    }
    let is_ours = |group: &Vec<&ListenSocket>| group.iter().all(|socket| bound_again.contains(&socket.inode));
    groups.into_values().filter(is_ours).map(|group| (group[0], group.len() as u32)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::listener::{Address, Family, Role};

    #[test]
    fn group_is_reserved_only_where_all_of_it_is_bound_again() {
        let socket = |inode, address: &str, interface| ListenSocket {
            inode,
            address: Address::Inet(address.parse().unwrap()),
            interface,
            v6only: false,
            file: None,
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
        let found: BTreeSet<_> = found.into_iter().map(|(socket, count)| (socket.inode, count)).collect();
        // Of port 81 another server has one, port 82 is not ours at all.
        assert_eq!(found, BTreeSet::from([(1, 2), (3, 1)]));
    }

    #[test]
    fn listener_that_is_passed_under_a_condition_may_be_bound_again() {
        let planned = |inode, rung, why: Option<&str>| Planned {
            address: String::new(),
            family: Family::Inet,
            role: Role::Traffic,
            rung,
            why: why.map(str::to_owned),
            inode,
        };
        let plan = [
            planned(1, Rung::Passed, None),
            planned(2, Rung::Passed, Some("provided that its bind says `v6only`")),
            planned(3, Rung::Steered, Some("kept back")),
        ];
        assert_eq!(may_be_bound_again(&plan), HashSet::from([2, 3]));
    }
}
