//! The changes that cost resets with HAProxy's own reload in master-worker mode, which passes sockets and retires at once: fewer
//! shards, other bind options. Beside it the same changes here.

use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::master::Master;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

const CLIENTS: [&str; 3] = ["127.0.0.1:8000", "127.0.0.1:8001", "[::1]:8002"];
const RATE: u32 = 3000;
const MOST_ROUNDS: usize = 400;

fn reloads() -> usize {
    tier::rounds(24)
}

fn config(round: usize) -> Config {
    let config = Config::new().global("nbthread 4");
    if round.is_multiple_of(2) {
        config.frontend("web", &["127.0.0.1:8000 shards 4", "127.0.0.1:8001", "[::]:8002"])
    } else {
        config.frontend("web", &["127.0.0.1:8000 shards 1", "127.0.0.1:8001 interface lo", "[::]:8002 v6only"])
    }
}

#[test]
#[ignore = "alone: loads"]
fn nothing_is_lost_where_master_worker_mode_loses() {
    netns::enter();
    let ours = with_reloader();
    println!("reloader, {} reloads: {}", reloads(), ours.summary());
    ours.assert_lossless();
    // Up to some hundred rounds for one loss. In each run `baseline` shows that such a load sees losses, of other ways to reload.
    if tier::is_all() {
        let (plain, rounds) = with_master_worker_mode();
        println!("master-worker, {rounds} reloads: {}", plain.summary());
        assert!(plain.summary().failed() > 0, "the load would not have seen a loss: {}", plain.summary());
    }
}

fn with_reloader() -> Outcomes {
    let rig = Rig::with(&config(0)).start();
    let load = Load::to(CLIENTS).rate(RATE).start();
    for round in 1..=reloads() {
        load.until_further(u64::from(RATE) / 5);
        rig.configure(&config(round));
        let receipt = rig.reload();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
    }
    load.until_further(u64::from(RATE) / 5);
    load.stop()
}

/// It loses what is queued on a socket at the instant it is closed, a few in some reloads: goes on until it has.
fn with_master_worker_mode() -> (Outcomes, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (file, stats) = (path("haproxy.cfg"), path("stats.sock"));
    config(0).exposing_stats_socket(&stats).write(&file);
    let master = Master::start(&HaproxyBinary::installed(), &file, &path("master.sock"), &stats, &[]);
    let load = Load::to(CLIENTS).rate(RATE).start();
    let mut rounds = 0;
    while rounds < reloads() || load.failed() == 0 && rounds < MOST_ROUNDS {
        rounds += 1;
        load.until_further(u64::from(RATE) / 5);
        config(rounds).exposing_stats_socket(&stats).write(&file);
        master.reload();
    }
    load.until_further(u64::from(RATE) / 5);
    (load.stop(), rounds)
}
