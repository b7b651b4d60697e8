//! Reloads unmodified servers that bind alone, each with `sockets = "overlap"` and then with `"replace"`, under the same load. Nothing is lost by
//! either. With `replace` clients wait for as long as the server takes to start: the two lines that a test prints show it.

use std::fs;
use std::process::Command;

use reloader::load::{Exchange, Tls};
use reloader_tests::config::Config;
use reloader_tests::load::{Load, Outcomes};
use reloader_tests::netns;
use reloader_tests::quic::certificate;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::Rig;
use reloader_tests::tier;

use super::reloads::reload_under_load;
use super::scene::{PLAIN_SERVER, WEB, binding_server, nginx, prepare, service_table, setup, write_nginx_conf};

/// Reloads the server of this `start` by both ways. `write` writes its files.
fn beside_replace(rate: u32, start: &str, lines: &str, write: impl Fn(&Rig)) {
    for (sockets, rung) in [("overlap", "steered"), ("replace", "held-ebpf")] {
        netns::enter();
        let mut rig = prepare(setup(&service_table("app", start, sockets, WEB, lines)));
        write(&rig);
        reload_under_load(&mut rig, rate, rung);
    }
}

fn write(rig: &Rig, name: &str, text: &str) {
    fs::write(rig.path(name), text).unwrap();
}

#[test]
#[ignore = "alone: loads"]
fn nginx_without_reuseport_overlaps() {
    beside_replace(1000, &nginx(), "stop = \"SIGQUIT\"", |rig| write_nginx_conf(rig, WEB));
}

#[test]
#[ignore = "alone: loads"]
fn server_that_starts_slowly_overlaps() {
    beside_replace(500, "\"/usr/bin/python3\", \"DIR/app.py\"", "", |rig| write(rig, "app.py", &binding_server("2")));
}

/// It dies of its stop signal, even in the middle of a reply.
#[test]
#[ignore = "alone: loads"]
fn server_that_does_not_finish_its_replies_overlaps() {
    let slow =
        PLAIN_SERVER.replace("        self.send_response", "        time.sleep(0.1)\n        self.send_response");
    let slow = slow.replace("import http", "import time, http");
    let start = format!("\"/usr/bin/python3\", \"DIR/slow.py\", \"{WEB}\"");
    beside_replace(100, &start, "", |rig| write(rig, "slow.py", &slow));
}

#[test]
#[ignore = "alone: loads"]
fn static_server_like_go_overlaps() {
    beside_replace(1000, &format!("\"DIR/server\", \"{WEB}\""), "", build_server_like_go);
}

/// Its port is shared too, but the kernel steers no MPTCP connection. So SYNs are held while the old generation ends, and not while the new one
/// starts.
#[test]
#[ignore = "alone: loads"]
fn server_that_listens_by_mptcp_overlaps_and_is_held() {
    netns::enter();
    let start = format!("\"DIR/server\", \"{WEB}\", \"mptcp\"");
    let table = service_table("app", &start, "overlap", WEB, "");
    {
        let mut rig = prepare(setup(&table));
        build_server_like_go(&rig);
        rig.start_daemon();
        assert_eq!(rig.status().at("/plan/0/rung"), "held-ebpf");
        let notes = rig.reload().expect_status(0).at("/notes").to_string();
        assert!(notes.contains("(overlap)") && !notes.contains("cannot steer"), "{notes}");
    }
    let mut rig = prepare(setup(&table));
    build_server_like_go(&rig);
    reload_under_load(&mut rig, 1000, "held-ebpf");
}

fn build_server_like_go(rig: &Rig) {
    write(rig, "server.c", include_str!("static_server_like_go.c"));
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O1", "-pthread", "-o"]).args(["server", "server.c"].map(|name| rig.path(name)));
    assert!(compiler.status().unwrap().success());
}

/// Its master binds, and its workers inherit the socket.
#[test]
#[ignore = "alone: loads"]
fn gunicorn_with_two_workers_overlaps() {
    let application = "def application(environ, start):\n    \
        start(\"200 OK\", [(\"Content-Length\", \"3\")])\n    return [b\"ok\\n\"]\n";
    let start = format!(
        "\"/usr/bin/python3\", \"-m\", \"gunicorn\", \"-w\", \"2\", \"--chdir\", \"DIR\", \"--bind\", \"{WEB}\", \"app\""
    );
    beside_replace(300, &start, "", |rig| write(rig, "app.py", application));
}

/// It dies of its stop signal.
#[test]
#[ignore = "alone: loads"]
fn node_overlaps() {
    let (host, port) = WEB.split_once(':').unwrap();
    let script = format!("require('http').createServer((_, reply) => reply.end('ok\\n')).listen({port}, '{host}');\n");
    beside_replace(500, "\"/usr/bin/node\", \"DIR/app.js\"", "", |rig| write(rig, "app.js", &script));
}

/// A server may close an idle connection while a request is on its way, so kept connections have a race that no reload avoids. It is rare, and
/// explains at most one request for each connection and reload.
#[test]
#[ignore = "alone: loads"]
fn tls_and_kept_connections_are_served_through_an_overlap() {
    const KEPT: usize = 8;
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let bind = format!("{WEB} ssl crt {}", certificate(dir.path()).display());
    let rig = Rig::with(&Config::web(&bind).global("noreuseport")).tables("[reload]\nstrategy = \"steer\"").start();
    let reloads = tier::rounds(20_usize);
    let run = || {
        let tls = |load: reloader::load::Load| load.tls(Tls::new("reloader.test", true).unwrap());
        let request = Exchange::Http(b"GET / HTTP/1.1\r\nHost: reloader.test\r\n\r\n".as_slice().into());
        let new = Load::to([WEB]).rate(300).with(tls).start();
        let kept = Load::to([WEB]).rate(400).with(|load| tls(load).exchange(request).keep_alive(KEPT)).start();
        for _ in 0..reloads {
            new.until_further(120);
            let receipt = rig.reload();
            assert_proven(&receipt);
            assert_eq!(listener(&receipt, WEB)["rung"], "steered", "{}", receipt.stdout);
        }
        new.until_further(120);
        let (new, kept) = (new.stop(), kept.stop());
        println!("new: {new}\nkept: {kept}, {} connections", kept.connections);
        new.assert_lossless();
        kept
    };
    let is_lossless = |kept: &Outcomes| {
        let summary = kept.summary();
        assert_eq!(summary.failed(), summary.empty + summary.reset(), "{kept}");
        assert!(summary.failed() <= (KEPT * reloads) as u64, "{kept}");
        summary.failed() == 0
    };
    let kept = (0..10).map(|_| run()).find(is_lossless).expect("a run without the race");
    assert!(kept.connections > KEPT as u64, "no connection was closed by the old generation: {kept}");
}
