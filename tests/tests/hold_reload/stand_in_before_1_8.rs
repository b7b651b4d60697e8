//! Reloads a server that stands in for HAProxy 1.5 to 1.7. Unlike the HAProxy of `before_1_8.rs`, it has no `show cli sockets`, and refuses what
//! those versions refuse.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::info;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::Rig;
use reloader_tests::script::script_in;

use super::WEB;

const STAND_IN: &str = include_str!("haproxy_before_1_8_stand_in.py");
const CLI: &str = "127.0.0.1:9999";

fn stand_in(dir: &Path, text: &str) -> PathBuf {
    script_in(dir, "haproxy-1.5-stand-in", text)
}

/// Before 1.8 HAProxy does not say which of its sockets are stats sockets. Its configuration does.
#[test]
#[ignore = "alone: loads"]
fn stats_sockets_are_control_and_spoil_no_proof() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let (stats, named) = (dir.path().join("stats.sock"), dir.path().join("named.sock"));
    let config = Config::web(WEB)
        .stats_socket(&stats)
        .global("stats socket unix@${CLI_DIR}/named.sock level admin")
        .global(&format!("stats socket {CLI} level admin"));
    let cli_dir = dir.path().to_str().unwrap();
    let mut rig =
        Rig::with(&config).environment("CLI_DIR", cli_dir).haproxy_at(&stand_in(dir.path(), STAND_IN)).start();
    let load = Load::to([WEB]).rate(1000).start();
    let reload = |rig: &Rig| {
        load.until_further(200);
        let receipt = rig.reload();
        assert_proven(&receipt);
        assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}", receipt.stdout);
        for address in [stats.to_str().unwrap(), named.to_str().unwrap(), CLI] {
            assert_eq!(listener(&receipt, address)["role"], "control", "{}", receipt.stdout);
        }
        assert_eq!(info(&stats, "Pid").unwrap(), rig.serving_pid().to_string());
    };
    (0..5).for_each(|_| reload(&rig));
    rig.kill9_daemon();
    rig.start_daemon();
    reload(&rig);
    load.stop().assert_lossless();
}

/// Reloads with a Unix bind for traffic under load. Then kills the daemon again and again, each time when the path leads to a generation that is
/// not recorded as serving: the next daemon has to give the path back before it ends that generation.
fn assert_noted_reloads_and_survived_kills(stand_in_text: &str) -> Outcomes {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let unix = format!("unix@{}", path.display());
    let config = Config::new().frontend("web", &[WEB, &unix]);
    let mut rig = Rig::with(&config).haproxy_at(&stand_in(dir.path(), stand_in_text)).start();
    let load = Load::to([unix.as_str()]).rate(1000).start();
    let reload = |rig: &Rig| {
        load.until_further(200);
        let receipt = rig.reload().expect_status(3);
        let web = listener(&receipt, path.to_str().unwrap());
        assert!(web["rung"] == "unproven" && web["undrained-queue"] == 0, "{}", receipt.stdout);
        assert!(web["why"].as_str().unwrap().contains("before that listens"), "{}", receipt.stdout);
        assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}", receipt.stdout);
    };
    (0..6).for_each(|_| reload(&rig));
    for _ in 0..6 {
        load.until_further(200);
        let inode = || fs::metadata(&path).map(|found| found.ino()).ok();
        let (before, serving) = (inode(), rig.serving());
        let pending = rig.spawn(&["reload", "--json"]);
        until(Duration::from_secs(20), "the path to be bound again", || inode() != before);
        rig.kill9_daemon();
        drop(pending);
        rig.start_daemon();
        let is_recorded = rig.serving() != serving;
        assert!(is_recorded || inode() == before, "{} was not given back", path.display());
    }
    reload(&rig);
    load.until_further(200);
    load.stop()
}

/// HAProxy up to 2.2 listens before it renames the socket into place (`uxst_bind_listener`).
#[test]
#[ignore = "alone: loads"]
fn unix_path_that_is_renamed_when_it_listens_refuses_no_client() {
    assert_noted_reloads_and_survived_kills(STAND_IN).assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn unix_path_that_is_renamed_before_it_listens_loses_no_queue() {
    let late = STAND_IN.replace("LISTENS_FIRST = True", "LISTENS_FIRST = False");
    assert_ne!(late, STAND_IN);
    let outcomes = assert_noted_reloads_and_survived_kills(&late);
    assert_eq!(outcomes.summary().failed(), outcomes.summary().refused, "{outcomes}");
}
