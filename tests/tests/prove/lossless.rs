//! Under the daemon nothing is lost, however the service is spoken to.

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::quic::certificate;
use reloader_tests::rig::{Answer, Rig};

use super::scene::{prove, until_measured};

const RELOADS: &str = "8";

fn through_reloads(rig: &Rig, arguments: &[&str]) -> Answer {
    let how = ["--reloads", RELOADS, "--interval", "300ms", "--json"];
    let answer = until_measured(|| prove(rig, &[&how[..], arguments].concat())).expect_status(0);
    assert_eq!((answer.at("/result"), answer.at("/lost/total")), (&"lossless".into(), &0.into()));
    let reloads = answer.at("/reloads").as_array().unwrap();
    assert_eq!(reloads.len().to_string(), RELOADS);
    assert!(reloads.iter().all(|reload| reload["result"] == "proven"), "{}", answer.stdout);
    assert!(answer.at("/latency-us/p50").as_u64() > Some(0), "{}", answer.stdout);
    answer
}

#[test]
#[ignore = "alone: loads"]
fn tcp() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let answer = through_reloads(&rig, &["--rate", "400"]);
    assert_eq!((answer.at("/protocol"), answer.at("/closed-between")), (&"tcp".into(), &serde_json::Value::Null));
    assert!(answer.stderr.contains("reloaded 8 times by the daemon"), "{}", answer.stderr);
}

#[test]
#[ignore = "alone: loads"]
fn http() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let answer = through_reloads(&rig, &["--http=/health?deep=1", "--rate", "400", "--target", "localhost:8080"]);
    assert_eq!((answer.at("/protocol"), answer.at("/address")), (&"http".into(), &"127.0.0.1:8080".into()));
}

#[test]
#[ignore = "alone: loads"]
fn tls_and_https() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("127.0.0.1:8443 ssl crt {}", certificate(dir.path()).display());
    let rig = Rig::with(&Config::web(&bind)).start();
    let at = ["--target", "localhost:8443", "--tls", "--rate", "40"];
    assert_eq!(through_reloads(&rig, &at).at("/protocol"), "tls");
    assert_eq!(through_reloads(&rig, &[&at[..], &["--http"]].concat()).at("/protocol"), "https");
}

/// HTTP has a race that no reload can close: a server may close an idle connection while a request is on its way. HAProxy tells
/// busy connections to close with their next reply, so that with fifty requests a second on each it is rare, but not impossible.
#[test]
#[ignore = "alone: loads"]
fn keep_alive() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let arguments =
        ["--http", "--keep-alive=8", "--rate", "400", "--reloads", RELOADS, "--interval", "300ms", "--json"];
    let answer = (0..10)
        .map(|_| until_measured(|| prove(&rig, &arguments)))
        .inspect(assert_lost_only_to_the_race)
        .find(|answer| answer.status == 0)
        .expect("a run without a loss");
    assert_eq!((answer.at("/result"), answer.at("/lost/total")), (&"lossless".into(), &0.into()));
    assert!(answer.at("/connections").as_u64() > Some(8), "reloads closed some: {}", answer.stdout);
    assert!(answer.at("/connections").as_u64() < answer.at("/total").as_u64(), "{}", answer.stdout);
}

fn assert_lost_only_to_the_race(answer: &Answer) {
    let lost = |what: &str| answer.at(&format!("/lost/{what}")).as_u64().unwrap();
    assert_eq!(lost("total"), lost("empty") + lost("reset"), "{}", answer.stdout);
    assert!(lost("total") <= 8, "a few of the connections at most, not each at each reload: {}", answer.stdout);
}
