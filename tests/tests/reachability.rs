//! Checks that a listener is called passed only if a client reaches it by its address. A socket is bound to a device, a file or a network
//! namespace, not to its name.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::network::{self, Namespace, command};
use reloader_tests::poll::until;
use reloader_tests::receipt::listener;
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::{netns, versions};

use crate::services::scene;

const BIND: &str = "10.9.0.1:8081 interface d0";
const AT: &str = "10.9.0.1:8081%d0";
const LIMIT: Duration = Duration::from_secs(20);

/// A device `d0` of the calling thread's namespace, which leads to the clients.
fn make_device(clients: &Namespace) {
    network::ip("link add d0 type veth peer name p0");
    clients.take_device("p0");
    network::ip("addr add 10.9.0.1/24 dev d0");
    network::ip("link set d0 up");
    clients.run(|| {
        network::ip("addr add 10.9.0.2/24 dev p0");
        network::ip("link set p0 up");
    });
}

/// Clients in a namespace of their own, and a HAProxy with a listener on the device that leads to them.
fn start_on_a_device() -> (Namespace, Rig) {
    netns::enter();
    let clients = Namespace::new();
    make_device(&clients);
    let rig = Rig::with(&Config::new().frontend("web", &["127.0.0.1:8080", BIND])).start();
    (clients, rig)
}

fn replace_device(clients: &Namespace) {
    network::ip("link del d0");
    make_device(clients);
}

fn gets_an_answer(clients: &Namespace) -> bool {
    let address: SocketAddr = "10.9.0.1:8081".parse().unwrap();
    clients.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok_and(answers))
}

fn answers(mut stream: impl Read + Write) -> bool {
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains(" 200 ")
}

/// The rungs of the entries for this address, in the order of the receipt.
fn rungs_at(receipt: &Answer, address: &str) -> Vec<String> {
    let listeners = receipt.at("/listeners").as_array().unwrap().iter();
    let at = listeners.filter(|found| found["address"] == address);
    at.map(|found| found["rung"].as_str().unwrap().to_owned()).collect()
}

fn path_answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok_and(answers)
}

#[test]
fn listener_of_a_replaced_device_is_bound_again_by_a_reload() {
    let (clients, rig) = start_on_a_device();
    assert!(gets_an_answer(&clients));
    replace_device(&clients);
    assert!(!gets_an_answer(&clients));
    // Before any reload.
    until(LIMIT, "a warning", || rig.warnings().contains("another device is called d0"));
    let plan = rig.status().at("/plan").to_string();
    assert!(plan.contains("binds another one"), "{plan}");
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs_at(&receipt, AT), ["added", "removed"], "{}", receipt.stdout);
    assert!(receipt.stdout.contains("another device is called d0"), "{}", receipt.stdout);
    assert!(gets_an_answer(&clients));
    until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("d0"));
    assert_eq!(listener(&rig.reload().expect_status(0), AT)["rung"], "passed");
    assert!(gets_an_answer(&clients));
}

#[test]
fn listener_of_a_replaced_device_is_bound_again_after_a_crash() {
    let (clients, rig) = start_on_a_device();
    replace_device(&clients);
    let old = rig.serving().unwrap();
    old.signal(Signal::SIGKILL);
    rig.until_replaced(old);
    assert!(gets_an_answer(&clients));
}

#[test]
fn adoption_does_not_prove_a_listener_that_no_client_reaches() {
    let (clients, mut rig) = start_on_a_device();
    rig.terminate_daemon();
    replace_device(&clients);
    rig.start_daemon();
    let receipt = rig.last_receipt();
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"adopt".into(), &"unproven".into()), "{receipt}");
    assert_eq!(receipt["reason-code"], "unreachable", "{receipt}");
    assert!(!gets_an_answer(&clients));
    rig.reload().expect_status(0);
    assert!(gets_an_answer(&clients));
}

#[test]
fn unix_socket_whose_path_is_gone_is_bound_again() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let address = path.display().to_string();
    let rig = Rig::with(&Config::new().frontend("web", &["127.0.0.1:8080", &format!("unix@{address}")])).start();
    assert!(path_answers(&path));
    fs::remove_file(&path).unwrap();
    until(LIMIT, "a warning", || rig.warnings().contains("is gone"));
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs_at(&receipt, &address), ["added", "removed"], "{}", receipt.stdout);
    assert!(receipt.stdout.contains("is gone"), "{}", receipt.stdout);
    assert!(path_answers(&path));
    assert_eq!(listener(&rig.reload().expect_status(0), &address)["rung"], "passed");
    // After a crash too.
    fs::remove_file(&path).unwrap();
    let old = rig.serving().unwrap();
    old.signal(Signal::SIGKILL);
    rig.until_replaced(old);
    assert!(path_answers(&path));
}

