//! `reloader release`, the emergency exit.

use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::service::{Kind, Service};

use crate::scene::{ADDRESS, LONG, Scene, until_connected};
use reloader_tests::holding::Holding;

#[test]
fn a_hold_that_is_on() {
    let scene = Scene::new();
    let service = scene.server.run(|| Service::started(Kind::Perl, scene.holding.rig.dir(), &[ADDRESS]));
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    let answer = scene.server.run(|| scene.holding.rig.run(&["release", "--json"])).expect_status(0);
    assert!(answer.at("/lifted/0").as_str().unwrap().contains(ADDRESS), "{}", answer.stdout);
    until_connected(&clients);
    until(LONG, "the hold to end", || scene.holding.records().is_empty());
    assert!(held.command.is_alive(), "the command runs on");
    let answer = held.go_on().expect_status(3);
    assert_eq!(answer.at("/result"), "unproven", "{}", answer.stdout);
    assert!(answer.at("/reason").as_str().unwrap().contains("lifted by `reloader release`"), "{}", answer.stdout);
    assert_eq!((&answer.json["syns"]["held"], &answer.json["syns"]["released"]), (&20.into(), &20.into()));
    scene.server.run(|| drop(service));
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// A holder or a guard that was stopped does not keep SYNs parked.
#[test]
fn a_hold_whose_processes_stand_still() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    held.holder.stop();
    held.guard().stop();
    scene.server.run(|| scene.holding.rig.run(&["release"])).expect_status(0);
    until_connected(&clients);
    assert_eq!(scene.retransmits(), 0);
    held.kill();
    scene.server.run(|| scene.holding.rig.run(&["release"])).expect_status(0);
    scene.assert_gone();
}

#[test]
fn nothing() {
    netns::enter();
    let holding = Holding::new();
    assert_eq!(holding.rig.run(&["release"]).expect_status(0).stdout, "nothing was held\n");
    let json = holding.rig.run(&["release", "--json"]).expect_status(0);
    assert_eq!(json.json, serde_json::json!({"lifted": [], "unanswered": [], "dead": 0, "removed": 0}));
    let told = holding.rig.run_as(65534, &["release"]).expect_status(77).stderr;
    assert!(told.contains("takes root"), "{told}");
}
