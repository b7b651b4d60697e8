//! Tests changes of binds that cost resets with HAProxy's own reload in master-worker mode: fewer shards, other bind options. That mode
//! passes sockets and retires the old worker at once. The same changes are made by reloader and by HAProxy alone.

use reloader_tests::config::{ALTERNATING, Config};
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::master::Master;
use reloader_tests::netns;
use reloader_tests::receipt::assert_proven;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

const RATE: u32 = 3000;
const MOST_ROUNDS: usize = 400;

fn reloads() -> usize {
    tier::rounds(24)
}

#[test]
#[ignore = "alone: loads"]
fn reloader_loses_nothing_where_master_worker_mode_loses() {
    netns::enter();
    let ours = run_with_reloader();
    println!("reloader, {} reloads: {}", reloads(), ours.summary());
    ours.assert_lossless();
    // One loss may take some hundred rounds. In every run `baseline` shows that such a load sees the losses of other ways to reload.
    if tier::is_all() {
        let (plain, rounds) = run_with_master_worker_mode();
        println!("master-worker, {rounds} reloads: {}", plain.summary());
        assert!(plain.summary().failed() > 0, "the load would not have seen a loss: {}", plain.summary());
    }
}

fn run_with_reloader() -> Outcomes {
    let rig = Rig::with(&Config::alternating_binds(0)).start();
    let load = Load::to(ALTERNATING).rate(RATE).start();
    for round in 1..=reloads() {
        load.until_further(u64::from(RATE) / 5);
        rig.configure(&Config::alternating_binds(round));
        let receipt = rig.reload();
        assert_proven(&receipt);
    }
    load.until_further(u64::from(RATE) / 5);
    load.stop()
}

/// Reloads until a connection is lost: HAProxy loses what is queued on a socket at the moment it is closed, a few connections in some
/// reloads.
fn run_with_master_worker_mode() -> (Outcomes, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (file, stats) = (path("haproxy.cfg"), path("stats.sock"));
    Config::alternating_binds(0).exposing_stats_socket(&stats).write(&file);
    let master = Master::start(&HaproxyBinary::installed(), &file, &path("master.sock"), &stats, &[]);
    let load = Load::to(ALTERNATING).rate(RATE).start();
    let mut rounds = 0;
    while rounds < reloads() || load.failed() == 0 && rounds < MOST_ROUNDS {
        rounds += 1;
        load.until_further(u64::from(RATE) / 5);
        Config::alternating_binds(rounds).exposing_stats_socket(&stats).write(&file);
        master.reload();
    }
    load.until_further(u64::from(RATE) / 5);
    (load.stop(), rounds)
}
