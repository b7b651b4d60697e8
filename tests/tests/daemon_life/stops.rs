//! Stops the daemon together with HAProxy.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::mentioning;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{self, Server};
use reloader_tests::sockets::until_refused;

use super::{IDLE, WEB};

#[test]
fn stop_leaves_no_process_and_no_file() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).start();
    rig.reload().expect_status(0);
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends().expect_status(0);
    assert_nothing_left(&rig);
}

/// It waits for older generations too, not only for the one that served last.
#[test]
fn stop_waits_for_generations_without_connections_and_names_the_others() {
    netns::enter();
    let backend = Server::start("127.0.0.1:0", servers::Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let mut rig = Rig::with(&config).start();
    let (drains, mut first_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    rig.reload().expect_status(0);
    let (slow, ending_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    rig.reload().expect_status(0);
    let (last, mut last_client) = (rig.serving().unwrap(), IdleConnections::open(IDLE, 1));
    slow.signal(Signal::SIGSTOP);
    drop(ending_client);
    let stop = rig.spawn(&["stop"]);
    until_refused(WEB);
    slow.signal(Signal::SIGCONT);
    let messages = stop.wait().expect_status(0).stderr;
    let expected = format!("processes {}, {} drain open connections", drains.pid, last.pid);
    assert!(messages.contains(&expected), "{messages}");
    rig.until_daemon_ends().expect_status(0);
    assert_eq!((first_client.alive(), last_client.alive(), slow.is_alive()), (1, 1, false));
    let left = generation_files(&rig);
    assert!(left.iter().all(|name| !name.starts_with("generation-2.")), "{left:?}");
    assert!(left.len() > 1, "files of draining generations stay: {left:?}");
}

#[test]
fn on_stop_retire_leaves_no_process_and_no_file() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).top("on-stop = \"retire\"").start();
    rig.terminate_daemon().expect_status(0);
    assert_nothing_left(&rig);
}

fn assert_nothing_left(rig: &Rig) {
    until_refused(WEB);
    until(Duration::from_secs(20), "all processes to end", || mentioning(rig.dir()).is_empty());
    assert_eq!(generation_files(rig), [""; 0]);
}

fn generation_files(rig: &Rig) -> Vec<String> {
    let names = fs::read_dir(rig.path("run")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("generation-")).collect()
}
