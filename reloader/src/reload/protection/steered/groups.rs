//! Finds the reuseport groups of listeners, and the descriptors by which they are steered.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::gate::steer::{Group, Steer};
use crate::kernel::devices;
use crate::model::listener::{Endpoint, Listener};
use crate::sockets::custody::Custody;

/// A socket of the new generation.
pub(in crate::reload) struct Successor {
    pub(in crate::reload) inode: u64,
    pub(in crate::reload) fd: Arc<OwnedFd>,
}

/// A group that is steered.
pub(in crate::reload) struct Added {
    /// Its place in the gate.
    pub(in crate::reload) place: usize,
    /// Duplicates of the old sockets.
    pub(in crate::reload) from: Vec<Arc<OwnedFd>>,
}

/// The new generation's sockets by where they listen.
pub(in crate::reload) fn successors(new: &Custody) -> HashMap<Endpoint, Vec<Successor>> {
    let mut listed = HashSet::new();
    let mut found: HashMap<Endpoint, Vec<Successor>> = HashMap::new();
    for held in new.kept().iter().filter(|held| listed.insert(held.listener.inode)) {
        found
            .entry(held.listener.endpoint.clone())
            .or_default()
            .push(Successor { inode: held.listener.inode, fd: held.fd.clone() });
    }
    found
}

/// The listeners by endpoint: those of one endpoint are one group.
pub(in crate::reload) fn by_endpoint(listeners: Vec<Listener>) -> Vec<(Endpoint, Vec<Listener>)> {
    let mut groups: Vec<(Endpoint, Vec<Listener>)> = Vec::new();
    for listener in listeners {
        match groups.iter_mut().find(|(endpoint, _)| *endpoint == listener.endpoint) {
            Some((_, group)) => group.push(listener),
            None => groups.push((listener.endpoint.clone(), vec![listener])),
        }
    }
    groups
}

/// Steers from the `old` sockets of one place to those in `to`.
///
/// # Errors
/// A sentence; nothing is steered there then.
pub(in crate::reload) fn add(
    steer: &mut Steer,
    custody: &Custody,
    endpoint: &Endpoint,
    old: &[Listener],
    to: &[Successor],
) -> Result<Added, String> {
    let Some(address) = endpoint.inet() else { return Err(format!("cannot steer {endpoint}")) };
    let interface = match &endpoint.interface {
        Some(name) => devices::index(name).ok_or_else(|| format!("cannot steer {endpoint}: {name} is gone"))?,
        None => 0,
    };
    let from = old.iter().map(|listener| custody.socket_of(listener.inode)).collect::<Result<Vec<_>, _>>();
    let from = from.map_err(|error| format!("cannot steer {endpoint}: {error}"))?;
    let to = to.iter().map(|successor| successor.fd.clone()).collect();
    let sockets = from.iter().map(|fd| fd.as_fd()).collect();
    let group = Group { address, v6only: endpoint.v6only, interface, to, from: sockets };
    let place = steer.add(&group).map_err(|error| error.to_string())?;
    Ok(Added { place, from })
}
