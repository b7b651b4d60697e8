//! Checks that a hold does not affect foreign filters, qdiscs, listeners and other holds.

use std::net::SocketAddr;

use reloader::gate::ebpf::Hook;
use reloader::gate::hold::{Exception, Gate as _};
use reloader::gate::syn_counter::{SynCounter, Watched};
use reloader::kernel::devices;
use reloader_tests::network::{
    Namespace, add_addresses, addressed_pair, connect, ip, listen, packet_path, packets_seen_by_filter, tc,
    try_add_device,
};
use reloader_tests::waiting::{Client, listener, retransmits, start_clients, until_connected};

use super::at;
use super::rig::{best, hold, hooks, release, spec, until_held};

#[test]
fn dropping_and_counting_filters_act_as_before() {
    // A hold by clsact comes after every TCX program, so it is not used where the kernel has TCX.
    let ways = [(Hook::Tcx, Hook::Tcx), (Hook::Tcx, Hook::Clsact), (Hook::Clsact, Hook::Clsact)];
    for (hook, others) in ways.into_iter().filter(|(hook, _)| hooks().contains(hook)) {
        let (client, server) = addressed_pair();
        server.run(|| {
            tc("qdisc add dev right clsact");
            // The filter redirects to a device that is down, so the packet is lost.
            ip("link add sink type veth peer name other");
            let lose = "u32 match ip dport 8081 0xffff action mirred egress redirect dev sink";
            tc(&format!("filter add dev right ingress pref 10 protocol ip {lose}"));
            let mut counter = SynCounter::load_for(Some(others)).unwrap();
            let watched =
                ["10.0.0.2:8080", "10.0.0.2:8082"].map(|address| Watched { address: at(address), v6only: false });
            listen("10.0.0.2:8082");
            counter.attach(&devices::list().unwrap(), &watched).unwrap();
            let before = packet_path();

            let mut gate = hold(hook, &spec(&["0.0.0.0:8080", "0.0.0.0:8081"]));
            let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 20));
            let lost = client.run(|| start_clients(at("10.0.0.2:8081"), 1));
            until_held(&mut gate, 21);
            client.run(|| connect(at("10.0.0.2:8082"), 5));
            gate.renew().unwrap();
            let _listeners = [listener("0.0.0.0:8080"), listener("0.0.0.0:8081")];
            release(&mut gate, 21);
            until_connected(&clients);
            assert_eq!(packet_path(), before, "{hook:?} beside {others:?}");
            // A clsact filter after a TCX program sees a packet only if that program lets it go on. A parked SYN is
            // counted once.
            assert_eq!(counter.detach().unwrap().each, [20, 5], "{hook:?} beside {others:?}");
            assert!(!lost[0].is_connected(), "{hook:?} beside {others:?}: the filter was skipped");
            assert_eq!(packets_seen_by_filter("dev right ingress"), 1, "{hook:?} beside {others:?}");
        });
    }
}

/// Without TCX the filter with preference 1 decides first: a SYN that it lets in was never parked.
#[test]
fn filter_that_decides_first_is_a_doubt() {
    for (hook, preference, decides) in [(Hook::Clsact, 1, true), (Hook::Clsact, 2, false), (Hook::Tcx, 1, false)] {
        if !hooks().contains(&hook) {
            continue;
        }
        for direction in ["ingress", "egress"] {
            let (client, server) = addressed_pair();
            server.run(|| {
                tc("qdisc add dev right clsact");
                let accept = "protocol ip u32 match ip dport 8080 0xffff flowid 1:1";
                tc(&format!("filter add dev right {direction} pref {preference} {accept}"));
                let mut gate = hold(hook, &spec(&["10.0.0.2:8080"]));
                let doubt = gate.doubt();
                let names_it =
                    doubt.as_ref().is_some_and(|doubt| doubt.contains("other filters") && doubt.contains("right"));
                assert_eq!(
                    (doubt.is_some(), names_it),
                    (decides, decides),
                    "{hook:?}, {preference} {direction}: {doubt:?}"
                );
                let _listener = listener("10.0.0.2:8080");
                let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 3));
                if decides && direction == "ingress" {
                    until_connected(&clients);
                    assert_eq!(gate.stats().unwrap().held, 0, "no SYN was parked");
                }
                gate.release().unwrap();
            });
        }
    }
}

#[test]
fn existing_qdiscs_stay() {
    let ways = [(Hook::Tcx, "clsact"), (Hook::Tcx, "ingress"), (Hook::Clsact, "clsact")];
    for (hook, qdisc) in ways.into_iter().filter(|(hook, _)| hooks().contains(hook)) {
        let (client, server) = addressed_pair();
        server.run(|| {
            tc(&format!("qdisc add dev right {qdisc}"));
            let before = packet_path();
            let mut gate = hold(hook, &spec(&["0.0.0.0:8080"]));
            assert_ne!(packet_path(), before);
            let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 1));
            until_held(&mut gate, 1);
            let _listener = listener("0.0.0.0:8080");
            release(&mut gate, 1);
            until_connected(&clients);
            assert_eq!(packet_path(), before, "{hook:?}, {qdisc}");
        });
    }
}

#[test]
fn ingress_qdisc_without_tcx_is_refused_with_a_reason() {
    let (_client, server) = addressed_pair();
    server.run(|| {
        tc("qdisc add dev right ingress");
        let before = packet_path();
        let spec = spec(&["0.0.0.0:8080"]);
        let error = reloader::gate::ebpf::EbpfGate::prepare_by(&spec, Some(Hook::Clsact)).err().unwrap();
        assert!(error.to_string().contains("right by eBPF: it has an `ingress`"), "{error}");
        assert_eq!(packet_path(), before);
    });
}

