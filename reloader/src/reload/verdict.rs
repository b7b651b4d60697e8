//! Judges each listener by comparing the listeners of the old generation with those of the new one. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::model::listener::{Endpoint, Listener, Owned};
use crate::receipt::{Doubt, ListenerReceipt, ReasonCode, Rung};
use crate::sockets::reachability::Unreachable;

/// A verdict, with the old listener when it goes away with the old generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For the receipt.
    pub receipt: ListenerReceipt,
    /// The old socket that no process serves once the old generation is retired.
    pub closing: Option<Listener>,
    /// The port on which the new generation listens here.
    pub serving_port: Option<u16>,
}

impl Verdict {
    /// Says of a listener that was given up and bound again that its port was refused meanwhile.
    pub fn note_refused(&mut self, time: Duration) {
        if self.receipt.rung == Rung::Unproven {
            let why = format!("the port had no listener for {} ms", time.as_millis());
            self.receipt.doubt(Doubt::new(ReasonCode::PortRefused, why));
            // It was closed long ago: nothing is left to be measured.
            self.closing = None;
        }
    }
}

/// One verdict for each listening inode of either generation. `unreachable` has the sockets that no client reaches. `by_v6only` has those on a
/// single IPv6 address that the new generation was given and takes over only where its bind says `v6only`.
pub fn verdicts(
    old: &[Owned],
    new: &[Owned],
    unreachable: &HashMap<u64, Unreachable>,
    by_v6only: &HashSet<u64>,
) -> Vec<Verdict> {
    let new_inodes: HashSet<u64> = new.iter().map(|owned| owned.listener.inode).collect();
    let is_left =
        |owned: &&Owned| unreachable.contains_key(&owned.listener.inode) && !new_inodes.contains(&owned.listener.inode);
    let (left, kept): (Vec<&Owned>, Vec<&Owned>) = old.iter().partition(is_left);
    let mut verdicts = by_inode(&kept, new, by_v6only);
    for verdict in &mut verdicts {
        let serving = verdict.receipt.inode_after.and_then(|inode| unreachable.get(&inode));
        if let Some(why) = serving {
            verdict.receipt.doubt(Doubt::new(ReasonCode::Unreachable, format!("no client reaches it: {why}")));
        }
    }
    // Nothing new came to a socket that no client reaches, so nothing has to take its place.
    verdicts.extend(left.into_iter().map(|owned| {
        let mut verdict = removed(owned);
        verdict.receipt.why = unreachable.get(&owned.listener.inode).map(|why| format!("no client reached it: {why}"));
        verdict
    }));
    verdicts
}

fn by_inode(old: &[&Owned], new: &[Owned], by_v6only: &HashSet<u64>) -> Vec<Verdict> {
    let old_inodes: HashSet<u64> = old.iter().map(|owned| owned.listener.inode).collect();
    let new_inodes: HashSet<u64> = new.iter().map(|owned| owned.listener.inode).collect();
    let fresh: Vec<&Owned> = new.iter().filter(|owned| !old_inodes.contains(&owned.listener.inode)).collect();
    let mut paired = HashSet::new();
    let mut verdicts = Vec::with_capacity(old.len() + fresh.len());
    for before in old.iter().copied() {
        if new_inodes.contains(&before.listener.inode) {
            verdicts.push(passed(before));
            continue;
        }
        let successor = fresh
            .iter()
            .find(|after| !paired.contains(&after.listener.inode) && same_place(&before.listener, &after.listener));
        paired.extend(successor.map(|after| after.listener.inode));
        let still_served = new.iter().any(|after| same_place(&before.listener, &after.listener));
        let overlapping = new.iter().find(|after| overlap(&before.listener, &after.listener));
        verdicts.push(match (successor, overlapping) {
            (Some(after), _) => rebound(before, after, by_v6only.contains(&before.listener.inode)),
            (None, _) if still_served => one_shard_less(before),
            (None, Some(after)) => served_elsewhere(before, after),
            (None, None) => removed(before),
        });
    }
    let added = fresh.into_iter().filter(|after| !paired.contains(&after.listener.inode));
    verdicts.extend(added.map(added_verdict));
    verdicts
}

fn same_place(one: &Listener, other: &Listener) -> bool {
    let (one, other) = (&one.endpoint, &other.endpoint);
    one.address == other.address && one.socket_type == other.socket_type && one.netns == other.netns
}

/// Whether one listener is on a single address and the other on any address. A client of one may then have meant the other.
fn overlap(one: &Listener, other: &Listener) -> bool {
    let (one, other) = (&one.endpoint, &other.endpoint);
    one.overlaps(other) && one.socket_type == other.socket_type && one.is_here() && other.is_here()
}

