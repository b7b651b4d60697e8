//! Tests of `prove --hold`: long sessions that must live through all reloads.

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::quic::certificate;
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::servers::{Reaction, Server};

use super::scene::{Scene, WEB, prove, until_measured};

const HTTP: &str = "127.0.0.1:8082";

/// A TCP proxy at `WEB` and an HTTP proxy at `HTTP`, whose server reads whole requests.
fn config(server: &Server) -> Config {
    let address = server.address.to_string();
    Config::new().tcp_proxy("tcp", &[WEB], &address).section(&format!(
        "frontend http\n    bind {HTTP}\n    default_backend http\nbackend http\n    server one {address}\n"
    ))
}

fn held(answer: &Answer) -> (u64, u64) {
    let figure = |key: &str| answer.at(&format!("/hold/{key}")).as_u64().unwrap();
    (figure("alive"), figure("lost"))
}

#[test]
#[ignore = "alone: loads"]
fn twenty_sessions_live_through_twenty_reloads() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Whole);
    let rig = Rig::with(&config(&server)).start();
    let base = ["--hold", "20", "--reloads", "20", "--interval", "300ms", "--rate", "100", "--json"];
    let ways: [(&[&str], &str); 3] = [
        (&["--target", WEB, "--http"], "requests"),
        (&["--target", HTTP, "--http"], "requests"),
        (&["--target", HTTP, "--http", "--hold-post", "/upload", "--header", "X-Probe: 1"], "requests"),
    ];
    for (words, what) in ways {
        let answer = until_measured(|| prove(&rig, &[&base, words].concat())).expect_status(0);
        assert_eq!(held(&answer), (20, 0), "{}", answer.stdout);
        assert_eq!((answer.at("/hold/what"), answer.at("/result")), (&what.into(), &"lossless".into()));
        assert_eq!(answer.at("/hold/receipts-cut"), 0, "{}", answer.stdout);
        assert_eq!(answer.at("/reloads").as_array().unwrap().len(), 20);
    }
}

/// Each of these sessions would not begin without what the service asks of its clients.
#[test]
#[ignore = "alone: loads"]
fn held_connections_use_what_the_load_uses() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Whole);
    let dir = tempfile::tempdir().unwrap();
    let pem = certificate(dir.path()).display().to_string();
    let tls = format!("127.0.0.1:8443 accept-proxy ssl crt {pem} ca-file {pem} verify required");
    let section = format!(
        "frontend tls\n    bind {tls}\n    http-request deny unless {{ req.hdr(host) web.example }}\n    default_backend http\n"
    );
    let rig = Rig::with(&config(&server).section(&section)).start();
    let base = ["--hold", "20", "--reloads", "3", "--interval", "300ms", "--rate", "40", "--json"];
    let demanding = ["--target", "127.0.0.1:8443", "--tls", "--http", "--proxy-protocol", "--client-cert", &pem];
    let demanding = [&demanding[..], &["--header", "Host: web.example"]].concat();
    for (words, what) in [(demanding, "requests"), (vec!["--target", WEB], "connections")] {
        let answer = until_measured(|| prove(&rig, &[&base[..], &words].concat())).expect_status(0);
        assert_eq!((held(&answer), answer.at("/hold/what")), ((20, 0), &what.into()), "{}", answer.stdout);
    }
}

/// What died, and what the receipts say, are equal.
#[test]
#[ignore = "alone: loads"]
fn lost_sessions_are_counted_and_compared_with_the_receipts() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Whole);
    let hard_stop = config(&server).global("hard-stop-after 4s");
    let base = ["--hold", "20", "--reloads", "5", "--interval", "2s", "--rate", "20", "--http", "--target", HTTP];
    let rig = Rig::with(&hard_stop).start();
    let report = rig.path("report.html");
    let words = [&base[..], &["--json", "--report", report.to_str().unwrap()]].concat();
    let answer = until_measured(|| prove(&rig, &words)).expect_status(1);
    assert_eq!((answer.at("/result"), answer.at("/lost/total")), (&"lost".into(), &0.into()), "{}", answer.stdout);
    assert_eq!((held(&answer), answer.at("/hold/receipts-agree")), ((0, 20), &true.into()), "{}", answer.stdout);
    assert_eq!(answer.at("/hold/receipts-cut"), 20, "{}", answer.stdout);
    let ends = answer.at("/hold/ends").as_array().unwrap();
    assert_eq!(ends.len(), 20);
    // The first reload retires the generation of the sessions, and it stops four seconds later.
    assert!(
        ends.iter().all(|end| end["reload"].as_u64() >= Some(1) && end["at-us"].as_u64() > Some(4_000_000)),
        "{ends:?}"
    );
    let html = std::fs::read_to_string(&report).unwrap();
    assert!(html.contains("0 of 20 requests in progress lived to the end"), "the report does not name the sessions");
    let text = until_measured(|| prove(&rig, &base)).expect_status(1).stdout;
    assert!(text.starts_with("lost: none of ") && text.contains(", and 20 of 20 long sessions were lost"), "{text}");
    assert!(text.contains("\nreceipts   they say that 20 were cut, as many as were seen\n"), "{text}");
}

/// The operator's own command leaves no receipts to compare with.
#[test]
#[ignore = "alone: loads"]
fn sessions_that_a_restart_ends_are_lost() {
    netns::enter();
    let server = Server::start("127.0.0.1:0", Reaction::Whole);
    let scene = Scene::start(&config(&server));
    let command = scene.restart();
    let words = ["--hold", "20", "--reloads", "2", "--rate", "40", "--http", "--json", "--reload-command", &command];
    let answer = until_measured(|| scene.prove(&words)).expect_status(1);
    assert_eq!(held(&answer), (0, 20), "{}", answer.stdout);
    assert!(answer.at("/hold/receipts-agree").is_null() && answer.at("/hold/receipts-cut").is_null());
    let ends = answer.at("/hold/ends").as_array().unwrap();
    assert!(ends.iter().all(|end| end["reload"] == 1), "{ends:?}");
}

#[test]
fn session_that_cannot_be_held_is_refused_before_any_reload() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let answer = prove(&rig, &["--http", "--hold", "20"]).expect_status(2);
    assert!(answer.stderr.contains("answers a request before its body has ended"), "{}", answer.stderr);
    let answer = prove(&rig, &["--hold", "10000000"]).expect_status(2);
    assert!(answer.stderr.contains("hold at most ") && answer.stderr.contains("ulimit"), "{}", answer.stderr);
    let answer = prove(&rig, &["--hold", "1", "--http", "--hold-post", "upload"]).expect_status(2);
    assert!(answer.stderr.contains("--hold-post=upload: a path begins with"), "{}", answer.stderr);
    assert_eq!(rig.last_receipt()["kind"], "start", "something was reloaded");
}
