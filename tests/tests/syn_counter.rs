//! The SYN counter against the running kernel: it counts each SYN once, leaves nothing behind and spares what is others'.
//! Every test needs root, for a network namespace of its own.

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

/// Those that this kernel must have.
fn hooks() -> impl Iterator<Item = Hook> {
    [Hook::Tcx, Hook::Clsact].into_iter().filter(|hook| *hook != Hook::Tcx || guest::expects(Feature::Tcx))
}

/// The one that the daemon takes here.
fn best() -> Hook {
    hooks().next().unwrap()
}

/// Somebody else's filter: u32 is in every kernel.
const ANY_FILTER: &str = "u32 match ip dport 1 0xffff flowid 1:1";

fn at(address: SocketAddr) -> Watched {
    Watched { address, v6only: false }
}

fn any_v4() -> Watched {
    at(SocketAddr::from(([0, 0, 0, 0], PORT)))
}

/// Attaches to all devices of the namespace.
fn attached(hook: Hook, watched: &[Watched]) -> SynCounter {
    let mut counter = SynCounter::load_for(Some(hook)).unwrap();
    counter.attach(&devices::list().unwrap(), watched).unwrap();
    counter
}

/// What is counted in this namespace while `work` runs.
fn counted(hook: Hook, watched: &[Watched], work: impl FnOnce()) -> SynCounts {
    let mut counter = attached(hook, watched);
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
            let counts = counted(hook, &[at(v4), at(v6)], || {
                connect(v4, 137);
                connect(v6, 71);
                connect(other, 5);
            });
            assert_eq!(counts, SynCounts { seen: 208, each: vec![137, 71] }, "{hook:?}");
        });
    }
}

