//! Keeps custody in the service manager's fd store: daemon and HAProxy may die together without a refused connection,
//! and sockets that nothing serves do not stay in the store.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::sockets::{listening, refuses, until_refused};
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";
const OTHER: &str = "127.0.0.1:8081";
const LIMIT: Duration = Duration::from_secs(20);

fn two_frontends() -> Config {
    Config::web(WEB).frontend("other", &[OTHER])
}

fn kill_both(rig: &mut Rig) {
    let serving = rig.serving().expect("a serving generation");
    rig.kill9_daemon();
    serving.signal(Signal::SIGKILL);
    serving.until_gone(LIMIT);
}

#[test]
#[ignore = "alone: loads"]
fn sockets_survive_a_kill_of_daemon_and_haproxy_at_once() {
    netns::enter();
    let mut rig = Rig::with(&two_frontends()).fd_store().start();
    let load = Load::to([WEB]).start();
    for _ in 0..5 {
        load.until_further(300);
        let inodes = listening(8080);
        kill_both(&mut rig);
        load.until_further(100);
        rig.start_daemon();
        assert_eq!(listening(8080), inodes, "the same sockets");
        let receipt = rig.last_receipt();
        assert_eq!((&receipt["kind"], &receipt["result"]), (&"restart".into(), &"proven".into()), "{receipt:#}");
        assert!(receipt["listeners"].as_array().unwrap().iter().all(|listener| listener["rung"] == "passed"));
    }
    load.until_further(300);
    let outcomes = load.stop();
    println!("5 kills of both: {outcomes}");
    let lost = outcomes.summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{outcomes}");
    assert_eq!(rig.reload().expect_status(0).at("/result"), "proven");
}

/// Without a store the same kills end in refused connections. It shows that the store makes the difference in the test
/// above.
#[test]
fn ports_are_refused_without_a_store() {
    netns::enter();
    let mut rig = Rig::with(&two_frontends()).start();
    kill_both(&mut rig);
    // The last thread of a killed process may close its files a moment later.
    until_refused(WEB);
    rig.start_daemon();
    assert_eq!(rig.last_receipt()["kind"], "start");
}

#[test]
fn removed_port_is_refused_after_the_reload() {
    netns::enter();
    let rig = Rig::with(&two_frontends()).fd_store().start();
    rig.configure(&Config::web(WEB));
    rig.reload().expect_status(0);
    assert!(refuses(OTHER) && !refuses(WEB));
}

#[test]
fn stop_empties_the_store() {
    netns::enter();
    let mut rig = Rig::with(&two_frontends()).fd_store().start();
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    until_refused(WEB);
    assert!(listening(8080).is_empty() && listening(8081).is_empty());
}

/// Otherwise clients would wait for a daemon that starts and ends again and serves nothing.
#[test]
fn daemon_that_cannot_start_haproxy_empties_the_store() {
    netns::enter();
    let wrapper = Wrapper::new();
    let setup: Setup = Rig::with(&two_frontends()).fd_store().haproxy_at(&wrapper.path());
    let mut rig = setup.start();
    kill_both(&mut rig);
    assert!(!refuses(WEB));
    wrapper.set(Behaviour::FailAtOnce);
    let ended = rig.try_start_daemon();
    assert_eq!(ended.status, 4, "{}", rig.log());
    until(LIMIT, "the ports to be refused", || refuses(WEB) && refuses(OTHER));
    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    assert!(!refuses(WEB));
}
