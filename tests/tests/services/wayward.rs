//! A server with `sockets = "overlap"` that misbehaves in the ways that a test asks for.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use reloader_tests::process::Process;
use reloader_tests::rig::{Rig, Setup};

use super::scene::{WEB, prepare, service_table, setup};

/// A server that binds its socket itself. The words in the file `manner` say what it does besides. Each of its processes adds its pid to the file
/// `pids`.
const WAYWARD_SERVER: &str = r#"
import os, signal, socket, sys, time
host, port = sys.argv[1].split(":")
manner = open("DIR/manner").read().split()
def wait(word):
    while word in manner and not os.path.exists("DIR/go"):
        time.sleep(0.01)
if "goes-into-the-background" in manner:
    if os.fork():
        os._exit(0)
    os.setsid()
if "leaves-its-tree" in manner:
    if os.fork():
        time.sleep(1000)
    os.setsid()
    if os.fork():
        os._exit(0)
if "starts-twice" in manner:
    ours, other = socket.socketpair()
    child = os.fork()
    if child:
        signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, signal.SIGTERM), os._exit(0)))
    else:
        ours = other
open("DIR/pids", "a").write(f"{os.getpid()}\n")
wait("waits-before-bind")
if "changes-user-before-bind" in manner:
    os.setuid(65534)
listener = socket.create_server((host, int(port)), backlog=4096)
if "changes-user-after-bind" in manner:
    os.setuid(65534)
if "starts-twice" in manner:
    ours.send(b".")
    ours.recv(1)
wait("waits-after-bind")
if "hangs" in manner:
    time.sleep(1000)
while True:
    client, _ = listener.accept()
    client.recv(999)
    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
    client.close()
"#;

/// [`WAYWARD_SERVER`] with `sockets = "overlap"`, and nothing started.
pub(super) fn wayward_rig(adapt: impl FnOnce(Setup) -> Setup, lines: &str) -> Rig {
    let start = format!("\"/usr/bin/python3\", \"DIR/wayward.py\", \"{WEB}\"");
    let lines = format!("{lines}\n[reload]\nstart-timeout = \"3s\"");
    let rig = prepare(adapt(setup(&service_table("wayward", &start, "overlap", WEB, &lines))));
    fs::set_permissions(rig.dir(), Permissions::from_mode(0o755)).expect("chmod");
    fs::write(rig.path("wayward.py"), WAYWARD_SERVER.replace("DIR", &rig.dir().display().to_string()))
        .expect("writing");
    set_manner(&rig, "");
    rig
}

/// Says what the next generation of [`WAYWARD_SERVER`] does besides.
pub(super) fn set_manner(rig: &Rig, manner: &str) {
    fs::remove_file(rig.path("go")).ok();
    for (name, text) in [("pids", ""), ("manner", manner)] {
        fs::write(rig.path(name), text).expect("writing");
        // The server may run as another user.
        fs::set_permissions(rig.path(name), Permissions::from_mode(0o666)).expect("chmod");
    }
}

/// The processes that have started since.
pub(super) fn wayward_processes(rig: &Rig) -> Vec<Process> {
    let pids = fs::read_to_string(rig.path("pids")).unwrap_or_default();
    pids.lines().filter_map(|pid| Process::with_pid(pid.parse().ok()?)).filter(Process::is_alive).collect()
}
