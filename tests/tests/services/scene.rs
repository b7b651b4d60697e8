//! Sets up a daemon with one service, and holds the scripts of the servers that the tests use.

use std::fs;

use reloader_tests::config::Config;
use reloader_tests::rig::{Rig, Setup};
use reloader_tests::versions::nginx::default_program;
use serde_json::Value;

pub(crate) const WEB: &str = "127.0.0.1:8080";

/// A server that takes its listeners from the daemon and finishes its connections at SIGTERM. With the argument `quietly` it waits on
/// none of them; with a number it says READY=1 after so many seconds.
pub(crate) const GIVEN_SERVER: &str = r#"
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
    # A closed asyncio server drops the connections that it accepted last (Server._attach asserts that the server is open).
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

/// A server that binds its socket itself and dies of SIGTERM, even in the middle of a reply.
pub(crate) const PLAIN_SERVER: &str = r#"
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

/// [`GIVEN_SERVER`], but it binds its socket itself, and needs so many seconds until it listens.
pub(crate) fn binding_server(seconds: &str) -> String {
    let start = "asyncio.start_server(answer, sock=s, backlog=4096)";
    assert!(GIVEN_SERVER.contains(start));
    let own = "sockets = [socket.create_server((\"127.0.0.1\", 8080), backlog=4096)]";
    let given = "sockets = [socket.socket(fileno=3 + n) for n in range(int(os.environ[\"LISTEN_FDS\"]))]";
    let script = GIVEN_SERVER.replace("assert os.environ[\"LISTEN_PID\"] == str(os.getpid())\n", "");
    let script = script.replace(given, &format!("await asyncio.sleep({seconds}); {own}"));
    assert!(script.contains("create_server"));
    script
}

/// The table of [`GIVEN_SERVER`] on [`WEB`], with further lines.
pub(crate) fn given_table(lines: &str) -> String {
    given_table_at(WEB, lines)
}

/// The table of [`GIVEN_SERVER`] on another address.
pub(crate) fn given_table_at(address: &str, lines: &str) -> String {
    service_table("given", "\"/usr/bin/python3\", \"DIR/given.py\"", "listen-fds", address, lines)
}

/// The table of [`PLAIN_SERVER`].
pub(crate) fn plain_table() -> String {
    service_table("plain", &format!("\"/usr/bin/python3\", \"DIR/plain.py\", \"{WEB}\""), "replace", WEB, "")
}

/// The table `[service.NAME]` with its keys `start`, `sockets` and `listen`, and further lines.
pub(crate) fn service_table(name: &str, start: &str, sockets: &str, address: &str, lines: &str) -> String {
    format!("[service.{name}]\nstart = [{start}]\nsockets = \"{sockets}\"\nlisten = [\"{address}\"]\n{lines}\n")
}

/// A rig with these tables and without HAProxy.
pub(crate) fn setup(tables: &str) -> Setup {
    Rig::with(&Config::new()).without_haproxy().tables(tables)
}

/// Writes all files and starts nothing.
pub(crate) fn prepare(setup: Setup) -> Rig {
    let rig = setup.prepare();
    for (name, text) in [("given.py", GIVEN_SERVER), ("plain.py", PLAIN_SERVER)] {
        fs::write(rig.path(name), text).expect("writing");
    }
    rig
}

/// Starts the daemon with these tables.
#[track_caller]
pub(crate) fn start(tables: &str) -> Rig {
    let mut rig = prepare(setup(tables));
    rig.start_daemon();
    rig
}

/// The rungs of a receipt's listeners.
pub(crate) fn rungs(receipt: &Value) -> Vec<String> {
    let listeners = receipt["listeners"].as_array().cloned().unwrap_or_default();
    listeners.iter().map(|listener| listener["rung"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Writes the configuration of an nginx with two workers.
pub(crate) fn write_nginx_conf(rig: &Rig, listen: &str) {
    let dir = rig.dir().display();
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {dir}/nginx.pid; events {{ worker_connections 1000; }}\n\
         http {{ access_log off; server {{ listen {listen}; location / {{ return 200 ok; }} }} }}\n"
    );
    fs::write(rig.path("nginx.conf"), text).expect("writing nginx.conf");
}

/// The `start` command of nginx.
pub(crate) fn nginx() -> String {
    let program = default_program();
    format!("\"{}\", \"-e\", \"DIR/nginx.log\", \"-c\", \"DIR/nginx.conf\"", program.display())
}

/// The table of an nginx that is passed its sockets.
pub(crate) fn passed_nginx(address: &str) -> String {
    service_table("nginx", &nginx(), "listen-fds", address, "stop = \"SIGQUIT\"\nenvironment = { NGINX = \"3;\" }")
}
