//! Checks that a hold does not affect foreign filters, qdiscs and other holds.

use reloader::gate::hold::Gate;
use reloader::gate::qdisc::{QdiscError, QdiscGate};
use reloader_tests::network::{Namespace, command, packets_seen_by_filter, tc};
use reloader_tests::waiting::{listener, retransmitted_syns};

use super::rig::{Clients, footprint, kernel_has_plug, parked, reachable_pair, serve, spec, wait_for_parked};
use super::{armed, delivered, without_time};

#[test]
fn foreign_filters_act_as_before_and_see_a_parked_syn_once() {
    if !kernel_has_plug() {
        return;
    }
    for qdisc in ["ingress", "clsact"] {
        let (client, server) = reachable_pair();
        server.run(|| {
            tc(&format!("qdisc add dev right {qdisc}"));
            let filter =
                |pref, rest: &str| tc(&format!("filter add dev right ingress pref {pref} protocol ip u32 {rest}"));
            filter(10, "match ip dport 8081 0xffff action drop");
            filter(20, "match ip dport 8080 0xffff action continue");
            let before = footprint();
            serve(listener("10.0.0.2:8081"));
            let mut gate = armed(&spec(1, &["0.0.0.0:8080", "0.0.0.0:8081"]));
            assert!(gate.doubt().is_some_and(|doubt| doubt.contains("right")), "{:?}", gate.doubt());

            let dropped = client.run(|| Clients::start(1, "10.0.0.2:8081"));
            let clients = client.run(|| Clients::start(20, "10.0.0.2:8080"));
            wait_for_parked(20);
            assert_eq!(seen_by_filter(20), 20);
            let listener = listener("10.0.0.2:8080");
            gate.release().unwrap();
            clients.all_connect();
            assert_eq!(seen_by_filter(20), 40, "the SYN, and the last packet of each handshake");
            assert_eq!(dropped.connected(), 0);
            assert!(seen_by_filter(10) >= 1);
            drop((clients, listener));
            before.assert_unchanged();
        });
    }
}

/// The number of packets that the filter with this preference has seen on `right`.
fn seen_by_filter(preference: u16) -> u64 {
    packets_seen_by_filter(&format!("dev right ingress pref {preference}"))
}

#[test]
fn ingress_qdisc_with_a_foreign_filter_stays() {
    if !kernel_has_plug() {
        return;
    }
    let (_client, server) = reachable_pair();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080", "[::]:8080"]));
        tc("filter add dev right ingress pref 7 protocol ip u32 match ip dport 1 0xffff action continue");
        gate.release().unwrap();
        let filters = command("tc", "filter show dev right ingress");
        assert!(filters.contains("pref 7 ") && !filters.contains("65280") && !filters.contains("mirred"), "{filters}");
        // The tables of the foreign filter were numbered among ours. None of ours is left.
        assert!(!filters.contains("ht 802") && !filters.contains("ht 803"), "{filters}");
    });
}

#[test]
fn root_qdisc_on_lo_is_refused_and_untouched() {
    if !kernel_has_plug() {
        return;
    }
    Namespace::new().run(|| {
        tc("qdisc add dev lo root handle 7: prio");
        let before = footprint();
        let error = QdiscGate::prepare(&spec(1, &["0.0.0.0:8080"])).unwrap_err();
        assert!(matches!(&error, QdiscError::LoopbackTaken { kind, major: 7 } if kind == "prio"), "{error}");
        before.assert_unchanged();
    });
}

#[test]
fn two_holds_on_different_ports_do_not_affect_each_other() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let before = footprint();
        let mut first = armed(&spec(1, &["0.0.0.0:8080"]));
        let mut second = armed(&spec(2, &["0.0.0.0:8081"]));
        let error = QdiscGate::prepare(&spec(2, &["0.0.0.0:8082"])).unwrap_err();
        assert!(matches!(error, QdiscError::IdTaken { id: 2 }), "{error}");

        let outside = client.run(|| [Clients::start(3, "10.0.0.2:8080"), Clients::start(4, "10.0.0.2:8081")]);
        let inside = [Clients::start(5, "127.0.0.1:8080"), Clients::start(6, "127.0.0.1:8081")];
        wait_for_parked(18);
        let _listeners = [listener("0.0.0.0:8080"), listener("0.0.0.0:8081")];
        assert_eq!(without_time(first.release().unwrap()), delivered(8));
        [&outside[0], &inside[0]].into_iter().for_each(Clients::all_connect);
        assert_eq!(parked(), 10);
        assert_eq!(without_time(second.release().unwrap()), delivered(10));
        [&outside[1], &inside[1]].into_iter().for_each(Clients::all_connect);
        assert_eq!(retransmitted_syns() + client.run(retransmitted_syns), 0);
        before.assert_unchanged();
    });
}
