//! Reloads HAProxy so that the new worker does not get all sockets of the old one.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::{ALTERNATING, Config};
use reloader_tests::guest::Feature;
use reloader_tests::haproxy::{HaproxyBinary, Version};
use reloader_tests::load::{Load, Outcomes, Span};
use reloader_tests::poll::until;
use reloader_tests::process::cmdline;
use reloader_tests::receipt::{assert_proven, listener, traffic};
use reloader_tests::sockets::{listening, open_sockets};
use reloader_tests::tier;
use reloader_tests::{guest, netns, probe, versions};

use super::{LIMIT, Scene, WEB, Way};

const RATE: u32 = 3000;
/// The port of [`WEB`].
const PORT: u16 = 8000;
const STALL: Duration = Duration::from_millis(30);
/// HAProxy by itself loses connections in a few of these rounds.
const MOST_ROUNDS: usize = 300;

fn reloads() -> usize {
    tier::rounds(24)
}

/// HAProxy's own reload in this mode loses connections: see `steer_reload/changes.rs`, which has the same rounds.
#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn changed_shards_and_bind_options_lose_nothing() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::alternating_binds(0), "");
    let load = Load::to(ALTERNATING).rate(RATE).start();
    let (mut rungs, mut migrated) = (BTreeMap::<String, u64>::new(), 0);
    let mut windows = Vec::new();
    for round in 1..=reloads() {
        load.until_further(u64::from(RATE) / 5);
        scene.configure(Config::alternating_binds(round));
        let span = Span::begin(format!("reload {round}"));
        let receipt = scene.rig.reload();
        windows.push(span.end());
        assert_proven(&receipt);
        for listener in traffic(&receipt) {
            *rungs.entry(listener["rung"].as_str().unwrap().to_owned()).or_default() += 1;
            migrated += listener["migrated"].as_u64().unwrap_or(0);
        }
    }
    load.until_further(u64::from(RATE) / 5);
    let ours = load.stop();
    for failure in ours.failures() {
        let window = windows.iter().find(|window| (window.from..=window.to).contains(&failure.scheduled));
        println!("{failure:?} in {window:?}");
    }
    println!("companion, {} reloads, {rungs:?}, {migrated} migrated: {ours}", reloads());
    ours.assert_lossless();
    // One loss may take some hundred rounds. `baseline` shows in each run that such a load sees losses of other ways to
    // reload.
    if tier::is_all() {
        let (rounds, lost) = until_haproxy_alone_loses();
        println!("by itself, {rounds} reloads: {lost}");
        assert!(lost.summary().failed() > 0, "the load does not see losses: {lost}");
    }
}

fn until_haproxy_alone_loses() -> (usize, Outcomes) {
    let mut plain = Scene::prepare(&HaproxyBinary::installed(), Way::Signal, Config::alternating_binds(0), "");
    plain.start_haproxy();
    let load = Load::to(ALTERNATING).rate(RATE).start();
    let mut rounds = 0;
    while load.failed() == 0 && rounds < MOST_ROUNDS {
        rounds += 1;
        load.until_further(u64::from(RATE) / 10);
        plain.configure(Config::alternating_binds(rounds));
        plain.master().reload();
    }
    (rounds, load.stop())
}

/// Only the number of sockets changes, so no SYN is held: the queues of the removed sockets move over.
#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn removed_shards_are_steered() {
    netns::enter();
    for way in [Way::Cli, Way::Signal] {
        let shards =
            |count: usize| Config::new().global("nbthread 4").frontend("web", &[&format!("{WEB} shards {count}")]);
        let scene = Scene::begin(&HaproxyBinary::installed(), way, shards(4), "");
        // From the first reload on the daemon knows which configuration the worker has read.
        scene.rig.reload().expect_status(0);
        let load = Load::to([WEB]).rate(RATE).start();
        let mut migrated = 0;
        for round in 1..=reloads() {
            load.until_further(u64::from(RATE) / 5);
            scene.configure(shards(if round.is_multiple_of(2) { 4 } else { 1 }));
            let receipt = scene.rig.reload();
            assert_proven(&receipt);
            let traffic = traffic(&receipt);
            let steered = traffic.iter().filter(|listener| listener["rung"] == "steered").count();
            assert_eq!(steered, if round.is_multiple_of(2) { 0 } else { 3 }, "{}", receipt.stdout);
            assert_eq!(receipt.at("/syns/held"), 0);
            migrated += traffic.iter().filter_map(|listener| listener["migrated"].as_u64()).sum::<u64>();
        }
        load.until_further(u64::from(RATE) / 5);
        let outcomes = load.stop();
        println!("{way:?}, {migrated} migrated: {outcomes}");
        outcomes.assert_lossless();
        assert!(migrated > 0, "the old queues were empty: this proves nothing");
    }
}

