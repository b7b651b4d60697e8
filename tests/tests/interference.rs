//! Tests how the daemon reacts when other processes signal the server, take its names, or change the daemon's files.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::rig::Rig;
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::listening;
use reloader_tests::wrapper::{self, Wrapper};

const WEB: &str = "127.0.0.1:8080";
const IDLE: &str = "127.0.0.1:8081";
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn externally_retired_server_is_replaced_and_drains() {
    netns::enter();
    let backend = Server::start("127.0.0.1:9000", Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let rig = Rig::with(&config).start();
    let inodes = listening(8080);
    let mut idle = IdleConnections::open(IDLE, 20);
    let old = rig.serving().unwrap();
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);

    old.signal(Signal::SIGUSR1);
    let new = rig.until_replaced(old);
    load.until_further(200);

    load.stop().assert_lossless();
    assert_eq!((idle.alive(), old.is_alive(), new.is_alive()), (20, true, true));
    assert_eq!(listening(8080), inodes, "the sockets were not kept");
    assert_eq!(*rig.status().at("/warnings"), serde_json::json!([]));
}

/// With `strategy = "hold"` the daemon keeps no sockets of the server, so the port is refused until the next generation listens.
#[test]
fn externally_retired_server_without_custody_is_replaced_unproven() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).tables("[reload]\nstrategy = \"hold\"\n").start();
    let old = rig.serving().unwrap();
    old.signal(Signal::SIGUSR1);
    rig.until_replaced(old);
    let restart = rig.last_receipt();
    assert_eq!((&restart["kind"], &restart["result"]), (&"restart".into(), &"unproven".into()), "{restart}");
    assert!(restart["reason"].as_str().unwrap().contains("the port had no listener"), "{restart}");
}

#[test]
fn stats_socket_naming_a_foreign_process_is_not_trusted() {
    netns::enter();
    let mut rig = Rig::with(&Config::new()).prepare();
    let stats = rig.path("stats.sock");
    rig.configure(&Config::web(WEB).stats_socket(&stats));
    let mut foreign = Command::new("sleep").arg("600").spawn().unwrap();
    let listener = UnixListener::bind(&stats).unwrap();
    let answer = format!("Name: HAProxy\nVersion: 2.6.0\nPid: {}\n", foreign.id());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 100]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });

    rig.start_daemon();
    // One line: the only receipt.
    let first = rig.history().at("/kind").clone();
    rig.reload().expect_status(0);
    let survived = foreign.try_wait().unwrap().is_none();
    foreign.kill().unwrap();
    foreign.wait().unwrap();
    assert_eq!(first, "start", "{}", rig.log());
    assert!(survived && rig.log().contains("not adopted"));
}

#[test]
fn handover_that_cannot_be_recorded_is_not_made() {
    // The second listener is bound again without protection, so its reload is unproven.
    for (address, strategy, status) in [(WEB, "auto", 0), ("[::1]:8080", "fd-pass", 3)] {
        netns::enter();
        let web = Config::web(&format!("{address} shards 3"));
        let rig = Rig::with(&web).tables(&format!("[reload]\nstrategy = \"{strategy}\"")).start();
        let old = rig.serving().unwrap();
        let records = rig.path("run/generations.json");
        let temporary = records.with_extension("tmp");
        // Even root cannot write a file over a directory.
        fs::create_dir_all(temporary.join("in the way")).unwrap();
        let load = Load::to([address]).rate(2000).start();
        load.until_started(50);
        for _ in 0..10 {
            let answer = rig.reload().expect_status(1);
            assert!(answer.at("/reason").to_string().contains("cannot be recorded"), "{}", answer.at("/reason"));
            assert_eq!(rig.serving(), Some(old));
            load.until_further(200);
        }
        load.stop().assert_lossless();
        fs::remove_dir_all(&temporary).unwrap();
        rig.reload().expect_status(status);
        Load::to([address]).connections(200).run().assert_lossless();
    }
}

#[test]
fn emptied_runtime_dir_is_recreated_and_custody_continues() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let inodes = listening(8080);
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(50);
    for entry in fs::read_dir(rig.path("run")).unwrap().flatten() {
        let removed = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
        removed.unwrap();
    }
    until(LIMIT, "the daemon to answer again", || rig.run(&["status"]).status == 0);
    rig.run(&["daemon"]).expect_status(1);
    let old = rig.serving().unwrap();
    old.end();
    rig.until_replaced(old);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout), (0, 0), "{lost}");
    assert_eq!(listening(8080), inodes, "the sockets were not kept");
    rig.reload().expect_status(0);
}

#[test]
fn empty_configuration_is_refused_and_the_port_stays_served() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let old = rig.serving().unwrap();
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(50);
    for text in ["", "global\n    stats socket /nonexistent-is-not-reached\n"] {
        fs::write(rig.haproxy_cfg(), text).unwrap();
        rig.reload().expect_status(1);
    }
    fs::write(rig.haproxy_cfg(), "no such word\n").unwrap();
    let dry = rig.run(&["reload", "--dry-run"]).expect_status(1);
    assert!(dry.stderr.contains("refuses the configuration on disk") && dry.stderr.contains("no"), "{}", dry.stderr);
    assert_eq!(rig.serving(), Some(old));
    load.stop().assert_lossless();
}

#[test]
fn sighup_during_the_first_start_does_not_end_the_daemon() {
    netns::enter();
    let wrapper = Wrapper::new();
    wrapper.set(wrapper::Behaviour::WaitForChange);
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).prepare();
    let daemon = rig.spawn(&["daemon"]);
    let daemon_process = Process::with_pid(daemon.pid() as i32).unwrap();
    until(LIMIT, "the first start", || !daemon_process.children().is_empty());
    daemon_process.signal(Signal::SIGHUP);
    wrapper.set(wrapper::Behaviour::Normal);
    until(LIMIT, "a serving generation", || rig.status().at("/serving/pid").is_u64());
    assert!(daemon_process.is_alive());
    rig.run(&["stop"]).expect_status(0);
    assert_eq!(daemon.wait().status, 0);
}

#[test]
fn daemon_as_pid_1_drains_before_it_ends() {
    netns::enter();
    let backend = Server::start("127.0.0.1:9000", Reaction::Reply);
    let config = Config::web(WEB).tcp_proxy("idle", &[IDLE], &backend.address.to_string());
    let dir = tempfile::tempdir().unwrap();
    let container = dir.path().join("container");
    let reloader = reloader_tests::rig::binary();
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\n[ \"$last\" = daemon ] || exec {0} \"$@\"\n\
         exec unshare --fork --pid --mount-proc --kill-child -- {0} \"$@\"\n",
        reloader.display()
    );
    fs::write(&container, script).unwrap();
    fs::set_permissions(&container, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let rig = Rig::with(&config).reloader(&container).start();
    let mut idle = IdleConnections::open(IDLE, 10);
    rig.reload().expect_status(0);
    let init = rig.daemon_process().children()[0];

    init.signal(Signal::SIGTERM);
    until(LIMIT, "the port to be closed", || listening(8080).is_empty());
    assert!(init.is_alive());
    assert_eq!(idle.count_answered(), 10, "connections of a generation were cut");
    init.until_gone(LIMIT);
}
