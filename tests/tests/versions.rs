//! Tests that every version of HAProxy that the tests use can be fetched and serves.

use reloader_tests::config::Config;
use reloader_tests::haproxy::info;
use reloader_tests::load::Load;
use reloader_tests::{netns, versions};

#[test]
fn every_version_serves() {
    netns::enter();
    let binaries = versions::all();
    assert_eq!(binaries.len(), versions::TESTED.len());
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("haproxy.cfg"), dir.path().join("stats.sock"));
    Config::new()
        .stats_socket(&socket)
        .frontend(
            "web",
            &["127.0.0.1:8080", "[::1]:8080", "abns@web", &format!("unix@{}/web.sock", dir.path().display())],
        )
        .tcp_proxy("idle", &["127.0.0.1:8081"], "127.0.0.1:8080")
        .frontend_with_peers("counted", &["127.0.0.1:8082"], "127.0.0.1:8083")
        .write(&config);
    let unix = format!("{}/web.sock", dir.path().display());
    for binary in binaries {
        println!("{binary}");
        let haproxy = binary.daemonize(&config, &[]).unwrap_or_else(|error| panic!("{binary}: {error:#}"));
        let targets = ["127.0.0.1:8080", "[::1]:8080", "abns@web", &unix, "127.0.0.1:8081", "127.0.0.1:8082"];
        Load::to(targets).connections(60).run().assert_lossless();
        assert_eq!(info(&socket, "Pid").unwrap(), haproxy.process.pid.to_string(), "{binary}");
        assert!(info(&socket, "Version").unwrap().starts_with(&binary.version.to_string()), "{binary}");
    }
}
