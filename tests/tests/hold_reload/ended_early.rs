//! Ends holds while old queues are still drained. Such holds prove nothing, and the daemon knows that before it touches
//! the old generation.

use std::net::TcpStream;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{accepted_by, queued};

use super::WEB;

const LIMIT: Duration = Duration::from_secs(20);

fn assert_refused(config: &Config) {
    netns::enter();
    let tables = "[reload]\nstrategy = \"hold\"\nrequire = \"proven\"\n[hold]\nmax = \"150ms\"\n";
    let rig = Rig::with(config).tables(tables).start();
    let old = rig.serving();
    let first = TcpStream::connect(WEB).unwrap();
    until(LIMIT, "one connection to be accepted", || accepted_by(old.unwrap(), 8000) == 1);
    let second = TcpStream::connect(WEB).unwrap();
    until(LIMIT, "a queued connection, which prolongs the drain", || queued(8000) == 1);

    let mut reload = rig.spawn(&["reload", "--json"]);
    let holds = || std::fs::read_dir(rig.path("run/holds")).into_iter().flatten().count();
    let (mut held, mut first) = (false, Some(first));
    while reload.is_running() {
        held |= holds() > 0;
        if held && holds() == 0 {
            // Now the queue becomes empty, and only the end of the hold stands against a proof.
            first = None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let answer = reload.wait().expect_status(1);
    assert_eq!(answer.at("/result"), "failed", "{}", answer.stdout);
    let reason = answer.at("/reason").as_str().unwrap();
    assert!(reason.contains("require = \"proven\"") && reason.contains("longest time was over"), "{reason}");
    assert_eq!(rig.serving(), old);
    drop((first, second));
}

#[test]
fn proven_reload_fails_if_its_hold_ends_early() {
    assert_refused(&Config::web("127.0.0.1:8000 maxconn 1"));
}

#[test]
fn proven_reload_fails_if_its_hold_ends_early_with_noreuseport() {
    assert_refused(&Config::web("127.0.0.1:8000 maxconn 1").global("noreuseport"));
}
