//! A daemon with one service, and servers for it.

use std::fs;

use reloader_tests::config::Config;
use reloader_tests::rig::{Rig, Setup};
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8080";

/// Takes its listeners from the daemon and finishes what it has when it is told to end. `quietly` it waits on none of them; with a
/// number it says READY=1 after so many seconds.
pub(crate) const GIVEN: &str = r#"
import asyncio, os, signal, socket, sys
assert os.environ["LISTEN_PID"] == str(os.getpid())
manner = sys.argv[1] if len(sys.argv) > 1 else ""
async def answer(reader, writer):
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        await writer.drain()
    except asyncio.IncompleteReadError:
        pass
    writer.close()
def say(text):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.sendto(text, os.environ["NOTIFY_SOCKET"])
async def main():
    sockets = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    servers = [] if manner == "quietly" else [await asyncio.start_server(answer, sock=s, backlog=4096) for s in sockets]
    if manner.isdigit():
        await asyncio.sleep(int(manner))
        say(b"STATUS=it serves\nREADY=1")
    await stop.wait()
    # A server of asyncio that is closed drops what it accepted last (Server._attach asserts that it is open).
    for s in sockets:
        asyncio.get_running_loop().remove_reader(s.fileno())
    idle = 0
    while idle < 20:
        await asyncio.sleep(0.002)
        idle = idle + 1 if len(asyncio.all_tasks()) == 1 else 0
    for server in servers:
        server.close()
asyncio.run(main())
"#;

/// Binds its socket itself and dies of SIGTERM, whatever it has to do.
pub(crate) const PLAIN: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *arguments):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
host, port = sys.argv[1].split(":")
Server((host, int(port)), Handler).serve_forever()
"#;

/// One that takes its listeners from the daemon, with further lines in its table.
pub(crate) fn given(lines: &str) -> String {
    given_at(WEB, lines)
}

pub(crate) fn given_at(address: &str, lines: &str) -> String {
    table("given", "\"/usr/bin/python3\", \"DIR/given.py\"", "listen-fds", address, lines)
}

pub(crate) fn plain() -> String {
    table("plain", &format!("\"/usr/bin/python3\", \"DIR/plain.py\", \"{WEB}\""), "replace", WEB, "")
}

pub(crate) fn table(name: &str, start: &str, sockets: &str, address: &str, lines: &str) -> String {
    format!("[service.{name}]\nstart = [{start}]\nsockets = \"{sockets}\"\nlisten = [\"{address}\"]\n{lines}\n")
}

/// Without HAProxy.
pub(crate) fn with(tables: &str) -> Setup {
    Rig::with(&Config::new()).without_haproxy().tables(tables)
}

/// Its files written, nothing started.
pub(crate) fn prepared(setup: Setup) -> Rig {
    let rig = setup.prepare();
    for (name, text) in [("given.py", GIVEN), ("plain.py", PLAIN)] {
        fs::write(rig.path(name), text).expect("writing");
    }
    rig
}

/// It serves.
#[track_caller]
pub(crate) fn started(tables: &str) -> Rig {
    let mut rig = prepared(with(tables));
    rig.start_daemon();
    rig
}

/// The rungs of a receipt's listeners.
pub(crate) fn rungs(receipt: &Value) -> Vec<String> {
    let listeners = receipt["listeners"].as_array().cloned().unwrap_or_default();
    listeners.iter().map(|listener| listener["rung"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Two workers that answer by themselves.
pub(crate) fn nginx_conf(rig: &Rig, listen: &str) {
    let dir = rig.dir().display();
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {dir}/nginx.pid; events {{ worker_connections 1000; }}\n\
         http {{ access_log off; server {{ listen {listen}; location / {{ return 200 ok; }} }} }}\n"
    );
    fs::write(rig.path("nginx.conf"), text).expect("writing nginx.conf");
}

pub(crate) const NGINX: &str = "\"/usr/sbin/nginx\", \"-e\", \"DIR/nginx.log\", \"-c\", \"DIR/nginx.conf\"";
