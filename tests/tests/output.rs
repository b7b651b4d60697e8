//! Tests the format of answers: JSON with every key that scripts rely on, and aligned text for people.

use std::collections::BTreeSet;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::runtime;
use reloader_tests::idle::IdleConnections;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::servers::{Reaction, Server};
use serde_json::Value;

const RECEIPT: &str = "id at kind result reason coalesced old new phases-us listeners syns lost";
const GENERATION: &str = "generation pid";
const PHASES: &str = "plan start confirm guard drain retire release total";
const LISTENER: &str = "address family role rung why inode-before inode-after migrated undrained-queue \
                        undrained-half-open half-open-silent";
const SYNS: &str = "seen held released dropped lease-lapsed longest-hold-us";
const LOST: &str = "abandoned undrained cut";
const STATUS: &str = "serving draining holds custody last-reload warnings";
const SERVING: &str = "generation pid config since listeners";
const DRAINING: &str = "generation pid age-s connections";

#[track_caller]
fn assert_has_keys(value: &Value, keys: &str) {
    let found: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let missing: Vec<&str> = keys.split_whitespace().filter(|key| !found.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?} missing from {value}");
}

#[track_caller]
fn assert_kebab_case(value: &Value) {
    match value {
        Value::Array(values) => values.iter().for_each(assert_kebab_case),
        Value::Object(fields) => {
            let kebab = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            fields.iter().for_each(|(key, value)| {
                assert!(kebab(key), "{key}");
                assert_kebab_case(value);
            });
        }
        _ => {}
    }
}

#[track_caller]
fn assert_receipt(receipt: &Value) {
    assert_kebab_case(receipt);
    assert_has_keys(receipt, RECEIPT);
    assert_has_keys(&receipt["phases-us"], PHASES);
    assert_has_keys(&receipt["syns"], SYNS);
    assert_has_keys(&receipt["lost"], LOST);
    receipt["listeners"].as_array().unwrap().iter().for_each(|listener| assert_has_keys(listener, LISTENER));
    for generation in [&receipt["old"], &receipt["new"]].into_iter().filter(|value| !value.is_null()) {
        assert_has_keys(generation, GENERATION);
    }
    let at = receipt["at"].as_str().unwrap();
    assert!(at.len() >= 20 && at.contains('T') && at.ends_with('Z'), "RFC 3339: {at}");
}

fn two_listeners() -> Rig {
    Rig::with(&Config::new().frontend("web", &["127.0.0.1:8080", "127.0.0.1:8081"])).start()
}

/// Every line's second column begins where the first line's does.
#[track_caller]
fn assert_second_column_aligned(text: &str) {
    let start = |line: &str| line.find("  ").map(|gap| gap + line[gap..].len() - line[gap..].trim_start().len());
    let first = text.lines().find_map(start).unwrap_or_else(|| panic!("no columns in: {text}"));
    for line in text.lines().filter(|line| !line.is_empty()) {
        assert!(line.get(first - 2..first) == Some("  ") && !line[first..].starts_with(' '), "{line:?} in:\n{text}");
    }
}

