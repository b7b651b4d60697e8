//! Tests that stick tables with a local `peers` section keep their entries through reloads, on every version of HAProxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, runtime};
use reloader_tests::poll::until;
use reloader_tests::rig::{Answer, Pending, Rig};
use reloader_tests::{netns, versions};
use socket2::{Domain, Socket, Type};

const ENTRIES: u8 = 20;
const WEB: &str = "127.0.0.1:8082";

/// Fills the table: one request from each of [`ENTRIES`] addresses.
fn fill_table() {
    for number in 1..=ENTRIES {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 1, number], 0)).into()).unwrap();
        socket.connect(&WEB.parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 256]).unwrap() > 0);
    }
}

/// The number in `# table: seen, type: ip, size:10240, used:20`.
fn entries(socket: &Path) -> Option<u8> {
    let answer = runtime(socket, "show table seen").ok()?;
    answer.lines().next()?.rsplit_once("used:")?.1.trim().parse().ok()
}

/// Waits until the table is complete: the old generation may still send entries for a moment after the receipt.
#[track_caller]
fn until_all_entries(socket: &Path, what: &str) {
    until(Duration::from_secs(10), what, || entries(socket) == Some(ENTRIES));
}

fn rig(binary: &HaproxyBinary, stats: &Path) -> Rig {
    let config = Config::new().stats_socket(stats).frontend_with_peers("counted", &[WEB], "127.0.0.1:8083");
    Rig::with(&config).haproxy(binary).start()
}

fn id(receipt: &Answer) -> String {
    receipt.at("/id").as_str().expect("a receipt").into()
}

/// The versions run at the same time: with 2.2 to 2.8 each reload takes five seconds.
#[test]
fn stick_table_entries_survive_back_to_back_reloads() {
    std::thread::scope(|scope| {
        for binary in versions::all() {
            scope.spawn(move || run_three_rounds(&binary));
        }
    });
}

fn run_three_rounds(binary: &HaproxyBinary) {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let stats = dir.path().join("stats.sock");
    let rig = rig(binary, &stats);
    fill_table();
    until_all_entries(&stats, "the entries to be counted");
    for round in 1..=3 {
        let pending: Vec<Pending> = (0..3).map(|_| rig.spawn(&["reload", "--json"])).collect();
        let receipts: Vec<Answer> = pending.into_iter().map(|reload| reload.wait().expect_status(0)).collect();
        let (coalesced, micros) = (receipts[0].at("/coalesced"), receipts[0].at("/phases-us/total"));
        println!("{binary}, round {round}: {micros} us, {coalesced} coalesced");
        assert_eq!(receipts[0].at("/notes"), &serde_json::json!([]));
        until_all_entries(&stats, &format!("{binary}: the entries after round {round}"));
    }
}

/// HAProxy 2.6 needs about five seconds until it can send its table to the next generation.
#[test]
fn reload_requests_during_the_resync_become_one_reload() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let stats = dir.path().join("stats.sock");
    let rig = rig(&HaproxyBinary::installed(), &stats);
    let mut pending: Vec<Pending> = (0..5).map(|_| rig.spawn(&["reload", "--json"])).collect();
    until(Duration::from_secs(5), "the reload to wait", || {
        runtime(&stats, "show peers").is_ok_and(|answer| answer.contains("flags=0x11"))
    });
    assert!(pending.iter_mut().all(Pending::is_running));
    let receipts: Vec<Answer> = pending.into_iter().map(|reload| reload.wait().expect_status(0)).collect();
    assert!(receipts.iter().all(|receipt| id(receipt) == id(&receipts[0])), "more than one reload was made");
    assert_eq!(receipts[0].at("/coalesced"), 4);
}

#[test]
fn crash_loses_stick_tables_and_the_receipt_says_so() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&HaproxyBinary::installed(), &dir.path().join("stats.sock"));
    let old = rig.serving().unwrap();
    old.end();
    rig.until_replaced(old);
    let status = rig.status();
    assert_eq!(status.at("/last-reload/kind"), "restart");
    let notes = status.at("/last-reload/notes").to_string();
    assert!(notes.contains("stick tables were lost"), "{notes}");
}