/// nginx removes the path when it ends, unless the parent that started it is still there (`ngx_close_listening_sockets`).
#[test]
fn path_that_a_retired_nginx_removes_is_put_back() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let address = path.display().to_string();
    let mut rig = scene::setup(&scene::passed_nginx(&address)).prepare();
    scene::write_nginx_conf(&rig, &format!("unix:{address}"));
    rig.start_daemon();
    assert!(path_answers(&path));
    rig.restart_daemon();
    let old = rig.serving().unwrap();
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs_at(&receipt, &address), ["passed"], "{}", receipt.stdout);
    old.until_gone(LIMIT);
    until(LIMIT, "the path to be put back", || rig.log().contains("it is put back"));
    assert!(path_answers(&path));
    let receipt = rig.reload().expect_status(0);
    assert_eq!(rungs_at(&receipt, &address), ["passed"], "{}", receipt.stdout);
    assert!(path_answers(&path));
    // No link is left when nothing drains.
    let names = || fs::read_dir(dir.path()).unwrap().count();
    until(LIMIT, "the link to be removed", || names() == 1);
}

/// HAProxy takes over a socket of the same address and does not compare the protocol.
#[test]
fn bind_that_changes_to_mptcp_and_back_takes_effect() {
    const WEB: &str = "127.0.0.1:8080";
    netns::enter();
    let binary = versions::all().into_iter().max_by_key(|binary| binary.version).unwrap();
    let config = |bind: &str| Config::new().frontend("web", &[bind, "127.0.0.1:8081"]);
    let rig = Rig::with(&config(WEB)).haproxy(&binary).start();
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    for bind in [format!("mptcp@{WEB}"), WEB.to_owned()] {
        rig.configure(&config(&bind));
        let receipt = rig.reload().expect_status(0);
        let now = &listener(&receipt, &bind)["rung"];
        assert!(now == "steered" || now == "held-ebpf", "{bind}: {}", receipt.stdout);
        assert!(rig.status().at("/serving/listeners").to_string().contains(&format!("\"{bind}\"")));
        load.until_further(100);
        // The same configuration again.
        assert_eq!(listener(&rig.reload().expect_status(0), &bind)["rung"], "passed");
    }
    load.stop().assert_lossless();
}

/// The kernel shares new connections out among all sockets of the port.
#[test]
fn foreign_listener_is_in_status_with_its_process() {
    netns::enter();
    let rig = Rig::with(&Config::web("127.0.0.1:8080")).start();
    assert!(!rig.warnings().contains("foreign"));
    let script = "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
                  s.bind(('127.0.0.1', 8080))\ns.listen()\nprint('listens', flush=True)\ntime.sleep(1000)\n";
    let mut server = Command::new("/usr/bin/python3").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let warnings = rig.warnings();
    let pid = server.id();
    assert!(warnings.contains("foreign listener") && warnings.contains(&format!("process {pid} ")), "{warnings}");
    // The daemon sees it by itself too.
    until(LIMIT, "a line in the log", || rig.log().contains("foreign listener"));
    server.kill().unwrap();
    server.wait().unwrap();
    until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("foreign"));
    rig.reload().expect_status(0);
    assert!(!rig.warnings().contains("foreign"));
}

/// Kernel facts say that the new socket listens. Only a connection shows that a packet filter is in its way.
#[test]
fn changed_listener_that_the_daemon_cannot_connect_to_is_unproven() {
    netns::enter();
    let config = |binds: &[&str]| Config::new().frontend("web", binds);
    let rig = Rig::with(&config(&["127.0.0.1:8080"])).tables("[reload]\nprobe-connect = \"1h\"").start();
    for rules in ["add table inet t", "add chain inet t c { type filter hook input priority 0; }"] {
        command("nft", rules);
    }
    command("nft", "add rule inet t c tcp dport { 8080, 8081 } reject with tcp reset");
    // The listener that is the same socket as before is not tested.
    rig.reload().expect_status(0);
    rig.configure(&config(&["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"]));
    let receipt = rig.reload().expect_status(3);
    assert_eq!(*receipt.at("/reason-code"), "connect-failed", "{}", receipt.stdout);
    let rungs = ["8080", "8081", "8082"].map(|port| rungs_at(&receipt, &format!("127.0.0.1:{port}")));
    assert_eq!(rungs, [["passed"], ["unproven"], ["added"]], "{}", receipt.stdout);
    command("nft", "flush ruleset");
    Load::to(["127.0.0.1:8081"]).connections(20).run().assert_lossless();
}
