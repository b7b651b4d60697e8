//! The new configuration has a bind that another process has. HAProxy tries for two seconds and makes the old process pause all its
//! listeners for that time (SIGTTOU), because the old process could be the one that has the port. The daemon in the same situation:
//! `refused`.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::poll::until;

use super::{ByMaster, Direct, LIMIT, WEB, for_each_version};

#[test]
#[ignore = "alone: loads"]
fn x_and_sf_refuse_connections_to_every_port() {
    for_each_version(|binary| {
        let (server, (_taken, config)) = (Direct::start(binary), with_taken_port());
        server.configure(config);
        let load = Load::to([WEB]).start();
        load.until_started(200);
        let said = server.reload();
        assert!(!said.status.success(), "{said:?}");
        load.until_further(200);
        report(&load.stop());
    });
}

#[test]
#[ignore = "alone: loads"]
fn master_worker_mode_refuses_connections_to_every_port() {
    for_each_version(|binary| {
        let (server, (_taken, config)) = (ByMaster::start(binary), with_taken_port());
        let worker = server.master.worker();
        server.configure(config);
        let load = Load::to([WEB]).start();
        load.until_started(200);
        server.master.process.signal(Signal::SIGUSR2);
        until(LIMIT, "HAProxy to give up", || server.master.log().contains("cannot bind socket"));
        load.until_further(200);
        report(&load.stop());
        assert_eq!(server.master.worker(), worker, "the old worker serves on");
    });
}

fn with_taken_port() -> (TcpListener, Config) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    (taken, Config::web(WEB).frontend("taken", &[&address]))
}

/// The port of the load is not the one that is taken.
fn report(outcomes: &Outcomes) {
    println!("    {outcomes}");
    assert!(outcomes.summary().refused > 0, "nothing was lost: this measures nothing: {outcomes}");
}
