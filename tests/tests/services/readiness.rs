//! Tests how a service shows that it is ready: the old generation is not retired before.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;

use super::scene::{GIVEN_SERVER, WEB, given_table, prepare, service_table, setup, start};

const LIMIT: Duration = Duration::from_secs(20);

/// Passed sockets listen from the start. Only a process that waits on them shows that they are served.
#[test]
fn service_that_waits_on_no_socket_is_not_ready() {
    netns::enter();
    let mut rig = prepare(setup(&format!("{}[reload]\nstart-timeout = \"1s\"\n", given_table(""))));
    rig.start_daemon();
    let serving = rig.serving_pid();
    let quiet = GIVEN_SERVER.replace("sys.argv[1] if len(sys.argv) > 1 else \"\"", "\"quietly\"");
    fs::write(rig.path("given.py"), quiet).unwrap();
    let answer = rig.reload().expect_status(1);
    let reason = answer.at("/reason").as_str().unwrap();
    assert!(reason.contains("was not ready within 1s"), "{reason}");
    assert!(reason.contains(&format!("none of its processes waits for connections on {WEB}")), "{reason}");
    assert_eq!(rig.serving_pid(), serving);
    Load::to([WEB]).connections(20).run().assert_lossless();
}

#[test]
fn sd_notify_makes_the_service_ready() {
    netns::enter();
    let command = "\"/usr/bin/python3\", \"DIR/given.py\", \"1\"";
    let rig = start(&service_table("given", command, "listen-fds", WEB, "ready = \"notify\""));
    let first = rig.last_receipt();
    assert!(first["phases-us"]["start"].as_u64().unwrap() > 1_000_000, "{first}");
    rig.reload().expect_status(0);
    Load::to([WEB]).connections(20).run().assert_lossless();
}

/// The `ready` command fails until the test makes its file.
#[test]
fn ready_command_makes_the_service_ready() {
    netns::enter();
    let lines = "ready = [\"/usr/bin/test\", \"-e\", \"DIR/ready\"]";
    let mut rig = prepare(setup(&given_table(lines)));
    fs::write(rig.path("ready"), "").unwrap();
    rig.start_daemon();
    fs::remove_file(rig.path("ready")).unwrap();
    let serving = rig.serving_pid();
    let pending = rig.spawn(&["reload", "--json"]);
    until(Duration::from_secs(10), "two generations", || {
        reloader_tests::process::mentioning(&rig.path("given.py")).len() == 2
    });
    assert_eq!(rig.serving_pid(), serving);
    fs::write(rig.path("ready"), "").unwrap();
    pending.wait().expect_status(0);
    assert_ne!(rig.serving_pid(), serving);
}

/// The stock unit would have waited. A start that has nothing behind it is waited for, and what the next reload would meet is said.
#[test]
fn first_start_may_take_longer_than_a_reload() {
    netns::enter();
    let command = "\"/usr/bin/python3\", \"DIR/given.py\", \"3\"";
    let limits = |first: &str| format!("[reload]\nstart-timeout = \"1s\"\nfirst-start-timeout = \"{first}\"\n");
    let service = service_table("given", command, "listen-fds", WEB, "ready = \"notify\"");
    let rig = start(&format!("{service}{}", limits("1h")));
    assert!(rig.notified().iter().any(|message| message.contains("EXTEND_TIMEOUT_USEC=")), "{:?}", rig.notified());
    let receipt = rig.last_receipt();
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"start".into(), &"proven".into()), "{receipt:#}");
    assert!(rig.warnings().contains("the next reload would fail; raise start-timeout"), "{}", rig.warnings());
    let serving = rig.serving_pid();
    let reason = rig.reload().expect_status(1).at("/reason").to_string();
    assert!(reason.contains("not ready within 1s; raise start-timeout"), "{reason}");
    assert_eq!(rig.serving_pid(), serving);
    // After a crash nothing serves either.
    let crashed = rig.serving().expect("a serving process");
    crashed.signal(Signal::SIGKILL);
    rig.until_replaced(crashed);
    until(LIMIT, "a restart", || rig.last_receipt()["kind"] == "restart" && rig.last_receipt()["result"] == "proven");
    // The warning follows from the configuration that is in force.
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\nstart-timeout = \"1s\"", "\nstart-timeout = \"1h\"")).unwrap();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(20), "no warning", || !rig.warnings().contains("would fail"));
    drop(rig);

    let mut rig = prepare(setup(&format!("{service}{}", limits("2s"))));
    rig.try_start_daemon().expect_status(4);
    assert!(rig.log().contains("not ready within 2s; raise first-start-timeout"), "{}", rig.log());
}

/// At 3 a.m. it matters what a reload waits for.
#[test]
fn status_shows_the_generation_that_is_being_started() {
    netns::enter();
    let script = "echo warming up >&2; exec /usr/bin/python3 DIR/given.py 3";
    let start_words = format!("\"/bin/sh\", \"-c\", \"{script}\"");
    let rig = start(&service_table("given", &start_words, "listen-fds", WEB, "ready = \"notify\""));
    assert_eq!(*rig.status().at("/starting"), serde_json::Value::Null);
    let serving = rig.serving_pid();
    let reload = rig.spawn(&["reload", "--json"]);
    until(Duration::from_secs(20), "its line in the status", || rig.status().at("/starting/last-line") == "warming up");
    let status = rig.status();
    assert_eq!((status.at("/starting/generation"), status.at("/serving/pid")), (&2.into(), &serving.into()));
    assert!(rig.run(&["status"]).stdout.contains("warming up"));
    let receipt = reload.wait().expect_status(0);
    assert_eq!(receipt.at("/new/generation"), 2);
    assert_eq!(*rig.status().at("/starting"), serde_json::Value::Null);
    assert!(rig.log().contains("[2] warming up"), "{}", rig.log());
}
