//! Tests reloads that fail, and daemons that are killed, while connections are steered.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::network::command;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::{half_open, listening};
use reloader_tests::waiting::Client;

use super::{STEER, WEB};

const LIMIT: Duration = Duration::from_secs(20);
const TAKEN_OFF: &str = "took the steering program of an earlier daemon off 1";

/// The new generation already gets all new connections: they go back to the old one, together with what is queued.
#[test]
#[ignore = "alone: loads"]
fn handover_that_cannot_be_recorded_loses_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    let old = rig.serving();
    let obstacle = block_generations_record(&rig);
    let load = Load::to([WEB]).rate(2000).start();
    for _ in 0..5 {
        load.until_further(400);
        let answer = rig.reload().expect_status(1);
        assert!(answer.at("/reason").to_string().contains("cannot be recorded"), "{}", answer.at("/reason"));
        assert_eq!(rig.serving(), old);
    }
    fs::remove_dir_all(obstacle).unwrap();
    load.until_further(400);
    rig.reload().expect_status(0);
    load.until_further(400);
    load.stop().assert_lossless();
}

/// A program stays for pending handshakes only if it has steered: the old generation needs none for its own handshakes.
#[test]
fn failed_reload_keeps_no_program_for_pending_handshakes() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    command("nft", "add table ip silence");
    command("nft", "add chain ip silence in { type filter hook input priority 0 ; }");
    command("nft", "add rule ip silence in ip daddr 127.0.0.77 tcp flags & (syn|ack) == syn|ack drop");
    let _client = Client::start_from("127.0.0.77".parse().unwrap(), WEB.parse().unwrap());
    until(LIMIT, "the SYN-ACK to be sent again", || half_open(8000).iter().any(|sent| *sent > 0));
    let _obstacle = block_generations_record(&rig);
    rig.reload().expect_status(1);
    assert_eq!(half_open(8000).len(), 1, "the handshake is no longer pending");
    assert!(!rig.path("run/steered.json").exists(), "a steering program is on record");
}

/// Makes the record of generations unwritable: even root cannot write a file over a directory.
fn block_generations_record(rig: &Rig) -> PathBuf {
    let temporary = rig.path("run/generations.tmp");
    fs::create_dir_all(temporary.join("in the way")).unwrap();
    temporary
}

/// The program on the group no longer acts, and the next daemon detaches it.
#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn next_daemon_detaches_the_program_of_a_killed_one() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).prepare();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let load = Load::to([WEB]).rate(1000).start();
    load.until_started(200);
    let sockets = listening(8000);
    let old = kill_while_it_steers(&mut rig);
    old.signal(Signal::SIGCONT);
    load.until_further(200);

    rig.start_daemon();
    until(LIMIT, "the old generation to close", || listening(8000).is_disjoint(&sockets));
    until(LIMIT, "the program to be detached", || rig.log().contains(TAKEN_OFF));
    assert!(!rig.path("run/steered.json").exists());
    rig.reload().expect_status(0);
    load.until_further(200);
    load.stop().assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

/// The next daemon steers the same group: it detaches the program first, although the old generation still listens.
#[test]
fn reload_after_a_daemon_was_killed_is_steered() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    let old = kill_while_it_steers(&mut rig);
    rig.start_daemon();
    let receipt = rig.reload();
    assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}{}", receipt.stdout, receipt.stderr);
    assert!(rig.log().contains(TAKEN_OFF), "{}", rig.log());
    // The old process still has a socket that the serving generation does not have.
    let still = format!("generation 1 (process {}) still listens though it was retired", old.pid);
    until(LIMIT, "the log to report the old process", || rig.log().contains(&still));
    old.signal(Signal::SIGCONT);
}

/// Kills the daemon in a reload, once the new generation is recorded as the serving one. Gives the old process, which is stopped and
/// does not close its sockets.
fn kill_while_it_steers(rig: &mut Rig) -> Process {
    let old = rig.serving().unwrap();
    let next = rig.path("run/generation-2.cfg");
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the next generation to start", || next.exists());
    // The stopped process neither drains nor ends, so the reload waits for it.
    old.stop();
    until(LIMIT, "the steering to be on record", || rig.path("run/steered.json").exists());
    until(LIMIT, "the new generation to be the serving one", || {
        fs::read_to_string(rig.path("run/generations.json")).is_ok_and(|text| text.contains("draining"))
    });
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    old
}
