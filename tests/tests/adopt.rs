//! A daemon started beside a HAProxy that somebody else has started takes it over without touching it.

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::idle::Idle;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Manner, Server};
use reloader_tests::sockets::listening;

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";

#[test]
fn one_that_gives_its_sockets() {
    adopted(&[], |config, socket| config.giving_socket(socket));
}

#[test]
fn one_that_does_not() {
    adopted(&[], |config, socket| config.stats_socket(socket));
}

#[test]
fn a_master_with_its_worker() {
    adopted(&["-W"], |config, socket| config.stats_socket(socket));
}

fn adopted(args: &[&str], with_socket: impl FnOnce(Config, &std::path::Path) -> Config) {
    netns::enter();
    let (dir, backend) = (tempfile::tempdir().unwrap(), Server::start("127.0.0.1:0", Manner::Reply));
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let config = with_socket(config, &dir.path().join("stats.sock"));
    let mut rig = Rig::with(&config).prepare();
    let found = HaproxyBinary::installed().daemonize(&rig.haproxy_cfg(), args).unwrap();
    let inodes = listening(8080);
    let load = Load::to([WEB]).start();
    let mut idle = Idle::open(IDLE, 100);

    rig.start_daemon();
    assert_eq!(rig.serving(), Some(found.process));
    assert!(rig.history().stdout.contains("\"kind\":\"adopt\""));
    load.until_further(200);
    let receipt = rig.reload().expect_status(0);
    assert_eq!((receipt.at("/result"), receipt.at("/old/pid")), (&"proven".into(), &found.process.pid.into()));
    load.until_further(200);
    load.stop().assert_lossless();
    assert_eq!((listening(8080), idle.prove()), (inodes.clone(), 100), "{:?}", idle.deaths());

    let serving = rig.serving().unwrap();
    serving.end();
    rig.until_replaced(serving);
    assert_eq!(listening(8080), inodes);
}

/// It dies before its first reload: custody starts a generation of the daemon's own.
#[test]
fn one_that_is_killed_then() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(&Config::web(WEB).stats_socket(&dir.path().join("stats.sock"))).prepare();
    let found = HaproxyBinary::installed().daemonize(&rig.haproxy_cfg(), &[]).unwrap();
    let inodes = listening(8080);
    rig.start_daemon();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    found.process.end();
    rig.until_replaced(found.process);
    load.until_further(200);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout, listening(8080)), (0, 0, inodes));
}
