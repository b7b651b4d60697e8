//! Holds the SYNs of waiting clients, and lets other SYNs pass.

use reloader::gate::hold::{Exception, Gate, HoldStats, Spec};
use reloader_tests::network::{Namespace, ip};
use reloader_tests::poll::until;
use reloader_tests::waiting::{listener, retransmitted_syns};

use super::rig::{
    Clients, LONG, connects, footprint, kernel_has_plug, parked, reachable_pair, serve, spec, wait_for_parked,
};
use super::{armed, delivered, without_time};

#[test]
fn local_clients_are_neither_refused_nor_late() {
    if !kernel_has_plug() {
        return;
    }
    for (target, address) in
        [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("127.0.0.1:8080", "127.0.0.1:8080")]
    {
        Namespace::new().run(|| {
            let before = footprint();
            let mut gate = armed(&spec(1, &[target]));
            let clients = Clients::start(50, address);
            wait_for_parked(50);
            assert_eq!(clients.connected(), 0);
            let _listener = listener(target);
            let figures = gate.release().unwrap();
            clients.all_connect();
            assert_eq!(retransmitted_syns(), 0, "{address}");
            assert_eq!(without_time(figures), delivered(50), "{address}");
            assert!(!figures.longest.is_zero());
            before.assert_unchanged();
        });
    }
}

#[test]
fn remote_clients_are_neither_refused_nor_late() {
    // Enough clients that answers are still on their way when the gate is removed.
    const MANY: usize = 300;
    if !kernel_has_plug() {
        return;
    }
    for (target, address) in [
        ("0.0.0.0:8080", "10.0.0.2:8080"),
        ("[::]:8080", "[fd00::2]:8080"),
        ("10.0.0.2:8080", "10.0.0.2:8080"),
        ("[fd00::2]:8080", "[fd00::2]:8080"),
    ] {
        let (client, server) = reachable_pair();
        server.run(|| {
            let before = footprint();
            let mut gate = armed(&spec(0x7fff, &[target]));
            let clients = client.run(|| Clients::start(MANY, address));
            wait_for_parked(MANY as u64);
            let _listener = listener(target);
            let figures = gate.release().unwrap();
            clients.all_connect();
            assert_eq!(client.run(retransmitted_syns), 0, "{address}");
            assert_eq!(without_time(figures), delivered(MANY as u64), "{address}");
            before.assert_unchanged();
        });
    }
}

#[test]
fn syns_to_other_hosts_and_ports_pass() {
    if !kernel_has_plug() {
        return;
    }
    let (client, router) = reachable_pair();
    let far = Namespace::new();
    router.run(|| {
        ip("link add near type veth peer name far");
        far.take_device("far");
        ip("link set near up");
        ip("addr add 10.0.1.2/24 dev near");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    });
    client.run(|| ip("route add default via 10.0.0.2"));
    far.run(|| {
        ip("link set far up");
        ip("addr add 10.0.1.1/24 dev far");
        ip("route add default via 10.0.1.2");
        serve(listener("10.0.1.1:8080"));
    });
    router.run(|| {
        serve(listener("10.0.0.2:9090"));
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        client.run(|| {
            connects("10.0.1.1:8080");
            connects("10.0.0.2:9090");
        });
        assert_eq!(gate.release().unwrap(), HoldStats::default());
    });
}

#[test]
fn syns_to_an_exception_pass() {
    if !kernel_has_plug() {
        return;
    }
    Namespace::new().run(|| {
        serve(listener("127.0.0.2:8080"));
        let exceptions = vec![Exception { address: "127.0.0.2:8080".parse().unwrap(), interface: 0 }];
        let mut gate = armed(&Spec { exceptions, ..spec(1, &["0.0.0.0:8080"]) });
        connects("127.0.0.2:8080");
        let clients = Clients::start(3, "127.0.0.3:8080");
        wait_for_parked(3);
        let _listener = listener("127.0.0.3:8080");
        assert_eq!(without_time(gate.release().unwrap()), delivered(3));
        clients.all_connect();
    });
}

#[test]
fn syns_beyond_capacity_are_dropped_and_other_ports_are_served() {
    if !kernel_has_plug() {
        return;
    }
    for (outside, address, other) in
        [(false, "127.0.0.1:8080", "127.0.0.1:9090"), (true, "10.0.0.2:8080", "10.0.0.2:9090")]
    {
        let (client, server) = reachable_pair();
        let client = if outside { &client } else { &server };
        server.run(|| {
            serve(listener("0.0.0.0:9090"));
            let mut gate = armed(&Spec { capacity: 1000, ..spec(1, &["0.0.0.0:8080"]) });
            let clients = client.run(|| Clients::start(100, address));
            until(LONG, "the plug to be full", || parked() > 5);
            client.run(|| connects(other));
            let _listener = listener("0.0.0.0:8080");
            let figures = gate.release().unwrap();
            assert!(figures.held >= 5 && figures.held < 20, "{figures:?}");
            assert!(figures.dropped >= 80, "{figures:?}");
            // Clients whose SYN was dropped send it again.
            clients.all_connect();
        });
    }
}
