//! Tests twenty reloads of each kind of server under load.

use std::fs;

use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Rig;
use reloader_tests::tier;

use super::scene::{
    self, WEB, given_table, nginx, passed_nginx, plain_table, prepare, rungs, service_table, setup, write_nginx_conf,
};

fn reloads() -> u64 {
    tier::rounds(20)
}

/// Reloads under load: each reload starts a generation and gives every listener `rung`, no connection is lost, and nothing is left behind.
pub(super) fn reload_under_load(rig: &mut Rig, rate: u32, rung: &str) {
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

/// Two workers, each with its own socket in the reuseport group.
#[test]
#[ignore = "alone: loads"]
fn nginx_with_reuseport_is_steered() {
    netns::enter();
    let lines = format!("stop = \"SIGQUIT\"\ncheck = [{}]", nginx().replace("\"-e\"", "\"-t\", \"-q\", \"-e\""));
    let mut rig = prepare(setup(&service_table("nginx", &nginx(), "reuseport", WEB, &lines)));
    write_nginx_conf(&rig, &format!("{WEB} reuseport"));
    reload_under_load(&mut rig, 1000, "steered");
}

/// The variable `NGINX` names the inherited sockets, as in nginx's own binary upgrade.
#[test]
#[ignore = "alone: loads"]
fn nginx_with_an_inherited_socket_is_passed() {
    netns::enter();
    let mut rig = prepare(setup(&passed_nginx(WEB)));
    write_nginx_conf(&rig, WEB);
    reload_under_load(&mut rig, 1000, "passed");
}

#[test]
#[ignore = "alone: loads"]
fn replaced_nginx_is_held() {
    netns::enter();
    let mut rig = prepare(setup(&service_table("nginx", &nginx(), "replace", WEB, "stop = \"SIGQUIT\"")));
    write_nginx_conf(&rig, WEB);
    reload_under_load(&mut rig, 500, "held-ebpf");
}

/// lighttpd supports sd_listen_fds(3).
#[test]
#[ignore = "alone: loads"]
fn lighttpd_with_listen_fds_is_passed() {
    netns::enter();
    let command = "\"/usr/sbin/lighttpd\", \"-D\", \"-f\", \"DIR/lighttpd.conf\"";
    let mut rig = prepare(setup(&service_table("lighttpd", command, "listen-fds", WEB, "stop = \"SIGINT\"")));
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
fn python_with_listen_fds_is_passed() {
    netns::enter();
    reload_under_load(&mut prepare(setup(&given_table(""))), 300, "passed");
}

/// The server does not support inherited sockets, and dies when it is told to end.
#[test]
#[ignore = "alone: loads"]
fn replaced_plain_server_is_held() {
    netns::enter();
    reload_under_load(&mut prepare(setup(&plain_table())), 100, "held-ebpf");
}

/// The server dies of its stop signal in the middle of a reply, so it is told to end only when no reply is due.
#[test]
#[ignore = "alone: loads"]
fn slow_plain_server_loses_no_connection() {
    netns::enter();
    let mut rig = prepare(setup(&plain_table()));
    let slow = scene::PLAIN_SERVER
        .replace("        self.send_response", "        time.sleep(0.1)\n        self.send_response");
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

/// Clients can connect through every reload, and the path is gone once the daemon was stopped.
#[test]
#[ignore = "alone: loads"]
fn unix_path_is_passed_and_removed_at_stop() {
    netns::enter();
    let mut rig = prepare(setup(&scene::given_table_at("DIR/web.sock", "")));
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
