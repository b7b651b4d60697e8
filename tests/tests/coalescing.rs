//! Checks that requests which arrive while a reload runs or waits become one more reload.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::{Answer, Pending, Rig};
use reloader_tests::script::write_script;

const CLIENTS: u16 = 200;
const FIRST_PORT: u16 = 10_000;

/// HAProxy behind a gate: while the file exists, a new generation waits before it starts.
struct Gate {
    dir: tempfile::TempDir,
}

impl Gate {
    fn new() -> Gate {
        let gate = Gate { dir: tempfile::tempdir().unwrap() };
        let script = format!(
            "#!/bin/sh\nwhile [ -e {} ]; do sleep 0.02; done\nexec /usr/sbin/haproxy \"$@\"\n",
            gate.closed().display()
        );
        write_script(&gate.haproxy(), &script);
        gate
    }

    fn haproxy(&self) -> PathBuf {
        self.dir.path().join("haproxy")
    }

    fn closed(&self) -> PathBuf {
        self.dir.path().join("closed")
    }

    fn close(&self) {
        fs::write(self.closed(), "").unwrap();
    }

    fn open(&self) {
        fs::remove_file(self.closed()).unwrap();
    }
}

/// The number of connections to the control socket, counted by its path in the namespace's table. The daemon's own line
/// is one more.
fn connected(control_socket: &Path) -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
    let path = control_socket.to_str().unwrap();
    table.lines().filter(|line| line.ends_with(path)).count().saturating_sub(1)
}

/// A configuration whose number can be read from every receipt.
fn numbered(number: u16) -> Config {
    Config::new().frontend("web", &["127.0.0.1:8080", &format!("127.0.0.1:{}", FIRST_PORT + number)])
}

/// The number of the configuration that the reload's new generation read.
fn number_in(receipt: &Answer) -> u16 {
    let listeners = receipt.at("/listeners").as_array().expect("a receipt");
    let serving = listeners.iter().filter(|listener| listener["inode-after"].is_u64());
    let ports = serving.filter_map(|listener| listener["address"].as_str()?.rsplit(':').next()?.parse::<u16>().ok());
    ports.max().expect("a port") - FIRST_PORT
}

fn configure(rig: &Rig, config: &Config) {
    // The file is replaced in one step, because HAProxy may be reading it.
    let new = rig.path("haproxy.cfg.new");
    config.write(&new);
    fs::rename(new, rig.haproxy_cfg()).unwrap();
}

fn id(receipt: &Answer) -> String {
    receipt.at("/id").as_str().expect("a receipt").into()
}

/// The number of requests that each reload answered, according to its receipt.
fn answered(receipts: &[Answer]) -> HashMap<String, u64> {
    receipts.iter().map(|receipt| (id(receipt), receipt.at("/coalesced").as_u64().unwrap() + 1)).collect()
}

/// Each request follows a change of the configuration. Its answer must be from a reload that read this change or a
/// later one: a reload that began after the request.
#[test]
fn concurrent_requests_share_reloads_that_began_after_them() {
    netns::enter();
    let rig = Rig::with(&numbered(0)).start();
    let load = Load::to(["127.0.0.1:8080"]).rate(500).start();
    let mut pending = Vec::new();
    for number in 1..=CLIENTS {
        configure(&rig, &numbered(number));
        pending.push(rig.spawn(&["reload", "--json", "--timeout", "80s"]));
    }
    let receipts: Vec<Answer> = pending.into_iter().map(|request| request.wait().expect_status(0)).collect();
    for (number, receipt) in (1..).zip(&receipts) {
        assert!(
            number_in(receipt) >= number,
            "request {number} was answered by a reload of configuration {}",
            number_in(receipt)
        );
    }
    let answered = answered(&receipts);
    println!("{CLIENTS} requests, {} reloads: {:?}", answered.len(), answered.values());
    assert_eq!(answered.values().sum::<u64>(), u64::from(CLIENTS));
    assert!(answered.len() < usize::from(CLIENTS) / 2, "{} reloads", answered.len());
    load.stop().assert_lossless();
}

#[test]
fn requests_during_a_reload_become_one_more_reload() {
    netns::enter();
    let gate = Gate::new();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).haproxy_at(&gate.haproxy()).start();
    gate.close();
    let first = rig.spawn(&["reload", "--json"]);
    until(Duration::from_secs(10), "the first reload to begin", || generations_started(&rig) == 2);
    let pending: Vec<Pending> = (1..CLIENTS).map(|_| rig.spawn(&["reload", "--json", "--timeout", "80s"])).collect();
    let socket = rig.path("run/control.sock");
    until(Duration::from_secs(60), "every client to be connected", || connected(&socket) == usize::from(CLIENTS));
    gate.open();
    let first = first.wait().expect_status(0);
    assert_eq!(first.at("/coalesced"), 0, "it answers no later request");
    let receipts: Vec<Answer> = pending.into_iter().map(|request| request.wait().expect_status(0)).collect();
    let answered = answered(&receipts);
    println!("{} requests during a reload: {:?}", receipts.len(), answered.values());
    assert!(!answered.contains_key(&id(&first)) && answered.len() <= 3, "{answered:?}");
    assert_eq!(answered.values().sum::<u64>() + 1, u64::from(CLIENTS));
}

fn generations_started(rig: &Rig) -> usize {
    rig.generation_records().matches("\"number\"").count()
}

#[test]
fn requests_within_min_interval_become_one_reload() {
    netns::enter();
    const INTERVAL: Duration = Duration::from_millis(1500);
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).tables("[reload]\nmin-interval = \"1500ms\"").start();
    let before = Instant::now();
    rig.reload().expect_status(0);
    let pending: Vec<Pending> = (0..5).map(|_| rig.spawn(&["reload", "--json"])).collect();
    let receipts: Vec<Answer> = pending.into_iter().map(|request| request.wait().expect_status(0)).collect();
    assert!(receipts.iter().all(|receipt| id(receipt) == id(&receipts[0])));
    assert_eq!(receipts[0].at("/coalesced"), 4);
    assert!(before.elapsed() >= INTERVAL, "{:?}", before.elapsed());
}

#[test]
fn client_timeout_exits_with_75_and_the_reload_goes_on() {
    netns::enter();
    let gate = Gate::new();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).haproxy_at(&gate.haproxy()).start();
    let old = rig.serving().unwrap();
    gate.close();
    let impatient = rig.run(&["reload", "--json", "--timeout", "200ms"]).expect_status(75);
    assert!(impatient.stderr.contains("200ms") && impatient.stderr.contains("goes on"), "{}", impatient.stderr);
    assert_eq!(rig.serving(), Some(old));
    gate.open();
    rig.until_replaced(old);
    until(Duration::from_secs(5), "the receipt", || rig.history().at("/0/kind") == "reload");
    assert_eq!(rig.history().at("/0/result"), "proven");
}
