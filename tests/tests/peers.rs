//! Stick tables with a local peers section keep their entries through reloads, on every version.

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

/// One request from each of so many addresses.
fn fill() {
    for number in 1..=ENTRIES {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 1, number], 0)).into()).unwrap();
        socket.connect(&WEB.parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 256]).unwrap() > 0);
    }
}

/// `# table: seen, type: ip, size:10240, used:20`
fn entries(socket: &Path) -> Option<u8> {
    let answer = runtime(socket, "show table seen").ok()?;
    answer.lines().next()?.rsplit_once("used:")?.1.trim().parse().ok()
}

/// The teaching goes on for a moment after the receipt.
#[track_caller]
fn until_all_are_there(socket: &Path, when: &str) {
    until(Duration::from_secs(10), when, || entries(socket) == Some(ENTRIES));
}

fn rig(binary: &HaproxyBinary, stats: &Path) -> Rig {
    let config = Config::new().stats_socket(stats).frontend_with_peers("counted", &[WEB], "127.0.0.1:8083");
    Rig::with(&config).haproxy(binary).start()
}

fn id(receipt: &Answer) -> String {
    receipt.at("/id").as_str().expect("a receipt").into()
}

/// Side by side: 2.2 to 2.8 have each reload wait for five seconds.
#[test]
fn entries_survive_reloads_that_follow_at_once() {
    std::thread::scope(|scope| {
        for binary in versions::all() {
            scope.spawn(move || three_rounds(&binary));
        }
    });
}

fn three_rounds(binary: &HaproxyBinary) {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let stats = dir.path().join("stats.sock");
    let rig = rig(binary, &stats);
    fill();
    until_all_are_there(&stats, "the entries to be counted");
    for round in 1..=3 {
        let asked: Vec<Pending> = (0..3).map(|_| rig.spawn(&["reload", "--json"])).collect();
        let receipts: Vec<Answer> = asked.into_iter().map(|asked| asked.wait().expect_status(0)).collect();
        let (coalesced, micros) = (receipts[0].at("/coalesced"), receipts[0].at("/phases-us/total"));
        println!("{binary}, round {round}: {micros} us, {coalesced} coalesced");
        assert_eq!(receipts[0].at("/notes"), &serde_json::json!([]));
        until_all_are_there(&stats, &format!("{binary}: the entries after round {round}"));
    }
}

/// HAProxy 2.6 needs about five seconds until it can teach a successor.
#[test]
fn requests_that_wait_for_the_resync_become_one_reload() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let stats = dir.path().join("stats.sock");
    let rig = rig(&HaproxyBinary::installed(), &stats);
    let mut asked: Vec<Pending> = (0..5).map(|_| rig.spawn(&["reload", "--json"])).collect();
    until(Duration::from_secs(5), "the reload to wait", || {
        runtime(&stats, "show peers").is_ok_and(|answer| answer.contains("flags=0x11"))
    });
    assert!(asked.iter_mut().all(Pending::is_running));
    let receipts: Vec<Answer> = asked.into_iter().map(|asked| asked.wait().expect_status(0)).collect();
    assert!(receipts.iter().all(|receipt| id(receipt) == id(&receipts[0])), "one reload answers all");
    assert_eq!(receipts[0].at("/coalesced"), 4);
}

#[test]
fn a_crash_loses_the_tables_and_the_receipt_says_so() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(&HaproxyBinary::installed(), &dir.path().join("stats.sock"));
    let old = rig.serving().unwrap();
    old.end();
    rig.until_replaced(old);
    let receipt = rig.status();
    assert_eq!(receipt.at("/last-reload/kind"), "restart");
    let notes = receipt.at("/last-reload/notes").to_string();
    assert!(notes.contains("stick tables were lost"), "{notes}");
}
