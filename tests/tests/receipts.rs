//! Checks what a receipt says besides its proof: who asked, and what changed.

use std::fs;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use serde_json::Value;

const WEB: &str = "127.0.0.1:8080";

fn config(map: &str, error_file: &str) -> Config {
    Config::new().section(&format!(
        "frontend web\n    bind {WEB}\n    errorfile 503 {error_file}\n    \
         http-request return status 200 content-type text/plain string \"%[src,map_ip({map},none)]\"\n"
    ))
}

/// A rig whose configuration names a map and an error file in its directory.
fn start() -> Rig {
    let mut rig = Rig::with(&Config::web(WEB)).prepare();
    let (map, error) = (rig.path("a.map"), rig.path("503.http"));
    fs::write(&map, "127.0.0.1 one\n").unwrap();
    fs::write(&error, "HTTP/1.0 503 Nothing\r\n\r\n").unwrap();
    rig.configure(&config(&map.display().to_string(), &error.display().to_string()));
    rig.start_daemon();
    rig
}

#[test]
fn receipt_says_who_asked() {
    netns::enter();
    let rig = start();
    assert_eq!(rig.last_receipt()["asked-by"], Value::Null, "the daemon itself");
    let receipt = rig.run(&["reload", "--json", "--comment", "ticket 7\u{1b}[31m"]).expect_status(0);
    let asked = receipt.at("/asked-by");
    assert_eq!((&asked["uid"], &asked["comment"]), (&0.into(), &"ticket 7\u{fffd}[31m".into()), "{asked}");
    assert!(asked["command"].as_str().unwrap().contains("reload --json --comment"), "{asked}");
    assert!(asked["pid"].is_u64(), "{asked}");
    rig.signal_daemon(Signal::SIGUSR2);
    let limit = std::time::Duration::from_secs(20);
    until(limit, "a reload by the signal", || rig.last_receipt()["asked-by"]["signal"] == "SIGUSR2");
}

/// A bind-mounted file whose original was replaced looks like this: the reload works, and nothing changes.
#[test]
fn unchanged_configuration_is_told() {
    netns::enter();
    let mut rig = start();
    assert_eq!(rig.last_receipt()["unchanged"], Value::Null, "there was none before");
    assert_eq!(*rig.reload().expect_status(0).at("/unchanged"), true);
    assert!(rig.run(&["reload"]).expect_status(0).stdout.contains("configuration unchanged"));
    fs::write(rig.path("a.map"), "127.0.0.1 two\n").unwrap();
    let receipt = rig.reload().expect_status(0);
    assert_eq!(*receipt.at("/unchanged"), false, "a file that the configuration names: {}", receipt.stdout);
    assert_eq!(receipt.at("/configuration").as_array().unwrap().len(), 3);
    // The next daemon knows it from the journal.
    rig.kill9_daemon();
    rig.start_daemon();
    assert_eq!(*rig.reload().expect_status(0).at("/unchanged"), true);
}

#[test]
fn history_shows_which_files_changed() {
    netns::enter();
    let rig = start();
    let diff = || {
        let answer = rig.run(&["history", "--diff", "--json", "-n", "1"]).expect_status(0);
        serde_json::from_str::<Value>(answer.stdout.lines().next().unwrap()).unwrap()
    };
    assert_eq!(diff()["changes"], Value::Null, "nothing is known before the first");
    rig.reload().expect_status(0);
    assert_eq!(diff()["changes"], serde_json::json!([]));
    fs::write(rig.path("a.map"), "127.0.0.1 two\n").unwrap();
    let receipt = rig.reload().expect_status(0);
    let changed = diff();
    let map = rig.path("a.map").display().to_string();
    assert_eq!(changed["changes"], serde_json::json!([{ "path": map, "change": "changed" }]));
    assert_eq!(&changed["id"], receipt.at("/id"));
    let text = rig.run(&["history", "--diff"]).expect_status(0).stdout;
    assert!(text.contains("changed") && text.contains(&map) && text.contains("nothing changed"), "{text}");
}
