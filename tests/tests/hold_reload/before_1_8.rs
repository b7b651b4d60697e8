//! Reloads a HAProxy that cannot be given sockets, as before 1.8. No such version is available, so a newer one calls
//! itself 1.7. It is neither asked for its sockets nor given any.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use reloader_tests::config::Config;
use reloader_tests::haproxy::info;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::Rig;
use reloader_tests::script::script_in;

use super::WEB;

const CALLS_ITSELF_1_7: &str = "#!/bin/sh\n\
    [ \"$1\" = -v ] && { echo 'HA-Proxy version 1.7.5-2 2017/05/17'; exit; }\n\
    exec /usr/sbin/haproxy \"$@\"\n";

fn stand_in(dir: &Path) -> PathBuf {
    script_in(dir, "haproxy", CALLS_ITSELF_1_7)
}

/// HAProxy renames a Unix socket into place before it listens. A refusal is possible, and the receipt says so. No
/// queued connection is lost, and the path leads back to the old socket if the next generation fails.
#[test]
#[ignore = "alone: loads"]
fn unix_paths_are_replaced_without_losing_their_queues() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let unix = format!("unix@{}", path.display());
    let config = Config::new().frontend("web", &[WEB, &unix]);
    let rig = Rig::with(&config).haproxy_at(&stand_in(dir.path())).start();
    let load = Load::to([unix.as_str()]).rate(2000).start();
    for _ in 0..8 {
        load.until_further(300);
        let receipt = rig.reload();
        assert_eq!((receipt.status, receipt.at("/result")), (3, &"unproven".into()), "{}", receipt.stdout);
        let web = listener(&receipt, path.to_str().unwrap());
        assert!(web["rung"] == "unproven" && web["undrained-queue"] == 0, "{}", receipt.stdout);
        assert!(web["why"].as_str().unwrap().contains("before that listens"), "{}", receipt.stdout);
        assert_ne!(web["inode-before"], web["inode-after"]);
    }
    load.until_further(300);
    let outcomes = load.stop();
    assert_eq!(outcomes.summary().reset(), 0, "{outcomes}");

    let temporary = rig.path("run/generations.tmp");
    // Even root cannot write a file where a directory is.
    fs::create_dir_all(temporary.join("in the way")).unwrap();
    for _ in 0..4 {
        let old = rig.serving();
        rig.reload().expect_status(1);
        assert_eq!(rig.serving(), old);
        Load::to([unix.as_str()]).connections(100).run().assert_lossless();
    }
    fs::remove_dir_all(&temporary).unwrap();
    rig.reload().expect_status(3);
    assert!(!dir.path().join("web.sock.reloader").exists());
}

/// The plan takes the path for the path of a stats socket, which needs no proof. Only the new generation shows that
/// clients connect to it.
#[test]
#[ignore = "alone: loads"]
fn unix_path_that_cannot_be_proven_is_given_back() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let unix = format!("unix@{}", path.display());
    let control = Config::web(WEB).stats_socket(&path);
    let rig = Rig::with(&control).haproxy_at(&stand_in(dir.path())).tables("[reload]\nrequire = \"proven\"\n").start();
    rig.reload().expect_status(0);
    let inode = || fs::metadata(&path).unwrap().ino();
    let old = (rig.serving(), inode());

    rig.configure(&Config::new().frontend("web", &[WEB, &unix]));
    let load = Load::to([WEB]).rate(1000).start();
    load.until_started(100);
    let receipt = rig.reload().expect_status(1);
    let reason = receipt.at("/reason").to_string();
    assert!(reason.contains(path.to_str().unwrap()) && reason.contains("require"), "{reason}");
    load.until_further(300);
    load.stop().assert_lossless();
    assert_eq!((rig.serving(), inode()), old);
    assert_eq!(info(&path, "Pid").unwrap(), rig.serving_pid().to_string());
}

/// No other process can bind an abstract name beside its owner. Clients are refused for a moment, and the receipt says
/// so. TCP is held meanwhile.
#[test]
#[ignore = "alone: loads"]
fn abstract_names_are_unproven_and_tcp_is_held() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new().frontend("web", &[WEB, "abns@web"]);
    let rig = Rig::with(&config).haproxy_at(&stand_in(dir.path())).start();
    let load = Load::to([WEB]).rate(1000).start();
    for _ in 0..3 {
        load.until_further(200);
        let receipt = rig.reload().expect_status(3);
        assert_eq!(listener(&receipt, WEB)["rung"], "held-ebpf", "{}", receipt.stdout);
        let name = listener(&receipt, "abns@web");
        assert!(name["rung"] == "unproven" && name["why"].is_string(), "{}", receipt.stdout);
        Load::to(["abns@web"]).connections(50).run().assert_lossless();
    }
    load.stop().assert_lossless();
}

fn assert_rebound_without_loss(global: &str, line: &str, rung: &str) {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let fake = stand_in(dir.path());
    let rig = Rig::with(&Config::web(WEB).global(global)).haproxy_at(&fake).haproxy_line(line).start();
    let load = Load::to([WEB]).rate(1000).start();
    for _ in 0..8 {
        load.until_further(200);
        let receipt = rig.reload();
        assert_proven(&receipt);
        let web = listener(&receipt, WEB);
        assert_eq!(web["rung"], rung, "{}", receipt.stdout);
        assert_ne!(web["inode-before"], web["inode-after"]);
    }
    load.stop().assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn tcp_listeners_are_steered() {
    assert_rebound_without_loss("nbthread 1", "", "steered");
}

#[test]
#[ignore = "alone: loads"]
fn tcp_listeners_are_held_with_noreuseport() {
    assert_rebound_without_loss("noreuseport", "overlap = \"off\"", "held-ebpf");
}

#[test]
#[ignore = "alone: loads"]
fn tcp_listeners_overlap_with_noreuseport() {
    assert_rebound_without_loss("noreuseport", "", "steered");
}
