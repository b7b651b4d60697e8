//! Tests `reload --all`: the order of the services, and what happens to the others when one reload does not succeed.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::process::Process;
use reloader_tests::rig::{Answer, Rig};
use serde_json::Value;

use super::scene::{GIVEN_SERVER, PLAIN_SERVER, WEB, given_table_at, plain_table};

const GIVEN: &str = "127.0.0.1:8081";
const HAPROXY: &str = "127.0.0.1:8082";

/// Three services: `haproxy` comes after `given`, and `plain` after no other one.
fn start(lines: &str) -> Rig {
    let tables = format!("{}{}{lines}", given_table_at(GIVEN, ""), plain_table());
    let setup = Rig::with(&Config::web(HAPROXY)).haproxy_line("after = [\"given\"]").tables(&tables);
    let mut rig = setup.prepare();
    std::fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    std::fs::write(rig.path("plain.py"), PLAIN_SERVER).unwrap();
    rig.start_daemon();
    rig
}

/// For each line of the output the service and the result.
fn results(answer: &Answer) -> Vec<(&str, Option<&str>)> {
    let lines = answer.json.as_array().expect("a line for each service");
    lines.iter().map(|line| (line["service"].as_str().unwrap(), line["result"].as_str())).collect()
}

#[test]
#[ignore = "alone: loads"]
fn services_are_reloaded_one_after_the_other_in_their_order() {
    netns::enter();
    let rig = start("");
    let load = Load::to([WEB, GIVEN, HAPROXY]).rate(100).start();
    let answer = rig.run(&["reload", "--all", "--json", "--comment", "new certificates"]).expect_status(0);
    load.until_further(50);
    assert_eq!(results(&answer), ["given", "haproxy", "plain"].map(|name| (name, Some("proven"))));
    let receipts = rig.history();
    let reloads = receipts.json.as_array().unwrap().iter().filter(|receipt| receipt["kind"] == "reload");
    let reloads: Vec<&Value> = reloads.collect();
    assert_eq!(reloads.iter().map(|receipt| &receipt["service"]).collect::<Vec<_>>(), ["plain", "haproxy", "given"]);
    assert!(reloads.iter().all(|receipt| receipt["asked-by"]["comment"] == "new certificates"), "{}", receipts.stdout);
    let text = rig.run(&["reload", "--all"]).expect_status(0).stdout;
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(": proven: generation 2 -> 3").next()).collect();
    assert_eq!(names, ["given", "haproxy", "plain"], "{text}");
    load.stop().assert_lossless();
}

/// `given` fails and serves on, so `haproxy` is left as it is. Nothing depends on `plain`.
#[test]
fn service_after_a_failed_one_stays_and_others_are_reloaded() {
    netns::enter();
    let rig = start("");
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    let pid = rig.serving_pid();
    let answer = rig.run(&["reload", "--all", "--json"]).expect_status(1);
    assert_eq!(results(&answer), [("given", Some("failed")), ("haproxy", None), ("plain", Some("proven"))]);
    assert_eq!(answer.at("/1/exit-status"), 1);
    assert_eq!(answer.at("/1/reason"), "it was not reloaded, because the reload of given did not succeed");
    assert_eq!(rig.serving_pid(), pid);
    let stderr = rig.run(&["reload", "--all"]).expect_status(1).stderr;
    assert!(stderr.contains("reloader: haproxy: it was not reloaded, because the reload of given"), "{stderr}");
    Load::to([WEB, GIVEN, HAPROXY]).connections(30).run().assert_lossless();
    // A plan changes nothing, so each service has one.
    let plans = rig.run(&["reload", "--all", "--dry-run", "--json"]).expect_status(0);
    let names = ["/0/service", "/1/service", "/2/service"].map(|at| plans.at(at).as_str().unwrap().to_owned());
    assert_eq!(names, ["given", "haproxy", "plain"]);
}

#[test]
fn port_without_a_server_is_the_worst_status() {
    netns::enter();
    let rig = start("");
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    let pid = rig.status().at("/services/given/serving/pid").as_i64().unwrap();
    Process::with_pid(pid as i32).unwrap().end();
    reloader_tests::poll::until(std::time::Duration::from_secs(20), "the server to be gone", || {
        rig.status().at("/services/given/serving").is_null()
    });
    let answer = rig.run(&["reload", "--all", "--json"]).expect_status(4);
    assert_eq!(results(&answer), [("given", Some("failed")), ("haproxy", None), ("plain", Some("proven"))]);
}

/// What comes after a service without an outcome waits for the next `reload --all`.
#[test]
fn outcome_that_is_late_is_not_a_success() {
    netns::enter();
    let rig = start("[reload]\nstart-timeout = \"8s\"\n");
    std::fs::write(rig.path("given.py"), "import time\ntime.sleep(600)").unwrap();
    let answer = rig.run(&["reload", "--all", "--json", "--timeout", "4s"]).expect_status(75);
    assert_eq!(results(&answer), [("given", None), ("haproxy", None), ("plain", Some("proven"))]);
    assert_eq!(answer.at("/0/exit-status"), 75);
    assert!(answer.stderr.contains("given: no outcome within 4s"), "{}", answer.stderr);
}

/// The file on disk may have changed since the daemon was started.
#[test]
fn services_that_only_the_file_or_only_the_daemon_knows_are_named() {
    netns::enter();
    let rig = start("");
    let path = rig.path("reloader.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    let toml = toml.replace("service.plain", "service.added").replace(WEB, "127.0.0.1:8090");
    std::fs::write(&path, toml).unwrap();
    let answer = rig.run(&["reload", "--all", "--json"]).expect_status(1);
    let expected = [("added", None), ("given", Some("proven")), ("haproxy", Some("proven")), ("plain", Some("proven"))];
    assert_eq!(results(&answer), expected);
    assert!(answer.stderr.contains("added: the daemon was started without added"), "{}", answer.stderr);
    assert!(answer.stderr.contains("plain: the configuration that was read has no such service"), "{}", answer.stderr);
}