#[test]
fn any_address_is_of_one_family_unless_it_is_dual_stack() {
    Namespace::new().run(|| {
        let address = listen("[::]:0");
        let port = address.port();
        let (v4, v6) = (SocketAddr::from(([127, 0, 0, 2], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
        let any = |v6only| Watched { address, v6only };
        let work = || {
            connect(v4, 3);
            connect(v6, 4);
        };
        assert_eq!(counted(best(), &[any(false)], work).seen, 7);
        assert_eq!(counted(best(), &[any(true)], work).seen, 4);
        assert_eq!(counted(best(), &[at(SocketAddr::from(([0, 0, 0, 0], port)))], work).seen, 3);
        // The exact address comes first, as it does among listeners; a listener of the same address shares its SYNs.
        let counts = counted(best(), &[any(false), at(v4), at(v4)], work);
        assert_eq!(counts, SynCounts { seen: 7, each: vec![4, 3, 3] });
    });
}

#[test]
fn connections_from_another_host_are_counted_whether_or_not_this_one_forwards() {
    for (hook, forwards) in hooks().flat_map(|hook| [(hook, 0), (hook, 1)]) {
        let (client, server) = veth_pair();
        client.run(|| add_addresses("left", 1));
        server.run(|| {
            add_addresses("right", 2);
            forward(forwards);
            let v4 = listen("10.0.0.2:8080");
            let v6 = listen("[fd00::2]:8080");
            let counts = counted(hook, &[any_v4(), at(v6)], || {
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
fn a_forwarded_syn_to_the_same_port_is_somebody_elses() {
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
        let counts = counted(best(), &[any_v4()], || {
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
            eprintln!("not tested: this kernel has no {kind}");
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
            let counts = counted(best(), &[any_v4()], || {
                client.run(|| connect(SocketAddr::new(target.parse().unwrap(), PORT), 17));
            });
            assert_eq!(counts.seen, 17, "{kind}");
        });
    }
}

/// Puts a device `top` of this kind on `right`, with an address of its own unless it is a VRF. False where the kernel cannot.
fn stack(kind: &str) -> bool {
    let is_master = ["bridge", "vrf"].iter().any(|master| kind.starts_with(master));
    let link = if is_master { "" } else { "link right" };
    if !try_add_device(&format!("{link} name top type {kind}")) {
        return false;
    }
    ip("link set top up");
    // Else `right` answers for the address of `top`, and the SYN never passes `top`.
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

#[test]
fn nothing_is_left_after_detach_or_drop() {
    for hook in hooks() {
        Namespace::new().run(|| {
            ip("link add left type veth peer name right");
            ip("link set left up");
            ip("link set right up");
            let before = packet_path();
            let mut counter = attached(hook, &[any_v4()]);
            assert_ne!(packet_path(), before, "{hook:?}: the comparison sees an attached program");
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
fn what_others_put_there_survives_and_keeps_acting() {
    for hook in hooks() {
        for qdisc in ["clsact", "ingress"] {
            Namespace::new().run(|| {
                let open = listen("127.0.0.1:0");
                let shut = listen("127.0.0.1:0");
                tc(&format!("qdisc add dev lo {qdisc}"));
                // To a device that is down: the packet is lost.
                ip("link add sink type veth peer name other");
                let lose = format!("u32 match ip dport {} 0xffff action mirred egress redirect dev sink", shut.port());
                tc(&format!("filter add dev lo ingress pref 10 protocol ip {lose}"));
                let before = packet_path();

                let counts = counted(hook, &[at(open), at(shut)], || {
                    connect(open, 9);
                    let policy = std::net::TcpStream::connect_timeout(&shut, Duration::from_millis(100));
                    assert!(policy.is_err(), "{hook:?}, {qdisc}: the filter behind ours was skipped");
                });
                assert_eq!(packet_path(), before, "{hook:?}, {qdisc}");
                assert_eq!(counts.each[0], 9, "{hook:?}, {qdisc}");
                assert!(counts.each[1] >= 1, "{hook:?}, {qdisc}: the counter is not in front");
            });
        }
    }
}

#[test]
fn an_empty_qdisc_that_was_there_before_stays() {
    for (hook, qdisc) in hooks().map(|hook| (hook, "clsact")).chain([(Hook::Clsact, "ingress")]) {
        Namespace::new().run(|| {
            tc(&format!("qdisc add dev lo {qdisc}"));
            let before = packet_path();
            counted(hook, &[any_v4()], || assert_ne!(packet_path(), before));
            assert_eq!(packet_path(), before, "{hook:?}, {qdisc}");
        });
    }
}

#[test]
fn a_clsact_of_ours_stays_when_somebody_has_come_to_use_it() {
    Namespace::new().run(|| {
        let mut counter = attached(Hook::Clsact, &[any_v4()]);
        tc(&format!("filter add dev lo egress pref 5 protocol ip {ANY_FILTER}"));
        counter.detach().unwrap();
        let path = packet_path();
        assert!(path.contains("clsact") && path.contains("u32") && !path.contains("reloader"), "{path}");
    });
}

#[test]
fn what_a_killed_daemon_left_is_removed_at_the_next_start() {
    for clsact_was_there in [false, true] {
        Namespace::new().run(|| {
            if clsact_was_there {
                tc("qdisc add dev lo clsact");
                tc(&format!("filter add dev lo ingress pref 3 protocol ip {ANY_FILTER}"));
            }
            let before = packet_path();
            // A filter keeps its program: without its owner's destructor it stays as it does after a kill -9.
            std::mem::forget(attached(Hook::Clsact, &[any_v4()]));
            assert!(packet_path().contains("reloader_syns"));
            assert_eq!(remove_stale().unwrap(), 1);
            assert_eq!(packet_path(), before);
            assert_eq!(remove_stale().unwrap(), 0);
        });
    }
}

#[test]
fn a_device_that_vanishes_between_takes_nothing_with_it() {
    for hook in hooks() {
        Namespace::new().run(|| {
            ip("link add left type veth peer name right");
            ip("link set left up");
            ip("link set right up");
            let address = listen("127.0.0.1:0");
            let listed = devices::list().unwrap();
            let mut counter = attached(hook, &[at(address)]);
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
        // Again and again, always others: what is no longer watched takes no room.
        for first in [10_000, 20_000, 30_000] {
            counter.attach(&[], &listeners(first..=first + 2999)).unwrap();
            assert_eq!(counter.detach().unwrap().seen, 0);
        }
        let watched = listeners(1..=3000);
        listen("127.0.0.1:2999");
        let counts = counted(best(), &watched, || connect(SocketAddr::from(([127, 0, 0, 1], 2999)), 6));
        assert_eq!((counts.seen, counts.each[2998], counts.each.len()), (6, 6, 3000));
    });
}

fn forward(on: u8) {
    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{family}"), on.to_string()).unwrap();
    }
}

/// What the unit file grants: no CAP_PERFMON, which the verifier would ask for if a program looped over a pointer.
#[test]
fn two_capabilities_are_enough_and_one_is_not() {
    Namespace::new().run(|| {
        let address = listen("127.0.0.1:0");
        // Below 5.11 BPF memory counts against it, and these capabilities are not enough to lift it. A container's root may
        // lack CAP_SYS_RESOURCE: where the limit matters, what follows fails.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
        keep_only(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        let counts = counted(best(), &[at(address)], || connect(address, 2));
        assert_eq!(counts.seen, 2);

        keep_only(CapabilitySet::NET_ADMIN);
        let error = SynCounter::load().err().expect("bpf(2) without CAP_BPF");
        assert!(
            matches!(error, CounterError::Programs(ProgramsError::Denied)) && error.to_string().contains("CAP_BPF"),
            "{error}"
        );
    });
}
