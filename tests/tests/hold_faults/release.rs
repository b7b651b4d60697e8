//! Ends holds by `reloader release`, the emergency exit.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use reloader::gate::ebpf::{EbpfGate, Hook};
use reloader::gate::hold::{HoldRegistry, Spec, Target, clean_up};
use reloader::process::network_namespace;
use reloader_tests::netns;
use reloader_tests::network::ip;
use reloader_tests::poll::until;
use reloader_tests::waiting::{Client, listener_with, until_connected};

use super::scene::{ADDRESS, LONG, Scene};
use reloader_tests::hold_rig::HoldRig;

#[test]
fn running_hold_is_released() {
    let scene = Scene::new();
    let service = scene.start_service(&[ADDRESS]);
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    let answer = scene.run_reloader(&["release", "--json"]).expect_status(0);
    assert!(answer.at("/lifted/0").as_str().unwrap().contains(ADDRESS), "{}", answer.stdout);
    until_connected(&clients);
    until(LONG, "the hold to end", || scene.hold_rig.records().is_empty());
    assert!(held.command.is_alive(), "the command still runs");
    let answer = held.go_on().expect_status(3);
    assert_eq!(answer.at("/result"), "unproven", "{}", answer.stdout);
    assert!(answer.at("/reason").as_str().unwrap().contains("lifted by `reloader release`"), "{}", answer.stdout);
    assert_eq!((&answer.json["syns"]["held"], &answer.json["syns"]["released"]), (&20.into(), &20.into()));
    scene.stop_service(service);
    scene.assert_gone();
    assert_eq!(scene.retransmits(), 0);
}

/// A stopped holder or guard does not keep SYNs parked.
#[test]
fn hold_with_stopped_processes_is_released() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    let clients = scene.clients(20);
    held.holder.stop();
    held.guard().stop();
    scene.run_reloader(&["release"]).expect_status(0);
    until_connected(&clients);
    assert_eq!(scene.retransmits(), 0);
    held.kill();
    scene.run_reloader(&["release"]).expect_status(0);
    scene.assert_gone();
}

/// The stopped holder keeps the delivery lock. The guard goes on in spite of that, and at most one SYN is delivered
/// twice.
#[test]
fn hold_whose_holder_is_stopped_while_it_delivers_is_released() {
    const CLIENTS: usize = 300;
    let scene = Scene::new();
    let was_met = (0..10).any(|_| {
        let held = scene.hold(&[]);
        let clients = scene.clients(CLIENTS);
        // A process that delivers waits while the accept queue is full.
        let listener = scene.server.run(|| listener_with(ADDRESS, 64));
        until(LONG, "the release to begin", || clients.iter().any(Client::is_connected));
        held.holder.stop();
        let met = delivers(&scene);
        let accepting = Accepting::on(listener);
        if met {
            let answer = scene.run_reloader(&["release", "--json"]).expect_status(0);
            assert!(answer.at("/lifted/0").as_str().unwrap().contains(ADDRESS), "{}", answer.stdout);
        }
        held.holder.signal(Signal::SIGCONT);
        until_connected(&clients);
        let answer = held.go_on();
        let count = |name: &str| answer.at(&format!("/syns/{name}")).as_u64();
        assert_eq!(count("held"), Some(CLIENTS as u64), "{}", answer.stdout);
        let twice = count("released").unwrap() - CLIENTS as u64;
        assert!(twice <= 1, "at most the SYN that the holder was delivering: {}", answer.stdout);
        drop(accepting);
        scene.assert_gone();
        met
    });
    assert!(was_met, "no holder was stopped while it delivered");
}

/// Accepts connections until it is dropped.
struct Accepting(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Accepting {
    fn on(listener: TcpListener) -> Accepting {
        listener.set_nonblocking(true).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ends);
        let accept = move || {
            let mut open = Vec::new();
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok(accepted) => open.push(accepted),
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        };
        Accepting(ends, Some(std::thread::spawn(accept)))
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().map(JoinHandle::join);
    }
}

/// Whether a process has the delivery lock.
fn delivers(scene: &Scene) -> bool {
    let files = std::fs::read_dir(scene.hold_rig.rig.path("run/holds")).unwrap().flatten().map(|file| file.path());
    let locks = files.filter(|path| path.extension().is_some_and(|extension| extension == "deliver"));
    locks.map(|path| File::open(path).unwrap()).any(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

/// The guard is dead and the holder is stopped, so no process can release: that must not be reported as a release.
#[test]
fn hold_with_a_dead_guard_is_reported_as_unanswered() {
    let scene = Scene::new();
    let _listener = scene.listener();
    let held = scene.hold(&[]);
    held.holder.stop();
    held.guard().signal(Signal::SIGKILL);
    let answer = scene.run_reloader(&["release", "--json"]).expect_status(1);
    assert_eq!(answer.at("/lifted"), &serde_json::json!([]), "{}", answer.stdout);
    assert!(answer.at("/unanswered/0").as_str().unwrap().contains(ADDRESS), "{}", answer.stdout);
    held.kill();
    scene.run_reloader(&["release"]).expect_status(0);
    scene.assert_gone();
}

/// A namespace with a name and without a process still exists.
#[test]
fn named_namespace_without_processes_is_found() {
    netns::enter();
    let name = format!("reloader-{}", std::process::id());
    let path = PathBuf::from(format!("/run/netns/{name}"));
    ip(&format!("netns add {name}"));
    let inode = std::fs::metadata(&path).unwrap().ino();
    let found = network_namespace(inode, None).unwrap().map(|file| file.metadata().unwrap().ino());
    let by_path = network_namespace(inode, Some(&path)).unwrap().is_some();
    ip(&format!("netns delete {name}"));
    assert_eq!((found, by_path), (Some(inode), true));
    assert!(network_namespace(inode, Some(&path)).unwrap().is_none(), "the namespace is gone");
}

/// A hold with another registry is alive too, and has another id.
#[test]
fn living_hold_of_another_runtime_directory_is_not_cleaned_up() {
    netns::enter();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = |port| Target { address: ([127, 0, 0, 1], port).into(), v6only: false, interface: 0 };
    let claim = |dir: &tempfile::TempDir, port| HoldRegistry::new(dir.path()).claim(&[target(port)], None).unwrap();
    let (first, second) = (claim(&one, 8080), claim(&two, 8081));
    assert_ne!(first.id(), second.id());
    assert!(HoldRegistry::new(two.path()).living().unwrap().contains(&first.id()));

    let spec = Spec { id: first.id(), targets: vec![target(8080)], exceptions: Vec::new(), capacity: 4096 };
    let gate = EbpfGate::prepare_by(&spec, Some(Hook::Clsact)).unwrap();
    assert_eq!(clean_up(&HoldRegistry::new(two.path())).unwrap().removed, 0);
    std::mem::forget(gate);
    drop(first);
    assert_eq!(clean_up(&HoldRegistry::new(two.path())).unwrap().removed, 1);
}

#[test]
fn release_without_holds_reports_nothing() {
    netns::enter();
    let hold_rig = HoldRig::new();
    assert_eq!(hold_rig.rig.run(&["release"]).expect_status(0).stdout, "nothing was held\n");
    let json = hold_rig.rig.run(&["release", "--json"]).expect_status(0);
    assert_eq!(json.json, serde_json::json!({"lifted": [], "unanswered": [], "dead": 0, "removed": 0}));
    let stderr = hold_rig.rig.run_as(65534, &["release"]).expect_status(77).stderr;
    assert!(stderr.contains("only root may release holds"), "{stderr}");
}
