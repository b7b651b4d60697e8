//! Tests reloads under load, and custody through `kill -9`, with every version of HAProxy, plain and in master-worker mode.

use std::path::Path;

use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, Version, info};
use reloader_tests::load::Load;
use reloader_tests::process::Process;
use reloader_tests::quic::{certificate, speaks_quic};
use reloader_tests::receipt::{assert_passed, listener};
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::{netns, versions};

const WEB: &str = "127.0.0.1:8080";
const V2_3: Version = Version { major: 2, minor: 3 };

fn for_each(test: fn(&HaproxyBinary, Config)) {
    for binary in versions::all() {
        for config in [Config::new(), Config::new().global("master-worker")] {
            netns::enter();
            println!("{binary}: {}", config.to_string().lines().nth(2).unwrap_or_default());
            test(&binary, config);
        }
    }
}

fn setup(binary: &HaproxyBinary, config: &Config) -> Setup {
    Rig::with(config).haproxy(binary)
}

#[test]
fn reloads_under_load_lose_nothing() {
    for_each(|binary, config| {
        let dir = tempfile::tempdir().unwrap();
        let (unix, stats) = (dir.path().join("web.sock"), dir.path().join("stats.sock"));
        let unix = format!("unix@{}", unix.display());
        let binds = [WEB, "[::1]:8081 v6only", "[::]:8082", &unix, "abns@web", "127.0.0.1:8083 interface lo"];
        let rig = setup(binary, &config.stats_socket(&stats).frontend("web", &binds)).start();
        let targets = [WEB, "[::1]:8081", "127.0.0.1:8082", &unix, "abns@web", "127.0.0.1:8083"];
        let load = Load::to(targets).rate(1500).start();
        load.until_started(200);
        for _ in 0..6 {
            let receipt = rig.reload();
            assert_passed(&receipt, binds.len());
            assert_eq!(listener(&receipt, stats.to_str().unwrap())["role"], "control");
            load.until_further(150);
        }
        let outcomes = load.stop();
        println!("    {outcomes}");
        outcomes.assert_lossless();
    });
}

/// Connections inside the process are lost with it. Clients that connect while no process serves wait in the socket's queue.
#[test]
fn killed_server_refuses_no_connection() {
    for_each(|binary, config| {
        let dir = tempfile::tempdir().unwrap();
        let stats = dir.path().join("stats.sock");
        let rig = setup(binary, &config.stats_socket(&stats).frontend("web", &[WEB])).start();
        assert_passed(&rig.reload(), 1);
        let load = Load::to([WEB]).rate(1000).start();
        load.until_started(200);
        for _ in 0..3 {
            let old = rig.serving().unwrap();
            worker(&stats).end();
            rig.until_replaced(old);
            let receipt = rig.history().at("/0").clone();
            assert_eq!((&receipt["kind"], &receipt["result"]), (&"restart".into(), &"proven".into()), "{receipt}");
            load.until_further(200);
        }
        assert_passed(&rig.reload(), 1);
        let summary = load.stop().summary();
        println!("    {summary}");
        assert_eq!((summary.refused, summary.timeout), (0, 0), "{summary}");
        assert!(summary.failed() <= 30, "more connections failed than were inside the process: {summary}");
    });
}

/// The process that answers on the stats socket: in master-worker mode the worker.
fn worker(stats: &Path) -> Process {
    let pid = info(stats, "Pid").unwrap().parse().unwrap();
    Process::with_pid(pid).unwrap()
}

/// HAProxy has `log-forward` from 2.3 on, and exports datagram sockets from then on.
#[test]
fn datagram_listeners_are_passed() {
    for_each(|binary, config| {
        if binary.version < V2_3 {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let logs = "log-forward logs\n    dgram-bind 127.0.0.1:5514\n    log 127.0.0.1:5515 local0\n";
        let mut config = config.section(logs).frontend("web", &[WEB]);
        let quic = speaks_quic(binary);
        if quic {
            let pem = certificate(dir.path());
            let bind = format!("quic4@127.0.0.1:8443 ssl crt {} alpn h3", pem.display());
            // Debian's OpenSSL has no QUIC of its own before 3.5.
            config = config.global("limited-quic").frontend("quic", &[&bind]);
        }
        let rig = setup(binary, &config).start();
        for _ in 0..3 {
            let receipt = rig.reload();
            assert_passed(&receipt, if quic { 3 } else { 2 });
            assert_eq!(listener(&receipt, "udp@127.0.0.1:5514")["rung"], "passed");
            if quic {
                assert_eq!(listener(&receipt, "udp@127.0.0.1:8443")["rung"], "passed");
            }
        }
    });
}

/// A version that does not know `close-spread-time` would not start with it.
#[test]
fn close_spread_time_is_set_where_haproxy_knows_it() {
    netns::enter();
    for binary in versions::all() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("haproxy.cfg");
        Config::web(WEB).global("close-spread-time 2s").write(&file);
        let is_known = binary.check(&file).status.success();
        let rig = setup(&binary, &Config::web(WEB)).start();
        let given = std::fs::read_to_string(rig.path("run/generation-1.cfg")).unwrap().contains("close-spread-time");
        assert_eq!(given, is_known, "{binary}");
    }
}
