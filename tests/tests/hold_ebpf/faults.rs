//! Tests faults while a hold is active.

use std::path::Path;
use std::time::Duration;

use reloader::gate::ProgramsError;
use reloader::gate::ebpf::{EbpfError, EbpfGate, Hook, remove_stale};
use reloader::gate::hold::{Gate as _, LEASE, Living};
use reloader_tests::footprint::Footprint;
use reloader_tests::limits::keep_only;
use reloader_tests::network::{Namespace, add_addresses, addressed_pair, command, connect, ip, listen, packet_path};
use reloader_tests::poll::until;
use reloader_tests::waiting::{Client, listener, retransmits, start_clients, until_connected};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::at;
use super::rig::{best, hold, hooks, release, spec, until_held};

#[test]
fn full_ring_drops_and_counts_and_other_ports_are_served() {
    Namespace::new().run(|| {
        listen("127.0.0.1:8081");
        let mut spec = spec(&["127.0.0.1:8080"]);
        spec.capacity = 4096;
        let mut gate = hold(best(), &spec);
        let clients = start_clients(at("127.0.0.1:8080"), 100);
        until(Duration::from_secs(10), "all SYNs to be seen", || {
            gate.renew().unwrap();
            let figures = gate.stats().unwrap();
            figures.held + figures.dropped == 100
        });
        connect(at("127.0.0.1:8081"), 5);
        let _listener = listener("127.0.0.1:8080");
        let figures = gate.release().unwrap();
        assert!(figures.held > 10 && figures.dropped > 10, "{figures:?}");
        assert_eq!((figures.held + figures.dropped, figures.released), (100, figures.held));
        // Clients whose SYNs were dropped try again after a second.
        until_connected(&clients);
    });
}

#[test]
fn syns_pass_when_the_lease_lapses() {
    for hook in hooks() {
        Namespace::new().run(|| {
            let _listener = listener("127.0.0.1:8080");
            let mut gate = hold(hook, &spec(&["127.0.0.1:8080"]));
            let mut clients = start_clients(at("127.0.0.1:8080"), 1);
            assert!(!clients[0].is_connected());
            until(Duration::from_secs(10), "the lease to lapse", || {
                clients.push(Client::start(at("127.0.0.1:8080")));
                clients.iter().any(Client::is_connected)
            });
            assert!(gate.doubt().is_some_and(|doubt| doubt.contains("lease")), "{:?}", gate.doubt());
            let figures = gate.release().unwrap();
            assert!(figures.held >= 1 && figures.lease_lapsed >= 1, "{hook:?}: {figures:?}");
            until_connected(&clients);
        });
    }
}

#[test]
fn new_devices_are_held_and_removed_ones_are_forgotten() {
    for hook in hooks() {
        let (client, server) = (Namespace::new(), Namespace::new());
        server.run(|| {
            let before = packet_path();
            let mut gate = hold(hook, &spec(&["0.0.0.0:8080"]));
            assert!(!gate.follow(&mut || ()).into_result().unwrap());
            for (round, device) in ["first", "second"].into_iter().enumerate() {
                ip(&format!("link add {device} type veth peer name left"));
                client.take_device("left");
                ip(&format!("link set {device} up"));
                add_addresses(device, 2);
                client.run(|| {
                    ip("link set left up");
                    add_addresses("left", 1);
                });
                assert!(gate.follow(&mut || ()).into_result().unwrap(), "{hook:?}, {device} was added");
                assert!(!gate.follow(&mut || ()).into_result().unwrap(), "{hook:?}, {device} is known");
                let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 1));
                until_held(&mut gate, round as u64 + 1);
                drop(clients);
                ip(&format!("link del {device}"));
                assert!(gate.follow(&mut || ()).into_result().unwrap(), "{hook:?}, {device} was removed");
            }
            let local = start_clients(at("127.0.0.1:8080"), 1);
            until_held(&mut gate, 3);
            let _listener = listener("0.0.0.0:8080");
            let figures = gate.release().unwrap();
            assert_eq!(
                (figures.held, figures.released, figures.dropped, figures.device_gone),
                (3, 1, 0, 2),
                "{hook:?}"
            );
            until_connected(&local);
            assert_eq!(packet_path(), before, "{hook:?}");
        });
    }
}

