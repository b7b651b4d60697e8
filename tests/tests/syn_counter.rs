//! Tests the SYN counter on the running kernel: it counts each SYN once, leaves nothing behind, and does not touch the filters of others.
//! Each test needs root, for a network namespace of its own.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use reloader::gate::ProgramsError;
use reloader::gate::syn_counter::{CounterError, Hook, SynCounter, SynCounts, Watched, remove_stale};
use reloader::kernel::devices;
use reloader_tests::guest::{self, Feature};
use reloader_tests::limits::keep_only;
use rustix::thread::CapabilitySet;

use reloader_tests::network::{
    Namespace, add_addresses, connect, ip, listen, packet_path, tc, try_add_device, veth_pair,
};

const PORT: u16 = 8080;

/// The hooks that this kernel must have.
fn hooks() -> impl Iterator<Item = Hook> {
    [Hook::Tcx, Hook::Clsact].into_iter().filter(|hook| *hook != Hook::Tcx || guest::expects(Feature::Tcx))
}

/// The hook that the daemon uses on this kernel.
fn best_hook() -> Hook {
    hooks().next().unwrap()
}

/// A filter of another owner: every kernel has u32.
const FOREIGN_FILTER: &str = "u32 match ip dport 1 0xffff flowid 1:1";

fn at(address: SocketAddr) -> Watched {
    Watched { address, v6only: false }
}

fn any_v4() -> Watched {
    at(SocketAddr::from(([0, 0, 0, 0], PORT)))
}

/// Loads a counter and attaches it to all devices of the namespace.
fn attach(hook: Hook, watched: &[Watched]) -> SynCounter {
    let mut counter = SynCounter::load_for(Some(hook)).unwrap();
    counter.attach(&devices::list().unwrap(), watched).unwrap();
    counter
}

/// Counts in this namespace while `work` runs.
fn count(hook: Hook, watched: &[Watched], work: impl FnOnce()) -> SynCounts {
    let mut counter = attach(hook, watched);
    work();
    counter.detach().unwrap()
}

#[test]
fn connections_over_lo_are_counted_exactly_and_per_listener() {
    for hook in hooks() {
        Namespace::new().run(|| {
            let v4 = listen("127.0.0.1:0");
            let v6 = listen("[::1]:0");
            let other = listen("127.0.0.1:0");
            let counts = count(hook, &[at(v4), at(v6)], || {
                connect(v4, 137);
                connect(v6, 71);
                connect(other, 5);
            });
            assert_eq!(counts, SynCounts { seen: 208, each: vec![137, 71] }, "{hook:?}");
        });
    }
}

