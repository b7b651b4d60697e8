//! `reloader release`, the emergency exit.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use reloader::gate::ebpf::{EbpfGate, Hook};
use reloader::gate::hold::{Records, Spec, Target, clean_up};
use reloader::process::network_namespace;
use reloader_tests::netns;
use reloader_tests::network::ip;
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

/// Its guard dead and its holder stopped, nobody can let go: that is not to be called a release.
#[test]
fn a_hold_whose_guard_is_dead() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    held.holder.stop();
    held.guard().signal(Signal::SIGKILL);
    let answer = scene.server.run(|| scene.holding.rig.run(&["release", "--json"])).expect_status(1);
    assert_eq!(answer.at("/lifted"), &serde_json::json!([]), "{}", answer.stdout);
    assert!(answer.at("/unanswered/0").as_str().unwrap().contains(ADDRESS), "{}", answer.stdout);
    held.kill();
    scene.server.run(|| scene.holding.rig.run(&["release"])).expect_status(0);
    scene.assert_gone();
}

/// A namespace that has a name and no process is there all the same.
#[test]
fn a_dead_hold_in_a_namespace_without_processes() {
    netns::enter();
    let name = format!("reloader-{}", std::process::id());
    let path = PathBuf::from(format!("/run/netns/{name}"));
    ip(&format!("netns add {name}"));
    let inode = std::fs::metadata(&path).unwrap().ino();
    let found = network_namespace(inode, None).unwrap().map(|file| file.metadata().unwrap().ino());
    let by_path = network_namespace(inode, Some(&path)).unwrap().is_some();
    ip(&format!("netns delete {name}"));
    assert_eq!((found, by_path), (Some(inode), true));
    assert!(network_namespace(inode, Some(&path)).unwrap().is_none(), "it is gone");
}

/// Who keeps his records elsewhere is alive all the same, and has another id.
#[test]
fn a_hold_of_another_runtime_directory() {
    netns::enter();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = |port| Target { address: ([127, 0, 0, 1], port).into(), v6only: false, interface: 0 };
    let claim = |dir: &tempfile::TempDir, port| Records::of(dir.path()).claim(&[target(port)], None).unwrap();
    let (first, second) = (claim(&one, 8080), claim(&two, 8081));
    assert_ne!(first.id(), second.id());
    assert!(Records::of(two.path()).living().unwrap().contains(&first.id()));

    let spec = Spec { id: first.id(), targets: vec![target(8080)], exceptions: Vec::new(), capacity: 4096 };
    let gate = EbpfGate::prepare_by(&spec, Some(Hook::Clsact)).unwrap();
    assert_eq!(clean_up(&Records::of(two.path())).unwrap().removed, 0);
    std::mem::forget(gate);
    drop(first);
    assert_eq!(clean_up(&Records::of(two.path())).unwrap().removed, 1);
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
