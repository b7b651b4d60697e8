//! A reload that comes to nothing while connections are steered, and a daemon that dies then.

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

/// The new generation has all new connections already: they go back to the old one, and what is queued with them.
#[test]
#[ignore = "alone: loads"]
fn a_handover_that_cannot_be_recorded() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    let old = rig.serving();
    let obstacle = block_the_record(&rig);
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

/// A program that stays for late handshakes is one that has steered: the old generation needs none for its own.
#[test]
fn a_handshake_that_is_not_done_keeps_no_program_of_a_reload_that_failed() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    command("nft", "add table ip silence");
    command("nft", "add chain ip silence in { type filter hook input priority 0 ; }");
    command("nft", "add rule ip silence in ip daddr 127.0.0.77 tcp flags & (syn|ack) == syn|ack drop");
    let _client = Client::start_from("127.0.0.77".parse().unwrap(), WEB.parse().unwrap());
    until(LIMIT, "its SYN-ACK to be sent again", || half_open(8000).iter().any(|sent| *sent > 0));
    let _obstacle = block_the_record(&rig);
    rig.reload().expect_status(1);
    assert_eq!(half_open(8000).len(), 1, "the handshake is not done");
    assert!(!rig.path("run/steered.json").exists(), "nothing is steered, and nothing is on record");
}

/// Not even root can write a file where a directory is.
fn block_the_record(rig: &Rig) -> PathBuf {
    let temporary = rig.path("run/generations.tmp");
    fs::create_dir_all(temporary.join("in the way")).unwrap();
    temporary
}

/// What stands on the group does nothing any more, and the next daemon takes it off.
#[test]
#[ignore = "alone: loads, and looks at the eBPF objects of the whole machine"]
fn a_daemon_killed_while_it_steers() {
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
    until(LIMIT, "the program to be taken off", || rig.log().contains(TAKEN_OFF));
    assert!(!rig.path("run/steered.json").exists());
    rig.reload().expect_status(0);
    load.until_further(200);
    load.stop().assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    before.assert_unchanged();
}

/// The next daemon steers the same group: what stands there comes off first, though the old generation still listens.
#[test]
fn a_reload_after_a_daemon_was_killed_while_it_steered() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).tables(STEER).start();
    let old = kill_while_it_steers(&mut rig);
    rig.start_daemon();
    let receipt = rig.reload();
    assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}{}", receipt.stdout, receipt.stderr);
    assert!(rig.log().contains(TAKEN_OFF), "{}", rig.log());
    // Its socket is none of the serving generation's.
    let still = format!("generation 1 (process {}) still listens though it was retired", old.pid);
    until(LIMIT, "it to be told again", || rig.log().contains(&still));
    old.signal(Signal::SIGCONT);
}

/// The new generation is on record as the serving one; the old one, which is returned, is stopped and does not close.
fn kill_while_it_steers(rig: &mut Rig) -> Process {
    let old = rig.serving().unwrap();
    let next = rig.path("run/generation-2.cfg");
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the next generation to start", || next.exists());
    // It neither drains nor ends: the reload waits for it.
    old.stop();
    until(LIMIT, "the steering to be on record", || rig.path("run/steered.json").exists());
    until(LIMIT, "the new generation to be the serving one", || {
        fs::read_to_string(rig.path("run/generations.json")).is_ok_and(|text| text.contains("draining"))
    });
    rig.kill9_daemon();
    reload.wait().expect_status(69);
    old
}