#[test]
fn wildcard_counts_one_family_unless_it_is_dual_stack() {
    Namespace::new().run(|| {
        let address = listen("[::]:0");
        let port = address.port();
        let (v4, v6) = (SocketAddr::from(([127, 0, 0, 2], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
        let any = |v6only| Watched { address, v6only };
        let work = || {
            connect(v4, 3);
            connect(v6, 4);
        };
        assert_eq!(count(best_hook(), &[any(false)], work).seen, 7);
        assert_eq!(count(best_hook(), &[any(true)], work).seen, 4);
        assert_eq!(count(best_hook(), &[at(SocketAddr::from(([0, 0, 0, 0], port)))], work).seen, 3);
        // The exact address comes first, as in the kernel's choice of a listener. Listeners on the same address share its SYNs.
        let counts = count(best_hook(), &[any(false), at(v4), at(v4)], work);
        assert_eq!(counts, SynCounts { seen: 7, each: vec![4, 3, 3] });
    });
}

#[test]
fn connections_from_another_host_are_counted_with_and_without_forwarding() {
    for (hook, forwards) in hooks().flat_map(|hook| [(hook, 0), (hook, 1)]) {
        let (client, server) = veth_pair();
        client.run(|| add_addresses("left", 1));
        server.run(|| {
            add_addresses("right", 2);
            forward(forwards);
            let v4 = listen("10.0.0.2:8080");
            let v6 = listen("[fd00::2]:8080");
            let counts = count(hook, &[any_v4(), at(v6)], || {
                client.run(|| {
                    connect(v4, 61);
                    connect(v6, 43);
                });
            });
            assert_eq!(counts.each, [61, 43], "{hook:?}, forwarding {forwards}");
        });
    }
}

#[test]
fn forwarded_syn_to_the_same_port_is_not_counted() {
    let (client, router) = veth_pair();
    let server = Namespace::new();
    router.run(|| {
        ip("link add near type veth peer name far");
        server.take_device("far");
        ip("link set near up");
        ip("addr add 10.0.0.2/24 dev right");
        ip("addr add 10.0.1.2/24 dev near");
        forward(1);
    });
    client.run(|| {
        ip("addr add 10.0.0.1/24 dev left");
        ip("route add default via 10.0.0.2");
    });
    server.run(|| {
        ip("link set far up");
        ip("addr add 10.0.1.1/24 dev far");
        ip("route add default via 10.0.1.2");
    });
    let far = server.run(|| listen("10.0.1.1:8080"));
    router.run(|| {
        let near = listen("0.0.0.0:8080");
        assert_eq!(near.port(), PORT);
        let counts = count(best_hook(), &[any_v4()], || {
            client.run(|| {
                connect(far, 20);
                connect(SocketAddr::from(([10, 0, 0, 2], PORT)), 3);
            });
        });
        assert_eq!(counts.seen, 3);
    });
}

#[test]
fn stacked_devices_count_a_syn_once() {
    for (kind, target) in [
        ("vlan id 10", "10.0.1.2"),
        ("macvlan mode bridge", "10.0.1.2"),
        ("ipvlan mode l2", "10.0.1.2"),
        ("bridge", "10.0.1.2"),
        ("vrf table 10", "10.0.0.2"),
    ] {
        let (client, server) = veth_pair();
        if !server.run(|| stack(kind)) {
            eprintln!("not tested: this kernel does not have {kind}");
            continue;
        }
        client.run(|| {
            let device = if kind.starts_with("vlan") { "top" } else { "left" };
            if device == "top" {
                ip("link add link left name top type vlan id 10");
                ip("link set top up");
            }
            ip("addr add 10.0.0.1/24 dev left");
            ip(&format!("addr add 10.0.1.1/24 dev {device}"));
        });
        server.run(|| {
            listen("0.0.0.0:8080");
            let counts = count(best_hook(), &[any_v4()], || {
                client.run(|| connect(SocketAddr::new(target.parse().unwrap(), PORT), 17));
            });
            assert_eq!(counts.seen, 17, "{kind}");
        });
    }
}

/// Adds a device `top` of this kind on `right`, with an address of its own unless it is a VRF. False where the kernel cannot.
fn stack(kind: &str) -> bool {
    let is_master = ["bridge", "vrf"].iter().any(|master| kind.starts_with(master));
    let link = if is_master { "" } else { "link right" };
    if !try_add_device(&format!("{link} name top type {kind}")) {
        return false;
    }
    ip("link set top up");
    // Otherwise `right` answers ARP for the address of `top`, and the SYN never passes `top`.
    std::fs::write("/proc/sys/net/ipv4/conf/all/arp_ignore", "1").unwrap();
    if is_master {
        ip("link set right master top");
    }
    if kind.starts_with("vrf") {
        // A listener in no VRF serves all of them.
        std::fs::write("/proc/sys/net/ipv4/tcp_l3mdev_accept", "1").unwrap();
    } else {
        ip("addr add 10.0.1.2/24 dev top");
    }
    ip("addr add 10.0.0.2/24 dev right");
    true
}

/// Adds the connected devices `left` and `right`.
fn add_veth() {
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
}

#[test]
fn nothing_is_left_after_detach_or_drop() {
    for hook in hooks() {
        Namespace::new().run(|| {
            add_veth();
            let before = packet_path();
            let mut counter = attach(hook, &[any_v4()]);
            assert_ne!(packet_path(), before, "{hook:?}: the comparison does not see an attached program");
            counter.detach().unwrap();
            assert_eq!(packet_path(), before, "{hook:?}");

            counter.attach(&devices::list().unwrap(), &[any_v4()]).unwrap();
            assert_ne!(packet_path(), before, "{hook:?}");
            drop(counter);
            assert_eq!(packet_path(), before, "{hook:?}: dropped");
        });
    }
}

#[test]
fn foreign_filters_survive_and_keep_acting() {
    for hook in hooks() {
        for qdisc in ["clsact", "ingress"] {
            Namespace::new().run(|| {
                let open = listen("127.0.0.1:0");
                let shut = listen("127.0.0.1:0");
                tc(&format!("qdisc add dev lo {qdisc}"));
                // The packet is redirected to a device that is down, and lost.
                ip("link add sink type veth peer name other");
                let lose = format!("u32 match ip dport {} 0xffff action mirred egress redirect dev sink", shut.port());
                tc(&format!("filter add dev lo ingress pref 10 protocol ip {lose}"));
                let before = packet_path();

                let counts = count(hook, &[at(open), at(shut)], || {
                    connect(open, 9);
                    let dropped = std::net::TcpStream::connect_timeout(&shut, Duration::from_millis(100));
                    assert!(dropped.is_err(), "{hook:?}, {qdisc}: the filter behind ours was skipped");
                });
                assert_eq!(packet_path(), before, "{hook:?}, {qdisc}");
                assert_eq!(counts.each[0], 9, "{hook:?}, {qdisc}");
                assert!(counts.each[1] >= 1, "{hook:?}, {qdisc}: the counter is not in front");
            });
        }
    }
}

#[test]
fn existing_empty_qdisc_is_kept() {
    for (hook, qdisc) in hooks().map(|hook| (hook, "clsact")).chain([(Hook::Clsact, "ingress")]) {
        Namespace::new().run(|| {
            tc(&format!("qdisc add dev lo {qdisc}"));
            let before = packet_path();
            count(hook, &[any_v4()], || assert_ne!(packet_path(), before));
            assert_eq!(packet_path(), before, "{hook:?}, {qdisc}");
        });
    }
}

#[test]
fn own_clsact_is_kept_once_another_filter_uses_it() {
    Namespace::new().run(|| {
        let mut counter = attach(Hook::Clsact, &[any_v4()]);
        tc(&format!("filter add dev lo egress pref 5 protocol ip {FOREIGN_FILTER}"));
        counter.detach().unwrap();
        let path = packet_path();
        assert!(path.contains("clsact") && path.contains("u32") && !path.contains("reloader"), "{path}");
    });
}

#[test]
fn leftovers_of_a_killed_daemon_are_removed_at_the_next_start() {
    for has_foreign_clsact in [false, true] {
        Namespace::new().run(|| {
            if has_foreign_clsact {
                tc("qdisc add dev lo clsact");
                tc(&format!("filter add dev lo ingress pref 3 protocol ip {FOREIGN_FILTER}"));
            }
            let before = packet_path();
            // A filter keeps its program alive: without the destructor both stay, as after a kill -9.
            std::mem::forget(attach(Hook::Clsact, &[any_v4()]));
            assert!(packet_path().contains("reloader_syns"));
            assert_eq!(remove_stale().unwrap(), 1);
            assert_eq!(packet_path(), before);
            assert_eq!(remove_stale().unwrap(), 0);
        });
    }
}

#[test]
fn vanished_device_does_not_affect_the_other_counts() {
    for hook in hooks() {
        Namespace::new().run(|| {
            add_veth();
            let address = listen("127.0.0.1:0");
            let listed = devices::list().unwrap();
            let mut counter = attach(hook, &[at(address)]);
            connect(address, 2);
            ip("link del left");
            connect(address, 2);
            assert_eq!(counter.detach().unwrap().seen, 4, "{hook:?}");
            counter.attach(&listed, &[at(address)]).unwrap();
            connect(address, 1);
            assert_eq!(counter.detach().unwrap().seen, 1, "{hook:?}");
        });
    }
}

#[test]
fn three_thousand_dual_stack_listeners_can_be_watched() {
    Namespace::new().run(|| {
        let listeners = |ports: std::ops::RangeInclusive<u16>| -> Vec<Watched> {
            ports.map(|port| at(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], port)))).collect()
        };
        let mut counter = SynCounter::load().unwrap();
        // Different listeners in each round: those that are no longer watched take no room.
        for first in [10_000, 20_000, 30_000] {
            counter.attach(&[], &listeners(first..=first + 2999)).unwrap();
            assert_eq!(counter.detach().unwrap().seen, 0);
        }
        let watched = listeners(1..=3000);
        listen("127.0.0.1:2999");
        let counts = count(best_hook(), &watched, || connect(SocketAddr::from(([127, 0, 0, 1], 2999)), 6));
        assert_eq!((counts.seen, counts.each[2998], counts.each.len()), (6, 6, 3000));
    });
}

/// Sets whether this namespace forwards packets: 0 or 1.
fn forward(on: u8) {
    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{family}"), on.to_string()).unwrap();
    }
}

/// The unit file grants these two, and not CAP_PERFMON, which the verifier would demand if a program looped over a pointer.
#[test]
fn two_capabilities_are_enough_and_one_is_not() {
    Namespace::new().run(|| {
        let address = listen("127.0.0.1:0");
        // Below Linux 5.11 BPF memory counts against the limit, and these capabilities are not enough to raise it. Root in a container may
        // lack CAP_SYS_RESOURCE: where the limit matters, the test fails below.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        keep_only(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        let counts = count(best_hook(), &[at(address)], || connect(address, 2));
        assert_eq!(counts.seen, 2);

        keep_only(CapabilitySet::NET_ADMIN);
        let error = SynCounter::load().err().expect("bpf(2) without CAP_BPF");
        assert!(
            matches!(error, CounterError::Programs(ProgramsError::Denied)) && error.to_string().contains("CAP_BPF"),
            "{error}"
        );
    });
}