#[test]
fn forwarded_syns_are_not_delayed() {
    for hook in hooks() {
        let (client, router) = addressed_pair();
        let server = Namespace::new();
        router.run(|| {
            ip("link add inner type veth peer name server");
            server.take_device("server");
            ip("link set inner up");
            ip("addr add 10.0.1.1/24 dev inner");
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        });
        server.run(|| {
            ip("link set server up");
            ip("addr add 10.0.1.2/24 dev server");
            ip("route add default via 10.0.1.1");
            listen("10.0.1.2:8080");
        });
        client.run(|| ip("route add default via 10.0.0.2"));
        router.run(|| {
            let mut gate = hold(hook, &spec(&["0.0.0.0:8080"]));
            client.run(|| connect(at("10.0.1.2:8080"), 5));
            release(&mut gate, 0);
        });
    }
}

#[test]
fn bridged_syns_pass_and_syns_to_the_bridge_are_held() {
    for hook in hooks() {
        let (client, bridge) = addressed_pair();
        let server = Namespace::new();
        let has_bridge = bridge.run(|| {
            ip("link add inner type veth peer name server");
            server.take_device("server");
            ip("addr flush dev right");
            let added = try_add_device("name br0 type bridge");
            if added {
                for port in ["inner", "right"] {
                    ip(&format!("link set {port} master br0 up"));
                }
                ip("link set br0 up");
                add_addresses("br0", 2);
            }
            added
        });
        if !has_bridge {
            eprintln!("not tested: this kernel has no bridge");
            return;
        }
        server.run(|| {
            ip("link set server up");
            add_addresses("server", 3);
            listen("0.0.0.0:8080");
        });
        bridge.run(|| {
            let mut gate = hold(hook, &spec(&["0.0.0.0:8080"]));
            client.run(|| connect(at("10.0.0.3:8080"), 5));
            let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 5));
            until_held(&mut gate, 5);
            let _listener = listener("0.0.0.0:8080");
            release(&mut gate, 5);
            until_connected(&clients);
            assert_eq!(client.run(retransmits), 0, "{hook:?}");
        });
    }
}

#[test]
fn foreign_listener_of_one_address_is_not_held() {
    Namespace::new().run(|| {
        listen("127.0.0.2:8080");
        let mut spec = spec(&["0.0.0.0:8080"]);
        spec.exceptions = vec![Exception { address: at("127.0.0.2:8080"), interface: 0 }];
        let mut gate = hold(best(), &spec);
        connect(at("127.0.0.2:8080"), 3);
        let clients = start_clients(at("127.0.0.1:8080"), 2);
        until_held(&mut gate, 2);
        let _listener = listener("127.0.0.1:8080");
        release(&mut gate, 2);
        until_connected(&clients);
    });
}

#[test]
fn listener_bound_to_a_device_is_held_there_only() {
    let (client, server) = addressed_pair();
    server.run(|| {
        let device = devices::list().unwrap().into_iter().find(|device| device.name == "right").unwrap();
        let mut spec = spec(&["0.0.0.0:8080"]);
        spec.targets[0].interface = device.index;
        listen("127.0.0.1:8080");
        let mut gate = hold(best(), &spec);
        connect(at("127.0.0.1:8080"), 3);
        let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 2));
        until_held(&mut gate, 2);
        let bound = socket2::Socket::from(std::net::TcpListener::bind("10.0.0.2:0").unwrap());
        drop(bound);
        let _listener = listener("10.0.0.2:8080");
        release(&mut gate, 2);
        until_connected(&clients);
    });
}

#[test]
fn two_holds_do_not_affect_each_other() {
    for (first, second) in hooks().into_iter().flat_map(|first| hooks().into_iter().map(move |second| (first, second)))
    {
        let (client, server) = addressed_pair();
        server.run(|| {
            let before = packet_path();
            let mut one = hold(first, &spec(&["0.0.0.0:8080"]));
            let mut two = hold(second, &spec(&["0.0.0.0:8081"]));
            assert_eq!((one.doubt(), two.doubt()), (None, None), "{first:?}, {second:?}");
            let of = |port| SocketAddr::from(([10, 0, 0, 2], port));
            let (ones, twos): (Vec<Client>, Vec<Client>) =
                client.run(|| (start_clients(of(8080), 7), start_clients(of(8081), 9)));
            until_held(&mut one, 7);
            until_held(&mut two, 9);
            let _listeners = [listener("0.0.0.0:8080"), listener("0.0.0.0:8081")];
            release(&mut one, 7);
            until_connected(&ones);
            assert!(!twos.iter().any(Client::is_connected), "{first:?}, {second:?}");
            two.renew().unwrap();
            release(&mut two, 9);
            until_connected(&twos);
            assert_eq!(client.run(retransmits), 0, "{first:?}, {second:?}");
            assert_eq!(packet_path(), before, "{first:?}, {second:?}");
        });
    }
}

#[test]
fn rule_that_drops_marked_packets_loses_nothing_on_lo() {
    Namespace::new().run(|| {
        let rules = "add table inet t; add chain inet t out { type filter hook output priority 0; }; \
                     add rule inet t out meta mark != 0 drop";
        let added = std::process::Command::new("nft").arg(rules).output().expect("running nft (package nftables)");
        if !added.status.success() {
            let error = String::from_utf8_lossy(&added.stderr).into_owned();
            assert!(error.contains("Operation not supported") || error.contains("initialize"), "{error}");
            eprintln!("not tested: this kernel has no nf_tables");
            return;
        }
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let mut gate = hold(best(), &spec(&[address]));
            let clients = start_clients(at(address), 10);
            until_held(&mut gate, 10);
            let _listener = listener(address);
            release(&mut gate, 10);
            until_connected(&clients);
            assert_eq!(retransmits(), 0);
        }
    });
}
