//! The qdisc gate against the running kernel. Every test needs root, for network namespaces of its own, and a kernel with
//! sch_plug: `cargo xtask test --kernels` has some.

use reloader::gate::hold::{Exception, Gate, HoldStats, Spec};
use reloader::gate::qdisc::{QdiscError, QdiscGate, remove_stale};
use reloader_tests::poll::until;

mod net;

use net::{
    Clients, LONG, connects, footprint, kernel_has_plug, neighbours, parked, retransmitted_syns, send_raw, serve, spec,
    syn, wait_for_parked,
};
use reloader_tests::network::{Namespace, add_addresses, command, ip, tc};
use reloader_tests::waiting::listener;

fn armed(spec: &Spec) -> QdiscGate {
    let mut gate = QdiscGate::prepare(spec).unwrap_or_else(|error| panic!("{error}"));
    gate.arm().unwrap_or_else(|error| panic!("{error}"));
    gate
}

fn delivered(number: u64) -> HoldStats {
    HoldStats { held: number, released: number, ..HoldStats::default() }
}

fn without_time(figures: HoldStats) -> HoldStats {
    HoldStats { longest: Default::default(), ..figures }
}

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
    // Enough for their answers to be still on their way when the gate is taken down.
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
        let (client, server) = neighbours();
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
fn syns_with_options_and_extension_headers_are_held() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = neighbours();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080", "[::]:8080"]));
        client.run(|| {
            send_raw(&v4_with_options(&syn()), "10.0.0.2");
            send_raw(&v6(6, &syn()), "fd00::2");
            send_raw(&v6(60, &options(6, 1, &syn())), "fd00::2");
            send_raw(&v6(60, &options(60, 0, &options(6, 2, &syn()))), "fd00::2");
        });
        wait_for_parked(4);
        assert_eq!(without_time(gate.release().unwrap()), delivered(4));
    });
    Namespace::new().run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        let mut packet = v4_with_options(&syn());
        packet[12..20].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
        send_raw(&packet, "127.0.0.1");
        wait_for_parked(1);
        assert_eq!(without_time(gate.release().unwrap()), delivered(1));
    });
}

/// From 10.0.0.1 to 10.0.0.2, with eight bytes of options that say nothing.
fn v4_with_options(payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 28];
    header[0] = 0x47;
    header[8..10].copy_from_slice(&[64, 6]);
    header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header[20..28].fill(1);
    [header, payload.to_vec()].concat()
}

/// From fd00::1 to fd00::2.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[next, 64]);
    for (at, host) in [(8, 1), (24, 2)] {
        header[at] = 0xfd;
        header[at + 15] = host;
    }
    [header, payload.to_vec()].concat()
}

/// Destination options: padding of `8 + units * 8` bytes with the header.
fn options(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    const PAD_N: u8 = 1;
    let mut header = vec![0; 8 + usize::from(units) * 8];
    let padding = header.len() as u8 - 4;
    header[..4].copy_from_slice(&[next, units, PAD_N, padding]);
    [header, payload.to_vec()].concat()
}

#[test]
fn syns_to_other_hosts_and_ports_pass() {
    if !kernel_has_plug() {
        return;
    }
    let (client, router) = neighbours();
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
fn foreign_filters_act_as_before_and_see_a_parked_syn_once() {
    if !kernel_has_plug() {
        return;
    }
    for qdisc in ["ingress", "clsact"] {
        let (client, server) = neighbours();
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
            assert_eq!(counted(20), 20);
            let listener = listener("10.0.0.2:8080");
            gate.release().unwrap();
            clients.all_connect();
            assert_eq!(counted(20), 40, "the SYN, and the last packet of each handshake");
            assert_eq!(dropped.connected(), 0);
            assert!(counted(10) >= 1);
            drop((clients, listener));
            before.assert_unchanged();
        });
    }
}

