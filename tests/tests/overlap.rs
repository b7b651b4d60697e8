//! Tests deaths and commands that coincide with a reload.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::mentioning;
use reloader_tests::rig::{Pending, Rig, Setup};
use reloader_tests::sockets::{listening, refuses};
use reloader_tests::wrapper::{Behaviour, Wrapper};

const WEB: &str = "127.0.0.1:8080";

#[test]
fn death_of_the_old_generation_during_a_reload_refuses_no_connection() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = setup(&wrapper).start();
    let inodes = listening(8080);
    let load = Load::to([WEB]).start();
    load.until_started(100);
    let reload = begin_stalled_reload(&rig, &wrapper);
    rig.serving().unwrap().end();
    load.until_further(200);
    wrapper.set(Behaviour::Normal);
    let receipt = reload.wait().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/listeners/0/rung")), (&"proven".into(), &"passed".into()));
    load.until_further(200);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout, listening(8080)), (0, 0, inodes));
}

#[test]
fn port_is_refused_once_custody_max_ends_without_a_generation() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = setup(&wrapper).tables("[reload]\ncustody-max = \"1s\"").start();
    let reload = begin_stalled_reload(&rig, &wrapper);
    rig.serving().unwrap().end();
    let answer = reload.wait().expect_status(4);
    assert!(refuses(WEB), "the port is still open after custody-max");
    assert!(answer.at("/reason").to_string().contains("custody-max"), "{}", answer.at("/reason"));
    wrapper.set(Behaviour::Normal);
    until(Duration::from_secs(40), "the next start attempt", || rig.serving().is_some());
    Load::to([WEB]).connections(100).run().assert_lossless();
}

#[test]
fn terminating_the_daemon_during_a_reload_keeps_the_serving_generation() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = setup(&wrapper).start();
    let (serving, load) = (rig.serving().unwrap(), Load::to([WEB]).start());
    let reload = begin_stalled_reload(&rig, &wrapper);
    rig.terminate_daemon().expect_status(0);
    let answer = reload.wait();
    assert!([1, 69].contains(&answer.status), "{answer:?}");
    until(Duration::from_secs(10), "only the serving generation to be left", || mentioning(rig.dir()) == [serving]);
    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    assert_eq!(rig.serving(), Some(serving));
    rig.reload().expect_status(0);
    load.stop().assert_lossless();
}

#[test]
fn stop_during_a_reload_waits_for_its_end() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = setup(&wrapper).start();
    let reload = begin_stalled_reload(&rig, &wrapper);
    let stop = rig.spawn(&["stop"]);
    wrapper.set(Behaviour::Normal);
    reload.wait().expect_status(0);
    stop.wait().expect_status(0);
    rig.until_daemon_ends().expect_status(0);
    until(Duration::from_secs(10), "all processes to end", || mentioning(rig.dir()).is_empty());
    assert!(refuses(WEB));
}

fn setup(wrapper: &Wrapper) -> Setup {
    Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path())
}

/// Begins a reload whose new generation has been started and waits.
fn begin_stalled_reload(rig: &Rig, wrapper: &Wrapper) -> Pending {
    wrapper.set(Behaviour::WaitForChange);
    let reload = rig.spawn(&["reload", "--json"]);
    until(Duration::from_secs(20), "a generation to start", || {
        std::fs::read_to_string(rig.path("run/generations.json")).unwrap_or_default().contains("\"starting\"")
    });
    reload
}
