//! Tests one daemon with HAProxy and other services.

use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;

use super::scene::{GIVEN_SERVER, PLAIN_SERVER, WEB, given_table_at, plain_table, service_table};

fn prepare_three_services() -> Rig {
    let tables = format!("{}{}", given_table_at("127.0.0.1:8081", ""), plain_table());
    let rig = Rig::with(&Config::web("127.0.0.1:8082")).tables(&tables).prepare();
    std::fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    std::fs::write(rig.path("plain.py"), PLAIN_SERVER).unwrap();
    rig
}

#[test]
#[ignore = "alone: loads"]
fn reload_by_name_leaves_other_services_alone() {
    netns::enter();
    let mut rig = prepare_three_services();
    let before = Footprint::take(rig.dir());
    rig.start_daemon();
    let pids = || {
        let status = rig.status();
        ["/serving/pid", "/services/given/serving/pid", "/services/plain/serving/pid"].map(|at| status.at(at).as_u64())
    };
    let load = Load::to(["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"]).rate(100).start();
    for (place, name) in ["haproxy", "given", "plain"].into_iter().enumerate() {
        let old = pids();
        let receipt = rig.run(&["reload", name, "--json"]).expect_status(0);
        assert_eq!(receipt.at("/service"), name);
        let new = pids();
        for other in 0..3 {
            assert_eq!(old[other] == new[other], other != place, "{old:?} {new:?}");
        }
        load.until_further(50);
    }
    // Without a name, HAProxy is reloaded.
    assert_eq!(rig.reload().expect_status(0).at("/service"), "haproxy");
    load.stop().assert_lossless();
    let answer = rig.run(&["reload", "unknown"]).expect_status(2);
    assert!(answer.stderr.contains("given, haproxy, plain"), "{}", answer.stderr);
    let text = rig.run(&["status"]).expect_status(0).stdout;
    assert!(text.contains("service    given") && text.contains("service    plain"), "{text}");
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    before.assert_unchanged();
}

/// No reload waits for another one.
#[test]
#[ignore = "alone: loads"]
fn services_are_reloaded_at_the_same_time() {
    netns::enter();
    let mut rig = prepare_three_services();
    rig.start_daemon();
    let load = Load::to(["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"]).rate(100).start();
    for _ in 0..5 {
        let pending = ["haproxy", "given", "plain"].map(|name| rig.spawn(&["reload", name, "--json"]));
        for answer in pending.map(|pending| pending.wait()) {
            assert_eq!(answer.expect_status(0).at("/result"), "proven");
        }
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

/// The other services serve, and the failed one is started again by a reload.
#[test]
fn service_that_fails_to_start_does_not_affect_the_others() {
    netns::enter();
    let mut rig = prepare_three_services();
    std::fs::write(rig.path("given.py"), "raise SystemExit(7)").unwrap();
    rig.start_daemon();
    Load::to(["127.0.0.1:8080", "127.0.0.1:8082"]).connections(50).run().assert_lossless();
    let warnings = rig.status().at("/services/given/warnings").to_string();
    assert!(warnings.contains("exited with status 7"), "{warnings}");
    std::fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    rig.run(&["reload", "given", "--json"]).expect_status(0);
    Load::to(["127.0.0.1:8081"]).connections(50).run().assert_lossless();
}

/// A path in `listen` that names a regular file is neither bound nor removed.
#[test]
fn file_at_a_listen_path_is_not_removed() {
    netns::enter();
    let mut rig = Rig::with(&Config::web("127.0.0.1:8082")).tables(&given_table_at("DIR/file", "")).prepare();
    std::fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    std::fs::write(rig.path("file"), "precious").unwrap();
    rig.start_daemon();
    let warnings = rig.status().at("/services/given/warnings").to_string();
    assert!(warnings.contains("a file that is not a socket is there"), "{warnings}");
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    assert_eq!(std::fs::read(rig.path("file")).unwrap(), b"precious");
}

/// A service whose table was removed keeps serving, and the daemon warns of it.
#[test]
fn service_without_a_table_keeps_serving_with_a_warning() {
    netns::enter();
    let mut rig = prepare_three_services();
    rig.start_daemon();
    rig.terminate_daemon();
    let path = rig.path("reloader.toml");
    let toml = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, toml.replace("service.given", "service.renamed").replace("127.0.0.1:8081", "127.0.0.1:8083"))
        .unwrap();
    rig.start_daemon();
    let warnings = rig.status().at("/warnings").to_string();
    assert!(warnings.contains("given (process"), "{warnings}");
    Load::to(["127.0.0.1:8081", "127.0.0.1:8083"]).connections(20).run().assert_lossless();
}

/// Serves 127.0.0.1:8081, and listens on 127.0.0.1:8080 too, without an answer, as long as the file `also` exists.
const SHARING_SERVER: &str = r#"
import os, socket, sys, threading, time
def bound(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", port))
    s.listen()
    return s
def share():
    shared = None
    while True:
        wanted = os.path.exists(sys.argv[1])
        if wanted and not shared:
            shared = bound(8080)
        elif shared and not wanted:
            shared = shared.close()
        time.sleep(0.01)
web = bound(8081)
threading.Thread(target=share, daemon=True).start()
while True:
    web.accept()[0].close()
"#;

/// SO_REUSEPORT lets two services of one daemon share a port without an error, as it lets two frontends of HAProxy.
#[test]
fn listener_of_another_service_is_foreign_too() {
    netns::enter();
    let start = "\"/usr/bin/python3\", \"DIR/sharing.py\", \"DIR/also\"";
    let table = service_table("sharing", start, "reuseport", "127.0.0.1:8081", "");
    let mut rig = Rig::with(&Config::web(WEB)).tables(&table).prepare();
    std::fs::write(rig.path("sharing.py"), SHARING_SERVER).unwrap();
    rig.start_daemon();
    let pid = || rig.status().at("/services/sharing/serving/pid").as_u64().unwrap();
    assert!(!rig.warnings().contains("foreign"), "{}", rig.warnings());
    // HAProxy is not let in on the port of the service either.
    rig.configure(&Config::new().frontend("web", &[WEB, "127.0.0.1:8081"]));
    let reason = rig.reload().expect_status(1).at("/reason").to_string();
    assert!(reason.contains(&format!("foreign listener: process {} ", pid())), "{reason}");
    rig.configure(&Config::web(WEB));
    std::fs::write(rig.path("also"), "").unwrap();
    until(Duration::from_secs(20), "a warning", || {
        rig.warnings().contains(&format!("foreign listener: process {} ", pid()))
    });
    // A reload of the service would make it permanent. The daemon has a duplicate of HAProxy's socket, and is not the one to be named.
    let reason = rig.run(&["reload", "sharing", "--json"]).expect_status(1).at("/reason").to_string();
    assert!(reason.contains(&format!("foreign listener: process {} ", rig.serving_pid())), "{reason}");
    std::fs::remove_file(rig.path("also")).unwrap();
    until(Duration::from_secs(20), "the warning to be cleared", || !rig.warnings().contains("foreign"));
    rig.reload().expect_status(0);
}
