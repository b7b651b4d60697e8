//! Computes which ports are held for which addresses on a device. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::gate::contract::{Spec, Target};
use crate::kernel::addresses::Prefix;
use crate::kernel::devices::{Device, LO};

/// Ports.
pub(super) type Ports = BTreeSet<u16>;
/// Disjoint prefixes of local addresses, each with the ports that are held there. Each has at least one port.
pub(super) type Coverage = BTreeMap<Prefix, Ports>;

/// What is held on this device. `local` are the host's own prefixes.
pub(super) fn coverage(spec: &Spec, device: &Device, local: &[Prefix]) -> Coverage {
    let targets: Vec<Target> =
        spec.targets.iter().map(unmapped).filter(|target| concerns(target.address, target.interface, device)).collect();
    let exceptions =
        spec.exceptions.iter().filter(|exception| concerns(exception.address, exception.interface, device));
    let exceptions: Vec<SocketAddr> = exceptions.map(|exception| unmap(exception.address)).collect();

    let mut differing: Coverage = BTreeMap::new();
    for prefix in prefixes(&targets, &exceptions, device, local) {
        let ports = ports(&prefix, &targets, &exceptions);
        // Wider prefixes came before. A prefix with the same ports as the narrowest of those around it needs no entry of its own.
        let around =
            differing.iter().filter(|(other, _)| other.contains(&prefix)).max_by_key(|(other, _)| other.length);
        if around.map_or(!ports.is_empty(), |(_, others)| *others != ports) {
            differing.insert(prefix, ports);
        }
    }
    disjoint(&differing)
}

/// All prefixes for which the ports can differ, wider ones first.
fn prefixes(targets: &[Target], exceptions: &[SocketAddr], device: &Device, local: &[Prefix]) -> Vec<Prefix> {
    // Nothing comes from outside to a loopback address: the kernel drops it as a martian.
    let reachable = |prefix: &&Prefix| device.index == LO || !prefix.address.is_loopback();
    let local: Vec<Prefix> = local.iter().filter(reachable).copied().collect();
    let single = targets.iter().map(|target| target.address).chain(exceptions.iter().copied());
    let single: Vec<Prefix> = single
        .filter(|address| !address.ip().is_unspecified())
        .map(|address| Prefix::host(address.ip()))
        .filter(|host| local.iter().any(|prefix| prefix.contains(host)))
        .collect();
    let mut all: Vec<Prefix> = local.into_iter().chain(single).collect();
    all.sort_unstable_by_key(|prefix| (prefix.length, *prefix));
    all.dedup();
    all
}

/// The ports that are held for an address of this prefix.
fn ports(prefix: &Prefix, targets: &[Target], exceptions: &[SocketAddr]) -> Ports {
    let is = |address: IpAddr| Prefix::host(address) == *prefix;
    let excepted = |port| exceptions.iter().any(|address| address.port() == port && is(address.ip()));
    let holds = |target: &Target| match target.address.ip() {
        any if any.is_unspecified() => {
            let family = any.is_ipv4() == prefix.address.is_ipv4() || (any.is_ipv6() && !target.v6only);
            family && !excepted(target.address.port())
        }
        address => is(address),
    };
    targets.iter().filter(|target| holds(target)).map(|target| target.address.port()).collect()
}

/// Cuts each narrower prefix out of the wider ones.
fn disjoint(differing: &Coverage) -> Coverage {
    let mut disjoint = BTreeMap::new();
    for (prefix, ports) in differing.iter().filter(|(_, ports)| !ports.is_empty()) {
        let holes = differing.keys().filter(|other| *other != prefix && prefix.contains(other));
        let pieces =
            holes.fold(vec![*prefix], |pieces, hole| pieces.iter().flat_map(|piece| piece.without(hole)).collect());
        disjoint.extend(pieces.into_iter().map(|piece| (piece, ports.clone())));
    }
    disjoint
}

/// Whether packets for a listener arrive on this device. A listener that is bound to a VRF gets what arrives on the slaves of the VRF.
fn concerns(address: SocketAddr, interface: u32, device: &Device) -> bool {
    let is = |index: u32| device.index == index || device.master == Some(index);
    // A link-local address belongs to one device, and its local clients come by `lo`.
    let scope = match address {
        SocketAddr::V6(address) => address.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    (interface == 0 || is(interface)) && (scope == 0 || is(scope) || device.index == LO)
}

/// The target, with an IPv4 address in place of a mapped one.
fn unmapped(target: &Target) -> Target {
    Target { address: unmap(target.address), ..*target }
}

/// The IPv4 address for a mapped one: a listener on `::ffff:10.0.0.1` gets IPv4 packets for 10.0.0.1.
fn unmap(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests;
