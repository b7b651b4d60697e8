//! The old process hangs while it should hand its sockets over: HAProxy waits a second for them (`sock_get_old_sockets`).

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{listening, queued};

use super::{ByMaster, Direct, LIMIT, WEB, for_each_version};

/// More than HAProxy accepts between the moment in which it goes on and the one in which it closes its listener.
const CLIENTS: usize = 1000;

/// HAProxy's own sentence (`haproxy.c`); in master-worker mode it goes on after it.
const FAILED: &str = "Failed to get the sockets from the old process!";

#[test]
#[ignore = "alone: fills an accept queue, which HAProxy empties in other ways on a busy machine"]
fn master_worker_mode_loses_the_queue_and_only_logs_that_the_transfer_failed() {
    for_each_version(|binary| {
        let server = ByMaster::start(binary);
        let (worker, before) = (server.master.worker().unwrap(), listening(8000));
        worker.stop();
        let mut clients = queued_clients();
        server.master.reload();
        worker.signal(Signal::SIGCONT);
        until(LIMIT, "the old listener to be closed", || listening(8000).is_disjoint(&before));
        let log = server.master.log();
        assert!(log.contains(FAILED) && server.master.process.is_alive(), "{log}");
        let answered = clients.count_answered();
        println!("    {answered} of {CLIENTS} queued clients were served");
        assert!(answered < CLIENTS, "nothing was lost: this measures nothing");
    });
}

/// By `-x` alone a transfer that fails is a reload that fails, and costs nothing.
#[test]
fn x_and_sf_fail_when_the_transfer_fails() {
    for_each_version(|binary| {
        let server = Direct::start(binary);
        server.haproxy.process.stop();
        let mut clients = IdleConnections::open(WEB, 100);
        let said = server.reload();
        assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains(FAILED), "{said:?}");
        server.haproxy.process.signal(Signal::SIGCONT);
        assert_eq!(clients.count_answered(), 100);
    });
}

/// The daemon does not ask the old process for its sockets: it has them.
#[test]
#[ignore = "alone: fills an accept queue, which HAProxy empties in other ways on a busy machine"]
fn the_daemon_loses_nothing_when_the_old_generation_hangs() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let (old, before) = (rig.serving().unwrap(), listening(8000));
    old.stop();
    let mut clients = queued_clients();
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the old generation to be told to drain", || old.has_pending(Signal::SIGUSR1));
    old.signal(Signal::SIGCONT);
    let receipt = reload.wait().expect_status(0);
    assert_eq!((receipt.at("/result"), listening(8000)), (&"proven".into(), before));
    assert_eq!(clients.count_answered(), CLIENTS);
}

fn queued_clients() -> IdleConnections {
    let clients = IdleConnections::open(WEB, CLIENTS);
    assert_eq!(queued(8000), CLIENTS as u64, "a process that is stopped accepts nothing");
    clients
}
