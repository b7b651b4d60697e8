//! Checks that a hold claims no proof for what it cannot prove.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::network::{command, ip};
use reloader_tests::poll::until;
use reloader_tests::rig::Answer;
use reloader_tests::service::Service;
use reloader_tests::sockets::half_open;
use reloader_tests::waiting::until_connected;

use super::scene::{ADDRESS, LONG, Scene, send_syn};
use reloader_tests::hold_rig::assert_held;

#[track_caller]
fn assert_unproven(answer: &Answer, reason: &str) {
    assert_eq!(answer.at("/result"), "unproven", "{}{}", answer.stdout, answer.stderr);
    assert_eq!(answer.at("/listeners/0/rung"), "unproven", "{}", answer.stdout);
    assert!(answer.at("/listeners/0/why").as_str().unwrap().contains(reason), "{}", answer.stdout);
}

/// The holder is stopped for longer than its lease: SYNs pass and are counted.
#[test]
fn stopped_holder_makes_the_hold_unproven() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    let held = scene.hold(&[]);
    let parked = scene.clients(5);
    held.holder.stop();
    let mut passed = Vec::new();
    until(LONG, "a SYN to pass", || {
        passed.extend(scene.clients(1));
        passed.iter().any(|client| client.is_connected())
    });
    held.holder.signal(Signal::SIGCONT);
    scene.server.run(|| service.run("restart"));
    until_connected(&parked);
    let answer = held.go_on().expect_status(3);
    assert_unproven(&answer, "lease");
    assert!(answer.at("/syns/lease-lapsed").as_u64() >= Some(1), "{}", answer.stdout);
    scene.stop_service(service);
    scene.assert_gone();
}

/// The holder is stopped when its longest time is over: the guard delivers the parked SYNs without being asked.
#[test]
fn guard_delivers_once_when_a_stopped_holders_time_is_over() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&["--max", "2s"]);
    let parked = scene.clients(5);
    held.holder.stop();
    until_connected(&parked);
    until(LONG, "the guard to end", || scene.guards().is_empty());
    held.holder.signal(Signal::SIGCONT);
    let answer = held.go_on();
    assert!(answer.at("/notes").to_string().contains("longest time was over"), "{}", answer.stdout);
    assert_eq!((answer.at("/syns/held"), answer.at("/syns/released")), (&5.into(), &5.into()), "delivered once");
    scene.assert_gone();
}

fn restart(scene: &Scene, service: &Service) -> Answer {
    scene
        .server
        .run(|| scene.hold_rig.run(&["--json", "--listen", ADDRESS], service.command("restart")))
        .expect_status(0)
}

/// The SYN-ACKs to this client are not answered. The drain would have to wait until TCP gives up.
#[test]
fn silent_client_does_not_delay_the_hold() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    route_silent_address_to_client(&scene);
    send_syn(&scene, SILENT, 5000);
    until(LONG, "its SYN-ACK to be sent again", || scene.server.run(|| half_open(8080)).iter().any(|sent| *sent > 0));
    let answer = restart(&scene, &service);
    assert_held(&answer);
    assert_eq!((answer.at("/listeners/0/half-open-silent"), answer.at("/lost/undrained")), (&1.into(), &0.into()));
    scene.stop_service(service);
}

/// A client that may still answer is waited for. It is lost if it does not answer in time, and the receipt says so.
#[test]
fn unanswered_handshakes_make_the_hold_unproven() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    route_silent_address_to_client(&scene);
    let mut held =
        scene.server.run(|| scene.hold_rig.spawn(&["--json", "--listen", ADDRESS], service.command("restart")));
    // The last SYN before the hold is armed is half-open then, and still half a second later.
    let mut port = 5000;
    while held.is_running() {
        send_syn(&scene, SILENT, port);
        port += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let answer = held.wait().expect_status(0);
    assert_unproven(&answer, "handshakes were left");
    assert!(answer.at("/listeners/0/undrained-half-open").as_u64() > Some(0), "{}", answer.stdout);
    assert!(answer.at("/syns/held").as_u64() > Some(0), "the others are parked: {}", answer.stdout);
    scene.stop_service(service);
}

const SILENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

/// Makes the server send packets for `SILENT` to the client, which does not have that address.
fn route_silent_address_to_client(scene: &Scene) {
    let shown = scene.client.run(|| command("ip", "-oneline link show left"));
    let (_, link) = shown.split_once("link/ether ").unwrap();
    let link = link.split(' ').next().unwrap();
    scene.server.run(|| ip(&format!("neigh add {SILENT} lladdr {link} dev right nud permanent")));
}

/// SYNs reach the port under another number than the one that is held.
#[test]
fn redirect_rule_makes_the_hold_unproven() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    scene.server.run(|| {
        command("nft", "add table ip nat");
        command("nft", "add chain ip nat pre { type nat hook prerouting priority -100 ; }");
        command("nft", "add rule ip nat pre tcp dport 9090 redirect to :8080");
    });
    let load = scene.client.run(|| Load::to(["10.0.0.2:9090"]).rate(500).start());
    load.until_started(100);
    let answer = restart(&scene, &service);
    assert_unproven(&answer, "REDIRECT");
    load.stop();
    scene.stop_service(service);
}

#[test]
fn unconditional_syn_cookies_make_the_hold_unproven() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    scene.server.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap());
    assert_unproven(&restart(&scene, &service), "tcp_syncookies = 2");
    scene.stop_service(service);
}