/// Packets that the action of a filter on `right` has seen.
fn counted(preference: u16) -> u64 {
    let text = command("tc", &format!("-s filter show dev right ingress pref {preference}"));
    let sent = text.lines().find_map(|line| line.trim().strip_prefix("Sent ")).unwrap_or_else(|| panic!("{text}"));
    sent.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn ingress_qdisc_with_a_foreign_filter_stays() {
    if !kernel_has_plug() {
        return;
    }
    let (_client, server) = neighbours();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080", "[::]:8080"]));
        tc("filter add dev right ingress pref 7 protocol ip u32 match ip dport 1 0xffff action continue");
        gate.release().unwrap();
        let filters = command("tc", "filter show dev right ingress");
        assert!(filters.contains("pref 7 ") && !filters.contains("65280") && !filters.contains("mirred"), "{filters}");
        // Its tables were numbered among ours: none of them is left either.
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
fn new_devices_and_addresses_are_held_and_removed_ones_are_forgotten() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = neighbours();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        ip("addr add 10.0.0.3/24 dev right");
        let mut signs = 0;
        gate.follow(&mut || signs += 1).into_result().unwrap();
        assert!(signs >= 4, "before the new filters of each of two devices and before the old ones go: {signs}");
        let first = client.run(|| Clients::start(5, "10.0.0.3:8080"));
        wait_for_parked(5);

        ip("link add second type veth peer name other");
        client.take_device("other");
        ip("link set second up");
        ip("addr add 10.0.2.2/24 dev second");
        client.run(|| {
            ip("link set other up");
            ip("addr add 10.0.2.1/24 dev other");
            command("ping", "-c 1 -W 5 10.0.2.2");
        });
        gate.follow(&mut || ()).into_result().unwrap();
        let second = client.run(|| Clients::start(4, "10.0.2.2:8080"));
        wait_for_parked(9);
        gate.follow(&mut || ()).into_result().unwrap();

        // With it go the address that they were for, and their way back.
        ip("link del second");
        gate.follow(&mut || ()).into_result().unwrap();
        let _listener = listener("0.0.0.0:8080");
        let figures = gate.release().unwrap();
        first.all_connect();
        assert_eq!((figures.held, figures.released, figures.dropped, figures.device_gone), (9, 5, 0, 4));
        assert_eq!(second.connected(), 0);
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
        let (client, server) = neighbours();
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
            // The others send their SYN again.
            clients.all_connect();
        });
    }
}

#[test]
fn two_holds_on_different_ports_do_not_affect_each_other() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = neighbours();
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

#[test]
fn guard_releases_from_the_handover() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = neighbours();
    server.run(|| {
        let before = footprint();
        let mut gate = QdiscGate::prepare(&spec(3, &["0.0.0.0:8080"])).unwrap();
        let keepsake = gate.keepsake().unwrap();
        assert!(keepsake.descriptors.is_empty());
        gate.arm().unwrap();
        std::mem::forget(gate);
        let clients = client.run(|| Clients::start(10, "10.0.0.2:8080"));
        let inside = Clients::start(10, "127.0.0.1:8080");
        wait_for_parked(20);
        let _listener = listener("0.0.0.0:8080");
        let mut gate = QdiscGate::restore(&keepsake).unwrap();
        let figures = gate.release().unwrap();
        assert_eq!(without_time(figures), delivered(20));
        assert_eq!(gate.release().unwrap(), figures, "a second call finds nothing to do");
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
    let (client, server) = neighbours();
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
    let (client, server) = neighbours();
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

#[test]
fn device_of_a_bridge_is_held_once() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = neighbours();
    server.run(|| {
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("addr flush dev right");
        ip("link set right master br0");
        add_addresses("br0", 2);
        client.run(|| until(LONG, "the bridge to forward", || ping("10.0.0.2")));
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        let clients = client.run(|| Clients::start(5, "10.0.0.2:8080"));
        wait_for_parked(5);
        let _listener = listener("0.0.0.0:8080");
        assert_eq!(without_time(gate.release().unwrap()), delivered(5));
        clients.all_connect();
    });
}

fn ping(address: &str) -> bool {
    std::process::Command::new("ping").args(["-c", "1", "-W", "1", address]).output().unwrap().status.success()
}
