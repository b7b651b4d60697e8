//! Runs several holds, and adds and removes devices during a hold.

use reloader_tests::network::{ip, packet_path};
use reloader_tests::poll::until;
use reloader_tests::waiting::{listener, start_clients, until_connected};

use super::scene::{ADDRESS, LONG, Scene};
use reloader_tests::hold_rig::assert_held;

const OTHER: &str = "10.0.0.2:8081";

#[test]
fn holds_on_two_ports_both_succeed() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS, OTHER]);
    let (one, two) = (scene.hold(&[]), scene.hold_on(OTHER, &[]));
    let clients = scene.clients(10);
    let others = scene.client.run(|| start_clients(OTHER.parse().unwrap(), 10));
    scene.server.run(|| service.run("restart"));
    until_connected(&clients);
    until_connected(&others);
    for held in [one, two] {
        let answer = held.go_on().expect_status(3);
        assert_held(&answer);
        assert_eq!(answer.at("/syns/released"), 10);
    }
    scene.stop_service(service);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

#[test]
fn second_hold_on_the_same_port_is_refused() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    for listen in [ADDRESS, "0.0.0.0:8080", "[::]:8080"] {
        let refused = scene.server.run(|| scene.hold_rig.run(&["--json", "--listen", listen], ["true"]));
        let refused = refused.expect_status(125);
        let sentence = format!("port 8080 is held already, by process {}", held.holder.pid);
        assert!(refused.stderr.contains(&sentence) && refused.stdout.is_empty(), "{}", refused.stderr);
    }
    let clients = scene.clients(3);
    held.go_on().expect_status(3);
    until_connected(&clients);
    scene.assert_gone();
}

#[test]
fn devices_added_and_removed_during_a_hold_are_followed() {
    let scene = Scene::new();
    let service = scene.start_service(&["0.0.0.0:8080"]);
    scene.server.run(|| ip("link add leaving type veth peer name lost"));
    scene.server.run(|| ip("link set leaving up"));
    let held = scene.hold_on("0.0.0.0:8080", &[]);
    scene.server.run(|| {
        ip("link delete leaving");
        ip("link add coming type veth peer name far");
        ip("addr add 10.0.9.2/24 dev coming");
        scene.client.take_device("far");
        ip("link set coming up");
    });
    scene.client.run(|| {
        ip("addr add 10.0.9.1/24 dev far");
        ip("link set far up");
    });
    until(LONG, "a program on the new device", || scene.server.run(|| packet_path().contains("coming Ingress")));
    let clients = scene.client.run(|| start_clients("10.0.9.2:8080".parse().unwrap(), 10));
    let before = scene.clients(10);
    assert!(clients.iter().chain(&before).all(|client| !client.is_connected()));
    scene.server.run(|| service.run("restart"));
    until_connected(&clients);
    until_connected(&before);
    let answer = held.go_on().expect_status(3);
    assert_held(&answer);
    assert_eq!((answer.at("/syns/released"), answer.at("/notes").to_string()), (&20.into(), "[]".into()));
    scene.server.run(|| ip("link delete coming"));
    scene.stop_service(service);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// The guard knows a device that was added after the hold began.
#[test]
fn guard_knows_a_device_that_was_added_later() {
    let scene = Scene::new();
    let _listener = scene.server.run(|| listener("0.0.0.0:8080"));
    let held = scene.hold_on("0.0.0.0:8080", &[]);
    scene.server.run(|| {
        ip("link add coming type veth peer name far");
        ip("link set coming up");
    });
    until(LONG, "a program on the new device", || scene.server.run(|| packet_path().contains("coming Ingress")));
    let clients = scene.clients(10);
    held.kill();
    until_connected(&clients);
    scene.server.run(|| ip("link delete coming"));
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}
