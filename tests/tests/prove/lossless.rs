//! Tests that `prove` finds no loss under the daemon, with every protocol.

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::quic::certificate;
use reloader_tests::rig::{Answer, Rig};

use super::scene::{prove, until_measured};

const RELOADS: &str = "8";

fn prove_lossless(rig: &Rig, arguments: &[&str]) -> Answer {
    let reloads = ["--reloads", RELOADS, "--interval", "300ms", "--json"];
    let answer = until_measured(|| prove(rig, &[&reloads[..], arguments].concat())).expect_status(0);
    assert_eq!((answer.at("/result"), answer.at("/lost/total")), (&"lossless".into(), &0.into()));
    let reloads = answer.at("/reloads").as_array().unwrap();
    assert_eq!(reloads.len().to_string(), RELOADS);
    assert!(reloads.iter().all(|reload| reload["result"] == "proven"), "{}", answer.stdout);
    assert!(answer.at("/latency-us/p50").as_u64() > Some(0), "{}", answer.stdout);
    answer
}

#[test]
#[ignore = "alone: loads"]
fn tcp_connections_lose_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let answer = prove_lossless(&rig, &["--rate", "400"]);
    assert_eq!((answer.at("/protocol"), answer.at("/closed-between")), (&"tcp".into(), &serde_json::Value::Null));
    assert!(answer.stderr.contains("reloaded 8 times by the daemon"), "{}", answer.stderr);
}

#[test]
#[ignore = "alone: loads"]
fn http_requests_lose_nothing() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    let answer = prove_lossless(&rig, &["--http=/health?deep=1", "--rate", "400", "--target", "localhost:8080"]);
    assert_eq!((answer.at("/protocol"), answer.at("/address")), (&"http".into(), &"127.0.0.1:8080".into()));
}

#[test]
#[ignore = "alone: loads"]
fn tls_and_https_lose_nothing() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("127.0.0.1:8443 ssl crt {}", certificate(dir.path()).display());
    let rig = Rig::with(&Config::web(&bind)).start();
    let tls = ["--target", "localhost:8443", "--tls", "--rate", "40"];
    assert_eq!(prove_lossless(&rig, &tls).at("/protocol"), "tls");
    assert_eq!(prove_lossless(&rig, &[&tls[..], &["--http"]].concat()).at("/protocol"), "https");
}

/// A service that serves no client without the header, the certificate and the PROXY header.
#[test]
#[ignore = "alone: loads"]
fn service_that_is_particular_about_its_clients_loses_nothing() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let pem = certificate(dir.path()).display().to_string();
    let bind = format!("127.0.0.1:8443 accept-proxy ssl crt {pem} ca-file {pem} verify required");
    let rig = Rig::with(&Config::new().section(&format!(
        "frontend web\n    mode http\n    bind {bind}\n    http-request deny unless {{ req.hdr(host) web.example }}\n    \
         http-request deny unless {{ src 127.0.0.1 }} {{ fc_rcvd_proxy }}\n    http-request return status 200\n"
    )))
    .start();
    let all = ["--tls", "--http", "--proxy-protocol", "--client-cert", &pem, "--header", "Host: web.example"];
    let base = ["--target", "localhost:8443", "--rate", "40"];
    let answer = prove_lossless(&rig, &[&base[..], &all].concat());
    assert_eq!(answer.at("/protocol"), "https");
    let without = [vec![2], vec![3, 4], vec![5, 6]];
    for left_out in without {
        let some: Vec<&str> =
            all.iter().enumerate().filter(|(index, _)| !left_out.contains(index)).map(|(_, word)| *word).collect();
        let refused = prove(&rig, &[&base[..], &some].concat());
        assert_eq!(refused.status, 1, "{left_out:?}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains("Nothing was reloaded"), "{left_out:?}: {}", refused.stderr);
    }
}

/// HTTP has a race that no reload can avoid: a server may close an idle connection while a request is on its way. HAProxy closes busy
/// connections with their next reply, so at fifty requests a second on each connection the race is rare, but possible.
#[test]
#[ignore = "alone: loads"]
fn keep_alive_requests_are_lost_only_to_the_close_race() {
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
    assert!(answer.at("/connections").as_u64() > Some(8), "no reload closed a connection: {}", answer.stdout);
    assert!(answer.at("/connections").as_u64() < answer.at("/total").as_u64(), "{}", answer.stdout);
}

fn assert_lost_only_to_the_race(answer: &Answer) {
    let lost = |what: &str| answer.at(&format!("/lost/{what}")).as_u64().unwrap();
    assert_eq!(lost("total"), lost("empty") + lost("reset"), "{}", answer.stdout);
    assert!(lost("total") <= 8, "more requests were lost than the race explains: {}", answer.stdout);
}
