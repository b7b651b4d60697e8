//! Tests an old process that is stopped at the moment it is retired, with connections in its queue: they migrate. The same is done
//! without steering, for comparison.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::HaproxyBinary;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::plain::{Method, Plain};
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

use super::{STEER, WEB};

const RATE: u32 = 4000;
const STALL: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(20);

fn reloads() -> u64 {
    tier::rounds(20)
}

#[test]
#[ignore = "alone: loads"]
fn queued_connections_of_a_stalled_process_migrate() {
    netns::enter();
    let (steered, migrated) = run_with_reloader(&Config::web(WEB));
    let plain = run_without_steering();
    println!("steered, {migrated} migrated: {}", steered.summary());
    println!("-sf:     {}", plain.summary());
    steered.assert_lossless();
    assert!(migrated > 0, "the old queues were empty: the stall proves nothing");
    assert!(plain.summary().reset() > 0, "the load would not have seen a loss: {}", plain.summary());
}

/// The two generations overlap, although the server binds alone.
#[test]
#[ignore = "alone: loads"]
fn queued_connections_of_a_stalled_process_that_binds_alone_migrate() {
    netns::enter();
    let (steered, migrated) = run_with_reloader(&Config::web(WEB).global("noreuseport"));
    println!("overlapped, {migrated} migrated: {}", steered.summary());
    steered.assert_lossless();
    assert!(migrated > 0, "the old queues were empty: the stall proves nothing");
}

fn run_with_reloader(config: &Config) -> (Outcomes, u64) {
    let rig = Rig::with(config).tables(STEER).start();
    let load = Load::to([WEB]).rate(RATE).start();
    let mut migrated = 0;
    for _ in 0..reloads() {
        load.until_further(u64::from(RATE) / 5);
        let old = rig.serving().expect("a generation");
        let next =
            rig.path(&format!("run/generation-{}.cfg", rig.status().at("/serving/generation").as_u64().unwrap() + 1));
        let reload = rig.spawn(&["reload", "--json"]);
        until(LIMIT, "the next generation to start", || next.exists());
        old.stop();
        continue_after_retirement(old);
        let receipt = reload.wait();
        assert!(receipt.status == 0 && receipt.at("/result") == "proven", "{}{}", receipt.stdout, receipt.stderr);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], "steered", "{}", receipt.stdout);
        migrated += web["migrated"].as_u64().expect("a figure");
    }
    (load.stop(), migrated)
}

fn run_without_steering() -> Outcomes {
    let mut server = Plain::start(&HaproxyBinary::installed(), Method::SoftStop, 1);
    let load = Load::to([WEB]).rate(RATE).start();
    for _ in 0..reloads() {
        load.until_further(u64::from(RATE) / 5);
        let old = server.process();
        old.stop();
        std::thread::scope(|scope| {
            scope.spawn(|| continue_after_retirement(old));
            server.reload();
        });
    }
    load.stop()
}

/// Continues the stopped process a while after it was told to drain. Until then its new connections stay in the queue.
fn continue_after_retirement(old: Process) {
    until(LIMIT, "the old process to be retired", || old.has_pending(Signal::SIGUSR1));
    std::thread::sleep(STALL);
    old.signal(Signal::SIGCONT);
}
