//! The new configuration has a bind that another process has. HAProxy tries for two seconds and makes the old process pause all its
//! listeners for that time (SIGTTOU), because the old process could be the one that has the port. The daemon in the same situation:
//! `failed_reloads::bind_taken_by_another_process_fails_the_reload`.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::poll::until;

use super::{ByMaster, Direct, LIMIT, WEB};

#[test]
#[ignore = "alone: loads"]
fn x_and_sf_refuse_connections_to_every_port() {
    netns::enter();
    let (server, (_taken, config)) = (Direct::start(), with_taken_port());
    server.configure(config);
    let load = Load::to([WEB]).start();
    load.until_started(200);
    let said = server.reload();
    assert!(!said.status.success(), "{said:?}");
    load.until_further(200);
    report("-x and -sf", &load.stop());
}

#[test]
#[ignore = "alone: loads"]
fn master_worker_mode_refuses_connections_to_every_port() {
    netns::enter();
    let (server, (_taken, config)) = (ByMaster::start(), with_taken_port());
    let worker = server.master.worker();
    server.configure(config);
    let load = Load::to([WEB]).start();
    load.until_started(200);
    server.master.process.signal(Signal::SIGUSR2);
    until(LIMIT, "HAProxy to give up", || server.master.log().contains("Some protocols failed to start"));
    load.until_further(200);
    report("master-worker", &load.stop());
    assert_eq!(server.master.worker(), worker, "the old worker serves on");
}

fn with_taken_port() -> (TcpListener, Config) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    (taken, Config::web(WEB).frontend("taken", &[&address]))
}

/// The port of the load is not the one that is taken.
fn report(name: &str, outcomes: &Outcomes) {
    println!("{name}: {outcomes}");
    let summary = outcomes.summary();
    assert!(summary.failed() > 0, "nothing was lost: this measures nothing: {summary}");
}
