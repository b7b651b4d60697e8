//! Checks that PID 1 reaps all orphans, and that the daemon still learns the status of its own children.

use nix::sys::signal::Signal;
use reloader_tests::container::Container;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};

use super::scene::{LIMIT, Scene, assert_rung, config};

/// Starts processes whose parent ends before they do.
const ORPHANS: &str = "for i in $(seq 50); do (sleep 0.0$i & sh -c 'exit 3' &) & done";

const DEATHS: u64 = 5;

#[test]
#[ignore = "alone: loads"]
fn orphans_are_reaped_and_a_dead_server_is_reported_with_its_status() {
    let scene = Scene::start(Container::with(&config()));
    let container = &scene.container;
    for death in 1..=DEATHS {
        container.exec(&["sh", "-c", ORPHANS]).expect_status(0);
        let serving = container.status().at("/serving/pid").as_u64().expect("a serving generation");
        let receipt = container.until_receipt(|| drop(container.exec(&["kill", "-KILL", &serving.to_string()])));
        assert_eq!(receipt["kind"], "restart", "{receipt:#}");
        assert_rung(&receipt, "passed", 2);
        let message = format!("(process {serving}) was killed by signal 9 while it served");
        assert!(container.log().contains(&message), "death {death}: {}", container.log());
        assert_rung(&container.reloader(&["reload", "--json"]).expect_status(0).json, "passed", 2);
    }
    // Only HAProxy and the daemon are left. All others have ended, including old generations.
    until(LIMIT, "no other process, dead or alive", || container.processes().len() == 2);
    assert!(container.processes().iter().all(|(_, state)| *state != 'Z'), "{:?}", container.processes());
}

/// The event loop then waits for the start, and learns of the death later.
#[test]
#[ignore = "alone: loads"]
fn server_that_dies_during_a_start_is_reported_with_its_status() {
    let wrapper = Wrapper::new();
    let setup = Container::with(&config()).haproxy_at(&wrapper.path());
    let scene = Scene::start(setup.tables("[reload]\nstart-timeout = \"3s\"\ncustody-max = \"1m\""));
    let container = &scene.container;
    let within = container.status().at("/serving/pid").as_u64().expect("a serving generation");
    until(LIMIT, "the check of the copies to end", || container.init().children().len() == 1);
    let [serving] = container.init().children()[..] else { panic!("{:?}", container.init().children()) };

    wrapper.set(Behaviour::Hang);
    container.kill(Signal::SIGHUP);
    until(LIMIT, "a start that hangs", || hanging_process(&container.path("haproxy.cfg")).is_some());
    wrapper.set(Behaviour::Normal);
    container.exec(&["sh", "-c", ORPHANS]).expect_status(0);
    container.until_receipt(|| serving.signal(Signal::SIGKILL));
    // The end of the generation that hung has a receipt too, before or after it.
    let restart = || container.receipts().into_iter().find(|receipt| receipt["kind"] == "restart");
    until(LIMIT, "a restart", || restart().is_some());
    assert_rung(&restart().expect("a receipt"), "passed", 2);
    let message = format!("(process {within}) was killed by signal 9 while it served");
    assert!(container.log().contains(&message), "{}", container.log());
    until(LIMIT, "no other process, dead or alive", || container.processes().len() == 2);
}

/// A worker whose master was killed belongs to PID 1 from then on.
#[test]
#[ignore = "alone: loads"]
fn workers_that_lose_their_master_are_reaped() {
    let scene = Scene::start(Container::with(&config().global("master-worker")));
    let container = &scene.container;
    let load = scene.load();
    assert_rung(&container.reloader(&["reload", "--json"]).expect_status(0).json, "passed", 2);
    load.until_further(200);
    load.stop().assert_lossless();
    let master = container.init().children().into_iter().find(|child| !child.children().is_empty());
    let master: Process = master.expect("a master with its worker");
    container.until_receipt(|| master.signal(Signal::SIGKILL));
    until(LIMIT, "only daemon, master and worker to be left", || {
        let processes = container.processes();
        processes.len() == 3 && processes.iter().all(|(_, state)| *state != 'Z')
    });
}
