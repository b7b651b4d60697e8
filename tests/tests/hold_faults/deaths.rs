//! Kills the holder, its guard, or both with SIGKILL.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader::gate::hold::{Backend, HoldRegistry, PersistentQdiscs};
use reloader_tests::guest::{self, Feature, Gate};
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::waiting::{Client, until_connected};

use super::scene::{ADDRESS, LONG, Scene, backend};
use reloader_tests::hold_rig::assert_held;
use reloader_tests::tier;

/// A device that is given a qdisc loses the packets that it sends in that millisecond, and so a client's SYN-ACK. With
/// TCX no packet is sent again.
#[test]
fn holder_killed_at_any_moment_of_its_start_leaves_nothing() {
    let scene = Scene::new();
    kill_at_any_moment(&scene);
    if guest::expects(Feature::Tcx) && guest::gate() != Some(Gate::Qdisc) {
        assert_eq!(scene.retransmits(), 0);
    }
    scene.assert_gone();
}

/// The qdiscs are in place already, as between the holds of a daemon. No client sends anything again, with either gate.
#[test]
fn holder_killed_at_any_moment_with_persistent_qdiscs_delays_no_client() {
    let mut scene = Scene::new();
    let records = tempfile::tempdir().unwrap();
    let backend = match guest::gate() {
        Some(Gate::Qdisc) => Backend::Qdisc,
        _ => Backend::Ebpf,
    };
    let standing = scene.server.run(|| PersistentQdiscs::install(&HoldRegistry::new(records.path()), backend).unwrap());
    scene.take_path_as_it_is();
    kill_at_any_moment(&scene);
    assert_eq!(scene.retransmits(), 0);
    scene.assert_path_clean();
    scene.server.run(|| drop(standing));
}

/// Kills the holder at times from before it has done anything until after it is armed. At that time as many clsact
/// filters, qdiscs and devices exist as this row's gate needs. No pause stands for readiness here: the moment is left
/// to chance.
fn kill_at_any_moment(scene: &Scene) {
    let _listener = scene.listener();
    let mut entries = 0;
    for round in tier::moments(24) {
        let args = [backend(), &["--max", "1h", "--listen", ADDRESS]].concat();
        let pending = scene.server.run(|| scene.hold_rig.spawn(&args, ["sleep", "0.3"]));
        std::thread::sleep(Duration::from_millis(round * 20));
        let clients = scene.clients(3);
        Process::with_pid(pending.pid() as i32).unwrap().signal(Signal::SIGKILL);
        assert_eq!(pending.wait().status, 137);
        until_connected(&clients);
        println!("round {round}: {} segments sent again so far", scene.retransmits());
        until(LONG, "the guard to end", || scene.guards().is_empty());
        scene.assert_path_clean();
        entries += scene.hold_rig.records().len();
        // A holder that died before its guard had anything leaves a harmless registry entry.
        scene.run_reloader(&["release"]).expect_status(0);
        assert_eq!(scene.hold_rig.records().len(), 0);
    }
    println!("{entries} died before they had a guard");
}

#[test]
fn holder_killed_with_nothing_parked_leaves_nothing() {
    let scene = Scene::new();
    let _listener = scene.listener();
    scene.hold(&[]).kill();
    scene.assert_gone();
    until_connected(&scene.clients(1));
    assert_eq!(scene.retransmits(), 0);
}

#[test]
fn holder_killed_with_parked_syns_delays_no_client() {
    let scene = Scene::new();
    let _listener = scene.listener();
    for _ in 0..5 {
        let held = scene.hold(&[]);
        let clients = scene.clients(500);
        assert!(clients.iter().all(|client| !client.is_connected()));
        held.holder.signal(Signal::SIGKILL);
        until_connected(&clients);
        held.kill();
        scene.assert_gone();
    }
    assert_eq!(scene.retransmits(), 0);
}

/// A release would let the clients be refused, so the guard holds on.
#[test]
fn guard_holds_on_while_nothing_listens() {
    let scene = Scene::new();
    for _ in 0..3 {
        let held = scene.hold(&[]);
        let clients = scene.clients(200);
        held.holder.signal(Signal::SIGKILL);
        held.kill();
        // By then the lease has lapsed, for a gate that has one.
        let later = scene.clients(20);
        assert_eq!(scene.guards().len(), 1);
        assert!(clients.iter().chain(&later).all(|client| !client.is_connected()));
        let _listener = scene.listener();
        until_connected(&clients);
        until_connected(&later);
        scene.assert_gone();
    }
}

#[test]
fn guard_lets_go_when_the_longest_time_is_over() {
    let scene = Scene::new();
    let held = scene.hold(&["--max", "2s"]);
    let _clients = scene.clients(20);
    held.holder.signal(Signal::SIGKILL);
    held.kill();
    scene.assert_gone();
}