fn passed(owned: &Owned) -> Verdict {
    let mut receipt = ListenerReceipt::new(&owned.listener.endpoint, owned.role, Rung::Passed);
    receipt.inode_before = Some(owned.listener.inode);
    receipt.inode_after = Some(owned.listener.inode);
    Verdict { receipt, closing: None, serving_port: owned.listener.endpoint.port() }
}

fn rebound(before: &Owned, after: &Owned, by_v6only: bool) -> Verdict {
    let why = why_rebound(&before.listener.endpoint, &after.listener.endpoint, by_v6only);
    let mut receipt = ListenerReceipt::new(&after.listener.endpoint, after.role, Rung::Unproven);
    receipt.doubt(Doubt::new(ReasonCode::NotPassed, why));
    receipt.inode_before = Some(before.listener.inode);
    receipt.inode_after = Some(after.listener.inode);
    Verdict { receipt, closing: Some(before.listener.clone()), serving_port: after.listener.endpoint.port() }
}

fn why_rebound(before: &Endpoint, after: &Endpoint, by_v6only: bool) -> &'static str {
    match before == after {
        false => {
            "the new generation binds it with other options (interface, v6only, protocol), so it opened another socket"
        }
        true if by_v6only => {
            "HAProxy opened another socket for it: it takes over the socket of a single IPv6 address only when the bind says `v6only`; add that word to the bind"
        }
        true => "the new generation opened another socket for it",
    }
}

fn one_shard_less(before: &Owned) -> Verdict {
    let mut verdict = removed(before);
    let why = "the new generation has fewer sockets on this address";
    verdict.receipt.doubt(Doubt::new(ReasonCode::NotPassed, why));
    verdict
}

/// Until the old listener closes, the kernel may prefer it to the new one. What is queued on it when it closes is lost.
fn served_elsewhere(before: &Owned, after: &Owned) -> Verdict {
    let mut verdict = removed(before);
    let why = format!("the new generation serves its clients by {}", after.listener.endpoint);
    verdict.receipt.doubt(Doubt::new(ReasonCode::NotPassed, why));
    verdict
}

fn removed(before: &Owned) -> Verdict {
    let mut receipt = ListenerReceipt::new(&before.listener.endpoint, before.role, Rung::Removed);
    receipt.inode_before = Some(before.listener.inode);
    Verdict { receipt, closing: Some(before.listener.clone()), serving_port: None }
}

