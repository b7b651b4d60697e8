//! Releases in a dead holder's place, and removes what a hold leaves.

use reloader::gate::hold::Gate;
use reloader::gate::qdisc::{QdiscGate, remove_stale};
use reloader_tests::waiting::{listener, retransmitted_syns};

use super::rig::{Clients, connects, footprint, kernel_has_plug, parked, reachable_pair, serve, spec, wait_for_parked};
use super::{armed, delivered, without_time};

#[test]
fn guard_releases_from_the_handover() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let before = footprint();
        let mut gate = QdiscGate::prepare(&spec(3, &["0.0.0.0:8080"])).unwrap();
        let handover = gate.handover().unwrap();
        assert!(handover.descriptors.is_empty());
        gate.arm().unwrap();
        std::mem::forget(gate);
        let clients = client.run(|| Clients::start(10, "10.0.0.2:8080"));
        let inside = Clients::start(10, "127.0.0.1:8080");
        wait_for_parked(20);
        let _listener = listener("0.0.0.0:8080");
        let mut gate = QdiscGate::restore(&handover).unwrap();
        let figures = gate.release().unwrap();
        assert_eq!(without_time(figures), delivered(20));
        assert_eq!(gate.release().unwrap(), figures, "a second call has nothing to do");
        clients.all_connect();
        inside.all_connect();
        assert_eq!(retransmitted_syns() + client.run(retransmitted_syns), 0);
        before.assert_unchanged();
    });
}

#[test]
fn stale_qdiscs_are_removed_and_living_holds_stay() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let before = footprint();
        std::mem::forget(armed(&spec(4, &["0.0.0.0:8080"])));
        let mut living = armed(&spec(5, &["0.0.0.0:8081"]));
        let stale = client.run(|| Clients::start(10, "10.0.0.2:8080"));
        let held = Clients::start(10, "127.0.0.1:8081");
        wait_for_parked(20);
        let _listeners = [listener("0.0.0.0:8080"), listener("0.0.0.0:8081")];
        assert_eq!(remove_stale(&[4, 5].into()).unwrap(), 0);
        assert_eq!(remove_stale(&[5].into()).unwrap(), 1);
        stale.all_connect();
        assert_eq!(parked(), 10);
        assert_eq!(remove_stale(&[5].into()).unwrap(), 0);
        living.release().unwrap();
        held.all_connect();
        assert_eq!(retransmitted_syns() + client.run(retransmitted_syns), 0);
        before.assert_unchanged();
    });
}

#[test]
fn nothing_is_held_before_arm_and_nothing_is_left_after_drop() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let before = footprint();
        let gate = QdiscGate::prepare(&spec(1, &["0.0.0.0:8080", "[::]:8080"])).unwrap();
        assert!(!before.changes().is_empty());
        serve(listener("0.0.0.0:8080"));
        connects("127.0.0.1:8080");
        client.run(|| connects("10.0.0.2:8080"));
        drop(gate);
        before.assert_unchanged();

        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        let clients = client.run(|| Clients::start(5, "10.0.0.2:8080"));
        wait_for_parked(5);
        gate.renew().unwrap();
        drop(gate);
        clients.all_connect();
        before.assert_unchanged();
    });
}