/// The holder was stopped when its guard was asked to release. It is killed before it has read the guard's message.
#[test]
fn holder_killed_before_it_read_a_release_leaves_nothing() {
    let scene = Scene::new();
    let held = scene.hold(&[]);
    let _clients = scene.clients(20);
    held.holder.stop();
    held.guard().signal(Signal::SIGTERM);
    held.holder.signal(Signal::SIGKILL);
    held.kill();
    scene.assert_gone();
}

/// The guard's last message is then unread, and the kernel makes an error of that. The guard must release in spite of
/// the error.
#[test]
fn holder_killed_with_an_unread_message_delays_no_client() {
    let scene = Scene::new();
    let _listener = scene.listener();
    for round in 0..5 {
        let held = scene.hold(&[]);
        let clients = scene.clients(20);
        held.holder.stop();
        held.guard().signal(Signal::SIGTERM);
        // Whether the guard has sent its message by then is left to chance.
        std::thread::sleep(Duration::from_millis(round * 20));
        held.holder.signal(Signal::SIGKILL);
        until_connected(&clients);
        held.kill();
        scene.assert_gone();
    }
    assert_eq!(scene.retransmits(), 0);
}

/// A listener comes, the parked SYNs are being delivered, and the holder dies in the middle of them.
#[test]
fn holder_killed_in_the_middle_of_a_release_delays_no_client() {
    let scene = Scene::new();
    let mut cut_off = 0;
    for round in tier::moments(16) {
        let held = scene.hold(&[]);
        let clients = scene.clients(1500);
        let _listener = scene.listener();
        until(LONG, "the release to begin", || clients.iter().any(Client::is_connected));
        std::thread::sleep(Duration::from_millis(round));
        held.holder.signal(Signal::SIGKILL);
        cut_off += usize::from(!clients.iter().all(Client::is_connected));
        until_connected(&clients);
        held.kill();
        scene.assert_gone();
    }
    println!("{cut_off} were killed with SYNs still parked");
    assert_eq!(scene.retransmits(), 0);
}

#[test]
fn killed_guard_is_replaced_and_the_hold_goes_on() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    let first = held.guard();
    first.end();
    until(LONG, "another guard", || scene.guards().iter().any(|guard| *guard != first));
    assert!(clients.iter().all(|client| !client.is_connected()), "the hold goes on");
    scene.server.run(|| service.run("restart"));
    until_connected(&clients);
    let answer = held.go_on().expect_status(3);
    assert_held(&answer);
    assert_eq!(answer.json["syns"]["released"], 20);
    let notes = answer.at("/notes").to_string();
    assert!(notes.contains("was replaced"), "{notes}");
    assert_eq!(answer.stderr.matches("was replaced").count(), 1, "{}", answer.stderr);
    scene.stop_service(service);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// A guard that does not react must not delay the release for ever.
#[test]
fn stopped_guard_does_not_prevent_the_release() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    held.guard().stop();
    scene.server.run(|| service.run("restart"));
    until_connected(&clients);
    assert_held(&held.go_on().expect_status(3));
    scene.stop_service(service);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// The replacement does what the first guard would have done.
#[test]
fn replacement_guard_releases_after_the_holders_death() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    let first = held.guard();
    first.end();
    until(LONG, "another guard in the registry", || {
        let record = scene.hold_rig.records().pop();
        record.is_some_and(|record| record["guard"]["pid"].as_i64().is_some_and(|pid| pid != i64::from(first.pid)))
    });
    let clients = scene.clients(20);
    held.kill();
    until_connected(&clients);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// Parked SYNs are lost then, and their clients send them again. But nothing stays in the way of other clients.
#[test]
fn dead_holder_and_guard_leave_the_packet_path_clean() {
    let scene = Scene::new();
    let _listener = scene.listener();
    for cleaner in ["release", "daemon", "hold"] {
        let held = scene.hold(&[]);
        let parked = scene.clients(5);
        let guard = held.guard();
        // Both are stopped first, so that neither can react to the other's death.
        guard.stop();
        held.holder.stop();
        guard.signal(Signal::SIGKILL);
        held.kill();
        guard.until_gone(LONG);
        scene.assert_path_clean();
        let sent_again = scene.retransmits();
        until_connected(&scene.clients(5));
        assert_eq!(scene.retransmits(), sent_again, "SYNs flow");
        until_connected(&parked);

        assert_eq!(scene.hold_rig.records().len(), 1);
        clean_up(&scene, cleaner);
        scene.assert_gone();
    }
}

fn clean_up(scene: &Scene, cleaner: &str) {
    match cleaner {
        "release" => {
            let answer = scene.run_reloader(&["release"]).expect_status(0);
            assert!(answer.stdout.contains("cleaned up after 1 dead hold"), "{}", answer.stdout);
        }
        "daemon" => scene.server.run(|| {
            let mut rig =
                reloader_tests::rig::Rig::with(&reloader_tests::config::Config::web("127.0.0.1:8888")).prepare();
            rig.share_runtime_dir(&scene.hold_rig.rig);
            rig.start_daemon();
        }),
        // The next hold works on the same port beside the registry entry, and cleans up.
        _ => drop(scene.hold(&[]).go_on().expect_status(3)),
    }
}