/// HAProxy before 2.6 passes no socket to its next worker unless a stats socket exports the listeners: every reload
/// binds them again. The old worker is stopped in the moment in which it is retired, with connections in its queue.
#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn listeners_bound_again_are_steered_with_their_queues() {
    netns::enter();
    let old = versions::all()
        .into_iter()
        .find(|binary| binary.version < Version { major: 2, minor: 6 })
        .expect("a version before 2.6");
    let mut plain = Scene::prepare(&old, Way::Signal, Config::web(WEB), "");
    plain.start_haproxy();
    let lost = stalled(&plain, || {
        plain.master().reload();
    });
    drop(plain);
    let scene = Scene::begin(&old, Way::Cli, Config::web(WEB), "");
    scene.rig.reload().expect_status(0);
    let mut migrated = 0;
    let ours = stalled(&scene, || {
        let receipt = scene.rig.reload();
        assert_proven(&receipt);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], "steered", "{}", receipt.stdout);
        migrated += web["migrated"].as_u64().expect("a figure");
    });
    println!("companion, {old}, {migrated} migrated: {ours}");
    println!("by itself: {lost}");
    ours.assert_lossless();
    assert!(migrated > 0, "the old queues were empty: the stall proves nothing");
    assert!(lost.summary().reset() > 0, "the load does not see losses: {lost}");
}

fn stalled(scene: &Scene, mut reload: impl FnMut()) -> Outcomes {
    let load = Load::to([WEB]).rate(RATE).start();
    for _ in 0..10 {
        load.until_further(u64::from(RATE) / 5);
        let (master, old) = (scene.master().process, scene.master().worker().expect("a worker"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let begins = format!(" -sf {} ", old.pid);
                until(LIMIT, "the master to begin", || cmdline(master.pid).contains(&begins));
                old.stop();
                // Where the stop came too late, the worker has closed its listener already: then this round stalls nothing.
                let has_closed = || open_sockets(old.pid).is_disjoint(&listening(PORT));
                until(LIMIT, "the old worker to be retired", || old.has_pending(Signal::SIGUSR1) || has_closed());
                std::thread::sleep(STALL);
                old.signal(Signal::SIGCONT);
            });
            reload();
        });
    }
    load.until_further(u64::from(RATE) / 5);
    load.stop()
}

/// Without migration no queue can be moved over afterwards, so SYNs are held beforehand.
#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn strategies_hold_and_kernel_fallback_hold_syns() {
    netns::enter();
    let ways = [
        ("hold", "held-ebpf", Feature::Bpf, "bpf-ringbuf"),
        ("kernel-fallback", "held-qdisc", Feature::Plug, "sch-plug"),
    ];
    for (strategy, rung, feature, needed) in ways {
        if !probe::is_present(needed) {
            guest::skip(feature, needed);
            continue;
        }
        let tables = format!("[reload]\nstrategy = \"{strategy}\"\n[hold]\nmax = \"60s\"\n");
        let scene = Scene::begin(&HaproxyBinary::installed(), Way::Signal, Config::alternating_binds(0), &tables);
        let load = Load::to(ALTERNATING).rate(1000).start();
        for round in 1..=4 {
            load.until_further(200);
            scene.configure(Config::alternating_binds(round));
            let receipt = scene.rig.reload();
            assert_proven(&receipt);
            assert!(traffic(&receipt).iter().any(|listener| listener["rung"] == rung), "{}", receipt.stdout);
            assert!(receipt.at("/syns/held").as_u64() > Some(0), "{}", receipt.stdout);
        }
        load.until_further(200);
        let outcomes = load.stop();
        println!("{strategy}: {outcomes}");
        outcomes.assert_lossless();
    }
}

/// With `fd-pass` the daemon does nothing about listeners that are not passed, and the receipt says so.
#[test]
#[ignore = "alone: loads with 3,000 connections a second"]
fn fd_pass_leaves_changed_listeners_unproven() {
    netns::enter();
    let tables = "[reload]\nstrategy = \"fd-pass\"\n";
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::alternating_binds(0), tables);
    scene.configure(Config::alternating_binds(1));
    let receipt = scene.rig.reload().expect_status(3);
    let options = listener(&receipt, "127.0.0.1:8001%lo");
    assert_eq!((&options["rung"], &options["undrained-queue"]), (&"unproven".into(), &0.into()), "{}", receipt.stdout);
    assert!(options["why"].to_string().contains("other options"), "{options}");
    // This one, three shards, and the one that is v6only now.
    let unproven = traffic(&receipt).iter().filter(|listener| listener["rung"] == "unproven").count();
    assert_eq!(unproven, 5, "{}", receipt.stdout);
}
