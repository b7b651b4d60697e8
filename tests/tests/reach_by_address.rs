//! Checks what else keeps clients from a listener although its socket lives on: an address that the host has lost, a narrower listener of
//! another server, the mode of a path, a remade network namespace.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::network;
use reloader_tests::poll::until;
use reloader_tests::receipt::listener;
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::{netns, versions};

const WEB: &str = "127.0.0.1:8080";
const LIMIT: Duration = Duration::from_secs(20);

/// The rungs of the entries for this address, sorted.
fn rungs_at(receipt: &Answer, address: &str) -> Vec<String> {
    let listeners = receipt.at("/listeners").as_array().unwrap().iter();
    let at = listeners.filter(|found| found["address"] == address);
    let mut rungs: Vec<String> = at.map(|found| found["rung"].as_str().unwrap().to_owned()).collect();
    rungs.sort();
    rungs
}

fn gets_an_answer(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.contains(" 200 ")
}

/// As when a VRRP daemon moves an address, or an address is removed from a device. HAProxy that is passed the socket notices nothing.
#[test]
fn listener_whose_address_the_host_has_lost_is_unproven() {
    const LOST: &str = "10.9.0.1:8081";
    netns::enter();
    network::ip("addr add 10.9.0.1/24 dev lo");
    let rig = Rig::with(&Config::new().frontend("web", &[WEB, "127.0.0.2:8082", LOST])).start();
    assert!(gets_an_answer(LOST) && !rig.warnings().contains("no client reaches"), "{}", rig.warnings());
    network::ip("addr del 10.9.0.1/24 dev lo");
    assert!(!gets_an_answer(LOST));
    until(LIMIT, "a warning", || rig.warnings().contains("does not have the address 10.9.0.1"));
    assert!(rig.status().at("/plan").to_string().contains("does not have the address"));
    // A new bind would make the reload fail: the socket is passed all the same.
    let receipt = rig.reload().expect_status(3);
    let lost = listener(&receipt, LOST);
    assert_eq!((&lost["rung"], &lost["why-code"]), (&"unproven".into(), &"unreachable".into()), "{}", receipt.stdout);
    assert_eq!(lost["inode-before"], lost["inode-after"]);
    assert_eq!(listener(&receipt, "127.0.0.2:8082")["rung"], "passed");
    network::ip("addr add 10.9.0.1/24 dev lo");
    until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("10.9.0.1"));
    assert_eq!(listener(&rig.reload().expect_status(0), LOST)["rung"], "passed");
    assert!(gets_an_answer(LOST));
}

/// The backup of a pair has the address only when it takes over.
#[test]
fn address_that_may_be_bound_before_it_exists_is_not_missed() {
    const FLOATING: &str = "10.9.0.1:8081";
    netns::enter();
    netns::sysctl("net/ipv4/ip_nonlocal_bind", "1");
    let rig = Rig::with(&Config::new().frontend("web", &[WEB, FLOATING])).start();
    assert_eq!(listener(&rig.reload().expect_status(0), FLOATING)["rung"], "passed");
    assert!(!rig.warnings().contains("10.9.0.1"), "{}", rig.warnings());
}

/// A server that listens here and answers nothing.
fn start_silent_server(host: &str, port: u16) -> Child {
    let script = format!(
        "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.bind(('{host}', {port}))\ns.listen()\nprint('listens', flush=True)\ntime.sleep(1000)\n"
    );
    let mut server = Command::new("/usr/bin/python3").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "listens\n");
    server
}

/// The kernel prefers the narrower of two sockets, and SO_REUSEPORT lets both be bound.
#[test]
fn narrower_listener_of_another_server_is_in_status() {
    netns::enter();
    let rig = Rig::with(&Config::new().frontend("web", &[":8080", "[::]:8081 v4v6"])).start();
    for (host, port, part) in [("127.0.0.1", 8080, "0.0.0.0:8080"), ("0.0.0.0", 8081, "[::]:8081")] {
        let mut server = start_silent_server(host, port);
        let warned = format!("process {} ", server.id());
        until(LIMIT, "a warning", || rig.warnings().contains(&warned));
        let warnings = rig.warnings();
        assert!(warnings.contains(&format!("listens on {host}:{port}, a part of {part}")), "{warnings}");
        server.kill().unwrap();
        server.wait().unwrap();
        until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("foreign"));
        assert!(gets_an_answer(&format!("127.0.0.1:{port}")));
    }
}

/// HAProxy sets mode and owner of a path only where it binds the socket itself.
#[test]
fn changed_mode_of_a_unix_socket_takes_effect() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let address = path.display().to_string();
    let bind = |options: &str| Config::new().frontend("web", &[WEB, &format!("unix@{address} {options}")]);
    let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
    for binary in [versions::all().remove(0), versions::all().pop().unwrap()] {
        let _ = fs::remove_file(&path);
        let rig = Rig::with(&bind("mode 600")).haproxy(&binary).start();
        assert_eq!(rungs_at(&rig.reload().expect_status(0), &address), ["passed"]);
        for wanted in ["mode 666", "mode 640 gid 1"] {
            rig.configure(&bind(wanted));
            let receipt = rig.reload().expect_status(3);
            assert_eq!(rungs_at(&receipt, &address), ["unproven"], "{}", receipt.stdout);
            assert_eq!(rungs_at(&receipt, WEB), ["passed"], "{}", receipt.stdout);
            // It has taken effect.
            assert_eq!(rungs_at(&rig.reload().expect_status(0), &address), ["passed"]);
        }
        assert_eq!((mode(), fs::metadata(&path).unwrap().gid()), (0o640, 1));
        Load::to([format!("unix@{address}").as_str()]).connections(20).run().assert_lossless();
    }
}

/// A network namespace that has a name until this value is dropped.
struct Named(String);

impl Named {
    fn make(name: &str) -> Named {
        network::command("ip", &format!("netns add {name}"));
        network::command("ip", &format!("-n {name} link set lo up"));
        Named(name.into())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        network::command("ip", &format!("netns del {}", self.0));
    }
}

#[test]
fn listener_of_a_remade_network_namespace_is_bound_again() {
    netns::enter();
    let name = format!("remade-{}", std::process::id());
    let answers = || {
        let file = fs::File::open(Path::new("/run/netns").join(&name)).unwrap();
        netns::run_in(&file, || gets_an_answer("127.0.0.1:8081"))
    };
    let first = Named::make(&name);
    let bind = format!("127.0.0.1:8081 namespace {name}");
    let rig = Rig::with(&Config::new().frontend("web", &[WEB, &bind])).start();
    assert!(answers());
    drop(first);
    until(LIMIT, "a warning", || rig.warnings().contains(&format!("the network namespace {name} is gone")));
    let _second = Named::make(&name);
    until(LIMIT, "a warning", || rig.warnings().contains("lost its name"));
    assert!(!answers());
    let at = format!("127.0.0.1:8081 (namespace {name})");
    assert_eq!(rungs_at(&rig.reload().expect_status(0), &at), ["added", "removed"]);
    assert!(answers());
    until(LIMIT, "the warning to be cleared", || !rig.warnings().contains("namespace"));
    assert_eq!(rungs_at(&rig.reload().expect_status(0), &at), ["passed"]);
}