/// Following many devices takes time. Meanwhile the lease must be renewed, and the guard must see that its holder
/// lives.
#[test]
fn following_many_devices_sends_signs_of_life() {
    Namespace::new().run(|| {
        let mut gate = hold(best(), &spec(&["0.0.0.0:8080"]));
        for number in 0..4 {
            ip(&format!("link add left{number} type veth peer name right{number}"));
            ip(&format!("link set left{number} up"));
        }
        let mut signs = 0;
        let mut slow = || {
            signs += 1;
            std::thread::sleep(LEASE / 4);
        };
        assert!(gate.follow(&mut slow).into_result().unwrap());
        let clients = start_clients(at("127.0.0.1:8080"), 1);
        assert_eq!((signs, gate.stats().unwrap().held), (5, 1));
        let _listener = listener("127.0.0.1:8080");
        release(&mut gate, 1);
        until_connected(&clients);
    });
}

#[test]
fn guard_releases_syns_parked_by_a_dead_holder() {
    for hook in hooks() {
        let (client, server) = addressed_pair();
        server.run(|| {
            let before = packet_path();
            let mut gate = EbpfGate::prepare_by(&spec(&["0.0.0.0:8080", "[::]:8081"]), Some(hook)).unwrap();
            // The handover is taken before anything is parked: it must be enough.
            let handover = gate.handover().unwrap();
            gate.arm().unwrap();
            let mut clients = client.run(|| start_clients(at("10.0.0.2:8080"), 20));
            clients.extend(client.run(|| start_clients(at("[fd00::2]:8081"), 20)));
            clients.extend(start_clients(at("127.0.0.1:8080"), 20));
            until_held(&mut gate, 60);
            // No destructor runs after SIGKILL.
            std::mem::forget(gate);

            let _listeners = [listener("0.0.0.0:8080"), listener("[::]:8081")];
            let mut guard = EbpfGate::restore(handover).unwrap();
            let figures = release(&mut guard, 60);
            until_connected(&clients);
            assert_eq!((client.run(retransmits), retransmits()), (0, 0), "{hook:?}");
            assert_eq!(packet_path(), before, "{hook:?}");
            assert_eq!(guard.release().unwrap(), figures, "{hook:?}: a second call has nothing to do");
        });
    }
}

/// The guard delivers in place of a holder that continues afterwards: no SYN is delivered or counted twice.
#[test]
fn syns_delivered_by_the_guard_are_not_delivered_again() {
    Namespace::new().run(|| {
        let mut gate = hold(best(), &spec(&["127.0.0.1:8080"]));
        let clients = start_clients(at("127.0.0.1:8080"), 10);
        until_held(&mut gate, 10);
        let _listener = listener("127.0.0.1:8080");
        let mut guard = EbpfGate::restore(gate.handover().unwrap()).unwrap();
        assert_eq!(guard.deliver().into_result().unwrap().released, 10);
        assert_eq!(gate.deliver().into_result().unwrap().released, 0);
        until_connected(&clients);
    });
}

/// A guard that does not know a device drops the SYNs parked for it: without our program at egress the frames would go
/// out to the network.
#[test]
fn guard_drops_syns_of_a_device_it_does_not_know() {
    let (client, server) = addressed_pair();
    server.run(|| {
        let mut gate = hold(Hook::Clsact, &spec(&["0.0.0.0:8080"]));
        let clients = client.run(|| start_clients(at("10.0.0.2:8080"), 5));
        until_held(&mut gate, 5);
        let mut handover = gate.handover().unwrap();
        let known = handover.manifest["attachments"].as_array_mut().unwrap();
        known.retain(|attachment| attachment["device"] != "right");
        let figures = EbpfGate::restore(handover).unwrap().deliver().into_result().unwrap();
        assert_eq!((figures.held, figures.released, figures.dropped, figures.device_gone), (5, 0, 0, 5));
        drop(clients);
    });
}

