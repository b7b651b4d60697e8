//! Stops and starts real servers under load.

use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::rig::Answer;
use reloader_tests::service::{Kind, Service};
use reloader_tests::sockets::listening;

use reloader_tests::hold_rig::{HoldRig, WEB, assert_held};

/// Restarts a server under a hold, in the middle of a load.
fn restarted_under_load(kind: Kind, rate: u32) -> (Answer, Outcomes) {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(kind, hold_rig.rig.dir(), &[WEB]);
    let (before, old) = (listening(8080), service.process());
    let load = Load::to([WEB]).rate(rate).start();
    load.until_started(u64::from(rate));
    let answer = hold_rig.run(&["--json", "--listen", WEB], service.command("restart")).expect_status(0);
    load.until_further(u64::from(rate));
    let outcomes = load.stop();
    println!("{kind:?}: {outcomes}\n{}", answer.stdout);
    let after = listening(8080);
    assert!(!old.is_alive() && after.is_disjoint(&before));
    assert_eq!(answer.at("/listeners/0/inode-before").as_u64(), before.first().copied());
    assert_eq!(answer.at("/listeners/0/inode-after").as_u64(), after.first().copied());
    drop(service);
    hold_rig.assert_gone();
    (answer, outcomes)
}

#[test]
#[ignore = "alone: loads"]
fn perl_server_is_replaced_without_loss() {
    let (answer, outcomes) = restarted_under_load(Kind::Perl, 500);
    assert_held(&answer);
    outcomes.assert_lossless();
}

/// At this rate the five places of its accept queue are enough. Beyond them TCP drops the SYN, and the client sends it
/// again.
#[test]
#[ignore = "alone: loads"]
fn python_server_is_replaced_without_loss() {
    let (answer, outcomes) = restarted_under_load(Kind::Python, 100);
    assert_held(&answer);
    outcomes.assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn nginx_is_replaced_without_loss() {
    let (answer, outcomes) = restarted_under_load(Kind::Nginx, 1000);
    assert_held(&answer);
    outcomes.assert_lossless();
}

/// Many SYNs wait for this server.
#[test]
#[ignore = "alone: loads"]
fn slow_server_is_replaced_without_loss() {
    let (answer, outcomes) = restarted_under_load(Kind::Slow, 200);
    assert_held(&answer);
    outcomes.assert_lossless();
    assert!(answer.at("/syns/held").as_u64() >= Some(150), "{}", answer.stdout);
}
