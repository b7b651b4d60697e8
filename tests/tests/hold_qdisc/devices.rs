//! Follows devices and addresses during a hold, and holds on a bridge.

use reloader::gate::hold::Gate;
use reloader_tests::network::{add_addresses, command, ip};
use reloader_tests::poll::until;
use reloader_tests::waiting::listener;

use super::rig::{Clients, LONG, kernel_has_plug, reachable_pair, spec, wait_for_parked};
use super::{armed, delivered, without_time};

#[test]
fn new_devices_and_addresses_are_held_and_removed_ones_are_forgotten() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        ip("addr add 10.0.0.3/24 dev right");
        let mut signs = 0;
        gate.follow(&mut || signs += 1).into_result().unwrap();
        assert!(
            signs >= 4,
            "a sign before the new filters and before the removal of the old ones, for each of two devices: {signs}"
        );
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

        // With the device its address goes, and the way back to its clients.
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
fn device_of_a_bridge_is_held_once() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
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