fn added_verdict(after: &Owned) -> Verdict {
    let mut receipt = ListenerReceipt::new(&after.listener.endpoint, after.role, Rung::Added);
    receipt.inode_after = Some(after.listener.inode);
    Verdict { receipt, closing: None, serving_port: after.listener.endpoint.port() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::listener::{Address, Role, SocketType};
    use crate::receipt::{Outcome, judge};

    fn owned(address: &str, inode: u64) -> Owned {
        let endpoint = Endpoint::stream(Address::Inet(address.parse().unwrap()));
        Owned { listener: Listener { endpoint, inode }, role: Role::Traffic }
    }

    fn rungs(old: &[Owned], new: &[Owned]) -> Vec<(Rung, Option<u64>, Option<u64>)> {
        verdicts(old, new, &HashMap::new(), &HashSet::new())
            .into_iter()
            .map(|verdict| (verdict.receipt.rung, verdict.receipt.inode_before, verdict.receipt.inode_after))
            .collect()
    }

    #[test]
    fn the_same_inode_is_passed() {
        let both = [owned("127.0.0.1:80", 1), owned("127.0.0.1:81", 2)];
        assert_eq!(rungs(&both, &both), [(Rung::Passed, Some(1), Some(1)), (Rung::Passed, Some(2), Some(2))]);
    }

    #[test]
    fn unreachable_socket_is_not_passed() {
        let lost = HashMap::from([(1, Unreachable::DeviceGone("d0".into()))]);
        let both = [owned("127.0.0.1:80", 1), owned("127.0.0.1:81", 2)];
        let verdict = verdicts(&both, &both, &lost, &HashSet::new()).remove(0).receipt;
        assert_eq!((verdict.rung, verdict.why_code), (Rung::Unproven, Some(ReasonCode::Unreachable)));
        // The new generation has bound the address again.
        let rungs: Vec<Rung> = verdicts(&both[..1], &[owned("127.0.0.1:80", 9)], &lost, &HashSet::new())
            .into_iter()
            .map(|verdict| verdict.receipt.rung)
            .collect();
        assert_eq!(rungs, [Rung::Added, Rung::Removed]);
    }

    #[test]
    fn another_inode_on_the_same_address_is_unproven() {
        let found = rungs(&[owned("127.0.0.1:80", 1)], &[owned("127.0.0.1:80", 9)]);
        assert_eq!(found, [(Rung::Unproven, Some(1), Some(9))]);
    }

    #[test]
    fn fewer_shards_are_unproven_and_more_are_added() {
        let [one, two] = [owned("127.0.0.1:80", 1), owned("127.0.0.1:80", 2)];
        let alone = std::slice::from_ref(&one);
        let fewer = rungs(&[one.clone(), two.clone()], alone);
        assert_eq!(fewer, [(Rung::Passed, Some(1), Some(1)), (Rung::Unproven, Some(2), None)]);
        let more = rungs(alone, &[one.clone(), two]);
        assert_eq!(more, [(Rung::Passed, Some(1), Some(1)), (Rung::Added, None, Some(2))]);
    }

    #[test]
    fn wildcard_serves_the_clients_of_one_address_of_the_same_protocol() {
        let datagram = |address: &str, inode| {
            let mut owned = owned(address, inode);
            owned.listener.endpoint.socket_type = SocketType::Datagram;
            owned
        };
        let rung = |before: Owned, after: Owned| rungs(&[before], &[after])[0].0;
        assert_eq!(rung(owned("127.0.0.1:443", 1), owned("0.0.0.0:443", 2)), Rung::Unproven);
        assert_eq!(rung(datagram("127.0.0.1:443", 1), datagram("0.0.0.0:443", 2)), Rung::Unproven);
        assert_eq!(rung(datagram("127.0.0.1:443", 1), owned("0.0.0.0:443", 2)), Rung::Removed);
    }

    #[test]
    fn new_address_is_added_and_missing_address_is_removed() {
        let found = rungs(&[owned("127.0.0.1:80", 1)], &[owned("127.0.0.1:81", 2)]);
        assert_eq!(found, [(Rung::Removed, Some(1), None), (Rung::Added, None, Some(2))]);
    }

    #[test]
    fn change_between_single_address_and_wildcard_is_unproven() {
        for (before, after) in [
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::1]:80", "[::]:80"),
            ("10.0.0.1:80", "[::]:80"),
            ("0.0.0.0:80", "[::]:80"),
        ] {
            let found = rungs(&[owned(before, 1)], &[owned(after, 2)]);
            assert_eq!(found, [(Rung::Unproven, Some(1), None), (Rung::Added, None, Some(2))], "{before} {after}");
        }
        for (before, after) in
            [("127.0.0.1:80", "127.0.0.2:80"), ("0.0.0.0:80", "127.0.0.1:81"), ("[::1]:80", "0.0.0.0:80")]
        {
            assert_eq!(rungs(&[owned(before, 1)], &[owned(after, 2)])[0].0, Rung::Removed, "{before} {after}");
        }
    }

    #[test]
    fn two_old_sockets_rebound_pair_with_two_new_ones() {
        let old = [owned("127.0.0.1:80", 1), owned("127.0.0.1:80", 2)];
        let new = [owned("127.0.0.1:80", 3), owned("127.0.0.1:80", 4)];
        assert_eq!(rungs(&old, &new), [(Rung::Unproven, Some(1), Some(3)), (Rung::Unproven, Some(2), Some(4))]);
    }

    #[test]
    fn an_option_changed_is_unproven_with_that_reason() {
        let before = owned("[::]:80", 1);
        let mut after = owned("[::]:80", 2);
        after.listener.endpoint.v6only = true;
        let verdict = verdicts(&[before], &[after], &HashMap::new(), &HashSet::from([1])).remove(0);
        assert!(verdict.receipt.why.unwrap().contains("v6only"));
    }

    #[test]
    fn word_that_helps_is_named_only_where_it_would_have_helped() {
        let why = |by_v6only: &HashSet<u64>| {
            let (before, after) = ([owned("[::1]:80", 1)], [owned("[::1]:80", 2)]);
            verdicts(&before, &after, &HashMap::new(), by_v6only).remove(0).receipt.why.unwrap()
        };
        assert!(why(&HashSet::from([1])).contains("add that word"));
        // The server is not HAProxy, or was not given the socket.
        assert_eq!(why(&HashSet::new()), "the new generation opened another socket for it");
    }

    #[test]
    fn only_traffic_listeners_count_against_the_proof() {
        let mut verdict = rebound(&owned("127.0.0.1:80", 1), &owned("127.0.0.1:80", 2), false).receipt;
        assert_eq!(judge(std::slice::from_ref(&verdict)).0, Outcome::Unproven);
        verdict.role = Role::Control;
        assert_eq!(judge(&[verdict]), (Outcome::Proven, None));
    }
}
