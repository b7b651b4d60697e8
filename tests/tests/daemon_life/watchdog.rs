//! Serves the watchdog of the service manager while a reload is slow.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::{LIMIT, WEB};

#[test]
fn watchdog_is_served_while_a_start_hangs() {
    netns::enter();
    let wrapper = Wrapper::new();
    let setup = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).environment("WATCHDOG_USEC", "30000000");
    let rig = setup.start();
    until_watchdog_is_served(&rig);
    wrapper.set(Behaviour::WaitForChange);
    let mut reload = rig.spawn(&["reload", "--json"]);
    rig.until_generation_starts();
    until_watchdog_is_served(&rig);
    assert!(reload.is_running());
    wrapper.set(Behaviour::Normal);
    reload.wait().expect_status(0);
}

/// The operator sets `drain-timeout`, which may be longer than the watchdog's limit.
#[test]
fn watchdog_is_served_while_the_old_generation_stops_slowly() {
    netns::enter();
    let setup = Rig::with(&Config::web(WEB)).tables("[reload]\ndrain-timeout = \"2m\"\n");
    let rig = setup.environment("WATCHDOG_USEC", "30000000").start();
    let old = rig.serving().expect("a serving generation");
    old.signal(Signal::SIGSTOP);
    let mut reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the old generation to be retired", || rig.generation_records().contains("\"draining\""));
    until_watchdog_is_served(&rig);
    assert!(reload.is_running());
    old.signal(Signal::SIGCONT);
    reload.wait().expect_status(0);
}

fn until_watchdog_is_served(rig: &Rig) {
    let messages = || rig.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    let before = messages();
    until(Duration::from_secs(20), "two messages to the watchdog", || messages() >= before + 2);
}