#[test]
fn incomplete_handover_is_refused() {
    Namespace::new().run(|| {
        let gate = EbpfGate::prepare(&spec(&["0.0.0.0:8080"])).unwrap();
        let mut handover = gate.handover().unwrap();
        handover.descriptors.truncate(2);
        let error = EbpfGate::restore(handover).err().unwrap();
        assert!(matches!(error, EbpfError::Handover { .. }), "{error}");
    });
}

#[test]
fn stale_programs_are_removed_and_living_holds_stay() {
    let (_client, server) = addressed_pair();
    server.run(|| {
        let before = packet_path();
        let dead = spec(&["0.0.0.0:8080"]);
        let living = spec(&["0.0.0.0:8081"]);
        let gate = hold(Hook::Clsact, &living);
        let alone = packet_path();
        std::mem::forget(hold(Hook::Clsact, &dead));
        let both: Living = [dead.id, living.id].into();
        assert_eq!(remove_stale(&both).unwrap(), 0);
        // `lo` has one program, and `right` has two.
        assert_eq!(remove_stale(&Living::from([living.id])).unwrap(), 3);
        assert_eq!(packet_path(), alone);
        drop(gate);
        assert_eq!(packet_path(), before);

        std::mem::forget(hold(Hook::Clsact, &spec(&["0.0.0.0:8080"])));
        assert_eq!(remove_stale(&Living::new()).unwrap(), 3);
        assert_eq!(packet_path(), before);
    });
}

#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn hold_leaves_no_program_and_no_map() {
    for hook in hooks() {
        Namespace::new().run(|| {
            ip("link add left type veth peer name right");
            ip("link set left up");
            ip("link set right up");
            let up = || command("ip", "-oneline link show").matches("state UP").count() == 2;
            until(Duration::from_secs(10), "both ends to be up", up);
            let footprint = Footprint::take_with_bpf(Path::new("/no process mentions this"));
            let mut gate = hold(hook, &spec(&["0.0.0.0:8080"]));
            assert!(!footprint.changes().is_empty());
            gate.release().unwrap();
            drop(gate);
            assert_eq!(footprint.left_behind(), [""; 0], "{hook:?}");
            drop(EbpfGate::prepare_by(&spec(&["0.0.0.0:8080"]), Some(hook)).unwrap());
            assert_eq!(footprint.left_behind(), [""; 0], "{hook:?}: dropped");
        });
    }
}

/// The unit file grants these capabilities. CAP_PERFMON is not among them; the verifier would need it if a program
/// looped over a pointer. Below Linux 5.11 BPF memory counts against RLIMIT_MEMLOCK, which the unit lifts
/// (`LimitMEMLOCK=infinity`).
#[test]
fn three_capabilities_suffice_and_a_missing_one_is_named() {
    Namespace::new().run(|| {
        let spec = spec(&["127.0.0.1:8080"]);
        // This is refused without CAP_SYS_RESOURCE, which a container's root may not have. Where the limit matters, the
        // steps below fail.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
        let all = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
        keep_only(all);
        let mut gate = EbpfGate::prepare(&spec).unwrap();
        gate.arm().unwrap();
        let clients = start_clients(at("127.0.0.1:8080"), 3);
        until_held(&mut gate, 3);
        let _listener = listener("127.0.0.1:8080");
        release(&mut gate, 3);
        until_connected(&clients);

        keep_only(CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        let error = EbpfGate::prepare(&spec).err().expect("packet sockets without CAP_NET_RAW");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
        keep_only(CapabilitySet::NET_ADMIN);
        let error = EbpfGate::prepare(&spec).err().expect("bpf(2) without CAP_BPF");
        assert!(matches!(error, EbpfError::Programs(ProgramsError::Denied)), "{error}");
    });
}