#[test]
fn receipt_has_every_key_and_null_for_unmeasured_values() {
    netns::enter();
    let rig = two_listeners();
    let receipt = rig.reload().expect_status(0);
    assert!(receipt.stderr.is_empty(), "stderr is not empty: {}", receipt.stderr);
    assert_eq!(receipt.stdout.lines().count(), 1);
    assert_receipt(&receipt.json);
    assert_eq!((receipt.at("/kind"), receipt.at("/reason")), (&"reload".into(), &Value::Null));
    for unmeasured in ["/phases-us/guard", "/phases-us/release", "/syns/seen", "/listeners/0/migrated"] {
        assert_eq!(receipt.at(unmeasured), &Value::Null, "{unmeasured}");
    }
    assert_eq!(receipt.at("/old/generation").as_u64().map(|old| old + 1), receipt.at("/new/generation").as_u64());
    assert!(receipt.at("/phases-us/total").as_u64() > receipt.at("/phases-us/start").as_u64());

    rig.configure(&Config::web("127.0.0.1:8080"));
    let removed = rig.reload().expect_status(0);
    assert_receipt(&removed.json);
    assert_eq!(removed.at("/lost/undrained"), 0, "the queue was not measured: {}", removed.stdout);

    let journal = std::fs::read_to_string(rig.path("state/receipts.jsonl")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(assert_receipt);
    assert_eq!(lines.last(), Some(&removed.json), "the stored receipt differs from the answer");
}

#[test]
fn status_has_every_key() {
    netns::enter();
    let rig = two_listeners();
    rig.reload().expect_status(0);
    // A retired generation is listed until its last thread has ended.
    until(Duration::from_secs(10), "the old generation to end", || {
        *rig.status().at("/draining") == Value::Array(vec![])
    });
    let status = rig.status();
    assert_kebab_case(&status.json);
    assert_has_keys(&status.json, STATUS);
    assert_has_keys(status.at("/serving"), SERVING);
    assert_eq!(status.at("/serving/listeners").as_array().map(Vec::len), Some(2));
    assert_eq!((status.at("/draining"), status.at("/holds")), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_receipt(status.at("/last-reload"));

    let server = Server::start("127.0.0.1:0", Reaction::Silent);
    rig.configure(&Config::new().tcp_proxy("idle", &["127.0.0.1:8080"], &server.address.to_string()));
    rig.reload().expect_status(0);
    let _idle = IdleConnections::open("127.0.0.1:8080", 3);
    let generation = rig.status().at("/serving/generation").clone();
    let socket = rig.path(&format!("run/generation-{generation}.sock"));
    let accepted = || runtime(&socket, "show sess").is_ok_and(|answer| answer.matches("fe=idle").count() == 3);
    until(Duration::from_secs(5), "the connections to be accepted", accepted);
    rig.reload().expect_status(0);
    let status = rig.status();
    assert_has_keys(status.at("/draining/0"), DRAINING);
    assert_eq!(status.at("/draining/0/connections"), 3);
    let text = rig.run(&["status"]).expect_status(0).stdout;
    assert!(text.contains("3 connections"), "{text}");
    assert_second_column_aligned(&text);
}

#[test]
fn history_is_newest_first_and_limited_by_n() {
    netns::enter();
    let rig = two_listeners();
    let ids: Vec<Value> = (0..4).map(|_| rig.reload().expect_status(0).at("/id").clone()).collect();
    let all = rig.history();
    let found: Vec<&Value> = all.json.as_array().unwrap().iter().map(|receipt| &receipt["id"]).collect();
    assert_eq!(found[..4], [&ids[3], &ids[2], &ids[1], &ids[0]]);
    assert_eq!((found.len(), all.at("/4/kind")), (5, &"start".into()));
    all.json.as_array().unwrap().iter().for_each(assert_receipt);
    let two = rig.run(&["history", "-n", "2"]).expect_status(0).stdout;
    assert_eq!(two.lines().count(), 2, "{two}");
    let text = rig.run(&["history"]).expect_status(0).stdout;
    assert_second_column_aligned(&text);
    assert!(text.lines().all(|line| line.contains("proven") && line.contains(" ms")), "{text}");
}

#[test]
fn probe_gives_evidence_and_consequence_of_each_ability() {
    netns::enter();
    let rig = two_listeners();
    let probe = rig.run(&["probe", "--json"]).expect_status(0);
    assert_kebab_case(&probe.json);
    let abilities = probe.at("/abilities").as_array().unwrap();
    assert!(abilities.len() >= 8, "{}", probe.stdout);
    for ability in abilities {
        assert_has_keys(ability, "name present how follows");
        assert!(!ability["how"].as_str().unwrap().is_empty(), "{ability}");
    }
    assert_eq!(probe.at("/haproxy/version"), "2.6");
    assert_eq!((probe.at("/listeners/0/rung"), probe.at("/backlogs/0/queued")), (&"passed".into(), &0.into()));
    let text = rig.run(&["probe"]).expect_status(0).stdout;
    assert_second_column_aligned(text.split("\n\n").next().unwrap());
    assert!(text.contains("pidfd") && text.contains("127.0.0.1:8081"), "{text}");
}

#[test]
fn colour_appears_only_on_a_terminal_without_no_color() {
    netns::enter();
    let rig = two_listeners();
    let coloured = |answer: &Answer| answer.stdout.contains("\x1b[3");
    assert!(!coloured(&rig.run(&["reload"]).expect_status(0)));
    let terminal = rig.run_on_terminal(&[], &["history"]).expect_status(0);
    assert!(coloured(&terminal), "{}", terminal.stdout);
    let plain = rig.run_on_terminal(&[("NO_COLOR", "1")], &["history"]).expect_status(0);
    assert!(!coloured(&plain) && plain.stdout.contains("proven"), "{}", plain.stdout);
    let quiet = rig.run(&["-q", "reload"]).expect_status(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}
