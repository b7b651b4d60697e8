//! Twenty reloads of each kind of server under load.

use std::fs;

use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

use super::scene::{self, NGINX, WEB, given, nginx_conf, plain, prepared, rungs, table, with};

fn reloads() -> u64 {
    tier::rounds(20)
}

/// Each reload another generation, each proven by `rung`, no connection lost, and nothing left afterwards.
fn reload_under_load(rig: &mut Rig, rate: u32, rung: &str) {
    let before = Footprint::take(rig.dir());
    rig.start_daemon();
    let load = Load::to([WEB]).rate(rate).start();
    load.until_started(u64::from(rate) / 2);
    for number in 1..=reloads() {
        let receipt = rig.reload().expect_status(0);
        assert_eq!(receipt.at("/new/generation").as_u64(), Some(number + 1), "{}", receipt.stdout);
        let found = rungs(receipt.at(""));
        assert!(!found.is_empty() && found.iter().all(|found| found == rung), "{}", receipt.stdout);
        load.until_further(u64::from(rate) / 5);
    }
    let outcomes = load.stop();
    println!("{rung}: {outcomes}");
    outcomes.assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    before.assert_unchanged();
}

/// Two workers, each with a socket of its own in the group.
#[test]
#[ignore = "alone: loads"]
fn nginx_whose_sockets_share_a_port() {
    netns::enter();
    let lines = format!("stop = \"SIGQUIT\"\ncheck = [{}]", NGINX.replace("\"-e\"", "\"-t\", \"-q\", \"-e\""));
    let mut rig = prepared(with(&table("nginx", NGINX, "reuseport", WEB, &lines)));
    nginx_conf(&rig, &format!("{WEB} reuseport"));
    reload_under_load(&mut rig, 1000, "steered");
}

/// By the variable with which an nginx hands its sockets to the next.
#[test]
#[ignore = "alone: loads"]
fn nginx_that_is_given_its_socket() {
    netns::enter();
    let lines = "stop = \"SIGQUIT\"\nenvironment = { NGINX = \"3;\" }";
    let mut rig = prepared(with(&table("nginx", NGINX, "listen-fds", WEB, lines)));
    nginx_conf(&rig, WEB);
    reload_under_load(&mut rig, 1000, "passed");
}

#[test]
#[ignore = "alone: loads"]
fn nginx_that_is_replaced() {
    netns::enter();
    let mut rig = prepared(with(&table("nginx", NGINX, "replace", WEB, "stop = \"SIGQUIT\"")));
    nginx_conf(&rig, WEB);
    reload_under_load(&mut rig, 500, "held-ebpf");
}

/// A server that knows sd_listen_fds(3) of its own.
#[test]
#[ignore = "alone: loads"]
fn lighttpd_that_is_given_its_socket() {
    netns::enter();
    let start = "\"/usr/sbin/lighttpd\", \"-D\", \"-f\", \"DIR/lighttpd.conf\"";
    let mut rig = prepared(with(&table("lighttpd", start, "listen-fds", WEB, "stop = \"SIGINT\"")));
    fs::create_dir(rig.path("www")).expect("a directory");
    fs::write(rig.path("www/index.html"), "ok\n").expect("writing");
    let text = format!(
        "server.document-root = \"{}\"\nserver.port = 8080\nserver.bind = \"127.0.0.1\"\n\
         index-file.names = ( \"index.html\" )\nserver.systemd-socket-activation = \"enable\"\n",
        rig.path("www").display()
    );
    fs::write(rig.path("lighttpd.conf"), text).expect("writing lighttpd.conf");
    reload_under_load(&mut rig, 500, "passed");
}

#[test]
#[ignore = "alone: loads"]
fn python_that_is_given_its_socket() {
    netns::enter();
    reload_under_load(&mut prepared(with(&given(""))), 300, "passed");
}

/// It knows nothing of sockets that are given, and dies when it is told to end.
#[test]
#[ignore = "alone: loads"]
fn a_plain_one_that_is_replaced() {
    netns::enter();
    reload_under_load(&mut prepared(with(&plain())), 100, "held-ebpf");
}

/// It dies of its signal in the midst of what it does; so it is asked only when it owes nobody an answer.
#[test]
#[ignore = "alone: loads"]
fn a_plain_one_that_takes_its_time() {
    netns::enter();
    let mut rig = prepared(with(&plain()));
    let slow =
        scene::PLAIN.replace("        self.send_response", "        time.sleep(0.1)\n        self.send_response");
    fs::write(rig.path("plain.py"), slow.replace("import http", "import time, http")).unwrap();
    rig.start_daemon();
    let load = Load::to([WEB]).rate(50).start();
    load.until_started(20);
    for _ in 0..5 {
        assert_eq!(rungs(rig.reload().expect_status(0).at("")), ["held-ebpf"]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
}

/// It is there for clients through every reload, and gone when the daemon was stopped.
#[test]
#[ignore = "alone: loads"]
fn a_unix_path() {
    netns::enter();
    let mut rig = prepared(with(&scene::given_at("DIR/web.sock", "")));
    rig.start_daemon();
    let path = rig.path("web.sock");
    let load = Load::to([path.clone()]).rate(200).start();
    for _ in 0..5 {
        assert_eq!(rungs(rig.reload().expect_status(0).at("")), ["passed"]);
        load.until_further(50);
    }
    load.stop().assert_lossless();
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    assert!(!path.exists());
}
