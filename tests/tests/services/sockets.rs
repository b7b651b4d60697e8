//! Tests what the daemon binds for a service besides TCP listeners: UDP sockets, and the files, owners and names of sockets.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reloader_tests::netns;
use reloader_tests::receipt::listener;
use reloader_tests::rig::Rig;

use super::scene::{GIVEN_SERVER, WEB, prepare, service_table, setup};

const DNS: &str = "127.0.0.1:53";

/// Answers UDP queries on the socket called `dns`, and HTTP on the one called `web`. At SIGTERM it reads no more queries.
const NAMED_SERVER: &str = r#"
import os, select, signal, socket, threading
names = os.environ["LISTEN_FDNAMES"].split(":")
assert len(names) == int(os.environ["LISTEN_FDS"])
sockets = {name: socket.socket(fileno=3 + n) for n, name in enumerate(names)}
def web():
    while True:
        client, _ = sockets["web"].accept()
        client.recv(999)
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nok\n")
        client.close()
threading.Thread(target=web, daemon=True).start()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
wake, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
while True:
    ready, _, _ = select.select([sockets["dns"], wake], [], [])
    if stopped:
        os._exit(0)
    try:
        query, client = sockets["dns"].recvfrom(512, socket.MSG_DONTWAIT)
        sockets["dns"].sendto(query, client)
    except BlockingIOError:
        pass  # The other generation was faster.
"#;

/// Sends queries one after the other until `stop`. Returns how many were sent, and how many were not answered.
fn query_until(stop: &AtomicBool) -> (u32, u32) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let (mut sent, mut lost) = (0_u32, 0);
    while !stop.load(Ordering::Relaxed) {
        client.send_to(&sent.to_be_bytes(), DNS).unwrap();
        let mut answer = [0; 4];
        let answered = client.recv(&mut answer).is_ok() && answer == sent.to_be_bytes();
        (sent, lost) = (sent + 1, lost + u32::from(!answered));
    }
    (sent, lost)
}

#[test]
fn udp_socket_is_passed_and_no_query_is_lost() {
    netns::enter();
    let table = format!(
        "[service.dns]\nstart = [\"/usr/bin/python3\", \"DIR/named.py\"]\nsockets = \"listen-fds\"\n\
         listen = [\"{WEB}\", \"udp:{DNS}\"]\nsocket-names = [\"web\", \"dns\"]\n"
    );
    let mut rig = setup(&table).prepare();
    fs::write(rig.path("named.py"), NAMED_SERVER).unwrap();
    rig.start_daemon();
    let stop = AtomicBool::new(false);
    let (sent, lost) = std::thread::scope(|scope| {
        let client = scope.spawn(|| query_until(&stop));
        for _ in 0..4 {
            let receipt = rig.reload().expect_status(0);
            assert_eq!(listener(&receipt, &format!("udp@{DNS}"))["rung"], "passed", "{}", receipt.stdout);
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    println!("{sent} queries, {lost} lost");
    assert!(sent > 0);
    assert_eq!(lost, 0, "of {sent}");
    let status = rig.status();
    assert!(status.at("/serving/listeners").to_string().contains(&format!("udp@{DNS}")), "{}", status.stdout);
}

/// What a service serves by UDP on sockets of its own is listed, and never called proven. A socket for sending is not.
#[test]
fn udp_socket_that_a_service_binds_itself_is_unproven() {
    netns::enter();
    let server = "import socket\n\
        def bound(kind, port):\n    s = socket.socket(socket.AF_INET, kind)\n    \
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n    s.bind(('127.0.0.1', port))\n    return s\n\
        udp, web = bound(socket.SOCK_DGRAM, 53), bound(socket.SOCK_STREAM, 8080)\n\
        web.listen(9)\n\
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nsender.bind(('127.0.0.1', 0))\n\
        while True:\n    web.accept()[0].close()\n";
    let table = service_table("both", "\"/usr/bin/python3\", \"DIR/both.py\"", "reuseport", WEB, "");
    let mut rig = setup(&table).prepare();
    fs::write(rig.path("both.py"), server).unwrap();
    rig.start_daemon();
    let receipt = rig.reload().expect_status(3);
    let datagrams: Vec<&serde_json::Value> = receipt.at("/listeners").as_array().unwrap().iter().collect();
    let datagrams: Vec<_> =
        datagrams.into_iter().filter(|found| found["address"].as_str().unwrap().starts_with("udp@")).collect();
    let [datagram] = datagrams[..] else { panic!("{}", receipt.stdout) };
    assert_eq!((&datagram["address"], &datagram["rung"]), (&format!("udp@{DNS}").into(), &"unproven".into()));
}

/// The file of a socket is open to all users only where the service has no user of its own.
#[test]
fn unix_socket_belongs_to_the_user_of_its_service() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    for (lines, mode, owner) in [
        ("", 0o666, 0),
        ("user = \"nobody\"", 0o660, user.uid.as_raw()),
        ("user = \"nobody\"\nsocket-user = \"root\"\nsocket-mode = \"0600\"", 0o600, 0),
    ] {
        let path = dir.path().join("web.sock");
        let rig = given_rig(path.to_str().unwrap(), lines);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.uid()), (mode, owner), "{lines}");
        rig.reload().expect_status(0);
        drop(rig);
        let _ = fs::remove_file(&path);
    }
}

fn given_rig(address: &str, lines: &str) -> Rig {
    let table = service_table(
        "given",
        "\"/usr/bin/python3\", \"-c\", \"exec(open('DIR/given.py').read())\"",
        "listen-fds",
        address,
        lines,
    );
    let mut rig = prepare(setup(&table));
    fs::write(rig.path("given.py"), GIVEN_SERVER).unwrap();
    fs::set_permissions(rig.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    rig.start_daemon();
    rig
}
